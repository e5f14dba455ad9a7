use openvalidators_messages::QueryOutcome;
use prometheus::{
    Counter, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
};

/// The dendrite's metrics. They outlive the actor.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Queries by outcome; every label exists from the start.
    pub queries: IntCounterVec,
    /// From the first byte sent until the outcome was known.
    pub query_seconds: Histogram,
    /// Bodies sent.
    pub sent_bytes: IntCounter,
    /// Bodies received, those cut off included.
    pub received_bytes: IntCounter,
    /// Time spent signing, on the worker threads.
    pub sign_seconds: Counter,
    /// Queries without an outcome yet.
    pub in_flight: IntGauge,
}

impl Metrics {
    /// # Errors
    /// When the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            queries: register(
                registry,
                IntCounterVec::new(
                    Opts::new("openvalidators_dendrite_queries_total", "Queries to miners, by how they ended"),
                    &["outcome"],
                )?,
            )?,
            query_seconds: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "openvalidators_dendrite_query_seconds",
                        "From the first byte sent to a miner until the outcome was known",
                    )
                    .buckets(vec![0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 30.0]),
                )?,
            )?,
            sent_bytes: register(
                registry,
                IntCounter::new("openvalidators_dendrite_sent_bytes_total", "Request bodies sent to miners")?,
            )?,
            received_bytes: register(
                registry,
                IntCounter::new("openvalidators_dendrite_received_bytes_total", "Reply bodies read from miners")?,
            )?,
            sign_seconds: register(
                registry,
                Counter::new("openvalidators_dendrite_sign_seconds_total", "Time spent signing requests")?,
            )?,
            in_flight: register(
                registry,
                IntGauge::new("openvalidators_dendrite_in_flight", "Queries without an outcome yet")?,
            )?,
        };
        for outcome in QueryOutcome::ALL {
            metrics.queries.with_label_values(&[outcome.label()]);
        }
        Ok(metrics)
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
