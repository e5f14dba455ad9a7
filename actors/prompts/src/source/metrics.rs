//! What the sources tell Prometheus.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::hygiene::LeftOut;

/// The metrics of all sources. Made once.
#[derive(Clone)]
pub struct SourcesMetrics {
    /// `openvalidators_prompt_source_up{source}`: 1 while it can be read.
    up: IntGaugeVec,
    /// `openvalidators_prompt_source_texts{source}`: texts that wait in the buffer.
    level: IntGaugeVec,
    /// `openvalidators_prompt_source_draws_total{source}`: texts that became the subject of a forward.
    draws: IntCounterVec,
    /// `openvalidators_prompt_source_misses_total{source}`: forwards that wanted this source and were given another's text,
    /// or none.
    misses: IntCounterVec,
    /// `openvalidators_prompt_source_failures_total{source}`: times reading failed and was tried again later, or a file was
    /// left out.
    failures: IntCounterVec,
    /// `openvalidators_prompt_source_records_total{source}`: records read.
    records: IntCounterVec,
    /// `openvalidators_prompt_source_left_out_total{source,reason}`: records whose texts are not used.
    left_out: IntCounterVec,
}

/// Those of one source.
#[derive(Clone)]
pub struct SourceMetrics {
    all: SourcesMetrics,
    source: String,
}

// === impl SourcesMetrics ===

impl SourcesMetrics {
    /// Registers every series.
    ///
    /// # Errors
    /// When the registry holds one of the names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(format!("openvalidators_prompt_source_{name}"), help), &["source"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let opts = Opts::new(format!("openvalidators_prompt_source_{name}"), help);
            let counter = IntCounterVec::new(opts, labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Self {
            up: gauge("up", "Whether a prompt source can be read")?,
            level: gauge("texts", "Texts read ahead")?,
            draws: counter("draws_total", "Texts that became the subject of a forward", &["source"])?,
            misses: counter("misses_total", "Forwards that wanted this source and found it empty", &["source"])?,
            failures: counter("failures_total", "Times reading failed", &["source"])?,
            records: counter("records_total", "Records read", &["source"])?,
            left_out: counter("left_out_total", "Records whose texts are not used", &["source", "reason"])?,
        })
    }

    /// Those of a source, at zero.
    #[must_use]
    pub fn of(&self, source: &str) -> SourceMetrics {
        let labels = [source];
        self.up.with_label_values(&labels).set(1);
        self.level.with_label_values(&labels);
        for counter in [&self.draws, &self.misses, &self.failures, &self.records] {
            counter.with_label_values(&labels);
        }
        for reason in LeftOut::ALL {
            self.left_out.with_label_values(&[source, reason.label()]);
        }
        SourceMetrics { all: self.clone(), source: source.to_owned() }
    }
}

// === impl SourceMetrics ===

impl SourceMetrics {
    pub(super) fn set_up(&self, up: bool) {
        self.all.up.with_label_values(&[&self.source]).set(i64::from(up));
    }

    pub(super) fn set_level(&self, texts: usize) {
        self.all.level.with_label_values(&[&self.source]).set(i64::try_from(texts).unwrap_or(i64::MAX));
    }

    pub(super) fn count_draw(&self) {
        self.all.draws.with_label_values(&[&self.source]).inc();
    }

    pub(super) fn count_miss(&self) {
        self.all.misses.with_label_values(&[&self.source]).inc();
    }

    pub(super) fn count_failure(&self) {
        self.all.failures.with_label_values(&[&self.source]).inc();
    }

    pub(super) fn count_record(&self) {
        self.all.records.with_label_values(&[&self.source]).inc();
    }

    pub(super) fn count_left_out(&self, reason: LeftOut) {
        self.all.left_out.with_label_values(&[self.source.as_str(), reason.label()]).inc();
    }
}
