//! Where contexts come from. What a forward draws from is a [`Source`]: the passages of the program, a stream of texts
//! that is read on ahead, or a [`Mix`] of sources by weight.
//!
//! A new place to read from is one file that implements [`shards::Shards`], a variant of [`SourceConfig`], and its line in
//! [`Sources::open`].

mod addresses;
mod blocking;
mod config;
mod directory;
mod embedded;
mod hugging_face;
mod metrics;
mod mix;
pub(crate) mod shards;
mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod titled;

use std::{path::PathBuf, sync::Arc};

use openvalidators_hub::{Datasets, HubConfig, HubError};
use openvalidators_messages::prompts::{Context, SourceError};
use openvalidators_runtime::{Seed, SharedClock};
use rand::RngCore;

pub use config::{AddressesConfig, DirectoryConfig, EmbeddedConfig, HuggingFaceConfig, SourceConfig, SourcesConfig};
pub(crate) use config::{check, default_sources};
pub use directory::OpenError;
pub use embedded::{Embedded, Passage};
pub use metrics::SourcesMetrics;
pub use mix::Mix;

use crate::config::Config;

/// A place to draw contexts from.
pub trait Source: Send + Sync {
    /// What errors and logs call it.
    fn name(&self) -> String;

    /// Takes a text with at least one letter or digit; never waits for one. Which one depends on `rng`, and for a source
    /// that is read on ahead also on what it has read.
    ///
    /// # Errors
    /// [`SourceError`] when there is no text just now.
    fn draw(&self, rng: &mut dyn RngCore) -> Result<Context, SourceError>;

    /// Whether it has had a text, or knows why not.
    fn is_settled(&self) -> bool {
        true
    }
}

/// The configured sources, looked at and not started.
pub struct Sources {
    opened: Vec<(String, f64, Opened)>,
    buffer: usize,
    hygiene: crate::hygiene::HygieneConfig,
    clock: SharedClock,
}

enum Opened {
    Embedded,
    Stream(Box<dyn shards::Shards>),
}

/// Sources that cannot be used: what was found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// A folder.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// A setting or a variable of the hub.
    #[error("prompt source `{name}`: {error}")]
    Hub {
        /// The source.
        name: String,
        /// What the hub's settings are at fault for.
        error: HubError,
    },
    /// A thread.
    #[error("prompt source `{name}`: no thread to read it: {error}; raise the limit of processes (ulimit -u)")]
    NoThread {
        /// The source.
        name: String,
        /// The system's words.
        error: std::io::Error,
    },
}

// === impl Sources ===

impl Sources {
    /// Looks at what is on this machine, folders and settings; uses no network. May read for seconds.
    ///
    /// # Errors
    /// [`SourcesError`] names the source or the file, what was found and what to do.
    pub fn open(config: &Config, hub: &HubConfig, clock: &SharedClock) -> Result<Self, SourcesError> {
        let wanted = config.sources.iter().filter(|(name, _)| config.only.as_ref().is_none_or(|only| only == *name));
        let datasets = |name: &str| {
            let datasets = Datasets::new(hub, clock.clone());
            datasets.map(Arc::new).map_err(|error| SourcesError::Hub { name: name.to_owned(), error })
        };
        let mut opened = Vec::new();
        for (name, source) in wanted {
            let parts: Opened = match source {
                SourceConfig::Embedded(_) => Opened::Embedded,
                SourceConfig::Directory(source) => {
                    Opened::Stream(Box::new(directory::Directory::open(name, &source.path, &source.column)?))
                }
                SourceConfig::HuggingFace(source) => {
                    Opened::Stream(Box::new(hugging_face::HuggingFace::new(source, datasets(name)?)))
                }
                SourceConfig::Addresses(source) => {
                    Opened::Stream(Box::new(addresses::Addresses::new(source, datasets(name)?)))
                }
            };
            opened.push((name.clone(), source.weight(), parts));
        }
        Ok(Self { opened, buffer: config.shuffle_buffer, hygiene: config.hygiene.clone(), clock: clock.clone() })
    }

    /// Starts reading. Positions are kept in `folder`, or nowhere.
    ///
    /// # Errors
    /// [`SourcesError::NoThread`].
    pub fn start(self, folder: Option<PathBuf>, seed: Seed, metrics: &SourcesMetrics) -> Result<Mix, SourcesError> {
        let Self { opened, buffer, hygiene, clock } = self;
        let parts = stream::StreamParts { buffer, hygiene, seed, clock, folder };
        let mut started = Vec::new();
        for (name, weight, source) in opened {
            let metrics = metrics.of(&name);
            let source: Box<dyn Source> = match source {
                Opened::Embedded => Box::new(Embedded::new()),
                Opened::Stream(shards) => Box::new(
                    stream::Stream::start(&name, shards, &parts, metrics.clone())
                        .map_err(|error| SourcesError::NoThread { name: name.clone(), error })?,
                ),
            };
            started.push(mix::Part { source, weight, metrics });
        }
        Ok(Mix::new(started))
    }
}
