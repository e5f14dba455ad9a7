//! What the ledger tells Prometheus.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// From a page in the cache to a disk that struggles.
const COMMIT_BUCKETS_SECONDS: [f64; 10] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

/// What can be asked of the ledger: the label `operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Append,
    StoreOutcome,
    ReadSteps,
    SaveSnapshot,
    LoadSnapshot,
    RecordIntent,
    SettleIntent,
    ReadIntents,
    SaveCursor,
    LoadCursor,
    Prune,
    ForgetTexts,
    Shrink,
}

/// The ledger's metrics. They outlive the actor.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Steps made durable; a step appended again counts once.
    pub appends: IntCounter,
    /// Steps removed by retention.
    pub pruned: IntCounter,
    /// Steps whose texts retention dropped.
    pub textless: IntCounter,
    /// 1 while the ledger has reached `ledger.max_bytes` and takes no steps.
    pub full: IntGauge,
    /// Seconds each operation took, its commit included, by `operation`.
    pub seconds: HistogramVec,
    /// Operations that failed, by `operation`.
    pub errors: IntCounterVec,
    /// Bytes of the database and its write-ahead log.
    pub bytes: IntGauge,
    /// The place of the latest step.
    pub latest_sequence: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    /// Registers every metric, each label at zero.
    ///
    /// # Errors
    /// When the registry has one of them already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            appends: IntCounter::new("openvalidators_ledger_appends_total", "Steps made durable")?,
            pruned: IntCounter::new("openvalidators_ledger_pruned_steps_total", "Steps removed by retention")?,
            textless: IntCounter::new("openvalidators_ledger_textless_steps_total", "Steps whose texts were dropped")?,
            full: IntGauge::new("openvalidators_ledger_full", "1 while no step is taken because of ledger.max_bytes")?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "openvalidators_ledger_operation_seconds",
                    "Time an operation took, its commit included",
                )
                .buckets(COMMIT_BUCKETS_SECONDS.to_vec()),
                &["operation"],
            )?,
            errors: IntCounterVec::new(
                Opts::new("openvalidators_ledger_errors_total", "Operations the database refused"),
                &["operation"],
            )?,
            bytes: IntGauge::new("openvalidators_ledger_bytes", "Size of the database and its write-ahead log")?,
            latest_sequence: IntGauge::new("openvalidators_ledger_latest_sequence", "Place of the latest step")?,
        };
        for operation in Operation::ALL {
            metrics.seconds.with_label_values(&[operation.label()]);
            metrics.errors.with_label_values(&[operation.label()]);
        }
        registry.register(Box::new(metrics.appends.clone()))?;
        registry.register(Box::new(metrics.pruned.clone()))?;
        registry.register(Box::new(metrics.textless.clone()))?;
        registry.register(Box::new(metrics.full.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.latest_sequence.clone()))?;
        Ok(metrics)
    }
}

// === impl Operation ===

impl Operation {
    pub const ALL: [Self; 13] = [
        Self::Append,
        Self::StoreOutcome,
        Self::ReadSteps,
        Self::SaveSnapshot,
        Self::LoadSnapshot,
        Self::RecordIntent,
        Self::SettleIntent,
        Self::ReadIntents,
        Self::SaveCursor,
        Self::LoadCursor,
        Self::Prune,
        Self::ForgetTexts,
        Self::Shrink,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::StoreOutcome => "store_outcome",
            Self::ReadSteps => "read_steps",
            Self::SaveSnapshot => "save_snapshot",
            Self::LoadSnapshot => "load_snapshot",
            Self::RecordIntent => "record_intent",
            Self::SettleIntent => "settle_intent",
            Self::ReadIntents => "read_intents",
            Self::SaveCursor => "save_cursor",
            Self::LoadCursor => "load_cursor",
            Self::Prune => "prune",
            Self::ForgetTexts => "forget_texts",
            Self::Shrink => "shrink",
        }
    }
}
