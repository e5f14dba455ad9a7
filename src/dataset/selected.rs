//! The steps that a command asked for, out of all its sources.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use openvalidators_ledger::LEDGER_FILE;
use openvalidators_tables::{CsvFile, EventLog, Merged, Source, StepRow, Store};

use super::ledger::LedgerSteps;
use crate::cli::Select;

/// How often progress is drawn.
const TICK: Duration = Duration::from_millis(250);

/// Steps after selection, with a line of progress on standard error.
pub struct Selected {
    merged: Merged,
    select: Select,
    passed_over: u64,
    progress: ProgressBar,
}

// === impl Selected ===

impl Selected {
    /// Opens every source.
    ///
    /// # Errors
    /// When one cannot be opened, or is of no known kind.
    pub fn open(select: &Select) -> anyhow::Result<Self> {
        let mut sources = Vec::new();
        for path in &select.from {
            sources.extend(open(path)?);
        }
        let progress = if select.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} steps, {per_sec}") {
            progress.set_style(style);
        }
        progress.enable_steady_tick(TICK);
        Ok(Self { merged: Merged::new(sources), select: select.clone(), passed_over: 0, progress })
    }

    /// The next step that was asked for.
    ///
    /// # Errors
    /// When a source cannot be read on.
    pub fn next_step(&mut self) -> anyhow::Result<Option<StepRow>> {
        while let Some(row) = self.merged.next_step()? {
            self.progress.inc(1);
            if self.wants(&row) {
                return Ok(Some(row));
            }
            self.passed_over += 1;
        }
        self.progress.finish_and_clear();
        Ok(None)
    }

    /// What was read, what was not asked for and what was skipped, for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let passed_over = match self.passed_over {
            0 => String::new(),
            steps => format!("; {steps} of the steps were not asked for"),
        };
        format!("read {}{passed_over}", self.merged.tally())
    }

    fn wants(&self, row: &StepRow) -> bool {
        let Select { since, until, name, .. } = &self.select;
        since.is_none_or(|since| row.timestamp >= since)
            && until.is_none_or(|until| row.timestamp < until)
            && (name.is_empty() || name.iter().any(|name| *name == row.name || name == row.kind()))
    }
}

/// The sources at a path.
fn open(path: &Path) -> anyhow::Result<Vec<Box<dyn Source>>> {
    let shown = path.display();
    if path.is_dir() {
        if path.join(LEDGER_FILE).exists() {
            return Ok(vec![Box::new(LedgerSteps::open(path)?)]);
        }
        let logs = logs_in(path).with_context(|| format!("looking into {shown}"))?;
        if logs.is_empty() {
            bail!(
                "{shown} holds neither a ledger ({LEDGER_FILE}) nor a completions.log: name a state directory or a file"
            );
        }
        return logs.iter().map(|log| Ok(Box::new(EventLog::open(log)?) as Box<dyn Source>)).collect();
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    Ok(vec![match extension.as_str() {
        "parquet" => Box::new(Store::open(path)?),
        "csv" => Box::new(CsvFile::open(path)?),
        "log" | "json" | "jsonl" => Box::new(EventLog::open(path)?),
        "sqlite3" => Box::new(LedgerSteps::open(path.parent().unwrap_or(Path::new(".")))?),
        _ => bail!("{shown} is of no kind that is read: a state directory, .log, .parquet or .csv"),
    }])
}

/// The logs of a folder, rotated ones first: their names have the time.
fn logs_in(folder: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("completions") && text.ends_with(".log") {
            logs.push(folder.join(name));
        }
    }
    logs.sort();
    Ok(logs)
}
