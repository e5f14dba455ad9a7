//! The rows of a `.wandb` file: what the real client keeps of a run on the disk, and what ours does.

use std::path::Path;

use openvalidators_reporting::wandb::{Logged, LoggedRun};
use openvalidators_tables::{Item, Skip, Source, SourceError, StepRow, event, tolerant_json};
use serde_json::{Map, Value};

/// A file being read.
pub struct WandbLog {
    name: String,
    run: LoggedRun,
    number: u64,
    /// Read but not handed on, latest first: an old row is two steps.
    rows: Vec<StepRow>,
}

// === impl WandbLog ===

impl WandbLog {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no log.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { name: path.display().to_string(), run: LoggedRun::open(path)?, number: 0, rows: Vec::new() })
    }

    fn read(&self, logged: Logged) -> Result<Vec<StepRow>, Skip> {
        let values = match logged {
            Logged::Row(values) => values,
            Logged::Damage { at, what } => {
                return Err(Skip { reason: "bytes that are no record", place: format!("at byte {at}: {what}") });
            }
            Logged::Cut { at } => {
                return Err(Skip { reason: "a last record that was cut off", place: format!("at byte {at}") });
            }
        };
        let value = |(name, json): (String, String)| tolerant_json(json.as_bytes()).map(|value| (name, value));
        let event: Result<Map<String, Value>, _> = values.into_iter().map(value).collect();
        let event = event.map_err(|error| Skip { reason: "no JSON", place: error.to_string() })?;
        let seconds = event.get("_timestamp").and_then(Value::as_f64).unwrap_or(f64::NAN);
        event::read(&event, self.run.run(), seconds, self.number)
    }
}

impl Source for WandbLog {
    fn name(&self) -> &str {
        &self.name
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        loop {
            if let Some(row) = self.rows.pop() {
                return Ok(Some(Item::Row(Box::new(row))));
            }
            let logged = self.run.next_logged().map_err(|error| SourceError::new(&self.name, error))?;
            let Some(logged) = logged else { return Ok(None) };
            self.number += 1;
            match self.read(logged) {
                Ok(rows) => self.rows = rows.into_iter().rev().collect(),
                Err(skip) => {
                    let place = format!("row {} {}", self.number, skip.place).trim_end().to_owned();
                    return Ok(Some(Item::Skipped(Skip { place, ..skip })));
                }
            }
        }
    }
}
