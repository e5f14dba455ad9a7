//! Logs go to standard error; standard output belongs to progress and results.
//!
//! What is logged can be changed while the program runs: each actor is a crate, so `warn,openvalidators_dendrite=debug` is
//! its level. SIGHUP reads [`FILTER_FILE`] in the state directory, and goes back to `--log` when it is gone.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use anyhow::Context;
use prometheus::{IntCounterVec, Opts, Registry};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry as Spans, fmt::MakeWriter, layer::Context as LayerContext, layer::SubscriberExt, reload,
    util::SubscriberInitExt,
};

use crate::{status, traces::Traces};

/// The file in the state directory that SIGHUP reads, with what `--log` takes.
pub const FILTER_FILE: &str = "log.filter";
/// What is logged where nobody says it.
pub const DEFAULT_FILTER: &str = "warn";
/// A filter longer than this is a mistake.
const LONGEST_FILTER_BYTES: u64 = 4_096;

/// What the operator sets about logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingConfig {
    /// What `run` logs where neither `--log` nor `OPENVALIDATORS_LOG` says it.
    pub filter: String,
}

/// A filter that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter is `{found}`: {reason}")]
pub struct BadFilter {
    found: String,
    reason: String,
}

/// Logging that has started: its counters, and the way to change its filter.
pub struct Logging {
    initial: String,
    filter: reload::Handle<EnvFilter, Spans>,
    lines: IntCounterVec,
}

/// Counts what is logged.
struct Counted(IntCounterVec);

/// Standard error, above the status line where there is one.
#[derive(Clone, Copy)]
struct AboveStatus;

/// Starts logging for the whole process.
///
/// `traces` get their spans whatever the filter says, which is for lines.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(filter: &str, json: bool, traces: Option<&Traces>) -> anyhow::Result<Logging> {
    let parsed = parse(filter).with_context(|| format!("--log {filter}"))?;
    let (filtering, handle) = reload::Layer::new(parsed);
    let lines = IntCounterVec::new(
        Opts::new(
            "openvalidators_log_events_total",
            "Lines logged, by level; those that the filter drops do not count",
        ),
        &["level"],
    )?;
    for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
        lines.with_label_values(&[label(level)]);
    }
    let format = tracing_subscriber::fmt::layer().with_writer(AboveStatus).with_ansi(io::stderr().is_terminal());
    let format = if json { format.json().boxed() } else { format.boxed() };
    let told = format.and_then(Counted(lines.clone())).with_filter(filtering);
    let started = tracing_subscriber::registry().with(told).with(traces.map(Traces::layer)).try_init();
    started.map_err(|error| anyhow::anyhow!("logging was started twice: {error}"))?;
    Ok(Logging { initial: filter.to_owned(), filter: handle, lines })
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(filter).context(
        "expected a level (error, warn, info, debug, trace) or directives such as warn,openvalidators_dendrite=debug",
    )
}

// === impl LoggingConfig ===

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { filter: DEFAULT_FILTER.to_owned() }
    }
}

impl LoggingConfig {
    /// # Errors
    /// When the filter cannot be read.
    pub fn check(&self) -> Result<(), BadFilter> {
        let bad = |error: anyhow::Error| BadFilter { found: self.filter.clone(), reason: format!("{error:#}") };
        parse(&self.filter).map(drop).map_err(bad)
    }
}

// === impl Logging ===

impl Logging {
    /// From now on logs by another filter, and goes back to it.
    ///
    /// # Errors
    /// When the filter cannot be read.
    pub fn filter_by(&mut self, filter: &str) -> anyhow::Result<()> {
        self.filter.reload(parse(filter)?)?;
        filter.clone_into(&mut self.initial);
        Ok(())
    }

    /// Exports how much is logged.
    ///
    /// # Errors
    /// When the registry has it already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.lines.clone()))
    }

    /// Reads the filter anew at every SIGHUP.
    ///
    /// # Errors
    /// When the system has no signals to give.
    pub fn follow(self, state_dir: &Path) -> io::Result<()> {
        let (mut hang_up, file) = (signal(SignalKind::hangup())?, state_dir.join(FILTER_FILE));
        tokio::spawn(async move {
            while hang_up.recv().await.is_some() {
                match self.read(&file) {
                    // A warning, to be seen at any usual level.
                    Ok(filter) => tracing::warn!(filter, "logging by another filter"),
                    Err(error) => tracing::error!("the log filter stays as it is: {error:#}"),
                }
            }
        });
        Ok(())
    }

    fn read(&self, file: &Path) -> anyhow::Result<String> {
        let filter = match std::fs::metadata(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.initial.clone(),
            Err(error) => return Err(error).with_context(|| format!("looking at {}", file.display())),
            Ok(found) if found.len() > LONGEST_FILTER_BYTES => {
                anyhow::bail!("{} has {} bytes, more than {LONGEST_FILTER_BYTES}", file.display(), found.len())
            }
            Ok(_) => std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?,
        };
        let filter = filter.trim().to_owned();
        self.filter.reload(parse(&filter).with_context(|| format!("{}: `{filter}`", file.display()))?)?;
        Ok(filter)
    }
}

// === impl Counted ===

impl<S: Subscriber> Layer<S> for Counted {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        self.0.with_label_values(&[label(*event.metadata().level())]).inc();
    }
}

fn label(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

// === impl AboveStatus ===

impl MakeWriter<'_> for AboveStatus {
    type Writer = Self;

    fn make_writer(&self) -> Self::Writer {
        *self
    }
}

impl Write for AboveStatus {
    /// A whole line: the format layer writes each with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        status::above(|| io::stderr().write_all(line)).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_counts_until_it_is_gone_and_nonsense_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILTER_FILE);
        let (_filtering, filter) = reload::Layer::<EnvFilter, Spans>::new(parse("warn").unwrap());
        let lines = IntCounterVec::new(Opts::new("lines", "lines"), &["level"]).unwrap();
        let mut logging = Logging { initial: "error".to_owned(), filter, lines };
        logging.filter_by("warn").unwrap();
        let now = || logging.filter.with_current(ToString::to_string).unwrap();

        std::fs::write(&file, "warn,openvalidators_dendrite=debug\n").unwrap();
        assert_eq!(logging.read(&file).unwrap(), "warn,openvalidators_dendrite=debug");
        assert!(now().contains("openvalidators_dendrite=debug"), "{}", now());
        std::fs::write(&file, "openvalidators_dendrite=loud").unwrap();
        let error = format!("{:#}", logging.read(&file).unwrap_err());
        assert!(error.contains("log.filter") && error.contains("loud") && error.contains("debug, trace"), "{error}");
        assert!(now().contains("openvalidators_dendrite=debug"), "it stays: {}", now());
        std::fs::write(&file, "x".repeat(5_000)).unwrap();
        assert!(logging.read(&file).is_err());
        std::fs::remove_file(&file).unwrap();
        assert_eq!(logging.read(&file).unwrap(), "warn");
        assert_eq!(now(), "warn");
    }
}
