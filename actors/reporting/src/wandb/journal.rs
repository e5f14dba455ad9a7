//! The rows of this validator on the disk, each exactly once: one `.wandb` log for each run.
//!
//! A run is the life of a process, cut after so many forwards, as in the reference. A batch of rows is written and synced
//! before the ledger's cursor moves; after a crash the last log tells which rows it holds already, its torn end is cut off,
//! and its run is ended, so that `wandb sync` or the upload can complete it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use openvalidators_messages::{gating::HeadTable, ledger::StoredStep};
use openvalidators_runtime::{AtPath, FileError, SharedClock};
use serde_json::{Map, Value};
use time::UtcOffset;

use super::{
    artifact::{self, Version},
    log_file::{LogError, LogReader, LogWriter, Next},
    record::{
        ExitRecord, HeaderRecord, HistoryRecord, HistoryStep, Item, Items, Kind, Record, RunRecord, StatsRecord,
        Timestamp, VersionInfo,
    },
    row::{self, Columns},
    runs::{self, RunFolder},
};
use crate::event;

/// What the runs are called and say about this validator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunAbout {
    /// The project at wandb.
    pub project: String,
    /// The user or team; empty is the owner of the key.
    pub entity: String,
    /// The operator's notes.
    pub notes: String,
    /// By which runs are found.
    pub tags: Vec<String>,
    /// The settings, as openvalidators 1.2.0 nests them.
    pub config: Map<String, Value>,
    /// The encoder whose embeddings the gating head reads, by which its artifact is called.
    pub gating_model: String,
}

/// Exit code of a run that ended in order.
pub(super) const FINISHED: i32 = 0;
/// Exit code of a run whose process ended before it could say so.
const BROKEN_OFF: i32 = 1;

/// Writes rows. All its methods block on the disk.
pub(super) struct Journal {
    /// Of all runs.
    pub folder: PathBuf,
    /// Whether runs are left to `wandb sync`.
    pub offline: bool,
    /// Of each run.
    pub about: Arc<RunAbout>,
    /// Of each row.
    pub columns: Columns,
    /// Forwards of a run.
    pub run_step_length: u64,
    /// For names of folders.
    pub offset: UtcOffset,
    /// For when a run begins.
    pub clock: SharedClock,
    open: Option<OpenRun>,
    /// The latest step that is safely in a log, as far as this process knows.
    written: Option<u64>,
}

/// A run being written.
struct OpenRun {
    folder: RunFolder,
    log: LogWriter,
    /// Seconds since 1970.
    started_at: f64,
    counts: Counts,
    /// The latest value of each column.
    summary: BTreeMap<String, String>,
    /// Of the latest gating head.
    head: Option<String>,
}

/// What a run holds.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    records: i64,
    rows: i64,
    /// Forwards begun.
    forwards: u64,
    /// The largest `_runtime`.
    runtime: f64,
}

/// Rows could not be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "wandb rows: {0}. Free or mend the disk (steps wait in the ledger meanwhile), or set reporting.wandb.mode = \"off\""
)]
pub(super) struct JournalError(LogError);

impl From<LogError> for JournalError {
    fn from(error: LogError) -> Self {
        Self(error)
    }
}

impl From<FileError> for JournalError {
    fn from(error: FileError) -> Self {
        Self(error.into())
    }
}

// === impl Journal ===

impl Journal {
    /// Touches nothing yet.
    pub(super) fn new(
        folder: PathBuf,
        offline: bool,
        about: Arc<RunAbout>,
        columns: Columns,
        run_step_length: u64,
        offset: UtcOffset,
        clock: SharedClock,
    ) -> Self {
        Self { folder, offline, about, columns, run_step_length, offset, clock, open: None, written: None }
    }

    /// Ends the run of an earlier life, and gives the latest step that any log holds.
    pub(super) fn recover(&mut self) -> Result<Option<u64>, JournalError> {
        self.open = None;
        for run in runs::list(&self.folder)?.into_iter().rev() {
            let found = match Found::read(&run) {
                Ok(found) => found,
                // Nothing of it is ours to mend, and it holds no row of ours.
                Err(error @ (LogError::NotALog { .. } | LogError::OtherVersion { .. })) => {
                    tracing::warn!(%error, "left as it is");
                    continue;
                }
                Err(LogError::File(error)) if error.source.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            if !found.ended {
                found.end(&run)?;
            }
            if found.sequence.is_some() {
                return Ok(found.sequence);
            }
        }
        Ok(None)
    }

    /// Says that steps up to this one are in the logs.
    pub(super) fn assume_written(&mut self, sequence: u64) {
        self.written = Some(sequence);
    }

    /// Writes these steps durably, in order, leaving out those that are there already; gives the rows written.
    pub(super) fn append(&mut self, steps: &[StoredStep]) -> Result<u64, JournalError> {
        let there = self.written;
        let new: Vec<&StoredStep> =
            steps.iter().filter(|step| there.is_none_or(|there| step.sequence.0 > there)).collect();
        let (mut rest, mut rows) = (&new[..], 0);
        while let Some(first) = rest.first() {
            let (length, columns) = (self.run_step_length, self.columns);
            let run = self.run(first.record.started_at)?;
            let (fitting, forwards) = run.fitting(rest, length);
            let (now, later) = rest.split_at(fitting);
            let mut items = Vec::new();
            for step in now {
                let at = event::settled_timestamp(step).at("date a step for", run.log_path())?;
                let row = row::of_step(step, columns).map_err(std::io::Error::other);
                items.push((row.at("describe a step for", run.log_path())?, at));
            }
            run.write(items, forwards)?;
            if let Some(last) = now.last() {
                self.written = Some(last.sequence.0);
            }
            rows += now.len() as u64;
            rest = later;
            if !rest.is_empty() {
                self.finish(FINISHED)?;
            }
        }
        Ok(rows)
    }

    /// Writes one more row, of now.
    pub(super) fn append_row(&mut self, row: Vec<Item>) -> Result<(), JournalError> {
        let now = self.clock.unix().as_secs_f64();
        let run = self.run(now)?;
        let forwards = run.counts.forwards;
        run.write(vec![(row, now)], forwards)
    }

    /// Writes a sample of the hardware, where a run is open.
    pub(super) fn append_stats(&mut self, items: Vec<Item>) -> Result<(), JournalError> {
        let now = self.clock.unix().as_secs_f64();
        let Some(run) = &mut self.open else { return Ok(()) };
        let stats = StatsRecord { stats_type: 0, timestamp: Some(Timestamp::of(now)), item: items };
        run.append(vec![Kind::Stats(stats)])
    }

    /// Writes the gating head as an artifact, where a run is open and has not this one already. Whether it did.
    pub(super) fn append_head(&mut self, head: &HeadTable) -> Result<bool, JournalError> {
        let Some(run) = &mut self.open else { return Ok(false) };
        let name = artifact::name(&self.about.gating_model);
        let (digest, version) = match artifact::keep(&run.folder, &name, head, run.head.as_deref())? {
            Version::New(entry) => (entry.digest.clone(), artifact::record(&run.folder.id, &self.about, &name, entry)),
            Version::Known | Version::TooMany => return Ok(false),
        };
        run.append(vec![Kind::Artifact(version)])?;
        run.head = Some(digest);
        Ok(true)
    }

    /// Ends the run, if there is one. The next row begins another.
    pub(super) fn finish(&mut self, exit_code: i32) -> Result<(), JournalError> {
        if let Some(run) = &mut self.open {
            run.append(ending(&run.summary, run.counts.runtime, exit_code))?;
            self.open = None;
        }
        Ok(())
    }

    /// The open run, begun if there is none, not after the first thing it tells.
    fn run(&mut self, first: f64) -> Result<&mut OpenRun, JournalError> {
        let run = match self.open.take() {
            Some(run) => run,
            None => self.begin(first)?,
        };
        Ok(self.open.insert(run))
    }

    fn begin(&self, first: f64) -> Result<OpenRun, JournalError> {
        let now = self.clock.unix();
        let started_at = now.as_secs_f64().min(first);
        let folder = RunFolder::create(&self.folder, self.offline, now, self.offset)?;
        let config = self.about.config.iter().map(|(name, value)| Item::new(name, value.to_string()));
        let about = RunRecord {
            run_id: folder.id.clone(),
            entity: self.about.entity.clone(),
            project: self.about.project.clone(),
            config: Some(Items { update: config.collect() }),
            notes: self.about.notes.clone(),
            tags: self.about.tags.clone(),
            host: sysinfo::System::host_name().unwrap_or_default(),
            start_time: Some(Timestamp::of(started_at)),
        };
        let producer = concat!("openvalidators ", env!("CARGO_PKG_VERSION")).to_owned();
        let log = LogWriter::create(folder.log())?;
        tracing::info!(run = folder.id, folder = %folder.path.display(), "a new wandb run");
        let (counts, summary) = (Counts::default(), BTreeMap::new());
        let mut run = OpenRun { folder, log, started_at, counts, summary, head: None };
        let header = HeaderRecord { version_info: Some(VersionInfo { producer }) };
        run.append(vec![Kind::Header(header), Kind::Run(about)])?;
        Ok(run)
    }
}

// === impl OpenRun ===

impl OpenRun {
    /// How many of the steps still belong to this run, and the forwards it has begun with them.
    fn fitting(&self, steps: &[&StoredStep], length: u64) -> (usize, u64) {
        let mut forwards = self.counts.forwards;
        for (index, step) in steps.iter().enumerate() {
            if step.record.step.index == 0 {
                if forwards >= length {
                    return (index, forwards);
                }
                forwards += 1;
            }
        }
        (steps.len(), forwards)
    }

    /// Adds number and times to each row and writes all of them, or none.
    fn write(&mut self, rows: Vec<(Vec<Item>, f64)>, forwards: u64) -> Result<(), JournalError> {
        let (mut counts, mut kinds) = (self.counts, Vec::new());
        for (mut item, at) in rows {
            let runtime = (at - self.started_at).max(0.0);
            counts.runtime = counts.runtime.max(runtime);
            item.push(Item::new("_step", counts.rows.to_string()));
            item.push(Item::new("_timestamp", Value::from(at).to_string()));
            item.push(Item::new("_runtime", Value::from(runtime).to_string()));
            kinds.push(Kind::History(HistoryRecord { item, step: Some(HistoryStep { num: counts.rows }) }));
            counts.rows += 1;
        }
        self.append(kinds.clone())?;
        for kind in &kinds {
            remember(&mut self.summary, kind);
        }
        self.counts = Counts { records: self.counts.records, forwards, ..counts };
        Ok(())
    }

    fn append(&mut self, kinds: Vec<Kind>) -> Result<(), JournalError> {
        let numbered = (self.counts.records + 1..).zip(kinds);
        let records: Vec<_> = numbered.map(|(num, kind)| Record { num, kind: Some(kind) }).collect();
        self.log.append(&records)?;
        self.counts.records += i64::try_from(records.len()).unwrap_or(0);
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.log.path().to_owned()
    }
}

/// Keeps the latest value of each column, as the real client's summary does: `null` is no value.
pub(super) fn remember(summary: &mut BTreeMap<String, String>, kind: &Kind) {
    let items = match kind {
        Kind::History(history) => &history.item,
        Kind::Summary(latest) => &latest.update,
        _ => return,
    };
    for item in items.iter().filter(|item| item.value_json != "null") {
        summary.insert(item.name().to_owned(), item.value_json.clone());
    }
}

/// The last records of a run.
fn ending(summary: &BTreeMap<String, String>, runtime: f64, exit_code: i32) -> Vec<Kind> {
    #[allow(clippy::cast_possible_truncation, reason = "saturates")]
    let runtime = runtime as i32;
    let update = summary.iter().map(|(name, value)| Item::new(name, value)).collect();
    vec![Kind::Summary(Items { update }), Kind::Exit(ExitRecord { exit_code, runtime })]
}

// === A log of an earlier life ===

/// What such a log holds.
#[derive(Default)]
struct Found {
    /// Where its last whole record ends.
    end: u64,
    records: i64,
    ended: bool,
    summary: BTreeMap<String, String>,
    sequence: Option<u64>,
}

impl Found {
    fn read(run: &RunFolder) -> Result<Self, LogError> {
        let mut log = LogReader::open(&run.log())?;
        let mut found = Self { end: log.position(), ..Self::default() };
        loop {
            match log.next()? {
                Next::Record(record) => {
                    found.end = log.position();
                    found.records = record.num.max(found.records + 1);
                    found.see(&record);
                }
                Next::Damage { at, what } => {
                    tracing::warn!(path = %run.log().display(), at, what, "a part of the log is damaged and left out");
                }
                Next::End => return Ok(found),
            }
        }
    }

    fn see(&mut self, record: &Record) {
        let Some(kind) = &record.kind else { return };
        remember(&mut self.summary, kind);
        match kind {
            Kind::History(history) => self.sequence = row::sequence_of(&history.item).or(self.sequence),
            Kind::Exit(_) => self.ended = true,
            _ => {}
        }
    }

    /// Cuts the torn end off and ends the run.
    fn end(&self, run: &RunFolder) -> Result<(), LogError> {
        let size = std::fs::metadata(run.log()).at("look at", run.log())?.len();
        tracing::info!(run = run.id, cut_bytes = size - self.end, "ending a wandb run that broke off");
        let runtime = self.summary.get("_runtime").and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0);
        let mut log = LogWriter::continue_at(run.log(), self.end)?;
        let kinds = ending(&self.summary, runtime, BROKEN_OFF);
        let records = (self.records + 1..).zip(kinds).map(|(num, kind)| Record { num, kind: Some(kind) });
        log.append(&records.collect::<Vec<_>>())
    }
}

#[cfg(test)]
pub(crate) mod tests;
