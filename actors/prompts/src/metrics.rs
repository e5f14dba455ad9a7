//! What the forwards tell Prometheus.

use std::time::Duration;

use openvalidators_messages::StepKind;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use crate::{
    forward::ForwardEnd,
    settle::{PARTS, Settled},
};

/// Seconds, from a fold in memory to a step on a slow processor.
const SECONDS: [f64; 14] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 180.0, 600.0];

/// The metrics of the lanes. Made once, outside every restart.
#[derive(Clone)]
pub struct Metrics {
    /// `openvalidators_forwards_total{end}`: forwards by how they ended ([`ForwardEnd::LABELS`]).
    forwards: IntCounterVec,
    /// `openvalidators_forward_steps_total{step,result}`: settled steps by kind; `best`, `no_best` or `unscored`.
    steps: IntCounterVec,
    /// `openvalidators_step_part_seconds{part}`: time in `draw`, `route`, `query`, `score` and `settle`.
    parts: HistogramVec,
    /// `openvalidators_settle_wait_seconds`: time a gathered step waited for its turn to settle.
    settle_wait: Histogram,
    /// `openvalidators_settle_retries_total{part}`: attempts to settle that had to be repeated.
    settle_retries: IntCounterVec,
}

/// A part of a step, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Draw,
    Route,
    Query,
    Score,
    Settle,
}

// === impl Metrics ===

impl Metrics {
    /// Registers every series, at zero where its labels are known.
    ///
    /// # Errors
    /// When the registry holds one of the names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let seconds = |name, help| HistogramOpts::new(name, help).buckets(SECONDS.into());
        let metrics = Self {
            forwards: counter("openvalidators_forwards_total", "Forwards by how they ended", &["end"])?,
            steps: counter(
                "openvalidators_forward_steps_total",
                "Settled steps by kind and result",
                &["step", "result"],
            )?,
            parts: HistogramVec::new(
                seconds("openvalidators_step_part_seconds", "Time spent in each part of a step"),
                &["part"],
            )?,
            settle_wait: Histogram::with_opts(seconds(
                "openvalidators_settle_wait_seconds",
                "Time a gathered step waited for its turn to settle",
            ))?,
            settle_retries: counter(
                "openvalidators_settle_retries_total",
                "Attempts to settle a step that had to be repeated",
                &["part"],
            )?,
        };
        registry.register(Box::new(metrics.forwards.clone()))?;
        registry.register(Box::new(metrics.steps.clone()))?;
        registry.register(Box::new(metrics.parts.clone()))?;
        registry.register(Box::new(metrics.settle_wait.clone()))?;
        registry.register(Box::new(metrics.settle_retries.clone()))?;
        for end in ForwardEnd::LABELS {
            metrics.forwards.with_label_values(&[end]);
        }
        for part in PARTS {
            metrics.settle_retries.with_label_values(&[part]);
        }
        for step in StepKind::ALL {
            for result in Settled::LABELS {
                metrics.steps.with_label_values(&[step.label(), result]);
            }
        }
        Ok(metrics)
    }

    pub(crate) fn count_forward(&self, end: &str) {
        self.forwards.with_label_values(&[end]).inc();
    }

    pub(crate) fn count_step(&self, kind: StepKind, result: &str) {
        self.steps.with_label_values(&[kind.label(), result]).inc();
    }

    pub(crate) fn observe(&self, part: Part, time: Duration) {
        self.parts.with_label_values(&[part.label()]).observe(time.as_secs_f64());
    }

    pub(crate) fn observe_settle_wait(&self, time: Duration) {
        self.settle_wait.observe(time.as_secs_f64());
    }

    pub(crate) fn count_settle_retry(&self, part: &str) {
        self.settle_retries.with_label_values(&[part]).inc();
    }
}

impl Part {
    pub fn label(self) -> &'static str {
        match self {
            Self::Draw => "draw",
            Self::Route => "route",
            Self::Query => "query",
            Self::Score => "score",
            Self::Settle => "settle",
        }
    }
}
