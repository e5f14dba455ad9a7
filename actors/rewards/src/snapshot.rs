//! The state as bytes: a JSON head with the scalars, then the history as little-endian f32, oldest row first.
//!
//! ```text
//! length of the head, u64 little-endian │ head │ rows × width × f32
//! ```

use std::{collections::BTreeMap, sync::Arc};

use openvalidators_messages::{StepOutcome, ledger::Snapshot};
use serde::{Deserialize, Serialize};

use crate::{
    fold::{Rules, State},
    history::History,
    normaliser::Normaliser,
};

/// Raised when the format changes, or what a fold makes of a record: an older snapshot is then folded anew.
pub const SNAPSHOT_VERSION: u16 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    latest: Option<Arc<StepOutcome>>,
    normalisers: BTreeMap<String, Normaliser>,
    digests: BTreeMap<String, String>,
    history_model: String,
    history_width: usize,
    history_rows: usize,
}

/// A snapshot that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Another program wrote it.
    #[error("the snapshot has version {found}; this program reads version {SNAPSHOT_VERSION}")]
    OtherVersion {
        /// The version found.
        found: u16,
    },
    /// The bytes are not what the head promises.
    #[error("the snapshot of {bytes} bytes is damaged: {reason}")]
    Damaged {
        /// Its size.
        bytes: usize,
        /// What was found.
        reason: String,
    },
}

/// Writes a state down.
///
/// # Errors
/// When the head cannot be written as JSON.
pub fn encode(state: &State) -> Result<Snapshot, serde_json::Error> {
    let head = serde_json::to_vec(&Head {
        latest: state.latest.clone(),
        normalisers: state.normalisers.clone(),
        digests: state.digests.clone(),
        history_model: state.history_model.clone(),
        history_width: state.history.width(),
        history_rows: state.history.len(),
    })?;
    let mut bytes = Vec::with_capacity(8 + head.len() + 4 * state.history.len() * state.history.width());
    bytes.extend_from_slice(&(head.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&head);
    for value in state.history.runs().into_iter().flatten() {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    Ok(Snapshot { sequence: state.sequence, version: SNAPSHOT_VERSION, state: bytes })
}

/// Reads a state back; a history longer than the rules allow loses its oldest rows.
///
/// # Errors
/// When another version wrote it, or the bytes are damaged.
pub fn decode(snapshot: &Snapshot, rules: &Rules) -> Result<State, SnapshotError> {
    if snapshot.version != SNAPSHOT_VERSION {
        return Err(SnapshotError::OtherVersion { found: snapshot.version });
    }
    let bytes = snapshot.state.as_slice();
    let damaged = |reason: String| SnapshotError::Damaged { bytes: bytes.len(), reason };
    let (length, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("it has no head".to_owned()))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|error| damaged(error.to_string()))?;
    let (head, rows) = rest.split_at_checked(length).ok_or_else(|| damaged(format!("its head has {length} bytes")))?;
    let head: Head = serde_json::from_slice(head).map_err(|error| damaged(error.to_string()))?;
    let (rows, surplus) = rows.as_chunks::<4>();
    if !surplus.is_empty() || head.history_width.checked_mul(head.history_rows) != Some(rows.len()) {
        let Head { history_rows, history_width, .. } = head;
        return Err(damaged(format!("{} numbers for {history_rows} rows of {history_width}", rows.len())));
    }
    let rows: Vec<f32> = rows.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Ok(State {
        sequence: snapshot.sequence,
        latest: head.latest,
        normalisers: head.normalisers,
        history: History::from_rows(head.history_width, &rows, rules.history_rows()),
        history_model: head.history_model,
        digests: head.digests,
    })
}
