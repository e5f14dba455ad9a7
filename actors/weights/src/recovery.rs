//! What a new life reads from the ledger before it takes messages, and how a gap is filled later.

use openvalidators_messages::{
    Sequence,
    ledger::{ReadIntents, ReadSteps, StoredStep},
    rewards::FoldError,
    weights::Apply,
};
use openvalidators_recovery::{READ_ATTEMPTS, ReadError, load_snapshot, read_between, read_page};
use openvalidators_runtime::Mailbox;

use crate::{
    Metrics, Neighbours,
    actor::OWNER,
    duty::Attempt,
    scores::{FoldRules, Scores},
    submission::ATTEMPTS_KEPT,
};

/// Steps in one read of the ledger.
const READ_STEPS: usize = 256;

/// Steps read that have no outcome, in order.
#[derive(Default)]
struct Unsettled(Vec<Sequence>);

/// Snapshot and fold of what follows it, as far as outcomes are stored: the latest steps without one are folded when `Apply`
/// brings them. One that lies before a stored outcome is left out: rewards have passed it and will not bring it again.
pub(crate) async fn recover_scores(
    neighbours: &Neighbours,
    rules: FoldRules,
    metrics: &Metrics,
) -> Result<Scores, ReadError> {
    let snapshot = load_snapshot(&neighbours.load_snapshot, OWNER).await?;
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
        let steps = read_page(&neighbours.read_steps, after, READ_STEPS).await?;
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
pub(crate) async fn recover_attempts(neighbours: &Neighbours) -> Result<Vec<Attempt>, ReadError> {
    let read = ReadIntents { limit: ATTEMPTS_KEPT };
    let intents = neighbours.read_intents.call_again(read, READ_ATTEMPTS).await??;
    Ok(intents.into_iter().map(Attempt::from).collect())
}

/// Every settled step between `applied` and `asked`, neither included; as in [`recover_scores`] without those that lie before
/// a stored outcome and have none.
pub(crate) async fn read_gap(
    read_steps: &Mailbox<ReadSteps>,
    applied: Sequence,
    asked: Sequence,
    metrics: &Metrics,
) -> Result<Vec<Apply>, FoldError> {
    let gap = |reason: String| FoldError::Gap { asked, applied, reason };
    let mut found: Vec<Apply> = Vec::new();
    let mut unsettled = Unsettled::default();
    let mut expected = applied.next();
    for StoredStep { sequence, record, outcome } in read_between(read_steps, applied, asked, READ_STEPS).await? {
        if sequence != expected {
            break;
        }
        expected = sequence.next();
        match outcome {
            Some(outcome) => {
                unsettled.leave_out(sequence, metrics);
                found.push(Apply { sequence, record, outcome });
            }
            None => unsettled.0.push(sequence),
        }
    }
    match unsettled.0.first() {
        _ if expected != asked => Err(gap(format!("step {expected} is not in it"))),
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
