//! Exactly so many settled steps, whatever the number of lanes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use openvalidators_runtime::{Reason, Shutdown};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many steps may still be settled. When the last one is, the program is asked to finish.
pub(crate) struct Budget {
    /// Steps nobody has begun; `None` without a limit.
    free: Option<Arc<Semaphore>>,
    /// Steps not yet settled.
    left: AtomicU64,
    shutdown: Shutdown,
}

/// The right to settle one step. Dropped without being spent, somebody else may have it.
#[must_use = "a dropped ticket goes back"]
pub(crate) struct Ticket {
    permit: Option<OwnedSemaphorePermit>,
    budget: Arc<Budget>,
}

/// A spent ticket. Dropped when the step is through, also by a panic: then the budget knows.
#[must_use = "hold it until the step is settled"]
pub(crate) struct Spent(Arc<Budget>);

// === impl Budget ===

impl Budget {
    pub fn new(steps: Option<u64>, shutdown: Shutdown) -> Arc<Self> {
        // More steps than a semaphore counts (2^61) is no limit in practice.
        let steps = steps.filter(|steps| *steps <= Semaphore::MAX_PERMITS as u64);
        let free = steps.map(|steps| Arc::new(Semaphore::new(steps as usize)));
        if steps == Some(0) {
            shutdown.request(Reason::Finished);
        }
        Arc::new(Self { free, left: AtomicU64::new(steps.unwrap_or(u64::MAX)), shutdown })
    }

    /// Waits while all that is left is in the hands of others; `None` once the program is asked to stop.
    pub async fn take(self: &Arc<Self>) -> Option<Ticket> {
        let permit = match &self.free {
            None => None,
            Some(free) => tokio::select! {
                biased;
                () = self.shutdown.requested() => return None,
                permit = free.clone().acquire_owned() => Some(permit.ok()?),
            },
        };
        let stopping = self.shutdown.is_requested();
        (!stopping).then(|| Ticket { permit, budget: self.clone() })
    }
}

impl Ticket {
    /// The step is in the ledger.
    pub fn spend(self) -> Spent {
        if let Some(permit) = self.permit {
            permit.forget();
        }
        Spent(self.budget)
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        let budget = &self.0;
        if budget.free.is_some() && budget.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            budget.shutdown.request(Reason::Finished);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_ticket_is_spent_or_goes_back() {
        let shutdown = Shutdown::default();
        let budget = Budget::new(Some(2), shutdown.clone());
        let first = budget.take().await.unwrap();
        let second = budget.take().await.unwrap();
        assert!(budget.take().now_or_never().is_none(), "both are out");
        drop(first);
        let third = budget.take().await.unwrap();
        drop(third.spend());
        assert!(!shutdown.is_requested());
        drop(second.spend());
        assert_eq!(shutdown.reason(), Some(Reason::Finished));
        assert!(budget.take().await.is_none());
    }

    #[tokio::test]
    async fn nothing_to_do_is_finished_at_once_and_no_limit_never() {
        let shutdown = Shutdown::default();
        assert!(Budget::new(Some(0), shutdown.clone()).take().await.is_none());
        assert_eq!(shutdown.reason(), Some(Reason::Finished));
        let shutdown = Shutdown::default();
        let budget = Budget::new(None, shutdown.clone());
        for _ in 0..100 {
            drop(budget.take().await.unwrap().spend());
        }
        assert!(!shutdown.is_requested());
    }
}
