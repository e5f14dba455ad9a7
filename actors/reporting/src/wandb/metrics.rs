//! What is counted about rows and their upload. Registered where wandb is on.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Registry};

use crate::metrics::Registrar;

/// Every metric of wandb.
#[derive(Clone)]
pub struct WandbMetrics {
    rows: IntCounter,
    acknowledged: IntCounter,
    backlog_bytes: IntGauge,
    last_acknowledged: Gauge,
    requests: IntCounterVec,
    clock_skew: Gauge,
}

// === impl WandbMetrics ===

impl WandbMetrics {
    /// # Errors
    /// When the registry has one of the names already.
    #[rustfmt::skip]
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let r = Registrar(registry);
        let metrics = Self {
            rows: r.counter("wandb_rows_total", "Rows written to wandb's log on the disk")?,
            acknowledged: r.counter("wandb_acknowledged_rows_total", "Rows that wandb's server has taken")?,
            backlog_bytes: r.int_gauge("wandb_backlog_bytes", "Bytes of wandb's logs that the server has not taken")?,
            last_acknowledged: r.gauge("wandb_last_acknowledged_timestamp_seconds", "When wandb's server last took anything, since 1970; 0 before the first time")?,
            requests: r.counters("wandb_requests_total", "Requests to wandb's server: taken, failed for the moment, or refused", &["result"])?,
            clock_skew: r.gauge("wandb_clock_skew_seconds", "How far this machine's clock is ahead of wandb's")?,
        };
        for result in ["ok", "failed", "refused"] {
            metrics.requests.with_label_values(&[result]);
        }
        Ok(metrics)
    }

    pub(super) fn observe_rows(&self, rows: u64) {
        self.rows.inc_by(rows);
    }

    pub(super) fn observe_acknowledged(&self, rows: u64, now: f64) {
        self.acknowledged.inc_by(rows);
        self.last_acknowledged.set(now);
    }

    pub(super) fn observe_backlog(&self, bytes: u64) {
        self.backlog_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn observe_request(&self, result: &str) {
        self.requests.with_label_values(&[result]).inc();
    }

    pub(super) fn observe_skew(&self, seconds: f64) {
        self.clock_skew.set(seconds);
    }
}
