//! A folder of the operator's own texts: `.txt` files (one passage each, or several under `# Title` lines) and `.jsonl`
//! files (one object with a `text` on each line). The folder is read once, at the start, to find and check every
//! passage; a passage itself is read again when it is drawn, so that the folder may be larger than the memory.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use openvalidators_messages::prompts::{Context, SourceError};
use rand::{Rng, RngCore};
use serde::Deserialize;

use super::{Source, titled};

/// Folders within folders.
pub const MAX_DEPTH: usize = 16;
/// Files read, others not counted.
pub const MAX_FILES: usize = 100_000;
/// Passages in all of them.
pub const MAX_PASSAGES: usize = 20_000_000;
/// Size of a `.txt` file, and of a line of a `.jsonl` file (whose own size has no limit).
pub const MAX_TEXT_BYTES: u64 = 16_777_216;

/// Texts in a folder.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: Vec<PathBuf>,
    passages: Vec<Passage>,
}

/// Where a passage is.
#[derive(Clone, Copy, Debug)]
struct Passage {
    /// Index into the files.
    file: u32,
    /// Its number among the passages of a `.txt`, from 0; its line in a `.jsonl`, from 1.
    place: u32,
    /// Where its line begins in a `.jsonl`, in bytes.
    offset: u64,
}

/// A source that cannot be used: which file, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something could not be read.
    #[error("prompt source: {path} could not be read: {error}; check `prompts.source.path`")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// The path is no folder.
    #[error("prompt source: {0} is not a directory; `prompts.source.path` must name a folder of .txt or .jsonl files")]
    NotADirectory(PathBuf),
    /// A limit was passed.
    #[error("prompt source: {path} has {what}; split it or move some of it away")]
    TooMuch {
        /// The file or folder.
        path: PathBuf,
        /// What there is too much of, with the limit.
        what: String,
    },
    /// A text file in another encoding.
    #[error("prompt source: {path} is not UTF-8 at byte {at}; convert it or move it away")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first bad byte, from 0.
        at: usize,
    },
    /// A line that is no object with a `text`.
    #[error(
        "prompt source: {path}:{line}: expected a JSON object with a string `text`: {error}; mend or remove the line"
    )]
    BadLine {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u32,
        /// The parser's words.
        error: serde_json::Error,
    },
    /// No text to draw.
    #[error("prompt source: {0} holds no text; put .txt files, or .jsonl files with a `text` on each line, into it")]
    NoText(PathBuf),
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

// === impl Directory ===

impl Directory {
    /// Finds and checks every passage. Names that begin with a dot are passed over.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let unreadable = |error| OpenError::Unreadable { path: root.to_owned(), error };
        if !std::fs::metadata(root).map_err(unreadable)?.is_dir() {
            return Err(OpenError::NotADirectory(root.to_owned()));
        }
        let mut files = Vec::new();
        collect_files(root, MAX_DEPTH, &mut files)?;
        let mut source = Self { root: root.to_owned(), files, passages: Vec::new() };
        for file in 0..source.files.len() {
            source.index(file)?;
        }
        if source.passages.is_empty() {
            return Err(OpenError::NoText(root.to_owned()));
        }
        tracing::info!(path = %root.display(), files = source.files.len(), passages = source.passages.len(), "texts found");
        Ok(source)
    }

    fn index(&mut self, file: usize) -> Result<(), OpenError> {
        let path = &self.files[file];
        let before = self.passages.len();
        let mut found = |place: u32, offset| {
            // There are at most MAX_FILES.
            self.passages.push(Passage { file: file as u32, place, offset });
            if self.passages.len() <= MAX_PASSAGES {
                return Ok(());
            }
            let what = format!("more than {MAX_PASSAGES} passages");
            Err(OpenError::TooMuch { path: self.root.clone(), what })
        };
        if is_lines(path) {
            read_lines(path, &mut found)?;
        } else {
            let text = read_text(path)?;
            (0..titled::passages(&text).count()).try_for_each(|place| found(place as u32, 0))?;
        }
        if self.passages.len() == before {
            tracing::warn!(path = %path.display(), "no text in this file");
        }
        Ok(())
    }

    /// Reads a passage again; what was checked at the start may have changed since.
    fn read(&self, passage: Passage) -> Result<String, String> {
        let path = &self.files[passage.file as usize];
        let gone =
            || "it has changed since the start and no longer holds this text: restart to read it anew".to_owned();
        let text = if is_lines(path) {
            let mut file = File::open(path).map_err(|error| error.to_string())?;
            file.seek(SeekFrom::Start(passage.offset)).map_err(|error| error.to_string())?;
            let mut line = Vec::new();
            let mut reader = BufReader::new(file).take(MAX_TEXT_BYTES);
            reader.read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
            serde_json::from_slice::<Line>(&line).map_err(|_| gone())?.text.trim().to_owned()
        } else {
            let text = read_text(path).map_err(|error| error.to_string())?;
            titled::passages(&text).nth(passage.place as usize).ok_or_else(gone)?.to_owned()
        };
        if text.contains(char::is_alphanumeric) { Ok(text) } else { Err(gone()) }
    }
}

impl Source for Directory {
    fn name(&self) -> String {
        format!("directory {}", self.root.display())
    }

    fn draw(&self, rng: &mut dyn RngCore) -> Result<Context, SourceError> {
        let passage = self.passages[rng.random_range(0..self.passages.len())];
        let path = &self.files[passage.file as usize];
        let within = path.strip_prefix(&self.root).unwrap_or(path).display();
        match self.read(passage) {
            Ok(text) => {
                let source = format!("directory:{within}:{}", passage.place);
                Ok(Context { source, text: text.into() })
            }
            Err(reason) => Err(SourceError { source_name: self.name(), reason: format!("{within}: {reason}") }),
        }
    }
}

// === Reading ===

/// Every usable file below, by name, so that the same folder gives the same order everywhere.
fn collect_files(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), OpenError> {
    let too_much = |what| OpenError::TooMuch { path: folder.to_owned(), what };
    let unreadable = |path: &Path, error| OpenError::Unreadable { path: path.to_owned(), error };
    if depth == 0 {
        return Err(too_much(format!("folders nested deeper than {MAX_DEPTH} (or a link that leads back)")));
    }
    let mut names = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
        .map_err(|error| unreadable(folder, error))?;
    names.sort();
    for path in names {
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        let kind = std::fs::metadata(&path).map_err(|error| unreadable(&path, error))?;
        if kind.is_dir() {
            collect_files(&path, depth - 1, files)?;
        } else if kind.is_file() && (is_lines(&path) || has_extension(&path, "txt")) {
            files.push(path);
            if files.len() > MAX_FILES {
                return Err(too_much(format!("more than {MAX_FILES} files")));
            }
        }
    }
    Ok(())
}

fn is_lines(path: &Path) -> bool {
    has_extension(path, "jsonl")
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn read_text(path: &Path) -> Result<String, OpenError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| OpenError::Unreadable { path: path.to_owned(), error })?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(OpenError::TooMuch { path: path.to_owned(), what: format!("more than {MAX_TEXT_BYTES} bytes") });
    }
    String::from_utf8(bytes)
        .map_err(|error| OpenError::NotUtf8 { path: path.to_owned(), at: error.utf8_error().valid_up_to() })
}

/// Calls `found(line from 1, byte offset)` for each line with a text; empty lines and empty texts are passed over.
fn read_lines(path: &Path, found: &mut dyn FnMut(u32, u64) -> Result<(), OpenError>) -> Result<(), OpenError> {
    let unreadable = |error| OpenError::Unreadable { path: path.to_owned(), error };
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut line, mut offset) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(MAX_TEXT_BYTES).read_until(b'\n', &mut line).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        if read as u64 == MAX_TEXT_BYTES {
            let what = format!("more than {MAX_TEXT_BYTES} bytes on line {number}");
            return Err(OpenError::TooMuch { path: path.to_owned(), what });
        }
        if !line.trim_ascii().is_empty() {
            let parsed = serde_json::from_slice::<Line>(&line).map_err(|error| OpenError::BadLine {
                path: path.to_owned(),
                line: number,
                error,
            })?;
            if parsed.text.contains(char::is_alphanumeric) {
                found(number, offset)?;
            }
        }
        offset += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openvalidators_runtime::Seed;
    use tempfile::TempDir;

    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn refused(files: &[(&str, &[u8])]) -> String {
        Directory::open(folder(files).path()).unwrap_err().to_string()
    }

    #[test]
    fn every_passage_is_found_and_drawn() {
        let lines = b"{\"text\": \"in \\\"lines\\\"\"}\n\n{\"text\": \" \"}\n{\"id\": 1, \"text\": \"last\"}";
        let folder = folder(&[
            ("b/lines.jsonl", lines),
            ("a.txt", b"plain"),
            ("c.TXT", b"# One\n\nfirst\n\n# Two\n\nsecond"),
            ("d.md", b"not read"),
            (".hidden/e.txt", b"not read"),
            ("empty.txt", b""),
        ]);
        let source = Directory::open(folder.path()).unwrap();
        let draws = (0..200).map(|forward| source.draw(&mut Seed(1).rng("draw", &[forward])).unwrap());
        let found: BTreeMap<_, _> = draws.map(|context| (context.source, context.text.to_string())).collect();
        let expected = [
            ("directory:a.txt:0", "plain"),
            ("directory:b/lines.jsonl:1", "in \"lines\""),
            ("directory:b/lines.jsonl:4", "last"),
            ("directory:c.TXT:0", "first"),
            ("directory:c.TXT:1", "second"),
        ];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert!(refused(&[]).contains("holds no text"));
        assert!(refused(&[("a.txt", b" \n"), ("b.jsonl", b"\n")]).contains("holds no text"));
        assert!(refused(&[("a.txt", b"ab\xff")]).contains("a.txt is not UTF-8 at byte 2"));
        assert!(refused(&[("a.jsonl", b"{\"text\": \"x\"}\n{\"txt\": 1}\n")]).contains("a.jsonl:2: expected"));
        assert!(refused(&[("a.jsonl", b"{\"text\": \"x\xff\"}\n")]).contains("a.jsonl:1: expected"));
        assert!(refused(&[("a.txt", &vec![b'x'; 16_777_217])]).contains("more than 16777216 bytes"));
        assert!(refused(&[("a.jsonl", &vec![b'x'; 16_777_217])]).contains("bytes on line 1"));
        assert!(refused(&[(&format!("{}t.txt", "d/".repeat(16)), b"x")]).contains("nested deeper than 16"));
        let missing = Directory::open(Path::new("/no/such/folder")).unwrap_err().to_string();
        assert!(missing.contains("/no/such/folder could not be read") && missing.contains("prompts.source.path"));
        let folder = folder(&[("a.txt", b"x")]);
        let file = Directory::open(&folder.path().join("a.txt")).unwrap_err().to_string();
        assert!(file.contains("is not a directory"));
    }

    #[test]
    fn a_file_that_changed_is_a_source_error() {
        let folder = folder(&[("a.jsonl", b"{\"text\": \"first\"}\n")]);
        let source = Directory::open(folder.path()).unwrap();
        let draw = || source.draw(&mut Seed(1).rng("draw", &[1]));
        assert_eq!(&*draw().unwrap().text, "first");
        std::fs::write(folder.path().join("a.jsonl"), "{\"te").unwrap();
        assert!(draw().unwrap_err().to_string().contains("a.jsonl: it has changed since the start"));
        std::fs::remove_file(folder.path().join("a.jsonl")).unwrap();
        assert!(draw().is_err());
    }
}
