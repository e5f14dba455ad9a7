//! What the machine and this process use, by the names of the newest real client: processor, memory, disk, network, and
//! NVIDIA GPUs where there are some.

mod gpu;

use std::path::{Path, PathBuf};

use serde_json::Value;
use sysinfo::{Disks, Networks, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::record::Item;
use gpu::Gpus;

const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_073_741_824.0;

/// Looks at the machine. Shares of time are since the look before.
pub(super) struct Hardware {
    system: System,
    networks: Networks,
    /// Sent and received by all interfaces at the first look.
    traffic_at_start: (u64, u64),
    /// Read and written by the disk that matters at the first look.
    disk_at_start: Option<(u64, u64)>,
    process: Pid,
    gpus: Option<Gpus>,
    /// On the disk that matters.
    folder: PathBuf,
}

// === impl Hardware ===

impl Hardware {
    /// Blocks for a moment, as [`Self::look`] does.
    pub(super) fn new(folder: &Path) -> Self {
        let networks = Networks::new_with_refreshed_list();
        let mut hardware = Self {
            system: System::new(),
            traffic_at_start: traffic(&networks),
            networks,
            disk_at_start: None,
            process: Pid::from_u32(std::process::id()),
            gpus: Gpus::find(),
            folder: std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned()),
        };
        hardware.look();
        hardware
    }

    /// One sample.
    #[allow(clippy::cast_precision_loss, reason = "sizes for people to look at")]
    pub(super) fn look(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        let mut add = |name: &str, value: f64| {
            if value.is_finite() {
                items.push(Item::new(name, Value::from(value).to_string()));
            }
        };
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        let kind = ProcessRefreshKind::nothing().with_cpu().with_memory().with_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.process]), true, kind);
        self.networks.refresh(true);

        for (place, core) in self.system.cpus().iter().enumerate() {
            add(&format!("cpu.{place}.cpu_percent"), f64::from(core.cpu_usage()));
        }
        let (total, available) = (self.system.total_memory() as f64, self.system.available_memory() as f64);
        add("memory_percent", 100.0 * (total - available) / total);
        add("proc.memory.availableMB", available / MIB);
        if let Some(process) = self.system.process(self.process) {
            let resident = process.memory() as f64;
            add("proc.memory.rssMB", resident / MIB);
            add("proc.memory.percent", 100.0 * resident / total);
            // Of all cores together.
            add("cpu", f64::from(process.cpu_usage()) / self.system.cpus().len().max(1) as f64);
            add("proc.cpu.threads", process.tasks().map_or(1, std::collections::HashSet::len) as f64);
        }
        let disks = Disks::new_with_refreshed_list();
        let holds = disks.iter().filter(|disk| self.folder.starts_with(disk.mount_point()));
        if let Some(disk) = holds.max_by_key(|disk| disk.mount_point().as_os_str().len()) {
            let (total, free) = (disk.total_space() as f64, disk.available_space() as f64);
            let mount = disk.mount_point().display();
            add(&format!("disk.{mount}.usagePercent"), 100.0 * (total - free) / total);
            add(&format!("disk.{mount}.usageGB"), (total - free) / GIB);
            let usage = (disk.usage().total_read_bytes, disk.usage().total_written_bytes);
            let (read, written) = *self.disk_at_start.get_or_insert(usage);
            let device = Path::new(disk.name()).file_name().unwrap_or_default().to_string_lossy();
            add(&format!("disk.{device}.in"), usage.0.saturating_sub(read) as f64 / MIB);
            add(&format!("disk.{device}.out"), usage.1.saturating_sub(written) as f64 / MIB);
        }
        let ((sent, received), (sent_before, received_before)) = (traffic(&self.networks), self.traffic_at_start);
        add("network.sent", sent.saturating_sub(sent_before) as f64);
        add("network.recv", received.saturating_sub(received_before) as f64);
        if let Some(gpus) = &self.gpus {
            gpus.look(&mut add);
        }
        items
    }
}

fn traffic(networks: &Networks) -> (u64, u64) {
    networks
        .values()
        .fold((0, 0), |(sent, received), data| (sent + data.total_transmitted(), received + data.total_received()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_this_machine_finds_memory_disk_and_itself() {
        let look = Hardware::new(Path::new("/")).look();
        let value =
            |name: &str| look.iter().find(|item| item.key == name).map(|item| item.value_json.parse::<f64>().unwrap());
        assert!(value("proc.memory.rssMB").unwrap() > 1.0);
        for share in ["memory_percent", "proc.memory.percent", "cpu"] {
            assert!((0.0..=100.0).contains(&value(share).unwrap()), "{share}");
        }
        for end in [".usagePercent", ".usageGB", ".in", ".out"] {
            assert!(
                look.iter().any(|item| item.key.starts_with("disk.") && item.key.ends_with(end)),
                "{end}: {look:?}"
            );
        }
        assert!(value("proc.cpu.threads").unwrap() >= 1.0 && value("cpu.0.cpu_percent").is_some());
        assert!(value("network.sent").unwrap() >= 0.0);
    }
}
