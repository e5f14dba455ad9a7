//! Following the ledger by cursor: how everything that reports reads what happened, at its own pace.
//!
//! The ledger pushes nothing. A follower that is slow reads later; one that is dead reads after its restart, from the
//! cursor the ledger kept for it. A step never waits for either.

use std::{future::Future, num::NonZeroUsize, time::Duration};

use futures::future::select;
use openvalidators_messages::{
    Sequence,
    ledger::{LedgerError, LoadCursor, ReadSteps, SaveCursor, StoredStep},
};
use openvalidators_runtime::{Backoff, BoxError, CallError, Mailbox, Pulse, SharedClock, fault_point};
use tokio::sync::watch;

/// How long the newest steps may lack an outcome before they are passed on without one. The fold follows the append
/// within milliseconds; only a crash between the two leaves a step without.
const OUTCOME_PATIENCE: Duration = Duration::from_secs(60);
/// Waits after errors of the ledger or of the follower; the follower goes on trying for ever.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(15), retries: usize::MAX };

/// The doors of the ledger that a reader needs.
#[derive(Clone, Debug)]
pub struct LedgerReader {
    /// Reads steps.
    pub read_steps: Mailbox<ReadSteps>,
    /// Tells how far a reader had come.
    pub load_cursor: Mailbox<LoadCursor>,
    /// Keeps how far a reader has come.
    pub save_cursor: Mailbox<SaveCursor>,
}

/// Something that wants every step once, in order.
pub trait Follower {
    /// Says where to start, given the cursor the ledger kept: for a follower that knows better what it has.
    fn resume(
        &mut self,
        cursor: Sequence,
        ledger: &LedgerReader,
    ) -> impl Future<Output = Result<Sequence, BoxError>> + Send {
        let _ = ledger;
        async move { Ok(cursor) }
    }

    /// Takes the next steps, as durably as it needs them: after `Ok` the cursor moves past them for good. After an
    /// error the same steps come again, perhaps with more behind them.
    fn take(&mut self, steps: &[StoredStep]) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Hears of an error (`Some`) and of the first success after it (`None`).
    fn troubled(&mut self, error: Option<&TailError>) {
        let _ = error;
    }
}

/// Follows the ledger for one reader.
#[derive(Clone)]
pub struct Tail {
    /// The name its cursor is kept under.
    pub reader: &'static str,
    /// Where steps come from.
    pub ledger: LedgerReader,
    /// For pauses and deadlines.
    pub clock: SharedClock,
    /// Pause when there is nothing new.
    pub poll: Duration,
    /// Beats with each turn.
    pub pulse: Pulse,
    /// Steps read at a time.
    pub batch_steps: NonZeroUsize,
    /// How long the drain after a stop may take.
    pub drain: Duration,
}

/// Why no step could be passed on.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The ledger actor did not answer.
    #[error("could not {attempted}: {source}")]
    Unanswered {
        /// The operation.
        attempted: &'static str,
        /// What became of the message.
        source: CallError,
    },
    /// The ledger answered with an error.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The follower could not take the steps.
    #[error("{reader} could not take step {first}: {source}")]
    Follower {
        /// Whose cursor.
        reader: &'static str,
        /// The first of the steps offered.
        first: Sequence,
        /// What it said.
        source: BoxError,
    },
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// A full batch was read: there may be more.
    More,
    /// Nothing is left, or what is left has no outcome yet.
    CaughtUp,
}

/// Where a run is.
#[derive(Debug, Default)]
struct Position {
    /// The latest step the follower has.
    after: Sequence,
    /// Whether the ledger does not know that yet.
    unsaved: bool,
    /// The first step seen without an outcome, and when it was seen first.
    unsettled: Option<(Sequence, Duration)>,
}

// === impl Tail ===

impl Tail {
    /// Passes steps on until `stop` turns true, then drains what is left, for [`Tail::drain`] at most.
    pub async fn follow(&self, follower: &mut impl Follower, mut stop: watch::Receiver<bool>) {
        let mut position = None;
        let mut waits = BACKOFF.waits(0);
        let mut troubled = false;
        while !*stop.borrow() {
            self.pulse.beat();
            fault_point(self.reader, "follow");
            let pause = match self.advance(&mut position, follower).await {
                Ok(turn) => {
                    if std::mem::take(&mut troubled) {
                        tracing::info!(reader = self.reader, "follows the ledger again");
                        follower.troubled(None);
                        waits = BACKOFF.waits(0);
                    }
                    if turn == Turn::More { Duration::ZERO } else { self.poll }
                }
                Err(error) => {
                    let pause = waits.next().unwrap_or(BACKOFF.longest);
                    tracing::warn!(reader = self.reader, %error, retry_in = ?pause, "cannot follow the ledger");
                    troubled = true;
                    follower.troubled(Some(&error));
                    pause
                }
            };
            self.pause(pause, &mut stop).await;
        }
        let deadline = self.clock.now() + self.drain;
        while self.clock.now() < deadline {
            match self.advance(&mut position, follower).await {
                Ok(Turn::More) => {}
                Ok(Turn::CaughtUp) => return,
                Err(error) => {
                    tracing::warn!(reader = self.reader, %error, "the next start reports the rest");
                    return;
                }
            }
        }
        tracing::warn!(reader = self.reader, "the drain took too long; the next start reports the rest");
    }

    /// One turn, finding the place to start first if that is not known.
    async fn advance(&self, position: &mut Option<Position>, follower: &mut impl Follower) -> Result<Turn, TailError> {
        if position.is_none() {
            let cursor =
                answered("load a cursor", self.ledger.load_cursor.call(LoadCursor { reader: self.reader }).await)?;
            let resumed = follower.resume(cursor, &self.ledger).await;
            let after = resumed.map_err(|source| TailError::Follower { reader: self.reader, first: cursor, source })?;
            *position = Some(Position { after, unsaved: after != cursor, unsettled: None });
        }
        let position = position.get_or_insert_default();
        self.turn(position, follower).await
    }

    async fn turn(&self, position: &mut Position, follower: &mut impl Follower) -> Result<Turn, TailError> {
        let limit = self.batch_steps.get();
        let read = self.ledger.read_steps.call(ReadSteps { after: position.after, limit }).await;
        let steps = answered("read steps", read)?;
        let settled = self.settled(position, &steps);
        if let [first, ..] = &steps[..settled]
            && let Some(last) = steps[..settled].last()
        {
            let taken = follower.take(&steps[..settled]).await;
            taken.map_err(|source| TailError::Follower { reader: self.reader, first: first.sequence, source })?;
            position.after = last.sequence;
            position.unsaved = true;
        }
        if position.unsaved {
            let cursor = SaveCursor { reader: self.reader, sequence: position.after };
            answered("save a cursor", self.ledger.save_cursor.call(cursor).await)?;
            position.unsaved = false;
        }
        Ok(if settled == limit { Turn::More } else { Turn::CaughtUp })
    }

    /// How many of the steps can be passed on: up to the last that has an outcome (one before it that has none will not
    /// get one any more), or all, when the newest have waited long enough.
    fn settled(&self, position: &mut Position, steps: &[StoredStep]) -> usize {
        let settled = steps.iter().rposition(|step| step.outcome.is_some()).map_or(0, |last| last + 1);
        let Some(waiting) = steps.get(settled) else {
            position.unsettled = None;
            return settled;
        };
        let now = self.clock.now();
        match position.unsettled {
            Some((sequence, since)) if sequence == waiting.sequence => {
                if now.saturating_sub(since) < OUTCOME_PATIENCE {
                    settled
                } else {
                    steps.len()
                }
            }
            _ => {
                position.unsettled = Some((waiting.sequence, now));
                settled
            }
        }
    }

    async fn pause(&self, pause: Duration, stop: &mut watch::Receiver<bool>) {
        if pause.is_zero() {
            tokio::task::yield_now().await;
            return;
        }
        let stopped = async {
            if stop.wait_for(|stop| *stop).await.is_err() {
                // Whoever could stop us is gone: only the clock paces us now.
                std::future::pending::<()>().await;
            }
        };
        select(self.clock.sleep(pause), std::pin::pin!(stopped)).await;
    }
}

fn answered<T>(attempted: &'static str, answer: Result<Result<T, LedgerError>, CallError>) -> Result<T, TailError> {
    Ok(answer.map_err(|source| TailError::Unanswered { attempted, source })??)
}

#[cfg(test)]
mod tests;
