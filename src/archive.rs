//! What the ledger gives up, kept as Parquet in the state directory: the numbers of old steps, for `dataset` and `analyze`.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use openvalidators_ledger::{self as ledger, LedgerConfig};
use openvalidators_messages::{Hotkey, ledger::StoredStep};
use openvalidators_tables::StoreWriter;

use crate::dataset::row_of;

/// Inside the state directory.
pub const FOLDER: &str = "archive";

/// Files of the archive, each with steps that no other has; the ledger names their places.
pub struct Archive {
    folder: PathBuf,
    run: String,
    max_bytes: u64,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFile {
    /// Where it is.
    pub path: PathBuf,
    /// The place of its first step in the ledger.
    pub first: u64,
    /// Of its last one.
    pub last: u64,
    /// Its size.
    pub bytes: u64,
}

/// The archive of a state directory, unless the operator wants none. Made when the first steps go into it.
#[must_use]
pub fn open(state_dir: &Path, config: &LedgerConfig, whose: Hotkey) -> Option<Box<dyn ledger::Archive>> {
    let max_bytes = config.archive_max_bytes;
    let archive = Archive { folder: state_dir.join(FOLDER), run: whose.to_string(), max_bytes };
    (max_bytes > 0).then(|| Box::new(archive) as Box<dyn ledger::Archive>)
}

/// Its files, oldest steps first; none where there is no archive.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(state_dir: &Path) -> anyhow::Result<Vec<ArchiveFile>> {
    let folder = state_dir.join(FOLDER);
    files_in(&folder).with_context(|| format!("looking into {}", folder.display()))
}

fn files_in(folder: &Path) -> io::Result<Vec<ArchiveFile>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some((first, last)) = entry.file_name().to_str().and_then(places) {
            files.push(ArchiveFile { path: entry.path(), first, last, bytes: entry.metadata()?.len() });
        }
    }
    files.sort_by_key(|file| file.first);
    Ok(files)
}

fn name(first: u64, last: u64) -> String {
    format!("steps-{first:09}-{last:09}.parquet")
}

/// What [`name`] was made from.
fn places(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.strip_prefix("steps-")?.strip_suffix(".parquet")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

// === impl Archive ===

impl ledger::Archive for Archive {
    fn keep(&mut self, steps: &[StoredStep]) -> Result<(), String> {
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return Ok(()) };
        let file = self.folder.join(name(first.sequence.0, last.sequence.0));
        self.write(&file, steps).map_err(|error| format!("writing {}: {error:#}", file.display()))?;
        self.make_room().map_err(|error| format!("making room in {}: {error:#}", self.folder.display()))
    }
}

impl Archive {
    /// A file has its name only when it is whole and synced: a crash on the way leaves a `.new`, which the same steps
    /// overwrite.
    fn write(&self, file: &Path, steps: &[StoredStep]) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let new = file.with_extension("new");
        let mut writer = StoreWriter::new(File::create(&new)?)?;
        for step in steps {
            writer.write(row_of(step, &self.run))?;
        }
        writer.finish()?.sync_all()?;
        fs::rename(&new, file)?;
        Ok(File::open(&self.folder)?.sync_all()?)
    }

    /// The oldest files go until the rest fits; the newest always stays.
    fn make_room(&self) -> anyhow::Result<()> {
        let files = files_in(&self.folder)?;
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        for file in &files[..files.len().saturating_sub(1)] {
            if bytes <= self.max_bytes {
                break;
            }
            fs::remove_file(&file.path)?;
            bytes -= file.bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
