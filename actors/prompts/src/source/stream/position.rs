//! Where a stream stands, in a small file: what was read once is not read again after a restart.
//!
//! The file holds no more than can be lost. Without it, or with one that cannot be read, the source begins anew; where it
//! cannot be written, it is told once and the source goes on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use openvalidators_runtime::{AtPath, FileError};
use serde::{Deserialize, Serialize};

use crate::source::shards::Mark;

/// Changes when older files mean something else.
const VERSION: u32 = 1;

/// Where a stream stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    version: u32,
    /// The source as configured: another one has nothing to do with this position.
    of: String,
    /// The version of the list of shards; none before the first.
    pub listing: Option<String>,
    /// Passes that were finished.
    pub pass: u64,
    /// The shard's place in the order of this pass.
    pub shard: usize,
    /// The next record in it.
    pub mark: Mark,
}

/// The file.
pub(super) struct PositionFile {
    path: Option<PathBuf>,
    told: bool,
}

// === impl Position ===

impl Position {
    fn start(of: &str) -> Self {
        Self { version: VERSION, of: of.to_owned(), ..Self::default() }
    }
}

// === impl PositionFile ===

impl PositionFile {
    /// Of a source, in a folder.
    pub fn new(folder: Option<&Path>, source: &str) -> Self {
        Self { path: folder.map(|folder| folder.join(format!("{source}.json"))), told: false }
    }

    /// The position of the source configured as `of`; the beginning where none is known.
    pub fn read(&self, of: &str) -> Position {
        let Some(path) = &self.path else { return Position::start(of) };
        let read = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Position::start(of),
            read => read.and_then(|json| Ok(serde_json::from_slice::<Position>(&json)?)),
        };
        match read {
            Ok(position) if position.version == VERSION && position.of == of => position,
            Ok(position) => {
                tracing::info!(path = %path.display(), was = position.of, now = of, "another source: it begins anew");
                Position::start(of)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no position of a prompt source: it begins anew");
                Position::start(of)
            }
        }
    }

    /// Writes the position down.
    pub fn write(&mut self, position: &Position) {
        let Some(path) = &self.path else { return };
        match write(path, position) {
            Ok(()) => self.told = false,
            Err(error) if !self.told => {
                self.told = true;
                tracing::warn!(%error, "a restart will read prompt texts again that were read already");
            }
            Err(_) => {}
        }
    }
}

fn write(path: &Path, position: &Position) -> Result<(), FileError> {
    let part = path.with_extension("part");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).at("create", folder)?;
    }
    let json = serde_json::to_vec(position).map_err(io::Error::other).at("write", &part)?;
    fs::write(&part, json).at("write", &part)?;
    fs::rename(&part, path).at("put in place", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_that_of_the_same_source_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("prompts");
        let mut file = PositionFile::new(Some(&below), "web");
        let start = file.read("set a");
        assert_eq!((start.pass, start.shard, start.mark), (0, 0, Mark::default()));
        let position = Position { pass: 2, shard: 3, mark: Mark { record: 4, offset: 50 }, ..start.clone() };
        file.write(&position);
        assert_eq!(PositionFile::new(Some(&below), "web").read("set a"), position);
        assert_eq!(file.read("set b"), Position::start("set b"));
        fs::write(below.join("web.json"), "{\"version\":1,").unwrap();
        assert_eq!(file.read("set a"), start);
    }

    /// As on a full disk: the source goes on, and it is told once.
    #[test]
    fn a_position_that_cannot_be_written_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("prompts");
        fs::write(&blocked, "no folder").unwrap();
        let mut file = PositionFile::new(Some(&blocked), "web");
        file.write(&Position::start("set"));
        assert!(file.told);
        fs::remove_file(&blocked).unwrap();
        file.write(&Position::start("set"));
        assert!(!file.told && blocked.join("web.json").is_file());
    }
}
