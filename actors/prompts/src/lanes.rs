//! Lanes: forwards side by side, one after the other in each, until the program stops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openvalidators_messages::{ForwardId, Metagraph};
use openvalidators_runtime::{Seed, SharedClock, Shutdown};
use tokio::{sync::watch, task::JoinSet};
use tracing::Instrument;

use crate::{
    budget::Budget,
    config::Settings,
    desks::Desks,
    forward::{EarlyReason, ForwardEnd, Report, forward},
    metrics::Metrics,
    settle::Settler,
};

/// What all forwards share.
pub struct Lanes {
    pub(crate) desks: Desks,
    pub(crate) settings: Settings,
    pub(crate) seed: Seed,
    pub(crate) clock: SharedClock,
    pub(crate) shutdown: Shutdown,
    pub(crate) metagraph: watch::Receiver<Arc<Metagraph>>,
    pub(crate) metrics: Metrics,
    pub(crate) settler: Settler,
    pub(crate) budget: Arc<Budget>,
}

// === impl Lanes ===

impl Lanes {
    /// Starts nothing yet. With a step budget of 0 the shutdown is requested here.
    #[must_use]
    pub fn new(
        desks: Desks,
        settings: Settings,
        seed: Seed,
        clock: SharedClock,
        shutdown: Shutdown,
        metagraph: watch::Receiver<Arc<Metagraph>>,
        metrics: Metrics,
    ) -> Arc<Self> {
        let settler =
            Settler::new(desks.clone(), settings.call_timeout, clock.clone(), shutdown.clone(), metrics.clone());
        let budget = Budget::new(settings.steps, shutdown.clone());
        Arc::new(Self { desks, settings, seed, clock, shutdown, metagraph, metrics, settler, budget })
    }

    /// Runs until a shutdown is requested, by others or because the step budget is spent, and every lane has come to
    /// rest: a step being gathered is given up, one being settled is settled. `next` is the first id no step in the ledger
    /// has. Dropping the future aborts the forwards.
    pub async fn run(self: Arc<Self>, next: ForwardId) {
        let next = AtomicU64::new(next.0);
        let lanes = (0..self.settings.concurrent_forwards).map(|lane| self.lane(lane, &next));
        futures::future::join_all(lanes).await;
    }

    async fn lane(self: &Arc<Self>, lane: usize, next: &AtomicU64) {
        let mut fruitless = 0;
        while !self.shutdown.is_requested() {
            let id = ForwardId(next.fetch_add(1, Ordering::Relaxed));
            let report = self.run_one(id).await;
            fruitless = if report.is_some_and(|report| report.with_best > 0) { 0 } else { fruitless + 1 };
            if fruitless > 0 {
                self.pause(lane, fruitless).await;
            }
        }
    }

    /// A forward in a task of its own, so that a panic ends that forward and nothing else. `None` after a panic.
    async fn run_one(self: &Arc<Self>, id: ForwardId) -> Option<Report> {
        let lanes = self.clone();
        let span = tracing::info_span!("forward", %id);
        // A set of one: the task ends with the lane that waits for it.
        let mut task = JoinSet::new();
        task.spawn(async move { forward(&lanes, id).await }.instrument(span));
        let report = match task.join_next().await? {
            Ok(report) => report,
            Err(error) => {
                tracing::error!(forward = %id, %error, "a forward panicked; the lane goes on with the next");
                self.metrics.count_forward("panicked");
                return None;
            }
        };
        self.metrics.count_forward(report.end.label());
        match &report.end {
            ForwardEnd::Complete => tracing::info!(forward = %id, settled = report.settled, "forward complete"),
            ForwardEnd::Early { reason: EarlyReason::Stopping, .. } => {
                tracing::info!(forward = %id, settled = report.settled, "forward cut: stopping");
            }
            ForwardEnd::Early { step, reason } => {
                tracing::warn!(forward = %id, settled = report.settled, %step, %reason, "forward ended early");
            }
        }
        Some(report)
    }

    /// Lets the others come to themselves: nothing was gained since `fruitless` forwards.
    async fn pause(&self, lane: usize, fruitless: usize) {
        let backoff = self.settings.pause;
        let waits = backoff.waits(self.seed.0 ^ lane as u64);
        let wait = waits.take(fruitless).last().unwrap_or(Duration::ZERO);
        tracing::debug!(lane, fruitless, ?wait, "pausing");
        tokio::select! {
            () = self.clock.sleep(wait) => {}
            () = self.shutdown.requested() => {}
        }
    }
}

#[cfg(test)]
mod tests;
