//! Where contexts come from. A new source is one file and its line in [`open`].

mod directory;
mod embedded;
mod titled;

use std::sync::Arc;

use openvalidators_messages::prompts::{Context, SourceError};
use rand::RngCore;

pub use directory::{Directory, OpenError};
pub use embedded::{Embedded, Passage};

use crate::config::SourceConfig;

/// A place to draw contexts from. What is drawn depends on `rng` alone, as long as the source itself does not change.
pub trait Source: Send + Sync {
    /// What errors and logs call it.
    fn name(&self) -> String;

    /// Draws a text with at least one letter or digit. May read files, so it is called where blocking is allowed.
    ///
    /// # Errors
    /// [`SourceError`] when the text cannot be read just now.
    fn draw(&self, rng: &mut dyn RngCore) -> Result<Context, SourceError>;
}

/// Opens the configured source and checks that it has texts. May read for seconds.
///
/// # Errors
/// [`OpenError`] names the file, what was found and what to do.
pub fn open(config: &SourceConfig) -> Result<Arc<dyn Source>, OpenError> {
    Ok(match config {
        SourceConfig::Embedded {} => Arc::new(Embedded::new()),
        SourceConfig::Directory { path } => Arc::new(Directory::open(path)?),
    })
}
