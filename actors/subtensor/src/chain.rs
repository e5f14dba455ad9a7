//! What a validator needs of a chain.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use openvalidators_messages::{
    Axon, Block, Metagraph, Uid,
    subtensor::{ChainError, RevealWeights, SetWeights, Submission},
};
use openvalidators_runtime::{Clock, TooLate, within};

/// A chain, seen by one hotkey: who submits is part of the connection, not of each call.
///
/// Every method may be dropped at any time; a transaction that was sent may then still be included. No method retries,
/// and none has a deadline of its own: both are the caller's ([`with_deadline`]). The four ways of failing are those of
/// [`ChainError`]: refused by the pool, in a block but failed, unreachable, bad answer.
#[async_trait]
pub trait Chain: Send + Sync {
    /// Waits for a block after this one and returns the newest. Blocks may be skipped; none comes twice.
    async fn next_block(&self, after: Block) -> Result<Block, ChainError>;

    /// The subnet at the head, everything read at that one block.
    async fn metagraph(&self) -> Result<Metagraph, ChainError>;

    /// Puts weights on the chain by the subnet's rule, directly or as a commit, and waits for their block. Success means
    /// that the transaction succeeded in that block; a commit can still fail at its reveal, and only
    /// [`Chain::weights_of`] shows it.
    async fn submit_weights(&self, weights: &SetWeights) -> Result<Submission, ChainError>;

    /// Reveals weights that were committed as a hash, in the reveal epoch, and waits for the block that stores them. A chain
    /// that opens commits itself has none to be revealed.
    async fn reveal_weights(&self, _: &RevealWeights) -> Result<Block, ChainError> {
        Err(ChainError::RefusedByPool { call: "reveal_weights".to_owned(), name: "CommitNotFound".to_owned() })
    }

    /// A row of weights as the chain stores it at the head, the largest 65535; empty when none were set.
    async fn weights_of(&self, uid: Uid) -> Result<Vec<(Uid, u16)>, ChainError>;

    /// When the newest block was made by its author's clock, since 1970; `None` from a chain that keeps no time.
    async fn time(&self) -> Result<Option<Duration>, ChainError> {
        Ok(None)
    }

    /// Advertises where this hotkey listens; returns the block that holds it.
    async fn serve_axon(&self, axon: Axon) -> Result<Block, ChainError>;
}

/// Gives a call a deadline by the given clock.
///
/// # Errors
/// The call's own, or [`ChainError::Unreachable`] when the deadline comes first: the call is dropped, and what it sent
/// may still take effect.
pub async fn with_deadline<T>(
    clock: &dyn Clock,
    limit: Duration,
    call: &str,
    answer: impl Future<Output = Result<T, ChainError>>,
) -> Result<T, ChainError> {
    let late = |late: TooLate| ChainError::Unreachable { call: call.to_owned(), reason: late.to_string() };
    within(clock, limit, answer).await.map_err(late)?
}
