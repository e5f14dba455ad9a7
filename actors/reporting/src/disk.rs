//! How much room the state directory has, read when somebody asks.

use std::{
    io,
    path::{Path, PathBuf},
};

use prometheus::{
    Gauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// `openvalidators_state_free_bytes` and `openvalidators_state_size_bytes`: of the file system that holds the state directory.
pub struct DiskSpace {
    folder: PathBuf,
    free: Gauge,
    size: Gauge,
}

// === impl DiskSpace ===

impl DiskSpace {
    /// Of the file system with this folder on it.
    ///
    /// # Errors
    /// Never: the names are fixed.
    pub fn new(folder: &Path) -> Result<Self, prometheus::Error> {
        Ok(Self {
            folder: folder.to_owned(),
            free: Gauge::new("openvalidators_state_free_bytes", "Room left to us where the state directory is")?,
            size: Gauge::new("openvalidators_state_size_bytes", "Size of the file system with the state directory")?,
        })
    }

    fn look(&self) -> io::Result<()> {
        let found = rustix::fs::statvfs(&self.folder)?;
        let bytes = |blocks: u64| (blocks as f64) * (found.f_frsize as f64);
        // What is left for those who are not root.
        self.free.set(bytes(found.f_bavail));
        self.size.set(bytes(found.f_blocks));
        Ok(())
    }
}

impl Collector for DiskSpace {
    fn desc(&self) -> Vec<&Desc> {
        self.free.desc().into_iter().chain(self.size.desc()).collect()
    }

    /// Nothing while the folder cannot be looked at: no number is better than an old one.
    fn collect(&self) -> Vec<MetricFamily> {
        match self.look() {
            Ok(()) => self.free.collect().into_iter().chain(self.size.collect()).collect(),
            Err(error) => {
                tracing::debug!(%error, folder = %self.folder.display(), "room on the disk is not known");
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_told_and_none_is_invented() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskSpace::new(folder.path()).unwrap();
        assert_eq!(disk.collect().len(), 2);
        assert!(disk.free.get() > 0.0 && disk.free.get() <= disk.size.get());
        assert!(DiskSpace::new(&folder.path().join("gone")).unwrap().collect().is_empty());
    }
}
