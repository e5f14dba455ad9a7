//! What the devices tell Prometheus.

use openvalidators_messages::inference::ModelName;
use prometheus::{Counter, CounterVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

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
    /// Rows whose answer was no finite number, by model: a network in two-byte numbers that overflowed, or damaged weights.
    pub not_finite: IntCounterVec,
    /// Requests dropped before or during their work because their caller had gone, by model.
    pub abandoned: IntCounterVec,
    /// Batches that were split because a device's memory did not suffice, by device.
    pub out_of_memory: IntCounterVec,
    /// Tokens computed together at most, by device: `inference.batch_tokens`, and less for a while after memory ran out.
    pub budget: IntGaugeVec,
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
        let counter_by = |label: &str, name: &str, help: &str| {
            let counter = IntCounterVec::new(opts(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counter = |name: &str, help: &str| counter_by("model", name, help);
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(opts(name, help), &["device"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let busy = opts("busy_seconds_total", "Time a device spent computing");
        let busy_seconds = CounterVec::new(busy, &["device", "model"])?;
        registry.register(Box::new(busy_seconds.clone()))?;
        Ok(Self {
            busy_seconds,
            batches: counter("batches_total", "Batches computed")?,
            tokens: counter("tokens_total", "Tokens computed; a shared prefix counts once")?,
            deduplicated: counter("deduplicated_total", "Texts answered from an equal text's work")?,
            failures: counter("failures_total", "Batches that failed on the device and were split, or single rows")?,
            not_finite: counter("not_finite_total", "Rows whose answer was no finite number: NaN or infinite")?,
            abandoned: counter("abandoned_total", "Requests dropped because their caller had gone")?,
            out_of_memory: counter_by("device", "out_of_memory_total", "Batches split because memory did not suffice")?,
            budget: gauge("budget_tokens", "Tokens computed together at most")?,
            queue_depth: gauge("queue_depth", "Requests waiting for a device")?,
        })
    }

    /// Makes every series of a model on its device.
    pub(crate) fn start_at_zero(&self, device: DeviceName, model: &ModelName) {
        self.busy_seconds(device, model);
        self.out_of_memory(device);
        self.budget(device);
        self.queue_depth(device);
        let by_model =
            [&self.batches, &self.tokens, &self.deduplicated, &self.failures, &self.not_finite, &self.abandoned];
        by_model.into_iter().for_each(|counter| drop(counter.with_label_values(&[&*model.0])));
    }

    pub(crate) fn busy_seconds(&self, device: DeviceName, model: &ModelName) -> Counter {
        self.busy_seconds.with_label_values(&[device.to_string().as_str(), &*model.0])
    }

    pub(crate) fn out_of_memory(&self, device: DeviceName) -> IntCounter {
        self.out_of_memory.with_label_values(&[device.to_string()])
    }

    pub(crate) fn budget(&self, device: DeviceName) -> IntGauge {
        self.budget.with_label_values(&[device.to_string()])
    }

    pub(crate) fn queue_depth(&self, device: DeviceName) -> IntGauge {
        self.queue_depth.with_label_values(&[device.to_string()])
    }
}
