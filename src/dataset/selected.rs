//! The steps that a command asked for, out of all its sources.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use openvalidators_ledger::LEDGER_FILE;
use openvalidators_tables::{CsvFile, EventLog, Merged, Source, StepRow, Store};

use super::{ledger::LedgerSteps, wandb_log::WandbLog};
use crate::{archive, cli::Select};

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
        Self::open_with(select, Vec::new())
    }

    /// Opens every source, beside some that are open.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(select: &Select, mut sources: Vec<Box<dyn Source>>) -> anyhow::Result<Self> {
        for path in &select.from {
            sources.extend(open(path)?);
        }
        let progress = spinner(select, "{spinner} {pos} steps, {per_sec}");
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

/// A line of progress on standard error, where it is wanted.
pub fn spinner(select: &Select, template: &str) -> ProgressBar {
    let progress = if select.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress.enable_steady_tick(TICK);
    progress
}

/// The sources at a path.
fn open(path: &Path) -> anyhow::Result<Vec<Box<dyn Source>>> {
    let shown = path.display();
    if path.is_dir() {
        if path.join(LEDGER_FILE).exists() {
            let ledger = Box::new(LedgerSteps::open(path)?);
            let mut sources: Vec<Box<dyn Source>> = Vec::new();
            for file in archive::files(path)? {
                sources.push(Box::new(Store::open(&file.path)?));
            }
            sources.push(ledger);
            return Ok(sources);
        }
        let logs = logs_in(path).with_context(|| format!("looking into {shown}"))?;
        if logs.is_empty() {
            bail!(
                "{shown} holds neither a ledger ({LEDGER_FILE}) nor a completions.log nor runs of wandb: name a state \
                 directory or a file"
            );
        }
        return logs.iter().map(|log| open_file(log)).collect();
    }
    Ok(vec![open_file(path)?])
}

fn open_file(path: &Path) -> anyhow::Result<Box<dyn Source>> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    Ok(match extension.as_str() {
        "parquet" => Box::new(Store::open(path)?),
        "csv" => Box::new(CsvFile::open(path)?),
        "log" | "json" | "jsonl" => Box::new(EventLog::open(path)?),
        "wandb" => Box::new(WandbLog::open(path)?),
        "sqlite3" => Box::new(LedgerSteps::open(path.parent().unwrap_or(Path::new(".")))?),
        _ => bail!(
            "{} is of no kind that is read: a state directory, .log, .jsonl, .wandb, .parquet or .csv",
            path.display()
        ),
    })
}

/// The logs of a folder: those of events, rotated ones first, since their names have the time; without any, those of wandb's
/// runs, each of which has a folder (`wandb/run-TIME-ID/run-ID.wandb`).
fn logs_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let is_event_log = |name: &str| name.starts_with("completions") && name.ends_with(".log");
    let logs = files(folder, is_event_log)?;
    if !logs.is_empty() {
        return Ok(logs);
    }
    let is_run = |name: &str| name.ends_with(".wandb");
    let mut runs = files(folder, is_run)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // `latest-run` is a link to one of the others.
        if entry.file_type()?.is_dir() && entry.file_name().to_string_lossy().contains("run-") {
            runs.extend(files(&entry.path(), is_run)?);
        }
    }
    runs.sort();
    Ok(runs)
}

/// The files of a folder whose names pass.
fn files(folder: &Path, passes: impl Fn(&str) -> bool) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if passes(&name.to_string_lossy()) {
            found.push(folder.join(name));
        }
    }
    found.sort();
    Ok(found)
}
