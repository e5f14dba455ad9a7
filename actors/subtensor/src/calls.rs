//! The chain with deadlines, retries of what may be repeated, and counters.

use std::{sync::Arc, time::Duration};

use openvalidators_messages::{
    Axon, Block, Metagraph, Uid,
    subtensor::{ChainError, RevealWeights, SetWeights, Submission},
};
use openvalidators_runtime::{Seed, SharedClock};
use rand::RngCore;

use crate::{
    chain::{Chain, with_deadline},
    config::ChainConfig,
    metrics::Metrics,
};

/// The one way the validator calls its chain. Clones are the same chain.
#[derive(Clone)]
pub struct ChainCalls {
    chain: Arc<dyn Chain>,
    clock: SharedClock,
    config: Arc<ChainConfig>,
    metrics: Metrics,
    /// Only for the jitter of waits.
    seed: Seed,
}

// === impl ChainCalls ===

impl ChainCalls {
    /// Puts the operator's deadlines around a chain.
    #[must_use]
    pub fn new(chain: Arc<dyn Chain>, clock: SharedClock, config: &ChainConfig, metrics: Metrics, seed: Seed) -> Self {
        Self { chain, clock, config: Arc::new(config.clone()), metrics, seed }
    }

    /// The subnet at the head; tried again when the chain cannot be reached.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        let metagraph = self.read("metagraph", || self.chain.metagraph()).await?;
        self.metrics.read_metagraph();
        Ok(metagraph)
    }

    /// Compares our clock with the newest block's, for the metrics; one attempt.
    ///
    /// # Errors
    /// The chain's, or `Unreachable` when it does not answer in time.
    pub async fn compare_clocks(&self) -> Result<(), ChainError> {
        let answer = with_deadline(&*self.clock, self.config.read_timeout(), "time", self.chain.time()).await;
        self.metrics.called("time", &answer);
        if let Some(of_block) = answer? {
            self.metrics.told_time(self.clock.unix(), of_block);
        }
        Ok(())
    }

    /// A row of stored weights; tried again when the chain cannot be reached.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn weights_of(&self, uid: Uid) -> Result<Vec<(Uid, u16)>, ChainError> {
        self.read("weights", || self.chain.weights_of(uid)).await
    }

    /// Waits for a block after this one; one attempt.
    ///
    /// # Errors
    /// The chain's, or `Unreachable` when no block comes in time.
    pub async fn next_block(&self, after: Block) -> Result<Block, ChainError> {
        let limit = self.config.block_timeout();
        let answer = with_deadline(&*self.clock, limit, "next_block", self.chain.next_block(after)).await;
        self.metrics.called("next_block", &answer);
        if let Ok(block) = answer {
            self.metrics.saw_block(block.0);
        }
        answer
    }

    /// Submits weights once: whether to try again is for whoever knows what the chain's state says.
    ///
    /// # Errors
    /// The chain's, or `Unreachable` when it does not answer in time.
    pub async fn submit_weights(&self, weights: &SetWeights) -> Result<Submission, ChainError> {
        let limit = self.config.submit_timeout();
        let call = self.chain.submit_weights(weights);
        let answer = with_deadline(&*self.clock, limit, "submit_weights", call).await;
        self.metrics.called("submit_weights", &answer);
        self.metrics.submitted(&answer);
        answer
    }

    /// Reveals weights once: what became of it, the chain's weights tell.
    ///
    /// # Errors
    /// The chain's, or `Unreachable` when it does not answer in time.
    pub async fn reveal_weights(&self, said: &RevealWeights) -> Result<Block, ChainError> {
        let limit = self.config.submit_timeout();
        let answer = with_deadline(&*self.clock, limit, "reveal_weights", self.chain.reveal_weights(said)).await;
        self.metrics.called("reveal_weights", &answer);
        answer
    }

    /// Advertises where we listen; one attempt.
    ///
    /// # Errors
    /// The chain's, or `Unreachable` when it does not answer in time.
    pub async fn serve_axon(&self, axon: Axon) -> Result<Block, ChainError> {
        let limit = self.config.submit_timeout();
        let answer = with_deadline(&*self.clock, limit, "serve_axon", self.chain.serve_axon(axon)).await;
        self.metrics.called("serve_axon", &answer);
        answer
    }

    async fn read<T, F>(&self, call: &'static str, ask: impl Fn() -> F) -> Result<T, ChainError>
    where
        F: Future<Output = Result<T, ChainError>>,
    {
        let retries = self.config.read_attempts.saturating_sub(1);
        let mut waits = self.waits(call, retries);
        loop {
            let answer = with_deadline(&*self.clock, self.config.read_timeout(), call, ask()).await;
            self.metrics.called(call, &answer);
            match (answer, waits.next()) {
                (Err(error @ ChainError::Unreachable { .. }), Some(wait)) => {
                    tracing::debug!(%error, wait_seconds = wait.as_secs_f64(), "reading again");
                    self.clock.sleep(wait).await;
                }
                (answer, _) => return answer,
            }
        }
    }

    /// Waits that grow, for `retries` failures in a row.
    pub(crate) fn waits(&self, purpose: &str, retries: usize) -> impl Iterator<Item = Duration> + use<> {
        let now = u64::try_from(self.clock.now().as_millis()).unwrap_or(u64::MAX);
        self.config.backoff(retries).waits(self.seed.rng(purpose, &[now]).next_u64())
    }

    /// The wait after more failures than that.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.config.backoff(0).longest
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }
}
