//! The neighbours of a forward, each behind its mailbox.

use std::{future::Future, time::Duration};

use openvalidators_messages::{dendrite, gating, ledger, prompts, rewards, weights};
use openvalidators_runtime::{CallError, Clock, Mailbox, TooLate, within};

/// Whom a forward turns to, in this order for every step but the first line, which is once for a forward.
#[derive(Clone, Debug)]
pub struct Desks {
    /// A text for a new forward: `actors/prompts`.
    pub draw: Mailbox<prompts::Draw>,
    /// The choice of miners: `actors/gating`.
    pub route: Mailbox<gating::Route>,
    /// Their completions: `actors/dendrite`.
    pub query: Mailbox<dendrite::Query>,
    /// Raw scores: `actors/rewards`.
    pub score: Mailbox<rewards::Score>,
    /// Durability and a place in the order: `actors/ledger`.
    pub append: Mailbox<ledger::Append>,
    /// The fold into normaliser and history: `actors/rewards`.
    pub apply_rewards: Mailbox<rewards::Apply>,
    /// The fold into the moving averages: `actors/weights`.
    pub apply_weights: Mailbox<weights::Apply>,
    /// The fold into what the router has learned: `actors/gating`.
    pub apply_gating: Mailbox<gating::Apply>,
    /// The derived row: `actors/ledger`.
    pub store_outcome: Mailbox<ledger::StoreOutcome>,
}

/// A neighbour that gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoAnswer {
    /// It is closed, or it failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It took too long. A message that changes state may still take effect.
    #[error(transparent)]
    TooLate(#[from] TooLate),
}

/// Waits for an answer, but not longer than `limit`.
pub(crate) async fn answer_within<T>(
    clock: &dyn Clock,
    limit: Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, NoAnswer> {
    Ok(within(clock, limit, call).await??)
}
