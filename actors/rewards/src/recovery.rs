//! The way back to the present: snapshot, then the steps the ledger holds after it. The same code fills a gap that the
//! actor finds while it runs.

use std::sync::Arc;

use openvalidators_messages::{
    Sequence, StepOutcome, StepRecord,
    ledger::{LedgerError, LoadSnapshot, ReadSteps, SaveSnapshot, Snapshot, StoreOutcome, StoredStep},
};
use openvalidators_runtime::{CallError, Mailbox};

use crate::{
    fold::{Rules, State},
    snapshot::decode,
    worker::on_worker,
};

/// The owner's name of the snapshots.
pub const OWNER: &str = "rewards";

/// Steps read at once: with 50 embeddings of width 384 in each, some 10 MB.
const PAGE_STEPS: usize = 32;

/// How often a message is sent to a ledger that crashes on it.
const ATTEMPTS: usize = 3;

/// The ways into the ledger.
#[derive(Clone)]
pub struct Ledger {
    /// Reads the state of an earlier life.
    pub load_snapshot: Mailbox<LoadSnapshot>,
    /// Keeps the state for a later one.
    pub save_snapshot: Mailbox<SaveSnapshot>,
    /// Reads steps.
    pub read_steps: Mailbox<ReadSteps>,
    /// Keeps outcomes.
    pub store_outcome: Mailbox<StoreOutcome>,
}

/// The state could not be brought to the present.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The ledger did not answer.
    #[error("recovering the state of rewards: {0}")]
    Call(#[from] CallError),
    /// The ledger said no.
    #[error("recovering the state of rewards: {0}")]
    Ledger(#[from] LedgerError),
    /// Steps are missing that the state has not seen.
    #[error(
        "recovering the state of rewards: after step {after} the ledger holds step {found}; steps between are lost"
    )]
    Gap {
        /// The state's latest step.
        after: Sequence,
        /// The next one found.
        found: Sequence,
    },
}

impl Ledger {
    /// The state after the latest step of the ledger, and the step of the snapshot it began with. Outcomes that are
    /// missing in the ledger are stored.
    ///
    /// A snapshot that cannot be read is no obstacle: the steps are folded anew, as far back as the ledger goes.
    ///
    /// # Errors
    /// When the ledger does not answer, or lost steps.
    pub async fn recover(&self, rules: &Arc<Rules>) -> Result<(State, Sequence), RecoveryError> {
        let snapshot = self.load_snapshot.call_again(LoadSnapshot { owner: OWNER }, ATTEMPTS).await??;
        let mut state = self.resume(snapshot, rules).await?;
        let resumed = state.sequence;
        self.catch_up(&mut state, rules, None).await?;
        let replayed = state.sequence.0.saturating_sub(resumed.0);
        tracing::info!(snapshot = %resumed, replayed, history = state.history.len(), "rewards are up to date");
        Ok((state, resumed))
    }

    /// Folds what the ledger holds after the state, up to and including `until`.
    ///
    /// # Errors
    /// As [`Ledger::recover`]. The state is that of the last step folded then.
    pub async fn catch_up(
        &self,
        state: &mut State,
        rules: &Arc<Rules>,
        until: Option<Sequence>,
    ) -> Result<(), RecoveryError> {
        loop {
            let left = until.map_or(u64::MAX, |until| until.0.saturating_sub(state.sequence.0));
            let limit = PAGE_STEPS.min(usize::try_from(left).unwrap_or(usize::MAX));
            if limit == 0 {
                return Ok(());
            }
            let read = ReadSteps { after: state.sequence, limit };
            let page = self.read_steps.call_again(read, ATTEMPTS).await??;
            if page.is_empty() {
                return Ok(());
            }
            let steps = page.iter().map(|stored| (stored.sequence, Arc::clone(&stored.record))).collect::<Vec<_>>();
            check_dense(state.sequence, &steps)?;
            let outcomes = fold_on_worker(state, rules, steps).await;
            for (stored, outcome) in page.iter().zip(&outcomes) {
                self.reconcile(stored, outcome).await?;
            }
            // What was told to the world stays true, even if other settings would make another outcome of it today.
            if let Some(told) = page.last().and_then(|stored| stored.outcome.clone()) {
                state.latest = Some(told);
            }
        }
    }

    async fn resume(&self, snapshot: Option<Snapshot>, rules: &Arc<Rules>) -> Result<State, RecoveryError> {
        let Some(snapshot) = snapshot else { return Ok(State::default()) };
        let rules = Arc::clone(rules);
        let state = match on_worker(move || decode(&snapshot, &rules)).await {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(%error, "folding the steps of the ledger anew instead");
                return Ok(State::default());
            }
        };
        // The process may have ended between the snapshot and the storing of its latest outcome.
        if let (Some(latest), Some(before)) = (&state.latest, state.sequence.0.checked_sub(1)) {
            let read = ReadSteps { after: Sequence(before), limit: 1 };
            let page = self.read_steps.call_again(read, ATTEMPTS).await??;
            if let Some(stored) = page.first().filter(|stored| stored.sequence == state.sequence) {
                self.reconcile(stored, latest).await?;
            }
        }
        Ok(state)
    }

    async fn reconcile(&self, stored: &StoredStep, outcome: &Arc<StepOutcome>) -> Result<(), RecoveryError> {
        match &stored.outcome {
            None => {
                let store = StoreOutcome { sequence: stored.sequence, outcome: Arc::clone(outcome) };
                self.store_outcome.call_again(store, ATTEMPTS).await??;
            }
            Some(told) if told != outcome => {
                tracing::warn!(step = %stored.sequence, "folded under other settings than today's; its outcome stays");
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Folds steps one after the other, off the actor's thread: comparing 50 embeddings with 15,000 takes milliseconds.
pub async fn fold_on_worker(
    state: &mut State,
    rules: &Arc<Rules>,
    steps: Vec<(Sequence, Arc<StepRecord>)>,
) -> Vec<Arc<StepOutcome>> {
    let (mut working, rules) = (std::mem::take(state), Arc::clone(rules));
    let (folded, outcomes) = on_worker(move || {
        let fold = |(sequence, record): (Sequence, Arc<StepRecord>)| working.fold(&rules, sequence, &record);
        let outcomes = steps.into_iter().map(fold).collect();
        (working, outcomes)
    })
    .await;
    *state = folded;
    outcomes
}

/// A fresh state may begin anywhere, for old steps are pruned; after that none may be missing.
fn check_dense(after: Sequence, steps: &[(Sequence, Arc<StepRecord>)]) -> Result<(), RecoveryError> {
    let mut expected = match (after, steps.first()) {
        (Sequence(0), Some((first, _))) => *first,
        _ => after.next(),
    };
    for (found, _) in steps {
        if *found != expected {
            return Err(RecoveryError::Gap { after: Sequence(expected.0 - 1), found: *found });
        }
        expected = expected.next();
    }
    Ok(())
}
