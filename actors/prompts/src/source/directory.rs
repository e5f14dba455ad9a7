//! A folder of the operator's own texts. Its files are listed at the start, and the first records of it are read, so that
//! a folder that cannot serve is told before anything starts; a file that comes later is found in the next pass.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::shards::{self, Listing, LocalFile, Mark, ReadError, ShardFile, Shards};

/// Folders within folders.
const MAX_DEPTH: usize = 16;
/// Files read, others not counted.
const MAX_FILES: usize = 100_000;
/// Records read at the start. What is wrong with later ones is told while they are read, and they are left out.
const CHECKED_RECORDS: usize = 10_000;

/// Texts in a folder.
pub struct Directory {
    name: String,
    root: PathBuf,
    column: String,
}

/// A folder that cannot be used: which file, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something could not be read.
    #[error("prompt source `{name}`: {path} could not be read: {error}; check `prompts.sources.{name}.path`")]
    Unreadable {
        /// The source.
        name: String,
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// The path is no folder.
    #[error(
        "prompt source `{name}`: {path} is not a directory; `prompts.sources.{name}.path` must name a folder of .txt, .jsonl \
         or .parquet files"
    )]
    NotADirectory {
        /// The source.
        name: String,
        /// What was named.
        path: PathBuf,
    },
    /// A limit was passed.
    #[error("prompt source `{name}`: {path} has {what}; move some of it away")]
    TooMuch {
        /// The source.
        name: String,
        /// The folder.
        path: PathBuf,
        /// What there is too much of, with the limit.
        what: String,
    },
    /// A file that is not what its name says.
    #[error("prompt source `{name}`: {path}: {error}")]
    BadFile {
        /// The source.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ReadError,
    },
    /// A record without a text.
    #[error("prompt source `{name}`: {path}:{record}: {fault}; mend or remove it")]
    BadRecord {
        /// The source.
        name: String,
        /// The file.
        path: PathBuf,
        /// From 1; a line of JSON lines.
        record: u64,
        /// What is wrong.
        fault: String,
    },
    /// No text to draw.
    #[error(
        "prompt source `{name}`: {path} holds no text; put .txt or .parquet files, or .jsonl files with a `{column}` on each \
         line, into it"
    )]
    NoText {
        /// The source.
        name: String,
        /// The folder.
        path: PathBuf,
        /// Where texts are looked for.
        column: String,
    },
}

// === impl Directory ===

impl Directory {
    /// Finds the files and reads the first records.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(name: &str, root: &Path, column: &str) -> Result<Self, OpenError> {
        let unreadable = |error| OpenError::Unreadable { name: name.to_owned(), path: root.to_owned(), error };
        if !std::fs::metadata(root).map_err(unreadable)?.is_dir() {
            return Err(OpenError::NotADirectory { name: name.to_owned(), path: root.to_owned() });
        }
        let source = Self { name: name.to_owned(), root: root.to_owned(), column: column.to_owned() };
        let files = source.files()?;
        if !source.check(&files)? {
            return Err(OpenError::NoText { name: name.to_owned(), path: root.to_owned(), column: column.to_owned() });
        }
        tracing::info!(source = name, path = %root.display(), files = files.len(), "files of texts found");
        Ok(source)
    }

    /// Whether a text is among the first records.
    fn check(&self, files: &[String]) -> Result<bool, OpenError> {
        let mut left = CHECKED_RECORDS;
        let mut found = false;
        for file in files {
            let path = self.root.join(file);
            let bad = |error| OpenError::BadFile { name: self.name.clone(), path: path.clone(), error };
            let shard = LocalFile::open(&path).map_err(bad)?;
            let mut reader = shards::read(file, shard, &self.column, Mark::default()).map_err(bad)?;
            while left > 0 {
                let Some(record) = reader.next().map_err(bad)? else { break };
                let text = record.map_err(|fault| {
                    let record = reader.mark().record;
                    OpenError::BadRecord { name: self.name.clone(), path: path.clone(), record, fault }
                })?;
                found |= text.contains(char::is_alphanumeric);
                left -= 1;
            }
            if left == 0 && found {
                break;
            }
            left = left.max(1);
        }
        Ok(found)
    }

    /// Every usable file below, by its path from the folder, in the same order everywhere. Names that begin with a dot are
    /// passed over.
    fn files(&self) -> Result<Vec<String>, OpenError> {
        let mut files = Vec::new();
        collect(&self.name, &self.root, MAX_DEPTH, &mut files)?;
        let below = |path: &PathBuf| path.strip_prefix(&self.root).unwrap_or(path).to_str().map(str::to_owned);
        Ok(files.iter().filter_map(below).collect())
    }
}

impl Shards for Directory {
    fn identity(&self) -> String {
        format!("directory {} {}", self.root.display(), self.column)
    }

    fn list(&self, _: Option<&str>) -> Result<Listing, ReadError> {
        let shards = self.files().map_err(ReadError::passing)?;
        // Files that come or go make another list, and the pass begins anew.
        let version = shards.iter().fold(0_u32, |sum, name| {
            name.bytes().fold(sum.rotate_left(5), |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
        });
        Ok(Listing { version: format!("{} files, {version:08x}", shards.len()), shards, newer: None })
    }

    fn open(&self, _: &str, shard: &str) -> Result<Arc<dyn ShardFile>, ReadError> {
        LocalFile::open(&self.root.join(shard))
    }

    fn column(&self) -> &str {
        &self.column
    }
}

fn collect(name: &str, folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), OpenError> {
    let too_much = |what| OpenError::TooMuch { name: name.to_owned(), path: folder.to_owned(), what };
    let unreadable = |path: &Path, error| OpenError::Unreadable { name: name.to_owned(), path: path.to_owned(), error };
    if depth == 0 {
        return Err(too_much(format!("folders nested deeper than {MAX_DEPTH} (or a link that leads back)")));
    }
    let mut paths = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
        .map_err(|error| unreadable(folder, error))?;
    paths.sort();
    for path in paths {
        let Some(file) = path.file_name().and_then(|file| file.to_str()).filter(|file| !file.starts_with('.')) else {
            continue;
        };
        let kind = std::fs::metadata(&path).map_err(|error| unreadable(&path, error))?;
        if kind.is_dir() {
            collect(name, &path, depth - 1, files)?;
        } else if kind.is_file() && shards::is_readable(file) {
            files.push(path);
            if files.len() > MAX_FILES {
                return Err(too_much(format!("more than {MAX_FILES} files")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(files: &[(&str, &[u8])]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let refused = Directory::open("mine", folder.path(), "text").err().unwrap().to_string();
        assert!(refused.starts_with("prompt source `mine`: "), "{refused}");
        refused
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert!(refused(&[]).contains("holds no text"));
        assert!(refused(&[("a.txt", b" \n"), ("b.jsonl", b"\n"), ("c.parquet", b"")]).contains("holds no text"));
        assert!(refused(&[("a.txt", b"ab\xff")]).contains("a.txt: it is not UTF-8 at byte 2"));
        let other_key = refused(&[("a.jsonl", b"{\"text\": \"x\"}\n{\"txt\": 1}\n")]);
        assert!(
            other_key.contains("a.jsonl:2: there is no `text`; it has txt; set the source's `column`"),
            "{other_key}"
        );
        assert!(refused(&[("a.jsonl", b"{\"text\": \"x\xff\"}\n")]).contains("a.jsonl:1: expected"));
        assert!(refused(&[("a.txt", &vec![b'x'; 16_777_217])]).contains("more than 16777216 bytes"));
        assert!(refused(&[("a.jsonl", &vec![b'x'; 16_777_217])]).contains("a.jsonl:1: more than 16777216 bytes"));
        assert!(refused(&[("a.parquet", b"PAR1 but no more")]).contains("it is not Parquet"));
        assert!(refused(&[("a.jsonl.gz", b"plain")]).contains("a.jsonl.gz: it is damaged"));
        assert!(refused(&[("a.jsonl.zst", b"plain")]).contains("a.jsonl.zst: it is damaged"));
        assert!(refused(&[(&format!("{}t.txt", "d/".repeat(16)), b"x")]).contains("nested deeper than 16"));
    }

    #[test]
    fn a_path_that_is_no_folder_is_named_with_its_key() {
        let missing = Directory::open("mine", Path::new("/no/such/folder"), "text").err().unwrap().to_string();
        assert!(missing.contains("/no/such/folder could not be read") && missing.contains("prompts.sources.mine.path"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = Directory::open("mine", file.path(), "text").err().unwrap().to_string();
        assert!(file.contains("is not a directory"));
    }
}
