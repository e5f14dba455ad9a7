//! What is counted from the pulled events, and the gauges for each uid.

use std::sync::Arc;

use openvalidators_keys::ss58;
use openvalidators_messages::{
    Column, Completion, Metagraph, QueryOutcome, Scoring, Sequence, StepKind, StepOutcome, ledger::StoredStep,
    weights::ScoreTable,
};
use parking_lot::Mutex;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    process_collector::ProcessCollector,
};

const SCORED: &str = "scored";
const UNSCORED: &str = "unscored";
const PASSED: &str = "passed";
const BLOCKED: &str = "blocked";

/// Which program this is: the labels of `openvalidators_build_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// Of the crate.
    pub version: String,
    /// The integer that goes with weights.
    pub spec_version: String,
    /// Of the source tree, or `unknown`.
    pub revision: String,
    /// The compiler, or `unknown`.
    pub rustc: String,
}

/// Every metric of this crate. Made once, outside the actor, so that counters survive its restarts.
#[derive(Clone)]
pub struct ReportingMetrics {
    steps: IntCounterVec,
    steps_without_best: IntCounter,
    step_seconds: HistogramVec,
    completions: IntCounterVec,
    completion_seconds: Histogram,
    reward: HistogramVec,
    reward_spread: HistogramVec,
    filter_completions: IntCounterVec,
    last_step: Gauge,
    last_block: IntGauge,
    sequence: IntGauge,
    uid_score: GaugeVec,
    uid_success: GaugeVec,
    uid_incentive: GaugeVec,
    uid_info: GaugeVec,
    event_log_bytes: IntCounter,
    event_log_rotations: IntCounter,
    errors: IntCounter,
    trouble: Arc<Mutex<Option<String>>>,
}

// === impl ReportingMetrics ===

impl ReportingMetrics {
    /// Registers everything, the metrics of the process and `openvalidators_build_info` included.
    ///
    /// # Errors
    /// When the registry has one of the names already.
    #[rustfmt::skip]
    pub fn new(registry: &Registry, build: &BuildInfo) -> Result<Self, prometheus::Error> {
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let info = Registrar(registry).gauges("build_info", "Which program this is; always 1", &["version", "spec_version", "revision", "rustc"])?;
        info.with_label_values(&[&build.version, &build.spec_version, &build.revision, &build.rustc]).set(1.0);

        let r = Registrar(registry);
        let metrics = Self {
            steps: r.counters("steps_total", "Settled steps by name and by whether they could be scored", &["name", "result"])?,
            steps_without_best: r.counter("steps_without_best_total", "Scored steps in which no completion earned anything")?,
            step_seconds: r.histograms("step_seconds", "From the choice of miners until the raw scores were there", &["name"],
                &[0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 30.0, 60.0, 120.0])?,
            completions: r.counters("completions_total", "Miners asked, by how the query ended", &["outcome"])?,
            completion_seconds: r.histogram("completion_seconds", "How long miners that answered took",
                &[0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0])?,
            reward: r.histograms("reward", "Final rewards of the completions that answered", &["name"],
                &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])?,
            reward_spread: r.histograms("reward_spread", "Largest minus smallest normalised reward of a step, by reward function", &["model"],
                &[0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])?,
            filter_completions: r.counters("filter_completions_total", "Completions that a filter let pass (above 0) or blocked", &["filter", "result"])?,
            last_step: r.gauge("last_step_timestamp_seconds", "When the latest reported step began, since 1970")?,
            last_block: r.int_gauge("last_step_block", "The block known when the latest reported step began")?,
            sequence: r.int_gauge("reported_sequence", "The place in the ledger of the latest reported step")?,
            uid_score: r.gauges("uid_score", "Moving-average score of the hotkey that holds the uid", &["uid"])?,
            uid_success: r.gauges("uid_success_ratio", "Share of the steps asked that the hotkey answered", &["uid"])?,
            uid_incentive: r.gauges("uid_incentive_ratio", "Share of what miners earn that the chain gives the uid", &["uid"])?,
            uid_info: r.gauges("uid_info", "Who holds the uid; always 1", &["uid", "hotkey"])?,
            event_log_bytes: r.counter("event_log_bytes_total", "Bytes written to the event log")?,
            event_log_rotations: r.counter("event_log_rotations_total", "Times the event log was full and begun anew")?,
            errors: r.counter("reporting_errors_total", "Times the ledger could not be followed, or the event log not be written")?,
            trouble: Arc::default(),
        };
        for kind in StepKind::ALL {
            for result in [SCORED, UNSCORED] {
                metrics.steps.with_label_values(&[kind.label(), result]);
            }
            metrics.step_seconds.with_label_values(&[kind.label()]);
            metrics.reward.with_label_values(&[kind.label()]);
        }
        for outcome in QueryOutcome::ALL {
            metrics.completions.with_label_values(&[outcome.label()]);
        }
        Ok(metrics)
    }

    /// Why nothing can be reported at the moment, for `/ready`.
    ///
    /// # Errors
    /// The latest error, until a success.
    pub fn check(&self) -> Result<(), String> {
        self.trouble.lock().clone().map_or(Ok(()), Err)
    }

    /// Counts steps, each once however often it comes (a restart of the actor may bring some again).
    pub(crate) fn observe(&self, steps: &[StoredStep]) {
        for step in steps {
            // An i64 is what the gauge holds; the ledger will not get there.
            let sequence = i64::try_from(step.sequence.0).unwrap_or(i64::MAX);
            if sequence > self.sequence.get() {
                self.observe_one(step);
                self.sequence.set(sequence);
            }
        }
    }

    /// Steps up to this one were counted by an earlier process.
    pub(crate) fn start_after(&self, sequence: Sequence) {
        self.sequence.set(i64::try_from(sequence.0).unwrap_or(i64::MAX).max(self.sequence.get()));
    }

    pub(crate) fn observe_log(&self, bytes: u64, rotations: u64) {
        self.event_log_bytes.inc_by(bytes);
        self.event_log_rotations.inc_by(rotations);
    }

    pub(crate) fn observe_trouble(&self, reason: Option<String>) {
        self.errors.inc_by(u64::from(reason.is_some()));
        *self.trouble.lock() = reason;
    }

    /// Replaces the gauges of all uids. A hotkey without a score has a uid, but no numbers.
    pub(crate) fn show_uids(&self, metagraph: &Metagraph, scores: &ScoreTable) {
        for gauges in [&self.uid_score, &self.uid_success, &self.uid_incentive, &self.uid_info] {
            gauges.reset();
        }
        for neuron in &metagraph.neurons {
            let uid = neuron.uid.to_string();
            self.uid_info.with_label_values(&[&uid, &ss58::encode(&neuron.hotkey)]).set(1.0);
            self.uid_incentive.with_label_values(&[&uid]).set(neuron.incentive);
            let Some(row) = scores.rows.iter().find(|row| row.hotkey == neuron.hotkey) else { continue };
            self.uid_score.with_label_values(&[&uid]).set(row.score);
            if row.asked > 0 {
                self.uid_success.with_label_values(&[&uid]).set(ratio(row.answered, row.asked));
            }
        }
    }

    fn observe_one(&self, step: &StoredStep) {
        let record = &*step.record;
        let name = record.name.kind().label();
        self.last_step.set(record.started_at);
        self.last_block.set(i64::try_from(record.block.0).unwrap_or(i64::MAX));
        self.step_seconds.with_label_values(&[name]).observe(record.length_seconds);
        for completion in &record.completions {
            self.completions.with_label_values(&[completion.outcome.label()]).inc();
            if completion.is_success() {
                self.completion_seconds.observe(completion.elapsed_seconds);
            }
        }
        let scored = match (step.outcome.as_deref(), &record.scoring) {
            (Some(StepOutcome::Scored(scored)), Scoring::Scored(_)) => scored,
            _ => return self.steps.with_label_values(&[name, UNSCORED]).inc(),
        };
        self.steps.with_label_values(&[name, SCORED]).inc();
        if scored.best.is_none() {
            self.steps_without_best.inc();
        }
        let answered = |(_, completion): &(_, &Completion)| completion.is_success();
        for (reward, _) in scored.rewards.iter().zip(&record.completions).filter(answered) {
            self.reward.with_label_values(&[name]).observe(f64::from(reward.get()));
        }
        for column in &scored.normalised {
            if let Some(spread) = spread(column) {
                self.reward_spread.with_label_values(&[&column.name]).observe(spread);
            }
        }
        for column in &scored.filters {
            for value in column.values.iter().flatten() {
                let result = if *value > 0.0 { PASSED } else { BLOCKED };
                self.filter_completions.with_label_values(&[&*column.name, result]).inc();
            }
        }
    }
}

/// Largest minus smallest; `None` for fewer than two values, which have no spread.
fn spread(column: &Column) -> Option<f64> {
    let values = || column.values.iter().flatten().copied().filter(|value| value.is_finite());
    let (smallest, largest) = (values().reduce(f32::min)?, values().reduce(f32::max)?);
    (values().count() > 1).then(|| f64::from(largest) - f64::from(smallest))
}

#[allow(clippy::cast_precision_loss, reason = "counts of steps")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Makes and registers metrics under the project's prefix.
pub(crate) struct Registrar<'a>(pub(crate) &'a Registry);

impl Registrar<'_> {
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("openvalidators_{name}"), help)
    }

    fn add<M: prometheus::core::Collector + Clone + 'static>(&self, metric: M) -> Result<M, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(crate) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::with_opts(Self::opts(name, help))?)
    }

    pub(crate) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Self::opts(name, help), labels)?)
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.add(Gauge::with_opts(Self::opts(name, help))?)
    }

    pub(crate) fn int_gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::with_opts(Self::opts(name, help))?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        self.add(Histogram::with_opts(HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec()))?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        self.add(HistogramVec::new(HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec()), labels)?)
    }
}

#[cfg(test)]
pub(crate) mod tests;
