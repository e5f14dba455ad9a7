//! The programs on the disk. Every change of what will be started next is one rename, so there is always a whole program.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use semver::Version;
use tempfile::NamedTempFile;

/// The program, the one before it, and the note that a new one is not proven yet.
#[derive(Clone, Debug)]
pub struct Programs {
    current: PathBuf,
}

// === impl Programs ===

impl Programs {
    /// Those around this file.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(binary: &Path) -> anyhow::Result<Self> {
        let current = fs::canonicalize(binary).with_context(|| format!("finding the program {}", binary.display()))?;
        Ok(Self { current })
    }

    /// What is started next.
    pub fn current(&self) -> &Path {
        &self.current
    }

    /// What was started before the last update.
    pub fn previous(&self) -> PathBuf {
        self.beside("previous")
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        self.current.parent().unwrap_or(Path::new("."))
    }

    /// The version that was applied and is not proven yet.
    ///
    /// # Errors
    /// When the note of it cannot be read.
    pub fn applied(&self) -> anyhow::Result<Option<Version>> {
        let note = self.beside("applied");
        match fs::read_to_string(&note) {
            Ok(text) => Ok(Some(Version::parse(text.trim()).with_context(|| note.display().to_string())?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| note.display().to_string()),
        }
    }

    /// Keeps the current program as the previous one and puts the new one in its place.
    ///
    /// # Errors
    /// When a file cannot be written: the current program is as it was.
    pub fn put(&self, new: NamedTempFile, version: &Version) -> anyhow::Result<()> {
        let kept = NamedTempFile::with_prefix_in(".openvalidators-", self.folder())?;
        fs::copy(&self.current, kept.path()).with_context(|| format!("keeping {}", self.current.display()))?;
        kept.as_file().sync_all()?;
        kept.persist(self.previous()).with_context(|| format!("writing {}", self.previous().display()))?;
        fs::write(self.beside("applied"), version.to_string())?;
        new.persist(&self.current).with_context(|| format!("writing {}", self.current.display()))?;
        self.settle()
    }

    /// The new one is proven; the previous one stays for `update rollback`.
    ///
    /// # Errors
    /// When the note cannot be removed.
    pub fn keep(&self) -> anyhow::Result<()> {
        fs::remove_file(self.beside("applied")).context("removing the note of an unproven version")?;
        self.settle()
    }

    /// Puts the previous program back; the one that failed is kept beside it.
    ///
    /// # Errors
    /// When there is none.
    pub fn take_back(&self) -> anyhow::Result<()> {
        let previous = self.previous();
        anyhow::ensure!(previous.is_file(), "there is no {}: no update is kept to take back", previous.display());
        let failed = NamedTempFile::with_prefix_in(".openvalidators-", self.folder())?;
        fs::copy(&self.current, failed.path())?;
        failed.persist(self.beside("failed"))?;
        fs::rename(&previous, &self.current).with_context(|| format!("renaming {}", previous.display()))?;
        match fs::remove_file(self.beside("applied")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        self.settle()
    }

    fn beside(&self, what: &str) -> PathBuf {
        let name = self.current.file_name().unwrap_or_default().to_string_lossy();
        self.folder().join(format!("{name}.{what}"))
    }

    /// Renames are durable once their folder is.
    fn settle(&self) -> anyhow::Result<()> {
        File::open(self.folder())?.sync_all().context("making the change durable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_way_forth_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("openvalidators");
        fs::write(&program, "old").unwrap();
        let programs = Programs::at(&program).unwrap();
        let now = || fs::read_to_string(&program).unwrap();
        assert!(programs.take_back().unwrap_err().to_string().contains("openvalidators.previous"));

        let new = NamedTempFile::new_in(folder.path()).unwrap();
        fs::write(new.path(), "new").unwrap();
        programs.put(new, &Version::new(9, 0, 0)).unwrap();
        assert_eq!((now().as_str(), programs.applied().unwrap()), ("new", Some(Version::new(9, 0, 0))));
        programs.take_back().unwrap();
        assert_eq!((now().as_str(), programs.applied().unwrap()), ("old", None));
        assert_eq!(fs::read_to_string(folder.path().join("openvalidators.failed")).unwrap(), "new");
    }
}
