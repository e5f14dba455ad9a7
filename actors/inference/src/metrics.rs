//! What the devices tell Prometheus.

use openvalidators_messages::inference::ModelName;
use prometheus::{Counter, CounterVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::placement::DeviceName;

/// Counters of the devices. `1 - sum by (device) (rate(busy_seconds))` is the share of time a device had nothing to do.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Seconds spent computing, by device and model.
    pub busy_seconds: CounterVec,
    /// Batches computed, by model.
    pub batches: IntCounterVec,
    /// Tokens computed, by model; a shared prefix counts once.
    pub tokens: IntCounterVec,
    /// Texts answered from an equal text's work, by model.
    pub deduplicated: IntCounterVec,
    /// Batches that failed and were split, or failed as single rows, by model.
    pub failures: IntCounterVec,
    /// Requests dropped before or during their work because their caller had gone, by model.
    pub abandoned: IntCounterVec,
    /// Requests waiting, by device.
    pub queue_depth: IntGaugeVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("openvalidators_inference_{name}"), help);
        let counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(opts(name, help), &["model"])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let busy = opts("busy_seconds_total", "Time a device spent computing");
        let busy_seconds = CounterVec::new(busy, &["device", "model"])?;
        registry.register(Box::new(busy_seconds.clone()))?;
        let queue_depth = IntGaugeVec::new(opts("queue_depth", "Requests waiting for a device"), &["device"])?;
        registry.register(Box::new(queue_depth.clone()))?;
        Ok(Self {
            busy_seconds,
            batches: counter("batches_total", "Batches computed")?,
            tokens: counter("tokens_total", "Tokens computed; a shared prefix counts once")?,
            deduplicated: counter("deduplicated_total", "Texts answered from an equal text's work")?,
            failures: counter("failures_total", "Batches that failed on the device and were split, or single rows")?,
            abandoned: counter("abandoned_total", "Requests dropped because their caller had gone")?,
            queue_depth,
        })
    }
    pub(crate) fn busy_seconds(&self, device: DeviceName, model: &ModelName) -> Counter {
        self.busy_seconds.with_label_values(&[device.to_string().as_str(), &*model.0])
    }

    pub(crate) fn queue_depth(&self, device: DeviceName) -> IntGauge {
        self.queue_depth.with_label_values(&[device.to_string()])
    }
}
