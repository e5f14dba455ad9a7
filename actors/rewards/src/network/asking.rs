//! The way to miners who judge.

use std::sync::Arc;

use async_trait::async_trait;
use openvalidators_messages::{Completion, Hotkey, Metagraph, dendrite::Query, gating::Routed};
use openvalidators_runtime::{CallError, Mailbox, Seed};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::past::Past;

/// Completions that are before their judges at once, over all forwards: so many places of the dendrite's inbox, which has
/// more than these and one for each forward, so that no forward waits for judges to be asked.
const CASES_AT_ONCE: usize = 32;

/// Takes a query to miners and brings their answers: the dendrite, or the miners of a benchmark.
#[async_trait(?Send)]
pub trait Asks: Send + Sync {
    /// One answer for each miner, in their order.
    ///
    /// # Errors
    /// When nobody took the query.
    async fn ask(&self, query: Query) -> Result<Vec<Completion>, CallError>;
}

/// Whom to ask, how, and what was spent on it. Clones share the budget: make it once, outside the actor's factory.
#[derive(Clone)]
pub struct Network {
    miners: Arc<dyn Asks>,
    metagraph: watch::Receiver<Arc<Metagraph>>,
    seed: Seed,
    quote: fn(&str) -> String,
    spent: Arc<Mutex<Spent>>,
    at_once: Arc<Semaphore>,
}

/// Queries in one epoch.
#[derive(Debug, Default)]
struct Spent {
    epoch: u64,
    queries: u64,
}

// === impl Network ===

impl Network {
    /// Through the dendrite's mailbox, to miners of this subnet. `quote` makes a miner's text harmless in what another one reads.
    #[must_use]
    pub fn new(
        miners: impl Asks + 'static,
        metagraph: watch::Receiver<Arc<Metagraph>>,
        seed: Seed,
        quote: fn(&str) -> String,
    ) -> Self {
        let at_once = Arc::new(Semaphore::new(CASES_AT_ONCE));
        let miners = Arc::new(miners);
        Self { miners, metagraph, seed, quote, spent: Arc::default(), at_once }
    }

    pub(super) async fn ask(&self, query: Query) -> Result<Vec<Completion>, CallError> {
        // The semaphore is never closed: without a place the query goes out all the same.
        let _place = self.at_once.acquire().await.ok();
        self.miners.ask(query).await
    }

    pub(crate) fn seed(&self) -> Seed {
        self.seed
    }

    pub(super) fn quote(&self, text: &str) -> String {
        (self.quote)(text)
    }

    /// Those of these hotkeys that serve an axon now.
    pub(super) fn serving(&self, hotkeys: &[Hotkey]) -> Vec<Routed> {
        let metagraph = self.metagraph.borrow();
        let routed = |hotkey: &Hotkey| {
            let neuron = metagraph.neuron(metagraph.uid_of(hotkey)?)?;
            Some(Routed {
                uid: neuron.uid,
                hotkey: *hotkey,
                axon: neuron.axon?,
                propensity: 1.0,
                uniform_propensity: None,
            })
        };
        hotkeys.iter().filter_map(routed).collect()
    }

    /// Counts what was asked in the epoch that runs, as far as the ledger knows: a process that begins anew does not have
    /// its budget anew. What this process has spent already is not counted twice.
    pub(crate) fn resume(&self, past: &Past) {
        let metagraph = self.metagraph.borrow();
        let queries = past.queries_within(metagraph.last_epoch_block, metagraph.block);
        self.spent.lock().resume(metagraph.epoch_index, queries);
    }

    /// Takes so many queries from the budget of the epoch that runs, or none.
    pub(crate) fn spend(&self, queries: u64, per_epoch: u64) -> bool {
        let epoch = self.metagraph.borrow().epoch_index;
        self.spent.lock().spend(epoch, queries, per_epoch)
    }
}

#[async_trait(?Send)]
impl Asks for Mailbox<Query> {
    async fn ask(&self, query: Query) -> Result<Vec<Completion>, CallError> {
        self.call(query).await
    }
}

// === impl Spent ===

impl Spent {
    fn resume(&mut self, epoch: u64, queries: u64) {
        let known = if epoch == self.epoch { self.queries } else { 0 };
        *self = Self { epoch, queries: known.max(queries) };
    }

    fn spend(&mut self, epoch: u64, queries: u64, per_epoch: u64) -> bool {
        if epoch != self.epoch {
            *self = Self { epoch, queries: 0 };
        }
        let affordable = self.queries.saturating_add(queries) <= per_epoch;
        self.queries += if affordable { queries } else { 0 };
        affordable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_its_budget_and_the_next_one_again() {
        let mut spent = Spent::default();
        assert!(spent.spend(3, 4, 10) && spent.spend(3, 4, 10));
        assert!(!spent.spend(3, 4, 10), "4 of the 2 that are left");
        assert!(spent.spend(3, 2, 10));
        assert!(spent.spend(4, 4, 10));
        spent.resume(4, 3);
        assert!(!spent.spend(4, 7, 10), "4 were spent, and are no fewer for what the ledger knows");
        spent.resume(4, 9);
        assert!(!spent.spend(4, 2, 10) && spent.spend(4, 1, 10));
    }
}
