//! Where the files of runs lie: `STATE/wandb/run-YYYYMMDD_HHMMSS-ID/run-ID.wandb`, as the real client lays them out.
//!
//! `wandb sync` takes folders that begin with `offline-run-` by itself, and others when it is told to. An empty file beside
//! the log whose name adds `.synced` says that all of it is uploaded, to that program as to this one.

use std::{
    io,
    path::{Path, PathBuf},
};

use openvalidators_runtime::{AtPath, FileError};
use time::{OffsetDateTime, UtcOffset, format_description::FormatItem, macros::format_description};

const ONLINE: &str = "run-";
const OFFLINE: &str = "offline-run-";
const STAMP: &[FormatItem<'_>] = format_description!("[year][month][day]_[hour][minute][second]");
const ID_LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const ID_LENGTH: usize = 8;

/// The folder of one run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunFolder {
    /// When the run began, or a moment later where the clock went back: later runs sort behind earlier ones.
    stamp: String,
    /// The run's id at wandb.
    pub id: String,
    /// Whether it is left to `wandb sync`.
    pub offline: bool,
    /// The folder.
    pub path: PathBuf,
}

/// A new id: eight letters and digits, as the real client's.
pub(super) fn new_id() -> String {
    letters().take(ID_LENGTH).collect()
}

/// Letters and digits by chance, for ever: as many of each random number as it holds.
pub(super) fn letters() -> impl Iterator<Item = char> {
    let number = || {
        let mut bits = uuid::Uuid::new_v4().as_u128();
        (0..ID_LENGTH).map(move |_| {
            let index = usize::try_from(bits % 36).unwrap_or(0);
            bits /= 36;
            char::from(ID_LETTERS[index])
        })
    };
    std::iter::repeat_with(number).flatten()
}

/// Every run below `folder`, the earliest first. None when the folder is not there.
pub(super) fn list(folder: &Path) -> Result<Vec<RunFolder>, FileError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).at("list", folder),
    };
    let mut runs = Vec::new();
    for entry in entries {
        let path = entry.at("list", folder)?.path();
        runs.extend(RunFolder::of_path(path));
    }
    runs.sort();
    Ok(runs)
}

// === impl RunFolder ===

impl RunFolder {
    fn of_path(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (offline, rest) = match name.strip_prefix(OFFLINE) {
            Some(rest) => (true, rest),
            None => (false, name.strip_prefix(ONLINE)?),
        };
        let (stamp, id) = rest.split_once('-')?;
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (plain(stamp) && plain(id)).then(|| Self { stamp: stamp.into(), id: id.into(), offline, path: path.clone() })
    }

    /// Makes the folder of a new run, which sorts behind all that are there.
    pub(super) fn create(
        folder: &Path,
        offline: bool,
        now: std::time::Duration,
        offset: UtcOffset,
    ) -> Result<Self, FileError> {
        let nanos = i128::try_from(now.as_nanos()).unwrap_or(0);
        let now =
            OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH).to_offset(offset);
        let mut stamp = now.format(STAMP).map_err(io::Error::other).at("name a run in", folder)?;
        if let Some(latest) = list(folder)?.last().filter(|latest| latest.stamp >= stamp) {
            stamp = behind(&latest.stamp).unwrap_or(stamp);
        }
        let (id, kind) = (new_id(), if offline { OFFLINE } else { ONLINE });
        let path = folder.join(format!("{kind}{stamp}-{id}"));
        std::fs::create_dir_all(&path).at("create", &path)?;
        Ok(Self { stamp, id, offline, path })
    }

    /// The log.
    pub(super) fn log(&self) -> PathBuf {
        self.path.join(format!("run-{}.wandb", self.id))
    }

    /// How far the log is uploaded.
    pub(super) fn progress(&self) -> PathBuf {
        self.path.join(format!("run-{}.wandb.upload", self.id))
    }

    /// Says that all of it is.
    pub(super) fn synced(&self) -> PathBuf {
        self.path.join(format!("run-{}.wandb.synced", self.id))
    }
}

/// The next stamp in order: a clock that went back must not put a new run before an old one. It may name a second 60.
fn behind(stamp: &str) -> Option<String> {
    let (day, second) = stamp.split_once('_')?;
    let number: u64 = format!("{day}{second}").parse().ok()?;
    let next = (number + 1).to_string();
    Some(format!("{}_{}", next.get(..8)?, next.get(8..)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_new_run_sorts_behind_the_others_even_when_the_clock_went_back() {
        let folder = tempfile::tempdir().unwrap();
        let at =
            |seconds| RunFolder::create(folder.path(), seconds == 100, Duration::from_secs(seconds), UtcOffset::UTC);
        let made = [at(1_000_000).unwrap(), at(1_000_000).unwrap(), at(100).unwrap()];
        std::fs::create_dir(folder.path().join("run-")).unwrap();
        std::fs::create_dir(folder.path().join("latest-run")).unwrap();
        assert_eq!(list(folder.path()).unwrap(), made);
        assert_eq!(made.map(|run| run.offline), [false, false, true]);
        assert_eq!(list(&folder.path().join("none")).unwrap(), []);
    }
}
