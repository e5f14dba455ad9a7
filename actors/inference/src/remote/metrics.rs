//! What asking elsewhere tells Prometheus.

use openvalidators_messages::inference::ModelName;
use prometheus::{CounterVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Counters of models that servers elsewhere compute.
#[derive(Clone, Debug)]
pub struct RemoteMetrics {
    /// Requests by model, server and outcome: `answered`, `refused` (the rows), `failed`, `late`.
    pub requests: IntCounterVec,
    /// Time from a request to its answer, by model and server.
    pub seconds: CounterVec,
    /// 1 for a server that may be asked, 0 for one that is left alone, by model and server.
    pub healthy: IntGaugeVec,
    /// Requests that the model here answered, because no server did, by model.
    pub fallbacks: IntCounterVec,
}

impl RemoteMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("openvalidators_inference_remote_{name}"), help);
        let requests =
            IntCounterVec::new(opts("requests_total", "Requests to servers"), &["model", "server", "outcome"])?;
        let seconds = CounterVec::new(opts("seconds_total", "Time servers took to answer"), &["model", "server"])?;
        let healthy = IntGaugeVec::new(opts("healthy", "Whether a server may be asked"), &["model", "server"])?;
        let fallbacks = IntCounterVec::new(
            opts("fallbacks_total", "Requests that no server answered and the model here did"),
            &["model"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(healthy.clone()))?;
        registry.register(Box::new(fallbacks.clone()))?;
        Ok(Self { requests, seconds, healthy, fallbacks })
    }

    pub(super) fn request(&self, model: &ModelName, server: &str, outcome: &str, seconds: f64) {
        self.requests.with_label_values(&[&*model.0, server, outcome]).inc();
        self.seconds.with_label_values(&[&*model.0, server]).inc_by(seconds.max(0.0));
    }

    pub(super) fn health(&self, model: &ModelName, server: &str, healthy: bool) {
        self.healthy.with_label_values(&[&*model.0, server]).set(i64::from(healthy));
    }
}
