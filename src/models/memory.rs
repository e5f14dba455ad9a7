//! How much memory models can have.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Memory that several models share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Memory {
    /// The processor's.
    Host,
    /// That of a GPU, by the number its driver gives it.
    Gpu(usize),
}

/// Bytes that are free now, where that can be found out.
#[must_use]
pub fn free(memory: Memory) -> Option<u64> {
    match memory {
        Memory::Host => free_below(Path::new("/")),
        // With this set, the program numbers GPUs differently than their driver's own tool.
        Memory::Gpu(_) if std::env::var_os("CUDA_VISIBLE_DEVICES").is_some() => None,
        Memory::Gpu(number) => {
            let asked = ["--query-gpu=memory.free", "--format=csv,noheader,nounits"];
            let said = Command::new("nvidia-smi").args(asked).output().ok()?;
            free_of_gpu(&String::from_utf8_lossy(&said.stdout), number)
        }
    }
}

/// A line for each GPU, in MiB.
fn free_of_gpu(said: &str, number: usize) -> Option<u64> {
    said.lines().nth(number)?.trim().parse::<u64>().ok()?.checked_mul(1 << 20)
}

/// What the system has available, and what the control group of this process leaves of it.
fn free_below(root: &Path) -> Option<u64> {
    let available = available(root);
    [available, left_by_control_groups(root)].into_iter().flatten().min()
}

/// `MemAvailable`: free, or given back at once. Source: <https://docs.kernel.org/filesystems/proc.html#meminfo>.
fn available(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that any control group around this process leaves, page cache not counted as used. Sources:
/// <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory>, and `cgroup-v1/memory.html` beside it.
fn left_by_control_groups(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut least = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, files) = match controllers {
            "" => ("sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file "]),
            v1 if v1.split(',').any(|controller| controller == "memory") => {
                ("sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "])
            }
            _ => continue,
        };
        let mount = root.join(mount);
        let group = mount.join(path.trim_start_matches('/'));
        let groups = group.ancestors().take_while(|group| group.starts_with(&mount)).map(Path::to_owned);
        let left = groups.filter_map(|group: PathBuf| left(&group, files));
        least = left.chain(least).min();
    }
    least
}

/// What one control group leaves; none where it has no limit.
fn left(group: &Path, [limit, used, cache]: [&str; 3]) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = (number(limit)?, number(used)?);
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        free_below(root.path())
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:   24000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\n");

    #[test]
    fn this_machine_says_how_much_is_free() {
        assert!(free(Memory::Host).is_some_and(|bytes| bytes > 1 << 20));
        let two = "81078\n[N/A]\n";
        assert_eq!([0, 1, 2].map(|gpu| free_of_gpu(two, gpu)), [Some(81_078 << 20), None, None]);
    }

    #[test]
    fn the_least_of_all_limits_counts() {
        assert_eq!(machine(&[]), None);
        assert_eq!(machine(&[MEMINFO]), Some(8_192_000));
        let v2 = [
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "1000\n"),
            ("sys/fs/cgroup/a/memory.max", "5000000\n"),
            ("sys/fs/cgroup/a/memory.current", "3000000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 500000\n"),
        ];
        assert_eq!(machine(&v2), Some(2_500_000), "of the group around ours");
        let v1 = [
            MEMINFO,
            ("proc/self/cgroup", "7:cpu,cpuacct:/x\n4:memory:/y\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "9500000\n"),
        ];
        assert_eq!(machine(&v1), Some(0), "over its limit");
        let unlimited = [MEMINFO, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")];
        assert_eq!(machine(&unlimited), Some(8_192_000));
    }
}
