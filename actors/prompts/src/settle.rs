//! Settling: a gathered step becomes durable, gets its place in the order, and is folded.
//!
//! One step at a time, in all lanes together: the folds depend on their order, and the ledger gives it. Each message is
//! idempotent, so whatever goes wrong on the way (a crash, a full disk, an answer that does not come) the same message is
//! sent again, with growing pauses, a bounded number of times. A step that never reached the ledger did not happen. One
//! that did but could not be folded is folded from there by its owners, before the next.
//!
//! Outcomes are stored in the order of their steps: one the ledger refused is owed, and stored before the next step is folded.
//! Whoever folds from the ledger takes an outcome that is missing before a stored one for lost.

use std::{fmt::Display, sync::Arc, time::Duration};

use actix::Message;
use openvalidators_messages::{
    Sequence, StepOutcome, StepRecord, gating, ledger,
    rewards::{self, FoldError},
    weights,
};
use openvalidators_runtime::{Backoff, Mailbox, SharedClock, Shutdown};
use tokio::sync::Mutex;

use crate::{
    budget::Ticket,
    desks::{Desks, answer_within},
    metrics::Metrics,
};

/// Times a message is sent to a neighbour that crashes over it, before the pauses begin.
pub const CRASH_ATTEMPTS: usize = 2;
/// Pauses between attempts at one part: about two minutes in all.
pub const SETTLE_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(30), retries: 9 };

/// The part without which a step did not happen.
const APPEND: &str = "append";
const REWARDS: &str = "fold into rewards";
const WEIGHTS: &str = "fold into weights";
const GATING: &str = "fold into gating";
const OUTCOME: &str = "store the outcome";
/// Every part of settling; also the label of a metric.
pub(crate) const PARTS: [&str; 5] = [APPEND, REWARDS, WEIGHTS, GATING, OUTCOME];

/// A step that is settled.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Its place in the ledger.
    pub sequence: Sequence,
    /// What the folds made of it.
    pub outcome: Arc<StepOutcome>,
}

/// A step that could not be settled now. `appended` tells whether it happened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("could not {part} after {attempts} attempts ({reason}); the step is {}", if *appended { "in the ledger, to be folded from there" } else { "not known to be in the ledger" })]
pub struct NotSettled {
    /// Which part of settling.
    pub part: &'static str,
    /// How often it was tried.
    pub attempts: usize,
    /// What the neighbour said last.
    pub reason: String,
    /// Whether the step is in the ledger.
    pub appended: bool,
}

/// Settles steps, one at a time.
pub(crate) struct Settler {
    turn: Mutex<Owed>,
    desks: Desks,
    call_timeout: Duration,
    clock: SharedClock,
    shutdown: Shutdown,
    metrics: Metrics,
}

/// The outcome that the ledger has not taken yet. There is at most one: no step is folded before.
type Owed = Option<ledger::StoreOutcome>;

// === impl Settler ===

impl Settler {
    pub fn new(desks: Desks, call_timeout: Duration, clock: SharedClock, shutdown: Shutdown, metrics: Metrics) -> Self {
        Self { turn: Mutex::default(), desks, call_timeout, clock, shutdown, metrics }
    }

    /// Appends, folds, and stores the outcome. To be awaited to its end; once a shutdown is requested nothing is tried
    /// more than once.
    pub async fn settle(&self, record: Arc<StepRecord>, ticket: Ticket) -> Result<Settled, NotSettled> {
        let since = self.clock.now();
        let mut owed = self.turn.lock().await;
        self.metrics.observe_settle_wait(self.clock.now().saturating_sub(since));
        let append = ledger::Append { record: record.clone() };
        let sequence = self.insist(APPEND, &self.desks.append, append, |_| false).await?;
        let _spent = ticket.spend();
        self.store(&mut owed).await?;
        self.fold(sequence, record, &mut owed).await
    }

    async fn fold(&self, sequence: Sequence, record: Arc<StepRecord>, owed: &mut Owed) -> Result<Settled, NotSettled> {
        let fold = rewards::Apply { sequence, record: record.clone() };
        let outcome = self.insist(REWARDS, &self.desks.apply_rewards, fold, is_past).await?;
        *owed = Some(ledger::StoreOutcome { sequence, outcome: outcome.clone() });
        let fold = weights::Apply { sequence, record: record.clone(), outcome: outcome.clone() };
        let folded = self.insist(WEIGHTS, &self.desks.apply_weights, fold, is_past).await;
        let fold = gating::Apply { sequence, record, outcome: outcome.clone() };
        let learned = self.insist(GATING, &self.desks.apply_gating, fold, is_past).await;
        if let Ok(Some(loss)) = learned {
            let outcome = Arc::new(StepOutcome::clone(&outcome).with_gating_loss(Some(loss)));
            *owed = Some(ledger::StoreOutcome { sequence, outcome });
        }
        // Stored even if these folds failed: their owners catch up from this row.
        self.store(owed).await?;
        folded?;
        learned?;
        Ok(Settled { sequence, outcome })
    }

    async fn store(&self, owed: &mut Owed) -> Result<(), NotSettled> {
        if let Some(store) = owed.clone() {
            self.insist(OUTCOME, &self.desks.store_outcome, store, |_| false).await?;
            *owed = None;
        }
        Ok(())
    }

    /// Sends an idempotent message until it is answered well, `is_final` is true of the error, the attempts are used up,
    /// or the program is asked to stop.
    async fn insist<M, T, E>(
        &self,
        part: &'static str,
        desk: &Mailbox<M>,
        message: M,
        is_final: fn(&E) -> bool,
    ) -> Result<T, NotSettled>
    where
        M: Message<Result = Result<T, E>> + Clone + Send + 'static,
        T: Send + 'static,
        E: Display + Send + 'static,
    {
        // One step settles at a time, so the jitter has nobody to keep apart.
        let mut waits = SETTLE_BACKOFF.waits(0);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let call = desk.call_again(message.clone(), CRASH_ATTEMPTS);
            let (reason, last) = match answer_within(&*self.clock, self.call_timeout, call).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => (error.to_string(), is_final(&error)),
                Err(error) => (error.to_string(), false),
            };
            let wait = waits.next().filter(|_| !last && !self.shutdown.is_requested());
            let Some(wait) = wait else {
                return Err(NotSettled { part, attempts, reason, appended: part != APPEND });
            };
            tracing::warn!(part, attempts, reason, ?wait, "settling is stuck; trying again");
            self.metrics.count_settle_retry(part);
            tokio::select! {
                () = self.clock.sleep(wait) => {}
                () = self.shutdown.requested() => {}
            }
        }
    }
}

/// Repeating does not help: the owner is beyond this step and has forgotten its outcome.
fn is_past(error: &FoldError) -> bool {
    matches!(error, FoldError::AlreadyFolded { .. })
}

// === impl Settled ===

impl Settled {
    /// Every [`Settled::label`].
    pub const LABELS: [&str; 3] = ["best", "no_best", "unscored"];

    /// The metric label of its outcome.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match &*self.outcome {
            StepOutcome::Scored(scored) if scored.best.is_some() => "best",
            StepOutcome::Scored(_) => "no_best",
            StepOutcome::Unscored { .. } => "unscored",
        }
    }
}

#[cfg(test)]
mod tests;
