//! Shards: the files that a stream of texts is made of, wherever they are, and how texts are read out of them.
//!
//! | name ends in | holds |
//! |---|---|
//! | `.parquet` | a column of texts |
//! | `.jsonl`, `.ndjson`, also `.json` where compressed | an object on each line, the text under a key |
//! | `.txt` | one text, or several under `# Title` lines |
//!
//! The latter two also end in `.gz` or `.zst`. Everything here blocks; it is called on the thread of a stream.

mod blocks;
mod lines;
mod passages;
mod table;

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path, sync::Arc};

use bytes::Bytes;
use openvalidators_hub::DatasetError;
use serde::{Deserialize, Serialize};

/// Size of one text, and of one line before it is parsed.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;
/// Bytes read at a time where a file is read from its beginning to its end.
const BLOCK_BYTES: u64 = 4 << 20;
/// The texts of one row group, packed or not: they are in memory at once.
const ROW_GROUP_LIMIT_BYTES: u64 = 512 << 20;
/// What a Parquet file says of itself.
const FOOTER_LIMIT_BYTES: u64 = 64 << 20;

/// Where a source's shards are.
pub trait Shards: Send {
    /// What tells this source, as it is configured, from another: a position in one is none in the other.
    fn identity(&self) -> String;

    /// What there is now, in an order of its own. `known` is the version that was read so far, which is to be kept where it
    /// can be.
    ///
    /// # Errors
    /// [`ReadError`].
    fn list(&self, known: Option<&str>) -> Result<Listing, ReadError>;

    /// Opens a shard of a version.
    ///
    /// # Errors
    /// [`ReadError`].
    fn open(&self, version: &str, shard: &str) -> Result<Arc<dyn ShardFile>, ReadError>;

    /// The column, or the key, that texts are under.
    fn column(&self) -> &str;
}

/// The shards of a source at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// A commit, or what else tells one list from another.
    pub version: String,
    /// The names of the shards: paths or addresses.
    pub shards: Vec<String>,
    /// What the configured name stands for by now, where that is known to be another version.
    pub newer: Option<String>,
}

/// Bytes at places.
pub trait ShardFile: Send + Sync {
    /// The size.
    fn bytes(&self) -> u64;

    /// The bytes of a range, all of them.
    ///
    /// # Errors
    /// [`ReadError`].
    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError>;
}

/// Something could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ReadError {
    /// What was attempted and found, and where it helps what to do.
    pub reason: String,
    /// Trying again would not help.
    pub lasting: bool,
}

/// Where a reader stands in a shard: before which record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The record, from 0.
    pub record: u64,
    /// Where it begins, where a file can be entered anywhere: lines that are not compressed.
    pub offset: u64,
}

/// A record of a shard: its text, or why it has none.
pub type Record = Result<String, String>;

/// Reads the records of a shard one after the other.
pub trait Reader {
    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError`] when the shard cannot be read on.
    fn next(&mut self) -> Result<Option<Record>, ReadError>;

    /// Where it stands.
    fn mark(&self) -> Mark;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Parquet,
    Lines(Packing),
    Passages(Packing),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstandard,
}

/// A file on this machine.
pub(super) struct LocalFile {
    file: File,
    bytes: u64,
}

/// Whether a file of this name can hold texts.
pub fn is_readable(name: &str) -> bool {
    Format::of(name).is_some()
}

/// Begins to read a shard at a mark.
///
/// # Errors
/// [`ReadError`] when it is not what its name says, or has no such column.
pub fn read(name: &str, file: Arc<dyn ShardFile>, column: &str, from: Mark) -> Result<Box<dyn Reader>, ReadError> {
    if file.bytes() == 0 {
        return Ok(Box::new(Nothing(from)));
    }
    Ok(match Format::of(name) {
        Some(Format::Parquet) => Box::new(table::Table::open(file, column, from)?),
        Some(Format::Lines(packing)) => Box::new(lines::Lines::open(file, packing, column, from)?),
        Some(Format::Passages(packing)) => Box::new(passages::Passages::open(file, packing, from)?),
        None => return Err(ReadError::lasting("it is none of .parquet, .jsonl and .txt, packed by .gz or .zst")),
    })
}

/// What is read of an empty file.
struct Nothing(Mark);

impl Reader for Nothing {
    fn next(&mut self) -> Result<Option<Record>, ReadError> {
        Ok(None)
    }

    fn mark(&self) -> Mark {
        self.0
    }
}

// === impl Format ===

impl Format {
    fn of(name: &str) -> Option<Self> {
        // An address may have a query.
        let name = name.split(['?', '#']).next().unwrap_or(name).to_ascii_lowercase();
        let packed = [(".gz", Packing::Gzip), (".zst", Packing::Zstandard)];
        let packed = packed.iter().find_map(|(end, packing)| Some((name.strip_suffix(end)?, *packing)));
        let (name, packing) = packed.unwrap_or((&name, Packing::Plain));
        let ends = |end: &str| name.ends_with(end);
        match packing {
            Packing::Plain if ends(".parquet") => Some(Self::Parquet),
            _ if ends(".jsonl") || ends(".ndjson") => Some(Self::Lines(packing)),
            Packing::Gzip | Packing::Zstandard if ends(".json") => Some(Self::Lines(packing)),
            _ if ends(".txt") => Some(Self::Passages(packing)),
            _ => None,
        }
    }
}

// === impl ReadError ===

impl ReadError {
    pub(super) fn lasting(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), lasting: true }
    }

    pub(super) fn passing(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), lasting: false }
    }

    /// One that came through a decoder, or the decoder's own, which means that the file is damaged.
    fn from_decoder(error: impl std::error::Error + 'static) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if let Some(ours) = error.downcast_ref::<Self>() {
                return ours.clone();
            }
            // An I/O error hides what it wraps from `source`.
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            cause = wrapped.map(|wrapped| wrapped as &(dyn std::error::Error + 'static)).or_else(|| error.source());
        }
        Self::lasting(format!("it is damaged: {error}"))
    }
}

impl From<DatasetError> for ReadError {
    fn from(error: DatasetError) -> Self {
        Self { reason: error.to_string(), lasting: error.lasting }
    }
}

// === impl LocalFile ===

impl LocalFile {
    pub fn open(path: &Path) -> Result<Arc<dyn ShardFile>, ReadError> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.map_err(|error| ReadError::lasting(format!("it could not be opened: {error}")))?;
        Ok(Arc::new(Self { file, bytes }))
    }
}

impl ShardFile for LocalFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(ReadError::lasting)?;
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, range.start);
        read.map_err(|error| ReadError::passing(format!("it could not be read: {error}")))?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests;
