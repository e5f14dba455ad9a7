//! The cache of Hugging Face's own tools, shared with them: what `huggingface-cli download` fetched is found here, and what
//! is fetched here is found by `transformers`.
//!
//! ```text
//! models--OWNER--NAME/refs/REVISION          the commit that a branch or tag stood for
//!                     blobs/ETAG             contents; sha256 for large files, git's id for small ones
//!                     snapshots/COMMIT/FILE  a relative link to a blob
//! .locks/models--OWNER--NAME/ETAG.lock       held while a blob is fetched
//! ```
//!
//! Source: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use openvalidators_runtime::AtPath;
use sha1::{Digest, Sha1};

use crate::{
    HubError,
    cache::{HASH_BUFFER_BYTES, sha256_of, sync_folder},
    catalogue::is_hexadecimal,
};

/// A ref is a commit.
const REF_LIMIT_BYTES: u64 = 200;
/// Files of a snapshot that are looked at.
const MOST_FILES: usize = 10_000;
/// The fewest digits that may stand for a commit.
const SHORTEST_COMMIT: usize = 7;

/// The part of the cache that belongs to one repository.
#[derive(Clone, Debug)]
pub(crate) struct RepositoryCache {
    folder: PathBuf,
    locks: PathBuf,
}

/// What a blob is called: `ETag`, or `X-Linked-ETag` for large files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Etag(String);

// === impl RepositoryCache ===

impl RepositoryCache {
    /// Of the model `owner/name`, or of `datasets/owner/name`, in the cache at `root`.
    pub fn new(root: &Path, repository: &str) -> Self {
        let kind = if repository.starts_with("datasets/") { "" } else { "models--" };
        let name = format!("{kind}{}", repository.replace('/', "--"));
        Self { folder: root.join(&name), locks: root.join(".locks").join(&name) }
    }

    /// The commit that a revision stands for here, as far as this cache knows.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let mut text = String::new();
        let named = File::open(self.folder.join("refs").join(revision));
        if let Ok(file) = named
            && file.take(REF_LIMIT_BYTES).read_to_string(&mut text).is_ok()
            && is_commit(text.trim())
        {
            return Some(text.trim().to_owned());
        }
        // The reference names a commit by its first seven digits.
        if revision.len() < SHORTEST_COMMIT || !is_hexadecimal(revision, revision.len()) {
            return None;
        }
        let snapshots = fs::read_dir(self.folder.join("snapshots")).ok()?;
        let names = snapshots.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut found = names.filter(|name| is_commit(name) && name.starts_with(revision));
        found.next().filter(|_| found.next().is_none())
    }

    /// Where a file of a commit is, if it is here.
    pub fn file(&self, commit: &str, name: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit).join(name)
    }

    /// Plain files of a commit that are here: name and size.
    pub fn files(&self, commit: &str) -> Vec<(String, u64)> {
        let entries = fs::read_dir(self.folder.join("snapshots").join(commit)).into_iter().flatten().flatten();
        let sized = entries.take(MOST_FILES).filter_map(|entry| {
            let metadata = fs::metadata(entry.path()).ok().filter(fs::Metadata::is_file)?;
            Some((entry.file_name().into_string().ok()?, metadata.len()))
        });
        sized.collect()
    }

    /// The name of the blob that a file of a commit is.
    pub fn etag(&self, commit: &str, name: &str) -> Option<Etag> {
        let blob = fs::read_link(self.file(commit, name)).ok()?;
        Etag::parse(blob.file_name()?.to_str()?)
    }

    /// Where a blob is.
    pub fn blob(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(&etag.0)
    }

    /// Where a blob is written until it is whole.
    pub fn incomplete(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", etag.0))
    }

    /// Bytes of unfinished downloads, which the next fetch resumes.
    pub fn incomplete_bytes(&self) -> u64 {
        let blobs = fs::read_dir(self.folder.join("blobs")).into_iter().flatten().flatten();
        let incomplete = blobs.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "incomplete"));
        incomplete.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// Held while a blob is fetched, by Hugging Face's tools too.
    pub fn lock_file(&self, etag: &Etag) -> PathBuf {
        self.locks.join(format!("{}.lock", etag.0))
    }

    /// Makes the folders of blobs and locks.
    pub fn create(&self) -> Result<(), HubError> {
        for folder in [&self.folder.join("blobs"), &self.locks] {
            fs::create_dir_all(folder).at("create", folder)?;
        }
        Ok(())
    }

    /// Puts a whole blob in its place.
    pub fn publish(&self, etag: &Etag) -> Result<(), HubError> {
        let blob = self.blob(etag);
        fs::rename(self.incomplete(etag), &blob).at("put in place", &blob)?;
        sync_folder(&self.folder.join("blobs"))
    }

    /// Makes a blob a file of a commit.
    pub fn link(&self, etag: &Etag, commit: &str, name: &str) -> Result<(), HubError> {
        let path = self.file(commit, name);
        let snapshot = self.folder.join("snapshots").join(commit);
        fs::create_dir_all(&snapshot).at("create", &snapshot)?;
        replace_link(&Path::new("../../blobs").join(&etag.0), &path)
    }

    /// Notes which commit a branch or tag stands for.
    pub fn note(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit || commit.starts_with(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).at("create", folder)?;
        Ok(fs::write(&path, commit).at("write", path)?)
    }
}

/// Makes `path` a link to `target`, whatever it was.
pub(crate) fn replace_link(target: &Path, path: &Path) -> Result<(), HubError> {
    if fs::read_link(path).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let part = path.with_added_extension("part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Ok(Err(error).at("remove", part)?),
        _ => {}
    }
    symlink(target, &part).at("link", &part)?;
    fs::rename(&part, path).at("put in place", path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Whether this is a commit, and no branch or tag.
pub(crate) fn is_commit(revision: &str) -> bool {
    is_hexadecimal(revision, 40)
}

// === impl Etag ===

impl Etag {
    /// From a header or a file name; none where it cannot be a file name.
    pub fn parse(header: &str) -> Option<Self> {
        let bare = header.trim().trim_start_matches("W/").trim_matches('"');
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let named = (1..=128).contains(&bare.len()) && bare.chars().all(fit) && !bare.starts_with('.');
        // The two forms the hub has; anything else would not say what the blob is, but a mirror may send it.
        named.then(|| Self(bare.to_owned()))
    }

    /// The sha256 of a large file.
    pub fn sha256(&self) -> Option<&str> {
        is_hexadecimal(&self.0, 64).then_some(self.0.as_str())
    }

    /// Whether the file at `path` is the blob of this name: whole, and not changed. One whose name says nothing is.
    pub fn matches(&self, path: &Path) -> io::Result<bool> {
        match self.sha256() {
            Some(sha256) => Ok(sha256_of(path)? == sha256),
            None if is_hexadecimal(&self.0, 40) => Ok(git_id_of(path)? == self.0),
            None => Ok(path.is_file()),
        }
    }
}

/// What git calls a file of these contents: <https://git-scm.com/book/en/v2/Git-Internals-Git-Objects>.
fn git_id_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", file.metadata()?.len()));
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_what_its_name_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "what is up, doc?").unwrap();
        // The example of the book on git.
        let git = Etag::parse("\"bd9dbf5aae1a3862dd1526723246b20206e5fc37\"").unwrap();
        assert!(git.matches(&path).unwrap());
        let large = Etag::parse(&format!("W/\"{}\"", sha256_of(&path).unwrap())).unwrap();
        assert!(large.matches(&path).unwrap() && large.sha256().is_some());
        fs::write(&path, "what is up, Doc?").unwrap();
        assert!(!git.matches(&path).unwrap() && !large.matches(&path).unwrap());
        for bad in ["", "\"\"", "../../x", "a/b", ".lock", &"a".repeat(200)] {
            assert_eq!(Etag::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_revision_is_a_commit_a_ref_or_the_beginning_of_one_commit() {
        let root = tempfile::tempdir().unwrap();
        let cache = RepositoryCache::new(root.path(), "owner/name");
        let (one, other) = (format!("501f895{}", "0".repeat(33)), format!("501f896{}", "0".repeat(33)));
        assert_eq!(cache.commit("main"), None);
        assert_eq!(cache.commit(&one), Some(one.clone()));
        for commit in [&one, &other] {
            fs::create_dir_all(root.path().join("models--owner--name/snapshots").join(commit)).unwrap();
        }
        cache.note("refs/pr/1", &other).unwrap();
        assert_eq!(cache.commit("refs/pr/1"), Some(other));
        assert_eq!(cache.commit("501f895"), Some(one));
        assert_eq!(cache.commit("501f89"), None, "too short");
        fs::create_dir_all(root.path().join(format!("models--owner--name/snapshots/501f895{}", "1".repeat(33))))
            .unwrap();
        assert_eq!(cache.commit("501f895"), None, "two begin like this");
    }
}
