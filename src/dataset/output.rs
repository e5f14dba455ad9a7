//! A file that is there when it is whole, and never in place of another.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use tempfile::NamedTempFile;

/// A file being made: written beside its place, moved there at the end.
pub struct Output {
    path: PathBuf,
    file: NamedTempFile,
    force: bool,
}

// === impl Output ===

impl Output {
    /// Begins a file.
    ///
    /// # Errors
    /// When it exists and is not to be replaced, or its folder cannot be written to.
    pub fn create(path: &Path, force: bool) -> anyhow::Result<Self> {
        let shown = path.display();
        ensure!(force || !path.exists(), "{shown} exists: choose another name, or replace it with --force");
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new()
            .prefix(".partial-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)
            .with_context(|| format!("making {shown}"))?;
        Ok(Self { path: path.to_owned(), file, force })
    }

    /// To write to.
    ///
    /// # Errors
    /// When the system has no handle left.
    pub fn handle(&self) -> anyhow::Result<File> {
        self.file.reopen().with_context(|| format!("writing {}", self.path.display()))
    }

    /// Where it will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// When another file has taken the place meanwhile, or the disk refuses.
    pub fn finish(self) -> anyhow::Result<()> {
        let Self { path, file, force } = self;
        file.as_file().sync_all().with_context(|| format!("writing {}", path.display()))?;
        let moved = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        moved.map(drop).map_err(|error| error.error).with_context(|| format!("putting {} in its place", path.display()))
    }
}
