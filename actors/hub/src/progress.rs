//! Telling people how far a download is: a bar on a terminal, log lines elsewhere.

use std::{
    io::IsTerminal,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use indicatif::{ProgressBar, ProgressStyle};

/// A log line is written each time this share of a file has come.
const LOG_EVERY_PERCENT: u64 = 10;
/// The same for a file of unknown size.
const LOG_EVERY_BYTES: u64 = 16 << 20;

/// Hears how far a fetch is. Called often: it must return at once.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn report(&self, event: Event<'_>);
}

/// What can be heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// This source is tried now.
    Trying {
        /// What it is.
        source: &'a str,
    },
    /// It did not serve; the next one is tried, if there is one.
    GaveUp {
        /// What it is.
        source: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// A request begins or is resumed.
    Started {
        /// The file.
        file: &'a str,
        /// Bytes that are here already.
        done: u64,
        /// Bytes in all, if known.
        total: Option<u64>,
    },
    /// More bytes are here.
    Advanced {
        /// Bytes that are here.
        done: u64,
    },
    /// A request failed and will be repeated.
    Retrying {
        /// Why.
        reason: &'a str,
    },
    /// The file is here and is what it should be.
    Finished {
        /// The file.
        file: &'a str,
    },
}

/// A bar where standard error is a terminal, log lines otherwise.
#[must_use]
pub fn progress_for_people() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() { Box::new(Bar::default()) } else { Box::new(LogLines::default()) }
}

/// Log lines, at `info`.
#[derive(Default)]
pub struct LogLines {
    total: AtomicU64,
    logged: AtomicU64,
}

/// A bar with bytes, speed and the time left.
pub struct Bar {
    bar: Mutex<ProgressBar>,
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _: Event<'_>) {}
}

// === impl LogLines ===

impl Progress for LogLines {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::Trying { source } => tracing::info!(source, "fetching a model"),
            Event::GaveUp { source, reason } => tracing::warn!(source, reason, "this source did not serve"),
            Event::Retrying { reason } => tracing::warn!(reason, "a download was interrupted and is resumed"),
            Event::Finished { file } => tracing::info!(file, "fetched and verified"),
            Event::Started { file, done, total } => {
                self.total.store(total.unwrap_or(0), Ordering::Relaxed);
                self.logged.store(done, Ordering::Relaxed);
                tracing::info!(file, done_bytes = done, total_bytes = total, "downloading");
            }
            Event::Advanced { done } => {
                let total = self.total.load(Ordering::Relaxed);
                let every = if total == 0 { LOG_EVERY_BYTES } else { (total * LOG_EVERY_PERCENT / 100).max(1 << 20) };
                if done >= self.logged.load(Ordering::Relaxed) + every {
                    self.logged.store(done, Ordering::Relaxed);
                    tracing::info!(done_bytes = done, total_bytes = total, "downloading");
                }
            }
        }
    }
}

// === impl Bar ===

impl Default for Bar {
    fn default() -> Self {
        Self { bar: Mutex::new(ProgressBar::hidden()) }
    }
}

impl Progress for Bar {
    fn report(&self, event: Event<'_>) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Trying { source } => bar.suspend(|| tracing::info!(source, "fetching a model")),
            Event::GaveUp { source, reason } => {
                bar.suspend(|| tracing::warn!(source, reason, "this source did not serve"));
            }
            Event::Retrying { reason } => bar.suspend(|| tracing::warn!(reason, "interrupted, resuming")),
            Event::Started { file, done, total } => {
                bar.finish_and_clear();
                *bar = new_bar(file, total);
                bar.set_position(done);
                // The speed is that of this request, not of the bytes an earlier one left.
                bar.reset_eta();
            }
            Event::Advanced { done } => bar.set_position(done),
            Event::Finished { .. } => bar.finish(),
        }
    }
}

const KNOWN_SIZE: &str = "{msg:32!} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
const UNKNOWN_SIZE: &str = "{msg:32!} {spinner} {bytes} {bytes_per_sec}";

fn new_bar(file: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), KNOWN_SIZE),
        None => (ProgressBar::new_spinner(), UNKNOWN_SIZE),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_message(file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_are_well_formed() {
        for total in [Some(10), None] {
            let bar = Bar::default();
            bar.report(Event::Started { file: "model.safetensors", done: 3, total });
            bar.report(Event::Advanced { done: 7 });
            assert_eq!(bar.bar.lock().unwrap().position(), 7);
            bar.report(Event::Finished { file: "model.safetensors" });
        }
        for template in [KNOWN_SIZE, UNKNOWN_SIZE] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
