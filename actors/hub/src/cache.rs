//! The folder of a model: what is in it, and who may change it.

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use openvalidators_runtime::{AtPath, FileError, SharedClock};
use sha2::{Digest, Sha256};

use crate::{HubError, ModelFile};

/// Read at a time when hashing.
pub(crate) const HASH_BUFFER_BYTES: usize = 1 << 20;
/// Between two looks at a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// What the cache holds of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Every file is there and is what the catalogue says.
    Present {
        /// sha256 of each file, by name.
        digests: BTreeMap<String, String>,
    },
    /// Nothing is there.
    Missing,
    /// A file is not what the catalogue says.
    Corrupted {
        /// Its name.
        file: String,
        /// The pinned sha256.
        expected: String,
        /// Its sha256, or that its size is wrong.
        found: String,
    },
    /// Some files are there, and right.
    Partial {
        /// The files that are not there.
        missing: Vec<String>,
        /// Bytes of unfinished downloads, which the next fetch resumes.
        unfinished_bytes: u64,
    },
}

/// How closely files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Whether they are there and as large as they should be: at once.
    Sizes,
    /// What their sha256 is: a second or so for each gigabyte.
    Digests,
}

/// The folder of one model.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub path: PathBuf,
}

/// Held while a model is fetched; released when dropped, or by the system when the process dies.
pub(crate) struct Lock {
    _file: File,
}

// === impl Folder ===

impl Folder {
    /// Looks at every file of a model, as closely as asked.
    pub fn state(&self, files: &[ModelFile], look: Look) -> Result<ModelState, HubError> {
        let mut digests = BTreeMap::new();
        let mut missing = Vec::new();
        let mut corrupted = None;
        for file in files {
            match self.verify(file, look)? {
                Verdict::Right => drop(digests.insert(file.name.clone(), file.sha256.clone())),
                Verdict::Absent => missing.push(file.name.clone()),
                Verdict::Wrong { found } => corrupted = corrupted.or(Some((file, found))),
            }
        }
        let unfinished_bytes = self.unfinished_bytes();
        Ok(match corrupted {
            Some((file, found)) => {
                ModelState::Corrupted { file: file.name.clone(), expected: file.sha256.clone(), found }
            }
            None if missing.is_empty() => ModelState::Present { digests },
            None if digests.is_empty() && unfinished_bytes == 0 => ModelState::Missing,
            None => ModelState::Partial { missing, unfinished_bytes },
        })
    }

    /// Looks at one file.
    pub fn verify(&self, file: &ModelFile, look: Look) -> Result<Verdict, HubError> {
        let path = self.path.join(&file.name);
        let found = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() != file.bytes => Ok(format!("a file of {} bytes", metadata.len())),
            Ok(_) if look == Look::Sizes => return Ok(Verdict::Right),
            Ok(_) => sha256_of(&path),
            Err(error) => Err(error),
        };
        match found {
            Ok(found) if found == file.sha256 => Ok(Verdict::Right),
            Ok(found) => Ok(Verdict::Wrong { found }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Verdict::Absent),
            Err(error) => Ok(Err(error).at("read", path)?),
        }
    }

    /// Where a file is written until it is whole.
    pub fn part(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.part"))
    }

    /// Puts a whole file in its place, for good: after a power cut it is there or it is not, never half.
    pub fn publish(&self, part: &Path, name: &str) -> Result<(), HubError> {
        let target = self.path.join(name);
        std::fs::rename(part, &target).at("put in place", &target)?;
        sync_folder(&self.path)
    }

    /// Waits until no other process fetches this model, `patience` at most.
    pub async fn lock(&self, clock: &SharedClock, patience: Duration) -> Result<Lock, HubError> {
        std::fs::create_dir_all(&self.path).at("create", &self.path)?;
        Lock::wait(&self.path.join(".lock"), clock, patience).await
    }

    /// Removes what unfinished downloads left, once the model is whole.
    pub fn sweep(&self) -> Result<(), HubError> {
        for path in self.entries().filter(|path| is_part(path) || is_part(&path.with_extension(""))) {
            std::fs::remove_file(&path).at("remove", path)?;
        }
        Ok(())
    }

    fn unfinished_bytes(&self) -> u64 {
        self.entries().filter(|path| is_part(path)).filter_map(|path| path.metadata().ok()).map(|part| part.len()).sum()
    }

    fn entries(&self) -> impl Iterator<Item = PathBuf> {
        std::fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path())
    }
}

fn is_part(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "part")
}

/// After a power cut, a file that was put in place is there or it is not.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), HubError> {
    Ok(File::open(folder).and_then(|folder| folder.sync_all()).at("sync", folder)?)
}

// === impl Lock ===

impl Lock {
    /// Waits until no other process holds the file, `patience` at most.
    pub async fn wait(path: &Path, clock: &SharedClock, patience: Duration) -> Result<Self, HubError> {
        let file = File::options().create(true).append(true).open(path).at("open", path)?;
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Ok(Err(error).at("lock", path)?),
                Err(TryLockError::WouldBlock) if waited >= patience => {
                    return Err(HubError::Busy { lock: path.to_owned(), waited });
                }
                Err(TryLockError::WouldBlock) => {
                    if waited.is_zero() {
                        tracing::info!(lock = %path.display(), "another process fetches this; waiting for it");
                    }
                    clock.sleep(LOCK_POLL).await;
                    waited += LOCK_POLL;
                }
            }
        }
    }
}

/// What became of looking at a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    Absent,
    Wrong { found: String },
}

/// Lower-case hexadecimal sha256 of a file.
pub(crate) fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Hashing takes a second for a gigabyte: not on a thread that others share.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(FileError { attempted: "verify", path: PathBuf::new(), source: io::Error::other(error) }.into())
    })
}
