//! The state as a snapshot: the scalars in its head, then the rows of the history, oldest first.

use std::{collections::BTreeMap, sync::Arc};

use openvalidators_messages::{StepOutcome, ledger::Snapshot};
use openvalidators_recovery::{SnapshotError, damaged};
use serde::{Deserialize, Serialize};

use crate::{
    fold::{Rules, State},
    followers::Followers,
    history::History,
    kin::Kin,
    network::Past,
    normaliser::Normaliser,
    normalisers::Normalisers,
    phrases::Phrases,
    robust::Robust,
};

/// Raised when the format changes, or what a fold makes of a record: an older snapshot is then folded anew.
pub const SNAPSHOT_VERSION: u16 = 3;

#[derive(Serialize, Deserialize)]
struct Head {
    latest: Option<Arc<StepOutcome>>,
    normalisers: BTreeMap<String, Normaliser>,
    robust: BTreeMap<String, Robust>,
    shadow_normalisers: BTreeMap<String, Normalisers>,
    digests: BTreeMap<String, String>,
    history_model: String,
    phrases: Phrases,
    followers: Followers,
    kin: Kin,
    judges: Past,
    history_width: usize,
    history_rows: usize,
}

/// Writes a state down.
///
/// # Errors
/// When the head cannot be written as JSON.
pub fn encode(state: &State) -> Result<Snapshot, serde_json::Error> {
    let head = Head {
        latest: state.latest.as_deref().map(unmeasured).map(Arc::new),
        normalisers: state.normalisers.running.clone(),
        robust: state.normalisers.robust.clone(),
        shadow_normalisers: state.shadow_normalisers.clone(),
        digests: state.digests.clone(),
        history_model: state.history_model.clone(),
        phrases: state.phrases.clone(),
        followers: state.followers.clone(),
        judges: state.judges.clone(),
        kin: state.kin.clone(),
        history_width: state.history.width(),
        history_rows: state.history.len(),
    };
    let bytes = openvalidators_recovery::encode(&head, state.history.runs().into_iter().flatten())?;
    Ok(Snapshot { sequence: state.sequence, version: SNAPSHOT_VERSION, state: bytes })
}

/// Without the time that candidates took: whoever folds the same steps again keeps the same state, to the bit.
fn unmeasured(outcome: &StepOutcome) -> StepOutcome {
    let mut outcome = outcome.clone();
    if let StepOutcome::Scored(scored) = &mut outcome {
        scored.shadows.iter_mut().for_each(|standing| standing.seconds = None);
    }
    outcome
}

/// Reads a state back; a history longer than the rules allow loses its oldest rows.
///
/// # Errors
/// When another version wrote it, or the bytes are damaged.
pub fn decode(snapshot: &Snapshot, rules: &Rules) -> Result<State, SnapshotError> {
    let (head, rows): (Head, Vec<f32>) = openvalidators_recovery::decode(snapshot, SNAPSHOT_VERSION)?;
    if head.history_width.checked_mul(head.history_rows) != Some(rows.len()) {
        let Head { history_rows, history_width, .. } = head;
        return Err(damaged(snapshot, format!("{} numbers for {history_rows} rows of {history_width}", rows.len())));
    }
    Ok(State {
        sequence: snapshot.sequence,
        latest: head.latest,
        normalisers: Normalisers { running: head.normalisers, robust: head.robust },
        shadow_normalisers: head.shadow_normalisers,
        history: History::from_rows(head.history_width, &rows, rules.history_rows()),
        history_model: head.history_model,
        phrases: head.phrases,
        followers: head.followers,
        judges: head.judges,
        kin: head.kin,
        digests: head.digests,
    })
}
