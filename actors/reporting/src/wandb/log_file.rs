//! The `.wandb` file: records in the framing of LevelDB's log, which `wandb sync` and wandb's own core read.
//!
//! Seven bytes of header (`:W&B`, 0xBEE1, version 0), then blocks of 32 KiB counted from the start of the file. A record
//! is cut into chunks that never cross a block: CRC-32 (IEEE, unmasked) of kind and payload, u16 length, kind, payload.
//! Source: `wandb/sdk/internal/datastore.py` of client 0.15.3, and `core/pkg/leveldb/record.go`.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use openvalidators_runtime::{AtPath, FileError};
use prost::Message;

use super::record::Record;

const IDENT: &[u8; 4] = b":W&B";
const MAGIC: u16 = 0xBEE1;
const VERSION: u8 = 0;
const HEADER_BYTES: u64 = 7;
const BLOCK_BYTES: u64 = 32 << 10;
const CHUNK_HEADER_BYTES: u64 = 7;
/// Longer records are damage: a row is never near it.
const MAX_RECORD_BYTES: usize = 64 << 20;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Appends records, durably and whole.
#[derive(Debug)]
pub(crate) struct LogWriter {
    file: File,
    path: PathBuf,
    /// Where the last durable record ends.
    end: u64,
}

/// Reads the records of a log that may still be written to.
#[derive(Debug)]
pub(crate) struct LogReader {
    file: BufReader<File>,
    path: PathBuf,
    at: u64,
}

/// What is next in a log.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// A record.
    Record(Box<Record>),
    /// Bytes that are no record; reading goes on at the next block.
    Damage {
        /// The first of them.
        at: u64,
        /// What is wrong with them.
        what: &'static str,
    },
    /// Nothing more, or the beginning of a record whose rest is not there (yet).
    End,
}

/// A file that cannot be read or written as a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
    /// It begins otherwise.
    #[error("{} is no .wandb log: it begins with {found:02x?} instead of \":W&B\"", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// It is of a later time.
    #[error(
        "{} is a .wandb log of version {found}, and this program knows version {VERSION}; upload it with the `wandb sync` \
         of the program that wrote it",
        path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// The version it says.
        found: u8,
    },
}

// === impl LogWriter ===

impl LogWriter {
    /// A new log; its folder exists. It has its name from the moment that its header is whole.
    pub(crate) fn create(path: PathBuf) -> Result<Self, LogError> {
        let new = path.with_extension("wandb.new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&new).at("create", &new)?;
        file.try_lock().map_err(io::Error::from).at("lock", &new)?;
        let mut header = IDENT.to_vec();
        header.extend_from_slice(&MAGIC.to_le_bytes());
        header.push(VERSION);
        file.write_all(&header).and_then(|()| file.sync_all()).at("write", &new)?;
        std::fs::rename(&new, &path).at("name", &path)?;
        if let Some(folder) = path.parent() {
            // The name must survive a power cut as the rows do.
            File::open(folder).and_then(|folder| folder.sync_all()).at("sync", folder)?;
        }
        Ok(Self { file, path, end: HEADER_BYTES })
    }

    /// Goes on after `end`, where a record ends; what is behind it is cut off.
    pub(crate) fn continue_at(path: PathBuf, end: u64) -> Result<Self, LogError> {
        let mut file = OpenOptions::new().write(true).open(&path).at("open", &path)?;
        file.try_lock().map_err(io::Error::from).at("lock", &path)?;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).at("cut", &path)?;
        Ok(Self { file, path, end })
    }

    /// A log on a device, such as one without room.
    #[cfg(test)]
    pub(crate) fn over_device(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().write(true).open(&path)?, path, end: HEADER_BYTES })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the records and waits until they are on the disk. After an error none of them is there.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        let mut frames = Vec::new();
        for record in records {
            frame(&record.encode_to_vec(), self.end, &mut frames);
        }
        let written = self
            .file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(&frames))
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            if let Err(error) = self.file.set_len(self.end) {
                tracing::error!(%error, path = %self.path.display(), "could not cut the log back after a failed write");
            }
            return Err(error).at("write", &self.path).map_err(LogError::from);
        }
        self.end += frames.len() as u64;
        Ok(())
    }
}

/// Appends one record to `frames`, which will be written at `start` of the file.
fn frame(mut payload: &[u8], start: u64, frames: &mut Vec<u8>) {
    let mut begun = false;
    loop {
        let left = BLOCK_BYTES - (start + frames.len() as u64) % BLOCK_BYTES;
        if left < CHUNK_HEADER_BYTES {
            frames.extend(std::iter::repeat_n(0, usize::try_from(left).unwrap_or(0)));
            continue;
        }
        let room = usize::try_from(left - CHUNK_HEADER_BYTES).unwrap_or(0);
        let (chunk, rest) = payload.split_at(payload.len().min(room));
        let kind = match (begun, rest.is_empty()) {
            (false, true) => FULL,
            (false, false) => FIRST,
            (true, false) => MIDDLE,
            (true, true) => LAST,
        };
        frames.extend_from_slice(&checksum(kind, chunk).to_le_bytes());
        // A chunk is shorter than a block, which is shorter than 2^16.
        frames.extend_from_slice(&u16::try_from(chunk.len()).unwrap_or(u16::MAX).to_le_bytes());
        frames.push(kind);
        frames.extend_from_slice(chunk);
        if rest.is_empty() {
            return;
        }
        (payload, begun) = (rest, true);
    }
}

fn checksum(kind: u8, chunk: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(chunk);
    hasher.finalize()
}

// === impl LogReader ===

impl LogReader {
    /// Opens a log at its first record.
    pub(crate) fn open(path: &Path) -> Result<Self, LogError> {
        let mut file = BufReader::new(File::open(path).at("open", path)?);
        let mut header = Vec::new();
        (&mut file).take(HEADER_BYTES).read_to_end(&mut header).at("read", path)?;
        match *header {
            [i0, i1, i2, i3, m0, m1, version]
                if [i0, i1, i2, i3] == *IDENT && u16::from_le_bytes([m0, m1]) == MAGIC =>
            {
                if version != VERSION {
                    return Err(LogError::OtherVersion { path: path.to_owned(), found: version });
                }
            }
            _ => return Err(LogError::NotALog { path: path.to_owned(), found: header }),
        }
        Ok(Self { file, path: path.to_owned(), at: HEADER_BYTES })
    }

    /// Goes to where a record ended, as [`Self::position`] said then.
    pub(crate) fn seek(&mut self, position: u64) -> Result<(), LogError> {
        self.at = position.max(HEADER_BYTES);
        self.file.seek(SeekFrom::Start(self.at)).at("seek in", &self.path)?;
        Ok(())
    }

    /// Bytes behind [`Self::position`]: at [`Next::End`], what is there of a record whose rest is not.
    pub(crate) fn left(&self) -> Result<u64, LogError> {
        let size = self.file.get_ref().metadata().at("look at", &self.path)?.len();
        Ok(size.saturating_sub(self.at))
    }

    /// Where the last record or the last damage ended.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// The next record. At [`Next::End`] the position stays, so that a later call sees what was written meanwhile.
    pub(crate) fn next(&mut self) -> Result<Next, LogError> {
        let start = self.at;
        let next = self.read_record()?;
        if next == Next::End {
            self.seek(start)?;
        }
        Ok(next)
    }

    fn read_record(&mut self) -> Result<Next, LogError> {
        let start = self.at;
        let (mut record, mut begun) = (Vec::new(), false);
        loop {
            let left = BLOCK_BYTES - self.at % BLOCK_BYTES;
            if left < CHUNK_HEADER_BYTES {
                if self.take(left)?.is_none() {
                    return Ok(Next::End);
                }
                continue;
            }
            let chunk_start = self.at;
            let Some(header) = self.take(CHUNK_HEADER_BYTES)? else { return Ok(Next::End) };
            let [c0, c1, c2, c3, l0, l1, kind] = *header else { return Ok(Next::End) };
            let length = u64::from(u16::from_le_bytes([l0, l1]));
            if length > left - CHUNK_HEADER_BYTES {
                return self.skip(start, "a chunk passes its block");
            }
            let Some(chunk) = self.take(length)? else { return Ok(Next::End) };
            if checksum(kind, &chunk) != u32::from_le_bytes([c0, c1, c2, c3]) || !(FULL..=LAST).contains(&kind) {
                return self.skip(start, "the checksum does not fit");
            }
            match (begun, kind) {
                (true, FULL | FIRST) => {
                    self.seek(chunk_start)?;
                    return Ok(Next::Damage { at: start, what: "a record breaks off" });
                }
                (false, MIDDLE | LAST) => return Ok(Next::Damage { at: start, what: "a record lacks its beginning" }),
                _ => begun = true,
            }
            if record.len() + chunk.len() > MAX_RECORD_BYTES {
                return self.skip(start, "a record is too long");
            }
            record.extend_from_slice(&chunk);
            if matches!(kind, FULL | LAST) {
                return match Record::decode(&*record) {
                    Ok(record) => Ok(Next::Record(Box::new(record))),
                    Err(_) => Ok(Next::Damage { at: start, what: "a record is no protobuf" }),
                };
            }
        }
    }

    /// Goes to the block after the damage, unless the file ends before it: then more may be written there.
    fn skip(&mut self, start: u64, what: &'static str) -> Result<Next, LogError> {
        let block = (self.at.max(start + 1)).next_multiple_of(BLOCK_BYTES);
        let size = self.file.get_ref().metadata().at("look at", &self.path)?.len();
        if block >= size {
            return Ok(Next::End);
        }
        self.seek(block)?;
        Ok(Next::Damage { at: start, what })
    }

    /// So many bytes, if they are there.
    fn take(&mut self, bytes: u64) -> Result<Option<Vec<u8>>, LogError> {
        let mut taken = Vec::new();
        (&mut self.file).take(bytes).read_to_end(&mut taken).at("read", &self.path)?;
        self.at += taken.len() as u64;
        Ok((taken.len() as u64 == bytes).then_some(taken))
    }
}

#[cfg(test)]
mod tests;
