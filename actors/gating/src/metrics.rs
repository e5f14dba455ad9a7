//! What the gating actor exports.

use openvalidators_messages::Uid;
use prometheus::{IntCounter, IntGauge, Registry, core::Collector};

use openvalidators_messages::gating::Routed;

/// Metrics of routing. They outlive the actor: make them once, outside its factory.
#[derive(Clone)]
pub struct Metrics {
    /// Neurons that could be asked at the latest routing.
    available: IntGauge,
    /// Miners routed to.
    routed_total: IntCounter,
    /// Of them, those asked before in the same forward, for want of others.
    repeated_total: IntCounter,
    /// Steps that got fewer miners than they wanted.
    short_total: IntCounter,
    /// Steps that found nobody to ask.
    nobody_total: IntCounter,
}

impl Metrics {
    /// Registers everything; each counter exists at zero from the start.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("openvalidators_gating_{name}");
        let counter = |suffix, help| registered(registry, IntCounter::new(name(suffix), help)?);
        Ok(Self {
            available: registered(
                registry,
                IntGauge::new(name("available"), "Neurons that could be asked at the latest routing")?,
            )?,
            routed_total: counter("routed_total", "Miners routed to")?,
            repeated_total: counter("repeated_total", "Miners routed to again in one forward, for want of others")?,
            short_total: counter("short_total", "Steps that got fewer miners than they wanted")?,
            nobody_total: counter("nobody_total", "Steps that found nobody to ask")?,
        })
    }

    /// Counts a routing.
    pub(crate) fn note(&self, available: usize, wanted: usize, exclude: &[Uid], routed: &[Routed]) {
        self.available.set(i64::try_from(available).unwrap_or(i64::MAX));
        self.routed_total.inc_by(routed.len() as u64);
        let repeated = routed.iter().filter(|routed| exclude.contains(&routed.uid)).count();
        self.repeated_total.inc_by(repeated as u64);
        self.short_total.inc_by(u64::from(routed.len() < wanted));
        self.nobody_total.inc_by(u64::from(available == 0));
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
