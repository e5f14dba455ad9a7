//! What a new life reads from the ledger before it takes messages, and how a gap is filled later.

use openvalidators_messages::{
    Sequence,
    gating::Apply,
    ledger::{LoadSnapshot, ReadSteps, SaveSnapshot, StoredStep},
    rewards::FoldError,
};
use openvalidators_recovery::{ReadError, load_snapshot, read_between, read_page};
use openvalidators_runtime::{Mailbox, on_worker};

use crate::{
    metrics::Metrics,
    snapshot::decode,
    state::{Rules, State},
};

/// The owner's name in the ledger.
pub const OWNER: &str = "gating";

/// Steps in one read of the ledger.
const PAGE_STEPS: usize = 32;

/// The ways into the ledger.
#[derive(Clone)]
pub struct Ledger {
    /// Reads the state of an earlier life.
    pub load_snapshot: Mailbox<LoadSnapshot>,
    /// Keeps the state for a later one.
    pub save_snapshot: Mailbox<SaveSnapshot>,
    /// Reads steps.
    pub read_steps: Mailbox<ReadSteps>,
}

/// Snapshot and fold of what follows it. A snapshot that cannot be read is no obstacle: the steps are folded anew, as far
/// back as the ledger goes.
pub(crate) async fn recover(ledger: &Ledger, rules: &Rules, metrics: &Metrics) -> Result<State, ReadError> {
    let snapshot = load_snapshot(&ledger.load_snapshot, OWNER).await?;
    let rules = rules.clone();
    let (mut state, rules) = on_worker(move || {
        let state = snapshot.map(|snapshot| decode(&snapshot, &rules)).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "what routing has learned is made anew from all steps the ledger still has");
            None
        });
        (state.unwrap_or_else(|| State::new(&rules.encoder)), rules)
    })
    .await;
    let resumed = state.sequence();
    let mut after = resumed;
    loop {
        let page = read_page(&ledger.read_steps, after, PAGE_STEPS).await?;
        let Some(last) = page.last() else { break };
        after = last.sequence;
        let (steps, of_fold) = (settled(page, metrics), rules.clone());
        state = on_worker(move || {
            for Apply { sequence, record, outcome } in steps {
                state.fold(&of_fold, sequence, &record, &outcome);
            }
            state
        })
        .await;
    }
    let replayed = state.sequence().0.saturating_sub(resumed.0);
    tracing::info!(snapshot = %resumed, replayed, hotkeys = state.coverage().len(), "routing is up to date");
    Ok(state)
}

/// Every settled step between `applied` and `asked`, neither included.
pub(crate) async fn read_gap(
    read_steps: &Mailbox<ReadSteps>,
    applied: Sequence,
    asked: Sequence,
    metrics: &Metrics,
) -> Result<Vec<Apply>, FoldError> {
    Ok(settled(read_between(read_steps, applied, asked, PAGE_STEPS).await?, metrics))
}

/// The steps that have an outcome. One without will get it later, from rewards, when this owner has passed it: routing learns
/// from thousands and goes on without one.
fn settled(page: Vec<StoredStep>, metrics: &Metrics) -> Vec<Apply> {
    let step = |StoredStep { sequence, record, outcome }| match outcome {
        Some(outcome) => Some(Apply { sequence, record, outcome }),
        None => {
            tracing::warn!(step = %sequence, "it has no outcome yet; routing goes on without it");
            metrics.left_out_total.inc();
            None
        }
    };
    page.into_iter().filter_map(step).collect()
}
