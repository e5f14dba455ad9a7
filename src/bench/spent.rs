//! What some work took: time on the wall, time on the processors, memory at its highest.

use std::{fs, process::Command, time::Duration};

use openvalidators_runtime::Clock;
use serde::Serialize;

/// Ticks of `/proc/self/stat` a second, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What some work took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
pub struct Spent {
    /// Seconds on the wall.
    pub wall_seconds: f64,
    /// Seconds of all threads of this process on the processors. The one to trust on a busy machine.
    pub processor_seconds: f64,
    /// The most memory this process had in use meanwhile, in MiB; none where the system does not tell.
    pub peak_mib: Option<u64>,
}

/// A running measurement.
pub struct Stopwatch<'a> {
    clock: &'a dyn Clock,
    wall: Duration,
    processor: f64,
}

// === impl Stopwatch ===

impl<'a> Stopwatch<'a> {
    /// Starts measuring. The highest use of memory is counted from here on.
    #[must_use]
    pub fn start(clock: &'a dyn Clock) -> Self {
        // 5 resets the highest resident size (proc_pid_clear_refs(5)); where that is refused, it is that of the whole run.
        let _refused = fs::write("/proc/self/clear_refs", "5");
        Self { clock, processor: processor_seconds(), wall: clock.now() }
    }

    /// What it took.
    #[must_use]
    pub fn stop(self) -> Spent {
        let wall = self.clock.now().saturating_sub(self.wall);
        Spent {
            wall_seconds: wall.as_secs_f64(),
            processor_seconds: processor_seconds() - self.processor,
            peak_mib: status_mib("VmHWM:"),
        }
    }
}

/// Memory of the machine that a program may still take, in MiB.
#[must_use]
pub fn available_mib() -> Option<u64> {
    kib_of(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:").map(|kib| kib / 1024)
}

/// Memory in use on the first GPU, in MiB, by all who use it.
#[must_use]
pub fn gpu_mib() -> Option<u64> {
    let asked = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
    let said = Command::new("nvidia-smi").args(asked).output().ok()?;
    String::from_utf8_lossy(&said.stdout).lines().next()?.trim().parse().ok()
}

fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in brackets and may hold anything; user and system time are the 14th and 15th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

fn status_mib(key: &str) -> Option<u64> {
    kib_of(&fs::read_to_string("/proc/self/status").ok()?, key).map(|kib| kib / 1024)
}

fn kib_of(file: &str, key: &str) -> Option<u64> {
    file.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}
