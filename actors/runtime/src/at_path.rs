//! Errors of files that say what was attempted, and on what.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The file system said no.
#[derive(Debug, thiserror::Error)]
#[error("could not {attempted} {}: {source}", path.display())]
pub struct FileError {
    /// The operation, as a verb.
    pub attempted: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Attaches operation and path to an I/O error.
pub trait AtPath<T> {
    /// # Errors
    /// The one there was, with its place.
    fn at(self, attempted: &'static str, path: impl AsRef<Path>) -> Result<T, FileError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, attempted: &'static str, path: impl AsRef<Path>) -> Result<T, FileError> {
        self.map_err(|source| FileError { attempted, path: path.as_ref().to_owned(), source })
    }
}
