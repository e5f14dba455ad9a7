//! The metrics every inbox exports. The name of the inbox is a constant label.

use std::time::Instant;

use prometheus::{Counter, IntCounter, IntGauge, Opts, Registry};

/// One inbox's metrics.
pub(crate) struct InboxMetrics {
    /// Places taken now.
    pub depth: IntGauge,
    /// Time senders spent waiting for a place.
    pub wait_seconds: WaitSeconds,
    /// Times the actor behind it was made anew.
    pub restarts: IntCounter,
}

/// Adds up waits that really happened.
pub(crate) struct WaitSeconds(Counter);

/// Counts until dropped, so that a caller that gives up is counted too.
pub(crate) struct Waiting<'a> {
    total: &'a Counter,
    since: Instant,
}

impl InboxMetrics {
    pub fn register(name: &'static str, capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |metric: &str, help: &str| Opts::new(metric, help).const_label("inbox", name);
        let depth = IntGauge::with_opts(opts(
            "openvalidators_mailbox_depth",
            "Messages that hold a place in the inbox: queued or being handled",
        ))?;
        let places = IntGauge::with_opts(opts("openvalidators_mailbox_capacity", "Places in the inbox"))?;
        let wait_seconds = Counter::with_opts(opts(
            "openvalidators_mailbox_wait_seconds_total",
            "Time senders have waited for a place in the inbox",
        ))?;
        let restarts = IntCounter::with_opts(opts(
            "openvalidators_actor_restarts_total",
            "Times the actor behind the inbox failed and was made anew",
        ))?;
        places.set(i64::try_from(capacity).unwrap_or(i64::MAX));
        registry.register(Box::new(depth.clone()))?;
        registry.register(Box::new(places))?;
        registry.register(Box::new(wait_seconds.clone()))?;
        registry.register(Box::new(restarts.clone()))?;
        Ok(Self { depth, wait_seconds: WaitSeconds(wait_seconds), restarts })
    }
}

impl WaitSeconds {
    #[allow(clippy::disallowed_methods, reason = "measures, never decides")]
    pub fn start(&self) -> Waiting<'_> {
        Waiting { total: &self.0, since: Instant::now() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.total.inc_by(self.since.elapsed().as_secs_f64());
    }
}
