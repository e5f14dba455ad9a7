//! The local chain's state on disk: one file, replaced whole, so that a kill at any moment leaves a block that was whole.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use blake2::{Blake2b, Digest, digest::consts::U32};
use openvalidators_messages::Netuid;
use serde::{Deserialize, Serialize};

use super::state::Subnet;

/// Raised when a reader of the old shape would misread the new one.
const VERSION: u32 = 1;
const FORMAT: &str = "openvalidators local chain";

/// A chain's file, held by one process at a time.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    netuid: Netuid,
    /// Unlocked when dropped, or by the system when the process is killed.
    _lock: File,
}

/// Why a chain's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The system said no.
    #[error("could not {attempt} {path}: {source}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the local chain in {path} is in use by another process: stop that one, or choose another state directory")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Not this version's.
    #[error(
        "{path} holds version {found} of the local chain's state, this program reads version {VERSION}: run the version \
         that wrote it, or remove the file to begin a new chain"
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Another subnet's.
    #[error("{path} holds subnet {found}, the configuration says {expected}: choose another state directory")]
    OtherSubnet {
        /// The file.
        path: PathBuf,
        /// The subnet in it.
        found: Netuid,
        /// The subnet configured.
        expected: Netuid,
    },
    /// Not what was written.
    #[error("{path} is damaged ({reason}): restore it from a copy, or remove it to begin a new chain")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
}

/// The first line; the second is the state.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    netuid: Netuid,
    /// BLAKE2b-256 of the second line, in hexadecimal.
    digest: String,
}

// === impl StateFile ===

impl StateFile {
    /// Takes hold of the file, which need not exist yet; its directory is made.
    ///
    /// # Errors
    /// [`StateFileError::InUse`] or [`StateFileError::Io`].
    pub fn open(path: &Path, netuid: Netuid) -> Result<Self, StateFileError> {
        let failed = |attempt| move |source| StateFileError::Io { attempt, path: path.to_owned(), source };
        fs::create_dir_all(directory(path)).map_err(failed("make the directory of"))?;
        let lock = File::create(with_suffix(path, "lock")).map_err(failed("make the lock of"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), netuid, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateFileError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed("lock")(source)),
        }
    }

    /// The state saved last; `None` when there is no file.
    ///
    /// # Errors
    /// Any of [`StateFileError`] but `InUse`.
    pub fn load(&self) -> Result<Option<Subnet>, StateFileError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(self.damaged(error)),
            Err(source) => return Err(self.io("read")(source)),
        };
        let (header, body) = text.split_once('\n').ok_or_else(|| self.damaged("it has no second line"))?;
        let header: Header = serde_json::from_str(header).map_err(|error| self.damaged(error))?;
        if header.format != FORMAT {
            return Err(self.damaged(format!("its first line does not say `{FORMAT}`")));
        }
        if header.version != VERSION {
            return Err(StateFileError::OtherVersion { path: self.path.clone(), found: header.version });
        }
        if header.netuid != self.netuid {
            let (found, expected) = (header.netuid, self.netuid);
            return Err(StateFileError::OtherSubnet { path: self.path.clone(), found, expected });
        }
        if header.digest != digest(body) {
            return Err(self.damaged("its second line does not have the digest in the first"));
        }
        serde_json::from_str(body).map(Some).map_err(|error| self.damaged(error))
    }

    /// Replaces the state: durable when it returns.
    ///
    /// # Errors
    /// [`StateFileError::Io`]; then the file holds what it held before.
    pub fn save(&self, subnet: &Subnet) -> Result<(), StateFileError> {
        let encode = |error: serde_json::Error| self.io("write")(error.into());
        let body = serde_json::to_string(subnet).map_err(encode)?;
        let header = Header { format: FORMAT.to_owned(), version: VERSION, netuid: self.netuid, digest: digest(&body) };
        let header = serde_json::to_string(&header).map_err(encode)?;
        let fresh = with_suffix(&self.path, "new");
        let mut file = File::create(&fresh).map_err(self.io("write"))?;
        file.write_all(format!("{header}\n{body}").as_bytes()).map_err(self.io("write"))?;
        file.sync_all().map_err(self.io("write"))?;
        fs::rename(&fresh, &self.path).map_err(self.io("replace"))?;
        // The new name is durable only with its directory.
        File::open(directory(&self.path)).and_then(|dir| dir.sync_all()).map_err(self.io("replace"))
    }

    fn io(&self, attempt: &'static str) -> impl Fn(io::Error) -> StateFileError {
        let path = self.path.clone();
        move |source| StateFileError::Io { attempt, path: path.clone(), source }
    }

    fn damaged(&self, reason: impl ToString) -> StateFileError {
        StateFileError::Damaged { path: self.path.clone(), reason: reason.to_string() }
    }
}

fn digest(body: &str) -> String {
    let hash: [u8; 32] = Blake2b::<U32>::digest(body.as_bytes()).into();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use openvalidators_runtime::Seed;

    use super::*;
    use crate::local::LocalChainConfig;

    fn chain_at(block: u64) -> Subnet {
        let rules = LocalChainConfig::default().rules(Netuid(1)).unwrap();
        let mut subnet = Subnet::genesis(&rules, Seed(1));
        while subnet.block < block {
            subnet.next_block(&rules, Seed(1), &[]);
        }
        subnet
    }

    #[test]
    fn the_state_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deeper/chain.json");
        let file = StateFile::open(&path, Netuid(1)).unwrap();
        assert!(file.load().unwrap().is_none());
        for block in [0, 50, 51] {
            let subnet = chain_at(block);
            file.save(&subnet).unwrap();
            assert_eq!(file.load().unwrap().unwrap(), subnet);
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.json");
        let held = StateFile::open(&path, Netuid(1)).unwrap();
        assert!(matches!(StateFile::open(&path, Netuid(1)), Err(StateFileError::InUse { .. })));
        drop(held);
        assert!(StateFile::open(&path, Netuid(1)).is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_said_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.json");
        let file = StateFile::open(&path, Netuid(1)).unwrap();
        file.save(&chain_at(30)).unwrap();
        let whole = fs::read_to_string(&path).unwrap();

        // Torn anywhere, it is never taken for a chain.
        for length in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
            fs::write(&path, &whole[..length]).unwrap();
            let error = file.load().unwrap_err();
            assert!(matches!(error, StateFileError::Damaged { .. }), "cut at {length}: {error}");
        }
        fs::write(&path, whole.replace("\"block\":30", "\"block\":31")).unwrap();
        assert!(file.load().unwrap_err().to_string().contains("digest"));
        fs::write(&path, [0xff, 0xfe, b'\n']).unwrap();
        assert!(matches!(file.load(), Err(StateFileError::Damaged { .. })));

        fs::write(&path, whole.replace("\"version\":1", "\"version\":2")).unwrap();
        let error = file.load().unwrap_err();
        assert!(matches!(error, StateFileError::OtherVersion { found: 2, .. }));
        assert!(error.to_string().contains("remove the file to begin a new chain"));
        fs::write(&path, whole.replace("\"netuid\":1", "\"netuid\":7")).unwrap();
        assert!(matches!(file.load(), Err(StateFileError::OtherSubnet { found: Netuid(7), .. })));
    }

    #[test]
    fn a_half_written_new_file_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.json");
        let file = StateFile::open(&path, Netuid(1)).unwrap();
        file.save(&chain_at(3)).unwrap();
        fs::write(dir.path().join("chain.json.new"), "half").unwrap();
        assert_eq!(file.load().unwrap().unwrap().block, 3);
        file.save(&chain_at(4)).unwrap();
        assert_eq!(file.load().unwrap().unwrap().block, 4);
    }
}
