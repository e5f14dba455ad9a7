//! NVIDIA GPUs, asked through the library that comes with their driver (NVML). It is looked for at run time: a machine
//! without one has no GPU to tell of, which is no error.

use nvml_wrapper::{Device, Nvml, enum_wrappers::device::Clock, enum_wrappers::device::TemperatureSensor};

/// What drivers install; the name without a version comes with development files alone.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// The GPUs of this machine.
pub(super) struct Gpus {
    nvml: Nvml,
    process: u32,
}

// === impl Gpus ===

impl Gpus {
    /// `None` where there is no driver.
    pub(super) fn find() -> Option<Self> {
        LIBRARIES.into_iter().find_map(Self::through)
    }

    /// Through the library of this name.
    fn through(library: &str) -> Option<Self> {
        match Nvml::builder().lib_path(library.as_ref()).init() {
            Ok(nvml) => Some(Self { nvml, process: std::process::id() }),
            Err(error) => {
                tracing::debug!(%error, library, "no NVIDIA GPU is looked at");
                None
            }
        }
    }

    /// Adds what each GPU tells; what it does not tell is left out, as by the real client.
    pub(super) fn look(&self, add: &mut impl FnMut(&str, f64)) {
        let gpus = 0..self.nvml.device_count().unwrap_or(0);
        for (place, device) in gpus.filter_map(|place| Some((place, self.nvml.device_by_index(place).ok()?))) {
            let values = look_at(&device);
            let is_ours =
                device.running_compute_processes().is_ok_and(|found| found.iter().any(|one| one.pid == self.process));
            for (name, value) in values {
                add(&format!("gpu.{place}.{name}"), value);
                // Once more for a GPU that this process computes on.
                if is_ours && OF_PROCESS.contains(&name) {
                    add(&format!("gpu.process.{place}.{name}"), value);
                }
            }
        }
    }
}

/// What the real client repeats for the GPUs of its own process.
const OF_PROCESS: [&str; 7] =
    ["gpu", "memory", "memoryAllocated", "memoryAllocatedBytes", "temp", "powerWatts", "powerPercent"];

/// By the real client's names.
#[allow(clippy::cast_precision_loss, reason = "sizes for people to look at")]
fn look_at(device: &Device<'_>) -> Vec<(&'static str, f64)> {
    let mut values = Vec::new();
    if let Ok(used) = device.utilization_rates() {
        values.extend([("gpu", f64::from(used.gpu)), ("memory", f64::from(used.memory))]);
    }
    if let Ok(memory) = device.memory_info() {
        let (used, total) = (memory.used as f64, memory.total as f64);
        values.extend([("memoryAllocated", 100.0 * used / total), ("memoryAllocatedBytes", used)]);
    }
    if let Ok(degrees) = device.temperature(TemperatureSensor::Gpu) {
        values.push(("temp", f64::from(degrees)));
    }
    // In thousandths of a watt.
    let watts = device.power_usage().map(|power| f64::from(power) / 1e3).ok();
    let limit = device.enforced_power_limit().map(|power| f64::from(power) / 1e3).ok();
    values.extend(watts.map(|watts| ("powerWatts", watts)));
    values.extend(limit.map(|limit| ("enforcedPowerLimitWatts", limit)));
    values.extend(watts.zip(limit).map(|(watts, limit)| ("powerPercent", 100.0 * watts / limit)));
    let clocks = [("smClock", Clock::SM), ("memoryClock", Clock::Memory)];
    values.extend(
        clocks
            .map(|(name, clock)| (name, device.clock_info(clock)))
            .into_iter()
            .filter_map(|(name, megahertz)| Some((name, f64::from(megahertz.ok()?)))),
    );
    values
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, process::Command};

    use super::*;

    /// NVML's interface (`nvml.h`) of a driver with one GPU that runs this very process.
    const DRIVER: &str = r#"
#include <string.h>
#include <unistd.h>
typedef struct { unsigned gpu, memory; } use;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } process;
static int gpu;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { strncpy(text, "550.54", length); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &gpu; return index != 0; }
int nvmlDeviceGetUtilizationRates(void *device, use *found) { found->gpu = 83; found->memory = 40; return 0; }
int nvmlDeviceGetMemoryInfo_v2(void *device, memory *found) { found->total = 80ull << 30; found->used = 20ull << 30; return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees) { *degrees = 61; return 0; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { *milliwatts = 350000; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) { *milliwatts = 700000; return 0; }
int nvmlDeviceGetClockInfo(void *device, int clock, unsigned *megahertz) { return 3; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process *found) {
    if (*count < 1) { *count = 1; return 7; }
    memset(found, 0, sizeof *found);
    found->pid = getpid(); *count = 1; return 0;
}
"#;

    #[test]
    fn without_a_driver_there_is_nothing_and_no_error() {
        assert!(Gpus::through("libnvidia-ml-of-nobody.so.1").is_none());
    }

    /// No GPU is at hand for tests: a library with the driver's interface says what one would.
    #[test]
    fn a_gpu_is_told_by_the_real_clients_names_and_units() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("nvml.c"), folder.path().join("libnvidia-ml.so.1"));
        std::fs::write(&source, DRIVER).unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output();
        match built {
            Err(error) => return eprintln!("skipped: no C compiler (cc): {error}"),
            Ok(built) => assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr)),
        }
        let gpus = Gpus::through(library.to_str().unwrap()).unwrap();
        let mut told = BTreeMap::new();
        gpus.look(&mut |name, value| {
            told.insert(name.to_owned(), value);
        });
        let of_process =
            OF_PROCESS.iter().map(|name| format!("gpu.process.0.{name}")).filter(|name| told.contains_key(name));
        assert_eq!(of_process.count(), OF_PROCESS.len(), "{told:?}");
        told.retain(|name, _| !name.contains("process"));
        let expected = [
            ("gpu.0.enforcedPowerLimitWatts", 700.0),
            ("gpu.0.gpu", 83.0),
            ("gpu.0.memory", 40.0),
            ("gpu.0.memoryAllocated", 25.0),
            ("gpu.0.memoryAllocatedBytes", 21_474_836_480.0),
            ("gpu.0.powerPercent", 50.0),
            ("gpu.0.powerWatts", 350.0),
            ("gpu.0.temp", 61.0),
        ];
        // The clocks are not told by this one (NVML_ERROR_NOT_SUPPORTED), and left out.
        assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }
}
