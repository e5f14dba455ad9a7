//! What the operator sees of the chain.

use std::{sync::Arc, time::Duration};

use openvalidators_messages::subtensor::{ChainError, Submission};
use openvalidators_runtime::SharedClock;
use parking_lot::Mutex;
use prometheus::{
    Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// The calls that are counted; every counter exists at zero from the start.
pub(crate) const CALLS: [&str; 7] =
    ["next_block", "metagraph", "weights", "submit_weights", "reveal_weights", "serve_axon", "time"];
const RESULTS: [&str; 5] = ["ok", "refused_by_pool", "failed_in_block", "unreachable", "bad_answer"];
const SUBMISSIONS: [&str; 6] = ["set", "committed", "refused_by_pool", "failed_in_block", "unreachable", "bad_answer"];

/// The metrics of `actors/subtensor`. Clones count into the same ones.
#[derive(Clone)]
pub struct Metrics {
    /// `openvalidators_chain_block`: the newest block seen.
    pub(crate) block: IntGauge,
    /// `openvalidators_chain_block_age_seconds`: since the newest block was seen.
    block_age: Age,
    /// `openvalidators_chain_metagraph_age_seconds`: since the published metagraph was read.
    metagraph_age: Age,
    /// `openvalidators_chain_node_changes_total`: a node of a real network was left: it closed the socket, did not answer, was
    /// in trouble, or showed no new block.
    pub(crate) node_changes: IntCounter,
    /// `openvalidators_chain_clock_skew_seconds`: our clock less the newest block's.
    clock_skew: Gauge,
    /// `openvalidators_chain_calls_total{call, result}`: every attempt.
    calls: IntCounterVec,
    /// `openvalidators_chain_submissions_total{result}`: weights, by what became of them.
    submissions: IntCounterVec,
}

/// Seconds since something happened, read from the clock when it is scraped.
#[derive(Clone)]
struct Age {
    gauge: Gauge,
    clock: SharedClock,
    since: Arc<Mutex<Duration>>,
}

// === impl Metrics ===

impl Metrics {
    /// Registers them. The ages count from here until something is seen.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn new(registry: &Registry, clock: &SharedClock) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            block: IntGauge::new("openvalidators_chain_block", "The newest block seen")?,
            block_age: Age::new(
                "openvalidators_chain_block_age_seconds",
                "Time since the newest block was seen",
                clock,
            )?,
            metagraph_age: Age::new(
                "openvalidators_chain_metagraph_age_seconds",
                "Time since the metagraph in use was read from the chain",
                clock,
            )?,
            node_changes: IntCounter::new(
                "openvalidators_chain_node_changes_total",
                "Times a node of the chain was left for the next, or for itself after a pause",
            )?,
            clock_skew: Gauge::new(
                "openvalidators_chain_clock_skew_seconds",
                "Our clock less the newest block's, which is a block old at most; 0 where the chain keeps no time",
            )?,
            calls: IntCounterVec::new(
                Opts::new("openvalidators_chain_calls_total", "Calls of the chain, each attempt, by result"),
                &["call", "result"],
            )?,
            submissions: IntCounterVec::new(
                Opts::new("openvalidators_chain_submissions_total", "Weights submitted, by what became of them"),
                &["result"],
            )?,
        };
        for call in CALLS {
            for result in RESULTS {
                metrics.calls.with_label_values(&[call, result]);
            }
        }
        for result in SUBMISSIONS {
            metrics.submissions.with_label_values(&[result]);
        }
        registry.register(Box::new(metrics.block.clone()))?;
        registry.register(Box::new(metrics.block_age.clone()))?;
        registry.register(Box::new(metrics.metagraph_age.clone()))?;
        registry.register(Box::new(metrics.node_changes.clone()))?;
        registry.register(Box::new(metrics.clock_skew.clone()))?;
        registry.register(Box::new(metrics.calls.clone()))?;
        registry.register(Box::new(metrics.submissions.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn saw_block(&self, block: u64) {
        self.block.set(i64::try_from(block).unwrap_or(i64::MAX));
        self.block_age.restart();
    }

    pub(crate) fn read_metagraph(&self) {
        self.metagraph_age.restart();
    }

    pub(crate) fn told_time(&self, ours: Duration, of_block: Duration) {
        self.clock_skew.set(ours.as_secs_f64() - of_block.as_secs_f64());
    }

    pub(crate) fn called<T>(&self, call: &str, result: &Result<T, ChainError>) {
        let result = result.as_ref().err().map_or("ok", label);
        self.calls.with_label_values(&[call, result]).inc();
    }

    pub(crate) fn submitted(&self, result: &Result<Submission, ChainError>) {
        let result = match result {
            Ok(Submission::Set { .. }) => "set",
            Ok(Submission::Committed { .. }) => "committed",
            Err(error) => label(error),
        };
        self.submissions.with_label_values(&[result]).inc();
    }
}

fn label(error: &ChainError) -> &'static str {
    match error {
        ChainError::RefusedByPool { .. } => "refused_by_pool",
        ChainError::FailedInBlock { .. } => "failed_in_block",
        ChainError::Unreachable { .. } => "unreachable",
        ChainError::BadAnswer { .. } => "bad_answer",
    }
}

// === impl Age ===

impl Age {
    fn new(name: &str, help: &str, clock: &SharedClock) -> Result<Self, prometheus::Error> {
        let since = Arc::new(Mutex::new(clock.now()));
        Ok(Self { gauge: Gauge::new(name, help)?, clock: clock.clone(), since })
    }

    fn restart(&self) {
        *self.since.lock() = self.clock.now();
    }
}

impl Collector for Age {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let since = *self.since.lock();
        self.gauge.set(self.clock.now().saturating_sub(since).as_secs_f64());
        self.gauge.collect()
    }
}
