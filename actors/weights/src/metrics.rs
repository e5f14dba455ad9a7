//! What the weights tell Prometheus.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::duty::Wait;

/// How a submission can end: the label `result`.
pub(crate) const RESULTS: [&str; 4] = ["committed", "confirmed", "failed", "superseded"];

/// The metrics of scores and weight setting. They outlive the actor.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Epochs in a row without weights of ours, the running one not counted: alert on it.
    pub epochs_missed: IntGauge,
    /// Blocks since the chain last took weights (or a commit) of ours.
    pub blocks_since_update: IntGauge,
    /// Wall clock when this process last saw its weights set or committed, seconds since 1970; 0 before.
    pub last_set: Gauge,
    /// Intents by `result`.
    pub intents: IntCounterVec,
    /// Commits whose reveal did not show: alert on any.
    pub lost_commits: IntCounter,
    /// Intents the ledger could not record before they were submitted.
    pub unrecorded: IntCounter,
    /// 1 for the `reason` why no weights are set at this block, 0 for the others.
    pub waiting: IntGaugeVec,
    /// Steps folded into the scores by this process.
    pub folds: IntCounter,
    /// Steps the scores go on without, for their outcome was never stored: alert on any.
    pub left_out: IntCounter,
    /// The latest step in the scores.
    pub sequence: IntGauge,
    /// Hotkeys with a standing.
    pub hotkeys: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    /// Registers every metric, each label at zero.
    ///
    /// # Errors
    /// When the registry has one of them already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            epochs_missed: IntGauge::new(
                "openvalidators_weights_epochs_missed",
                "Epochs in a row that passed without weights of ours",
            )?,
            blocks_since_update: IntGauge::new(
                "openvalidators_weights_blocks_since_update",
                "Blocks since the chain last took weights or a commit of ours",
            )?,
            last_set: Gauge::new(
                "openvalidators_weights_last_set_timestamp_seconds",
                "When this process last saw its weights set or committed; 0 before",
            )?,
            intents: IntCounterVec::new(
                Opts::new("openvalidators_weights_intents_total", "Weight intents by how they went on"),
                &["result"],
            )?,
            lost_commits: IntCounter::new(
                "openvalidators_weights_lost_commits_total",
                "Commits that the chain took and whose weights it does not hold after the reveal",
            )?,
            unrecorded: IntCounter::new(
                "openvalidators_weights_unrecorded_intents_total",
                "Weight intents that the ledger could not record before they were submitted",
            )?,
            waiting: IntGaugeVec::new(
                Opts::new("openvalidators_weights_waiting", "1 for the reason why no weights are set at this block"),
                &["reason"],
            )?,
            folds: IntCounter::new("openvalidators_weights_folds_total", "Steps folded into the scores")?,
            left_out: IntCounter::new(
                "openvalidators_weights_left_out_total",
                "Steps the scores go on without, for their outcome was never stored",
            )?,
            sequence: IntGauge::new("openvalidators_weights_sequence", "Latest step in the scores")?,
            hotkeys: IntGauge::new("openvalidators_weights_hotkeys", "Hotkeys with a moving-average score")?,
        };
        for result in RESULTS {
            metrics.intents.with_label_values(&[result]);
        }
        for reason in Wait::ALL {
            metrics.waiting.with_label_values(&[reason.label()]);
        }
        registry.register(Box::new(metrics.epochs_missed.clone()))?;
        registry.register(Box::new(metrics.blocks_since_update.clone()))?;
        registry.register(Box::new(metrics.last_set.clone()))?;
        registry.register(Box::new(metrics.intents.clone()))?;
        registry.register(Box::new(metrics.lost_commits.clone()))?;
        registry.register(Box::new(metrics.unrecorded.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.folds.clone()))?;
        registry.register(Box::new(metrics.left_out.clone()))?;
        registry.register(Box::new(metrics.sequence.clone()))?;
        registry.register(Box::new(metrics.hotkeys.clone()))?;
        Ok(metrics)
    }

    /// Why no weights were set at the latest block that was looked at; nothing before the first.
    #[must_use]
    pub fn waiting(&self) -> Option<Wait> {
        Wait::ALL.into_iter().find(|reason| self.waiting.with_label_values(&[reason.label()]).get() == 1)
    }

    pub(crate) fn show_waiting(&self, now: Wait) {
        for reason in Wait::ALL {
            self.waiting.with_label_values(&[reason.label()]).set(i64::from(reason == now));
        }
    }
}
