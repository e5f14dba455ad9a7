//! What is sent in one request: lines read from a log, from where the last acknowledged ones ended.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    journal::remember,
    log_file::{LogError, LogReader, Next},
    record::{ArtifactRecord, HistoryRecord, Item, Kind, RunRecord, StatsRecord},
};

/// Longer lines are not sent: the real client's limit.
const LINE_BYTES: usize = (10 << 20) - (100 << 10);
/// A request is closed when its lines pass this; with one more line of the longest kind it is the real client's 10 MiB twice
/// over at most, and nearly always below it.
pub(super) const REQUEST_BYTES: usize = 8 << 20;

/// How far a log is acknowledged. Kept on the disk beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    /// Where reading goes on: the end of a record.
    pub position: u64,
    /// Lines of `wandb-history.jsonl` that the server has.
    pub history_lines: u64,
    /// Lines of `wandb-events.jsonl` that the server has.
    pub event_lines: u64,
}

/// Lines to send.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Batch {
    /// Where they begin.
    pub from: Progress,
    /// Where the log goes on behind them.
    pub end: u64,
    /// Rows.
    pub history: Vec<String>,
    /// Samples of the hardware.
    pub events: Vec<String>,
    /// To upload before the lines are acknowledged.
    pub artifacts: Vec<ArtifactRecord>,
    /// The latest value of each column up to here, if any changed.
    pub summary: Option<String>,
    /// The exit code, when this is the last batch of the run.
    pub exit_code: Option<i32>,
    /// Whether the log holds more.
    pub more: bool,
}

/// The latest values of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Latest {
    values: BTreeMap<String, String>,
    runtime: f64,
}

/// The run that a log is about.
pub(super) fn run_of(path: &Path) -> Result<Option<RunRecord>, LogError> {
    let mut log = LogReader::open(path)?;
    loop {
        match log.next()? {
            Next::Record(record) => {
                if let Some(Kind::Run(run)) = record.kind {
                    return Ok(Some(run));
                }
            }
            Next::Damage { .. } => {}
            Next::End => return Ok(None),
        }
    }
}

// === impl Batch ===

impl Batch {
    /// Reads on from there, `limit_bytes` of lines or a little more.
    pub(super) fn read(
        path: &Path,
        from: Progress,
        started_at: f64,
        latest: &mut Latest,
        limit_bytes: usize,
    ) -> Result<Self, LogError> {
        let mut log = LogReader::open(path)?;
        log.seek(from.position)?;
        let (mut batch, mut bytes, mut changed) = (Self { from, ..Self::default() }, 0, false);
        while batch.exit_code.is_none() {
            if bytes >= limit_bytes {
                batch.more = true;
                break;
            }
            let kind = match log.next()? {
                Next::Record(record) => record.kind,
                Next::Damage { at, what } => {
                    tracing::warn!(path = %path.display(), at, what, "a part of the log is damaged and cannot be uploaded");
                    continue;
                }
                Next::End => break,
            };
            let Some(kind) = kind else { continue };
            changed |= latest.see(&kind);
            let line = match &kind {
                Kind::History(history) => Some((line_of(history), &mut batch.history)),
                Kind::Stats(stats) => Some((line_of_stats(stats, started_at), &mut batch.events)),
                _ => None,
            };
            if let Some((line, lines)) = line {
                // Quotes and backslashes are escaped once more inside a request.
                let size = line.len() + line.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
                if size > LINE_BYTES {
                    tracing::warn!(path = %path.display(), size, "a row is too long for wandb, and is left out there");
                } else {
                    bytes += size;
                    lines.push(line);
                }
            }
            match kind {
                Kind::Artifact(artifact) => batch.artifacts.push(artifact),
                Kind::Exit(exit) => batch.exit_code = Some(exit.exit_code),
                _ => {}
            }
        }
        batch.end = log.position();
        batch.summary = changed.then(|| latest.line());
        Ok(batch)
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        let has_lines = !(self.history.is_empty() && self.events.is_empty() && self.summary.is_none());
        !has_lines && self.artifacts.is_empty() && self.exit_code.is_none()
    }

    /// How far the log is acknowledged when the server has taken these.
    pub(super) fn acknowledged(&self) -> Progress {
        Progress {
            position: self.end,
            history_lines: self.from.history_lines + self.history.len() as u64,
            event_lines: self.from.event_lines + self.events.len() as u64,
        }
    }

    /// The body of a file_stream request.
    pub(super) fn body(&self) -> Value {
        let mut files = Map::new();
        let mut add = |name: &str, offset: u64, content: &[String]| {
            if !content.is_empty() {
                files.insert(name.to_owned(), json!({ "offset": offset, "content": content }));
            }
        };
        add("wandb-history.jsonl", self.from.history_lines, &self.history);
        add("wandb-events.jsonl", self.from.event_lines, &self.events);
        // The summary is one line, and the latest one counts.
        add("wandb-summary.json", 0, self.summary.as_slice());
        let mut body = Map::new();
        if !files.is_empty() {
            body.insert("files".to_owned(), Value::Object(files));
        }
        if let Some(exit_code) = self.exit_code {
            body.insert("complete".to_owned(), Value::Bool(true));
            body.insert("exitcode".to_owned(), Value::from(exit_code));
        }
        Value::Object(body)
    }
}

// === impl Latest ===

impl Latest {
    /// Whether this changed anything.
    fn see(&mut self, kind: &Kind) -> bool {
        remember(&mut self.values, kind);
        if let Some(runtime) = self.values.get("_runtime").and_then(|seconds| seconds.parse::<f64>().ok()) {
            self.runtime = self.runtime.max(runtime);
        }
        matches!(kind, Kind::History(_) | Kind::Summary(_))
    }

    fn line(&self) -> String {
        let items: Vec<Item> = self.values.iter().map(|(name, value)| Item::new(name, value)).collect();
        #[allow(clippy::cast_possible_truncation, reason = "saturates")]
        let runtime = json!({ "runtime": self.runtime as i64 });
        object(items.iter().map(|item| (item.name(), &*item.value_json)).chain([("_wandb", &*runtime.to_string())]))
    }
}

fn line_of(history: &HistoryRecord) -> String {
    object(history.item.iter().map(|item| (item.name(), &*item.value_json)))
}

fn line_of_stats(stats: &StatsRecord, started_at: f64) -> String {
    let at = stats.timestamp.as_ref().map_or(0.0, super::record::Timestamp::seconds_since_1970);
    let times = [
        ("_wandb", "true".to_owned()),
        ("_timestamp", at.to_string()),
        ("_runtime", (at - started_at).max(0.0).to_string()),
    ];
    let named = stats.item.iter().map(|item| (format!("system.{}", item.name()), &*item.value_json));
    let named: Vec<_> = named.collect();
    let times = times.iter().map(|(name, value)| (*name, &**value));
    object(named.iter().map(|(name, value)| (&**name, *value)).chain(times))
}

/// Values are JSON as they are: other clients write bare `NaN`, which wandb's servers expect.
fn object<'a>(values: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let members = values.map(|(name, value)| format!("{}:{value}", Value::from(name)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}
