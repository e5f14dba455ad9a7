//! What a new life reads from the ledger before it takes messages, and how a gap is filled later.

use openvalidators_messages::{
    Sequence,
    ledger::{LedgerError, LoadSnapshot, ReadIntents, ReadSteps, StoredStep},
    rewards::FoldError,
    weights::Apply,
};
use openvalidators_runtime::{CallError, Mailbox};

use crate::{
    Metrics, Neighbours,
    actor::OWNER,
    duty::Attempt,
    scores::{FoldRules, Scores},
    submission::ATTEMPTS_KEPT,
};

/// Steps in one read of the ledger.
const READ_STEPS: usize = 256;

/// The largest gap that is filled while a sender waits.
const GAP_LIMIT_STEPS: u64 = 10_000;

/// A read is sent again so often when the ledger dies under it.
const READ_ATTEMPTS: usize = 3;

/// The state could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The ledger refused.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger could not be asked.
    #[error("the ledger could not be asked: {0}")]
    Call(#[from] CallError),
}

/// Steps read that have no outcome, in order.
#[derive(Default)]
struct Unsettled(Vec<Sequence>);

/// Snapshot and fold of what follows it, as far as outcomes are stored: the latest steps without one are folded when `Apply`
/// brings them. One that lies before a stored outcome is left out: rewards have passed it and will not bring it again.
pub(crate) async fn recover_scores(
    neighbours: &Neighbours,
    rules: FoldRules,
    metrics: &Metrics,
) -> Result<Scores, RecoverError> {
    let snapshot = neighbours.load_snapshot.call_again(LoadSnapshot { owner: OWNER }, READ_ATTEMPTS).await??;
    let mut scores = match snapshot.as_ref().map(Scores::restore) {
        Some(Ok(scores)) => scores,
        Some(Err(error)) => {
            tracing::warn!(%error, "the scores are made anew from all steps the ledger still has");
            Scores::default()
        }
        None => Scores::default(),
    };
    let mut unsettled = Unsettled::default();
    let mut after = scores.sequence();
    loop {
        let read = ReadSteps { after, limit: READ_STEPS };
        let steps = neighbours.read_steps.call_again(read, READ_ATTEMPTS).await??;
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return Ok(scores) };
        if first.sequence > after.next() {
            tracing::warn!(%after, first = %first.sequence, "steps between were pruned; the scores go on without them");
            scores.skip_to(Sequence(first.sequence.0 - 1));
        }
        after = last.sequence;
        for step in &steps {
            let Some(outcome) = &step.outcome else {
                unsettled.0.push(step.sequence);
                continue;
            };
            unsettled.leave_out(step.sequence, metrics);
            scores.fold(step.sequence, &step.record, outcome, rules);
        }
    }
}

/// The latest intents, latest first.
pub(crate) async fn recover_attempts(neighbours: &Neighbours) -> Result<Vec<Attempt>, RecoverError> {
    let read = ReadIntents { limit: ATTEMPTS_KEPT };
    let intents = neighbours.read_intents.call_again(read, READ_ATTEMPTS).await??;
    Ok(intents.into_iter().map(Attempt::from).collect())
}

/// Every settled step between `applied` and `asked`, neither included; as in [`recover_scores`] without those that lie before
/// a stored outcome and have none.
pub(crate) async fn read_gap(
    read_steps: Mailbox<ReadSteps>,
    applied: Sequence,
    asked: Sequence,
    metrics: &Metrics,
) -> Result<Vec<Apply>, FoldError> {
    let gap = |reason: String| FoldError::Gap { asked, applied, reason };
    if asked.0 - applied.0 > GAP_LIMIT_STEPS {
        return Err(gap(format!("it is longer than {GAP_LIMIT_STEPS} steps; restart to fold it")));
    }
    let mut found: Vec<Apply> = Vec::new();
    let mut unsettled = Unsettled::default();
    let mut after = applied;
    while after.next() < asked {
        let limit = READ_STEPS.min((asked.0 - after.0 - 1) as usize);
        let steps = read_steps
            .call_again(ReadSteps { after, limit }, READ_ATTEMPTS)
            .await
            .map_err(|error| gap(error.to_string()))?
            .map_err(|error| gap(error.to_string()))?;
        if steps.is_empty() {
            return Err(gap(format!("step {} is not in it", after.next())));
        }
        for StoredStep { sequence, record, outcome } in steps {
            let expected = after.next();
            if sequence != expected {
                return Err(gap(format!("step {expected} is not in it")));
            }
            after = sequence;
            match outcome {
                Some(outcome) => {
                    unsettled.leave_out(sequence, metrics);
                    found.push(Apply { sequence, record, outcome });
                }
                None => unsettled.0.push(sequence),
            }
        }
    }
    match unsettled.0.first() {
        Some(sequence) => Err(gap(format!("step {sequence} has no outcome yet"))),
        None => Ok(found),
    }
}

impl Unsettled {
    /// The step at `settled` has an outcome: rewards, which fold in order, have passed all of these. Waiting for them would
    /// be waiting for ever.
    fn leave_out(&mut self, settled: Sequence, metrics: &Metrics) {
        for step in self.0.drain(..) {
            tracing::error!(%step, %settled, "the outcome of a step was never stored; the scores go on without it");
            metrics.left_out.inc();
        }
    }
}
