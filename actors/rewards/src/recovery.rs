//! The way back to the present: snapshot, then the steps the ledger holds after it. The same code fills a gap that the
//! actor finds while it runs.

use std::{collections::BTreeMap, sync::Arc};

use openvalidators_messages::{
    Sequence, StepOutcome, StepRecord,
    ledger::{LoadSnapshot, ReadSteps, SaveSnapshot, Snapshot, StoreOutcome, StoredStep},
};
use openvalidators_recovery::{READ_ATTEMPTS, ReadError, load_snapshot, read_page};
use openvalidators_runtime::{Mailbox, SharedClock, on_worker};

use crate::{
    fold::{Rules, State},
    snapshot::decode,
};

/// The owner's name of the snapshots.
pub const OWNER: &str = "rewards";

/// Steps read at once: with 50 embeddings of width 384 in each, some 10 MB.
const PAGE_STEPS: usize = 32;

/// Outcomes remembered for a ledger that may not hold them: some 50 MB.
const UNSTORED_LIMIT_STEPS: usize = 10_000;

/// Outcomes of this life that no saved snapshot contains. A snapshot is the last that anybody hears of them, so none is
/// saved before the ledger holds them all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unstored(BTreeMap<Sequence, Arc<StepOutcome>>);

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
    /// The ledger did not answer, or said no.
    #[error("recovering the state of rewards: {0}")]
    Ledger(#[from] ReadError),
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
    /// An outcome that neither the ledger nor memory holds; a restart makes it anew from the snapshot before it.
    #[error("the outcome of step {0} is not in the ledger, and more than {UNSTORED_LIMIT_STEPS} are waiting for it")]
    Forgotten(Sequence),
}

// === impl Unstored ===

impl Unstored {
    /// Remembers an outcome; when too many wait, it is left to a restart.
    pub(crate) fn remember(&mut self, sequence: Sequence, outcome: Arc<StepOutcome>) {
        if self.0.len() < UNSTORED_LIMIT_STEPS {
            self.0.insert(sequence, outcome);
        }
    }

    /// Forgets what a saved snapshot contains.
    pub(crate) fn forget_until(&mut self, saved: Sequence) {
        self.0.retain(|sequence, _| *sequence > saved);
    }
}

// === impl Ledger ===

impl Ledger {
    /// The state after the latest step of the ledger, and the step of the snapshot it began with. Outcomes that are
    /// missing in the ledger are stored.
    ///
    /// A snapshot that cannot be read is no obstacle: the steps are folded anew, as far back as the ledger goes.
    ///
    /// # Errors
    /// When the ledger does not answer, or lost steps.
    pub async fn recover(&self, rules: &Arc<Rules>) -> Result<(State, Sequence), RecoveryError> {
        let snapshot = load_snapshot(&self.load_snapshot, OWNER).await?;
        let mut state = self.resume(snapshot, rules).await?;
        let resumed = state.sequence;
        self.catch_up(&mut state, rules, None, &mut Unstored::default()).await?;
        let replayed = state.sequence.0.saturating_sub(resumed.0);
        tracing::info!(snapshot = %resumed, replayed, history = state.history.len(), "rewards are up to date");
        Ok((state, resumed))
    }

    /// Folds what the ledger holds after the state, up to and including `until`, and stores missing outcomes.
    ///
    /// # Errors
    /// As [`Ledger::recover`]. The state is that of the last step folded then; outcomes that were not stored are left in
    /// `unstored`.
    pub(crate) async fn catch_up(
        &self,
        state: &mut State,
        rules: &Arc<Rules>,
        until: Option<Sequence>,
        unstored: &mut Unstored,
    ) -> Result<(), RecoveryError> {
        loop {
            let left = until.map_or(u64::MAX, |until| until.0.saturating_sub(state.sequence.0));
            let limit = PAGE_STEPS.min(usize::try_from(left).unwrap_or(usize::MAX));
            if limit == 0 {
                return Ok(());
            }
            let page = read_page(&self.read_steps, state.sequence, limit).await?;
            if page.is_empty() {
                return Ok(());
            }
            let steps = page.iter().map(|stored| (stored.sequence, Arc::clone(&stored.record))).collect::<Vec<_>>();
            check_dense(state.sequence, &steps)?;
            let outcomes = fold_on_worker(state, rules, steps, None).await;
            for (stored, outcome) in page.iter().zip(&outcomes) {
                unstored.remember(stored.sequence, Arc::clone(outcome));
            }
            for (stored, outcome) in page.iter().zip(&outcomes) {
                self.reconcile(stored, outcome).await?;
                unstored.0.remove(&stored.sequence);
            }
            // What was told to the world stays true, even if other settings would make another outcome of it today.
            if let Some(told) = page.last().and_then(|stored| stored.outcome.clone()) {
                state.latest = Some(told);
            }
        }
    }

    /// Stores every outcome up to and including `until` that the ledger lacks. Steps it does not hold (pruned ones) need none.
    ///
    /// # Errors
    /// When the ledger does not answer or refuses, or an outcome is not remembered either.
    pub(crate) async fn store_missing(&self, unstored: &Unstored, until: Sequence) -> Result<(), RecoveryError> {
        let Some((first, _)) = unstored.0.first_key_value() else { return Ok(()) };
        let mut after = Sequence(first.0.saturating_sub(1));
        while after < until {
            let left = usize::try_from(until.0 - after.0).unwrap_or(usize::MAX);
            let page = read_page(&self.read_steps, after, PAGE_STEPS.min(left)).await?;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            for stored in page.iter().filter(|stored| stored.outcome.is_none() && stored.sequence <= until) {
                let outcome = unstored.0.get(&stored.sequence).ok_or(RecoveryError::Forgotten(stored.sequence))?;
                self.reconcile(stored, outcome).await?;
            }
        }
        Ok(())
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
            let page = read_page(&self.read_steps, Sequence(before), 1).await?;
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
                let stored = self.store_outcome.call_again(store, READ_ATTEMPTS).await.map_err(ReadError::from)?;
                stored.map_err(ReadError::from)?;
            }
            Some(told) if !told.agrees_with(outcome) => {
                tracing::warn!(step = %stored.sequence, "folded under other settings than today's; its outcome stays");
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Folds steps one after the other, off the actor's thread: comparing 50 embeddings with 15,000 takes milliseconds. With a
/// clock, what candidates cost is measured.
pub async fn fold_on_worker(
    state: &mut State,
    rules: &Arc<Rules>,
    steps: Vec<(Sequence, Arc<StepRecord>)>,
    clock: Option<SharedClock>,
) -> Vec<Arc<StepOutcome>> {
    let (mut working, rules) = (std::mem::take(state), Arc::clone(rules));
    let (folded, outcomes) = on_worker(move || {
        let fold = |(sequence, record): (Sequence, Arc<StepRecord>)| {
            working.fold_timed(&rules, sequence, &record, clock.as_deref())
        };
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
