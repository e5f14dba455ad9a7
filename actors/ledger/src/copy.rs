//! Backup while the validator runs, and the way back, on this machine or another.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use openvalidators_messages::ledger::LedgerError;
use rusqlite::{Connection, OpenFlags};

use crate::{
    LEDGER_FILE,
    check::Checked,
    open::{DirectoryLock, Identity, OpenError, check_for_damage, check_header, io, read_identity, sibling, sqlite},
    reader::Reader,
};

/// Why a ledger was not copied. Nothing that was there before was changed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// One of the two files.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The copy could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file of that name is there.
    #[error("`{}` is there already: name another file, or move it away", .0.display())]
    Exists(PathBuf),
    /// The backup is not whole.
    #[error("the backup `{}` is damaged, nothing was restored: {found}", file.display())]
    Damaged {
        /// The backup.
        file: PathBuf,
        /// What was found first.
        found: String,
    },
}

/// Copies the ledger of a state directory as it is at this moment into one file, without holding up the validator that may
/// be writing it. The copy has no free pages, and appears under its name when it is whole and synced. Returns its bytes.
///
/// # Errors
/// When there is no ledger, the file exists, or the disk refuses.
pub fn backup(directory: &Path, to: &Path) -> Result<u64, CopyError> {
    let reader = Reader::open(directory)?;
    if to.try_exists().map_err(io("look for", to))? {
        return Err(CopyError::Exists(to.to_owned()));
    }
    let new = sibling(to, ".new");
    remove(&new)?;
    let target = new.to_str().ok_or_else(|| io("name", &new)("a backup needs a name in UTF-8"))?;
    reader.connection.execute("VACUUM INTO ?1", [target]).map_err(sqlite("write", &new))?;
    put(&new, to)
}

/// Makes a backup the ledger of a state directory that has none, here or on another machine; it is checked first. Weight
/// intents that were under way are settled from the chain when the validator starts. Returns whose ledger it is, and what
/// the check saw.
///
/// # Errors
/// When the directory has a ledger or is in use, the backup is none or is damaged, or the disk refuses.
pub fn restore(from: &Path, directory: &Path) -> Result<(Identity, Checked), CopyError> {
    fs::create_dir_all(directory).map_err(io("make the state directory", directory))?;
    let _lock = DirectoryLock::acquire(directory)?;
    let file = directory.join(LEDGER_FILE);
    for there in [&file, &sibling(&file, "-wal")] {
        if there.try_exists().map_err(io("look for", there))? {
            return Err(CopyError::Exists(there.clone()));
        }
    }
    check_header(from)?;
    let new = sibling(&file, ".new");
    remove(&new)?;
    fs::copy(from, &new).map_err(io("copy", from))?;
    let (identity, checked) = examine(from, &new).inspect_err(|_| _ = remove(&new))?;
    put(&new, &file)?;
    Ok((identity, checked))
}

/// Looks at the copy, so that what was checked is what is used.
fn examine(from: &Path, copy: &Path) -> Result<(Identity, Checked), CopyError> {
    let connection =
        Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sqlite("open", from))?;
    check_for_damage(&connection, from)?;
    let identity = read_identity(&connection).map_err(sqlite("read", from))?;
    let reader = Reader::over(connection, identity.clone());
    let checked = reader.check()?;
    match checked.findings.first() {
        None => Ok((identity, checked)),
        Some(found) => Err(CopyError::Damaged { file: from.to_owned(), found: found.clone() }),
    }
}

fn remove(leftover: &Path) -> Result<(), OpenError> {
    match fs::remove_file(leftover) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", leftover)(error)),
        _ => Ok(()),
    }
}

/// Synced first, named second: whoever sees the name sees the whole.
fn put(new: &Path, file: &Path) -> Result<u64, CopyError> {
    let made = File::open(new).map_err(io("open", new))?;
    made.sync_all().map_err(io("sync", new))?;
    let bytes = made.metadata().map_err(io("measure", new))?.len();
    fs::rename(new, file).map_err(io("rename", new))?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|made| made.sync_all()).map_err(io("sync", directory))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
