//! The local chain at work: a task that makes blocks on a timer, and the handle that talks to it.
//!
//! A transaction passes the pool's checks against the head, waits in the pool, is applied in the next block, and is
//! answered when that block is on disk. Readers see saved blocks only, so a kill takes back nothing that was answered.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use openvalidators_messages::{Block, Hotkey, Netuid, Uid, subtensor::ChainError};
use openvalidators_runtime::{Seed, SharedClock};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    calls::Call,
    config::{LocalChainConfig, LocalConfigError, Rules},
    node::{Answer, Node, Request},
    state::Subnet,
    store::{StateFile, StateFileError},
};

/// Transactions in one block, and as many that wait for the one after it; further ones are refused by the pool.
pub const POOL_TRANSACTIONS: usize = 1024;
/// Blocks made at once when the timer was held up; what is missed beyond them stays missed.
const MAX_BLOCKS_BEHIND: u32 = 16;

/// A running local chain. Clones are the same chain; it stops when the last one is dropped.
#[derive(Clone)]
pub struct LocalChain {
    rules: Arc<Rules>,
    head: watch::Receiver<Arc<Subnet>>,
    pool: mpsc::Sender<Pending>,
}

/// Why a local chain cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LocalChainError {
    /// A setting that makes no chain.
    #[error(transparent)]
    Config(#[from] LocalConfigError),
    /// Its file cannot be used.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
    /// More neurons in the file than the settings allow.
    #[error("the saved local chain has {found} neurons, chain.local.max_uids is {max_uids}: raise it")]
    TooManyNeurons {
        /// In the file.
        found: usize,
        /// In the settings.
        max_uids: u16,
    },
    /// The settings name another chain.
    #[error("chain.endpoint {0} is no local chain")]
    NotLocal(String),
}

struct Pending {
    hotkey: Hotkey,
    call: Call,
    answer: oneshot::Sender<Result<Answer, ChainError>>,
}

struct BlockMaker {
    rules: Arc<Rules>,
    seed: Seed,
    clock: SharedClock,
    period: Duration,
    /// When the next block is.
    due: Duration,
    pool: mpsc::Receiver<Pending>,
    // Before `head`: who sees that the chain has stopped may take its file at once.
    file: Option<Arc<StateFile>>,
    head: watch::Sender<Arc<Subnet>>,
}

/// Why a block is not in the file.
#[derive(Debug, thiserror::Error)]
enum Unsaved {
    #[error("{0}")]
    Failed(String),
    /// The runtime takes no more work; the block that was due is made after the next start.
    #[error("the program ends")]
    ProgramEnds,
}

// === impl LocalChain ===

impl LocalChain {
    /// Starts a chain, or goes on with the one in `state_file`. The settings may differ from those it was made with.
    /// Needs a tokio runtime. Without a file the chain lives in memory.
    ///
    /// # Errors
    /// [`LocalChainError`].
    pub fn start(
        config: &LocalChainConfig,
        netuid: Netuid,
        clock: SharedClock,
        seed: Seed,
        state_file: Option<&Path>,
    ) -> Result<Self, LocalChainError> {
        let rules = Arc::new(config.rules(netuid)?);
        let file = state_file.map(|path| StateFile::open(path, netuid)).transpose()?;
        let saved = file.as_ref().map(StateFile::load).transpose()?.flatten();
        let subnet = saved.unwrap_or_else(|| Subnet::genesis(&rules, seed));
        if subnet.members.len() > usize::from(rules.max_uids) {
            let (found, max_uids) = (subnet.members.len(), rules.max_uids);
            return Err(LocalChainError::TooManyNeurons { found, max_uids });
        }
        tracing::info!(block = subnet.block, neurons = subnet.members.len(), "the local chain runs");
        let (head, seen_head) = watch::channel(Arc::new(subnet));
        let (pool, transactions) = mpsc::channel(POOL_TRANSACTIONS);
        let period = Duration::from_secs_f64(config.block_seconds);
        let maker = BlockMaker {
            rules: rules.clone(),
            seed,
            due: clock.now() + period,
            clock,
            period,
            pool: transactions,
            file: file.map(Arc::new),
            head,
        };
        tokio::spawn(maker.run());
        Ok(Self { rules, head: seen_head, pool })
    }

    /// Waits until the chain has ended: after [`LocalChain::stop`] of the last clone, or by a fault of its own.
    pub async fn ended(&self) {
        let mut head = self.head.clone();
        while head.changed().await.is_ok() {}
    }

    /// Drops this handle and, if it was the last, waits until the chain has let go of its file.
    pub async fn stop(self) {
        let mut head = self.head.clone();
        drop(self);
        while head.changed().await.is_ok() {}
    }

    async fn next_block(&self, after: Block) -> Result<Answer, ChainError> {
        let mut head = self.head.clone();
        let known = head.borrow().block;
        if known < after.0 {
            // Blocks are saved before they are shown, so this chain never was where the asker has been.
            let reason = format!("the chain is at block {known}, the asker has seen {after}: it is another chain");
            return Err(ChainError::BadAnswer { call: "next_block".to_owned(), reason });
        }
        match head.wait_for(|subnet| subnet.block > after.0).await {
            Ok(subnet) => Ok(Answer::Block(Block(subnet.block))),
            Err(_) => Err(stopped("next_block")),
        }
    }

    fn weights(&self, uid: Uid) -> Result<Answer, ChainError> {
        let head = self.head.borrow();
        match head.members.get(usize::from(uid.0)) {
            Some(member) => Ok(Answer::Weights(member.weights.iter().map(|&(j, w)| (Uid(j), w)).collect())),
            // The chain's storage has a default for every key.
            None => Ok(Answer::Weights(Vec::new())),
        }
    }

    async fn submit(&self, hotkey: Hotkey, call: Call) -> Result<Answer, ChainError> {
        let name = call.name();
        let refused = |reason: String| ChainError::RefusedByPool { call: name.to_owned(), name: reason };
        let head = self.head.borrow().clone();
        head.admit(&self.rules, &hotkey, &call).map_err(|error| refused(format!("{error:?}")))?;
        let (answer, answered) = oneshot::channel();
        self.pool.try_send(Pending { hotkey, call, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => refused("ImmediatelyDropped".to_owned()),
            mpsc::error::TrySendError::Closed(_) => stopped(name),
        })?;
        answered.await.unwrap_or_else(|_| Err(stopped(name)))
    }
}

#[async_trait]
impl Node for LocalChain {
    async fn ask(&self, request: Request) -> Result<Answer, ChainError> {
        match request {
            Request::NextBlock { after } => self.next_block(after).await,
            Request::Metagraph => Ok(Answer::Metagraph(self.head.borrow().metagraph(&self.rules))),
            Request::Weights { uid } => self.weights(uid),
            Request::SubmitWeights { hotkey, vector } => {
                let head = self.head.borrow().clone();
                self.submit(hotkey, head.weights_call(&self.rules, vector, head.block + 1)).await
            }
            Request::Submit { hotkey, call } => self.submit(hotkey, call).await,
        }
    }

    async fn ended(&self) {
        Self::ended(self).await;
    }
}

fn stopped(call: &str) -> ChainError {
    ChainError::Unreachable { call: call.to_owned(), reason: "the local chain has stopped".to_owned() }
}

// === impl BlockMaker ===

impl BlockMaker {
    async fn run(mut self) {
        while let Some(transactions) = self.gather().await {
            self.make_block(transactions).await;
            self.due += self.period;
            if self.due + self.period * MAX_BLOCKS_BEHIND < self.clock.now() {
                self.due = self.clock.now();
            }
            tokio::task::yield_now().await;
        }
    }

    /// Collects transactions until the next block is due; `None` when every handle is gone.
    async fn gather(&mut self) -> Option<Vec<Pending>> {
        let mut transactions = Vec::new();
        let mut timer = self.clock.sleep(self.due.saturating_sub(self.clock.now()));
        loop {
            tokio::select! {
                () = &mut timer => break,
                pending = self.pool.recv(), if transactions.len() < POOL_TRANSACTIONS => transactions.push(pending?),
            }
        }
        // What was sent before the block was due is in it, whichever of the two was seen first.
        while transactions.len() < POOL_TRANSACTIONS {
            match self.pool.try_recv() {
                Ok(pending) => transactions.push(pending),
                Err(_) => break,
            }
        }
        Some(transactions)
    }

    /// Makes a block, saves it, and only then shows it. A block that cannot be saved did not happen: its transactions are
    /// answered as unreachable, and the timer tries again.
    async fn make_block(&self, transactions: Vec<Pending>) {
        let mut subnet = Subnet::clone(&self.head.borrow());
        let (calls, askers): (Vec<_>, Vec<_>) =
            transactions.into_iter().map(|pending| ((pending.hotkey, pending.call), pending.answer)).unzip();
        let answers = subnet.next_block(&self.rules, self.seed, &calls);
        let block = Block(subnet.block);
        let subnet = Arc::new(subnet);
        let saved = self.save(subnet.clone()).await;
        match &saved {
            Ok(()) => drop(self.head.send_replace(subnet)),
            Err(Unsaved::ProgramEnds) => tracing::debug!(%block, "the local chain ends before this block"),
            Err(error) => tracing::error!(%block, %error, "the local chain stands still: its block was not saved"),
        }
        for (((_, call), asker), answer) in calls.iter().zip(askers).zip(answers) {
            let call = call.name().to_owned();
            let answer = match (&saved, answer) {
                (Err(error), _) => {
                    Err(ChainError::Unreachable { call, reason: format!("block {block} was not saved: {error}") })
                }
                (Ok(()), Ok(applied)) => Ok(Answer::Included { block, applied }),
                (Ok(()), Err(error)) => Err(ChainError::FailedInBlock { call, block, name: format!("{error:?}") }),
            };
            // A caller that gave up is not told.
            let _ = asker.send(answer);
        }
    }

    async fn save(&self, subnet: Arc<Subnet>) -> Result<(), Unsaved> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let saving = tokio::task::spawn_blocking(move || file.save(&subnet));
        match saving.await {
            Ok(result) => result.map_err(|error| Unsaved::Failed(error.to_string())),
            Err(ended) if ended.is_cancelled() => Err(Unsaved::ProgramEnds),
            Err(error) => Err(Unsaved::Failed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
