//! `completions.log`: every settled step as one line, exactly once, through crashes.
//!
//! A batch is written, synced, and only then does the reader's cursor move in the ledger. A crash between the two leaves
//! lines the cursor does not know: on start the last whole line tells what is there, a torn one is cut off, and writing
//! goes on after it. The file is renamed as loguru does before it passes its size.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use openvalidators_messages::{Sequence, ledger::StoredStep};
use openvalidators_runtime::{AtPath, FileError};
use time::{OffsetDateTime, format_description::FormatItem, macros::format_description};

use crate::{
    config::ByteSize,
    event::{Mark, Origin, mark_of, read_mark, write_line},
};

/// The reference's file name (`openvalidators/config.py`).
pub const EVENT_LOG_FILE: &str = "completions.log";
const STEM: &str = "completions";
const EXTENSION: &str = "log";
/// loguru's `YYYY-MM-DD_HH-mm-ss_SSSSSS`, the time the file was begun.
const RENAMED: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]_[hour]-[minute]-[second]_[subsecond digits:6]");
/// Renamed files with the same time before it is an error.
const RENAME_ATTEMPTS: u32 = 1_000;
/// Read at a time when looking backwards for the last line.
const SCAN_BYTES: u64 = 64 << 10;

/// The event log of one state directory. All its methods block on the disk.
#[derive(Debug)]
pub struct EventLog {
    folder: PathBuf,
    limit: ByteSize,
    log_rewards: bool,
    origin: Origin,
    open: Option<OpenFile>,
    /// The latest step that is safely in the log, as far as this process knows.
    written: Option<Sequence>,
    /// What was written since the counters were last asked for.
    tally: Tally,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes appended.
    pub bytes: u64,
    /// Files renamed because they were full.
    pub rotations: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Where the last synced line ends.
    safe_bytes: u64,
}

/// The event log could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{0}. Free or mend the disk (steps wait in the ledger meanwhile), or set reporting.dont_save_events")]
pub struct EventLogError(#[from] FileError);

// === impl EventLog ===

impl EventLog {
    /// A log in `folder`; touches nothing yet.
    #[must_use]
    pub fn new(folder: PathBuf, limit: ByteSize, log_rewards: bool, origin: Origin) -> Self {
        Self { folder, limit, log_rewards, origin, open: None, written: None, tally: Tally::default() }
    }

    /// Cuts off a torn last line and gives the mark of the last whole one, in this file or, when it is empty, in the
    /// one renamed last. `None` when there is none of ours.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn recover(&mut self) -> Result<Option<Mark>, EventLogError> {
        let path = self.path();
        self.open = None;
        let open = self.open()?;
        let bytes = open.safe_bytes;
        if let Some(line) = last_line(&mut open.file, bytes).at("read", &path)? {
            return Ok(read_mark(&line));
        }
        let Some(previous) = self.renamed_last().at("list", &self.folder)? else { return Ok(None) };
        let mut file = File::open(&previous).at("open", &previous)?;
        let end = whole_bytes(&mut file).at("read", &previous)?;
        let line = last_line(&mut file, end).at("read", &previous)?;
        Ok(line.as_deref().and_then(read_mark))
    }

    /// Says that steps up to this one are in the log.
    pub(crate) fn assume_written(&mut self, sequence: Sequence) {
        self.written = Some(sequence);
    }

    /// Writes these steps durably, in order, leaving out those that are there already. After an error some of them may
    /// be there; calling again with the same steps completes the work and doubles nothing.
    ///
    /// # Errors
    /// When the disk refuses; the log is then as it was after the last step that is safe.
    pub fn append(&mut self, steps: &[StoredStep]) -> Result<(), EventLogError> {
        let result = self.append_all(steps);
        if result.is_err() {
            // Whatever was half written lies behind the safe end, and is cut off when the file is opened again.
            self.cut_back();
        }
        result
    }

    /// What was written since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    fn append_all(&mut self, steps: &[StoredStep]) -> Result<(), EventLogError> {
        let path = self.path();
        let mut lines = Vec::new();
        let there = self.written;
        let mut reached = there;
        for step in steps.iter().filter(|step| there.is_none_or(|there| step.sequence > there)) {
            let mut line = Vec::new();
            write_line(&mut line, step, &self.origin, self.log_rewards).at("describe a step for", &path)?;
            let size = self.open()?.safe_bytes + lines.len() as u64;
            if size > 0 && size + line.len() as u64 > self.limit.0 {
                self.sync(&mut lines, reached)?;
                self.rotate()?;
            }
            lines.append(&mut line);
            reached = Some(step.sequence);
        }
        self.sync(&mut lines, reached)
    }

    /// Makes the lines durable.
    fn sync(&mut self, lines: &mut Vec<u8>, reached: Option<Sequence>) -> Result<(), EventLogError> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.path();
        let open = self.open()?;
        open.file.write_all(lines).and_then(|()| open.file.sync_data()).at("write", &path)?;
        open.safe_bytes += lines.len() as u64;
        self.tally.bytes += lines.len() as u64;
        self.written = reached;
        lines.clear();
        Ok(())
    }

    /// Renames the full file after the time it was begun. The next write begins a new one.
    fn rotate(&mut self) -> Result<(), EventLogError> {
        let path = self.path();
        self.open = None;
        let begun = std::fs::metadata(&path).and_then(|about| about.created().or_else(|_| about.modified()));
        let begun = OffsetDateTime::from(begun.at("look at", &path)?).to_offset(self.origin.offset);
        let begun = begun.format(RENAMED).map_err(io::Error::other).at("name", &path)?;
        // Two files may be begun in one microsecond as little as a rename may replace one.
        let free = (1..RENAME_ATTEMPTS)
            .map(|count| match count {
                1 => format!("{STEM}.{begun}.{EXTENSION}"),
                count => format!("{STEM}.{begun}.{count}.{EXTENSION}"),
            })
            .map(|name| self.folder.join(name))
            .find(|path| !path.exists())
            .ok_or_else(|| io::Error::other("every name is taken"))
            .at("rename", &path)?;
        std::fs::rename(&path, &free).at("rename", &path)?;
        tracing::info!(renamed_to = %free.display(), "the event log is full; beginning a new file");
        self.tally.rotations += 1;
        Ok(())
    }

    /// The file, opened at its end, a torn last line cut off.
    fn open(&mut self) -> Result<&mut OpenFile, EventLogError> {
        let path = self.path();
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                std::fs::create_dir_all(&self.folder).at("create", &self.folder)?;
                let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path).at("open", &path)?;
                // Another process, or an earlier life of the actor that is not quite over.
                file.try_lock().map_err(io::Error::from).at("lock", &path)?;
                let found = file.metadata().at("look at", &path)?.len();
                let safe_bytes = whole_bytes(&mut file).at("read", &path)?;
                if safe_bytes < found {
                    tracing::warn!(path = %path.display(), cut_bytes = found - safe_bytes, "the last line was torn");
                    file.set_len(safe_bytes).and_then(|()| file.sync_all()).at("cut", &path)?;
                }
                // The name must survive a power cut as the lines do.
                File::open(&self.folder).and_then(|folder| folder.sync_all()).at("sync", &self.folder)?;
                OpenFile { file, safe_bytes }
            }
        };
        Ok(self.open.insert(open))
    }

    /// Forgets the file; what is behind its safe end goes, if the disk lets us (if not, it is torn or doubled lines
    /// that the next start finds by their sequence).
    fn cut_back(&mut self) {
        if let Some(open) = self.open.take()
            && let Err(error) = open.file.set_len(open.safe_bytes)
        {
            tracing::error!(%error, "could not cut the event log back after a failed write");
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(EVENT_LOG_FILE)
    }

    /// The renamed file that was begun last. Names sort by time.
    fn renamed_last(&self) -> io::Result<Option<PathBuf>> {
        let mut renamed: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name != EVENT_LOG_FILE && name.starts_with("completions.") && name.ends_with(".log") {
                renamed.push(self.folder.join(name));
            }
        }
        // By time of writing first: two with the same name but for a counter do not sort by it.
        renamed.sort_by_cached_key(|path| (path.metadata().and_then(|about| about.modified()).ok(), path.clone()));
        Ok(renamed.pop())
    }
}

/// How many bytes there are up to and with the last line end.
fn whole_bytes(file: &mut File) -> io::Result<u64> {
    let size = file.seek(SeekFrom::End(0))?;
    Ok(newline_before(file, size)?.map_or(0, |at| at + 1))
}

/// The last line below `end`, which is where a line ends. `None` for an empty file.
fn last_line(file: &mut File, end: u64) -> io::Result<Option<Vec<u8>>> {
    if end == 0 {
        return Ok(None);
    }
    let start = newline_before(file, end - 1)?.map_or(0, |at| at + 1);
    let mut line = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(end - start).read_to_end(&mut line)?;
    Ok(Some(line))
}

/// Where the last line feed below `end` is.
fn newline_before(file: &mut File, mut end: u64) -> io::Result<Option<u64>> {
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(SCAN_BYTES);
        block.clear();
        file.seek(SeekFrom::Start(start))?;
        (&mut *file).take(end - start).read_to_end(&mut block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(start + at as u64));
        }
        end = start;
    }
    Ok(None)
}

/// Whether the line at the end of a log is about this step of the ledger, and not one of an earlier ledger.
pub(crate) fn is_about(mark: &Mark, step: &StoredStep) -> bool {
    mark_of(step).is_ok_and(|of_step| of_step == *mark)
}

#[cfg(test)]
mod tests;
