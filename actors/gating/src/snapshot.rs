//! The state as bytes: a JSON head with everything countable, then rows of numbers as little-endian f32.
//!
//! ```text
//! length of the head, u64 little-endian │ head │ centre │ rows of the memory │ rows of the layer: parameters, velocity, gradient
//! ```

use std::collections::BTreeMap;

use openvalidators_messages::{Block, Hotkey, Uid, ledger::Snapshot};
use serde::{Deserialize, Serialize};

use crate::{
    forecast::Memory,
    head::{Head, Row},
    state::{Coverage, Rules, State},
};

/// Raised when the format changes, or what a fold makes of a record: an older snapshot is then folded anew.
pub const SNAPSHOT_VERSION: u16 = 1;

#[derive(Serialize, Deserialize)]
struct Countable {
    since: Option<Block>,
    coverage: Vec<(Hotkey, Coverage)>,
    encoder: String,
    width: usize,
    has_centre: bool,
    /// Block and rewards of each step remembered.
    steps: Vec<(Block, Vec<(Hotkey, f32)>)>,
    /// Who has a row in the layer, and whether it has a gradient.
    rows: Vec<(Hotkey, Uid, bool)>,
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
    let head = serde_json::to_vec(&Countable {
        since: state.since,
        coverage: state.coverage.iter().map(|(hotkey, coverage)| (*hotkey, *coverage)).collect(),
        encoder: state.encoder.clone(),
        width: state.memory.width(),
        has_centre: state.memory.is_warm(),
        steps: state.memory.steps().map(|(block, _, rewards)| (block, rewards.to_vec())).collect(),
        rows: state.head.rows().map(|(hotkey, row)| (*hotkey, row.uid, !row.gradient.is_empty())).collect(),
    })?;
    let memory = state.memory.centre().into_iter().chain(state.memory.steps().map(|(_, row, _)| row));
    let layer = state.head.rows().flat_map(|(_, row)| [&*row.parameters, &row.velocity, &row.gradient]);
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&head);
    bytes.extend(memory.chain(layer).flatten().flat_map(|value| value.to_le_bytes()));
    Ok(Snapshot { sequence: state.sequence, version: SNAPSHOT_VERSION, state: bytes })
}

/// Reads a state back. What another encoder has taught is left out, with a warning: who was asked, and when, stays.
///
/// # Errors
/// When another version wrote it, or the bytes are damaged.
pub fn decode(snapshot: &Snapshot, rules: &Rules) -> Result<State, SnapshotError> {
    if snapshot.version != SNAPSHOT_VERSION {
        return Err(SnapshotError::OtherVersion { found: snapshot.version });
    }
    let bytes = snapshot.state.as_slice();
    let damaged = |reason: &str| SnapshotError::Damaged { bytes: bytes.len(), reason: reason.to_owned() };
    let (length, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("it has no head"))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|error| damaged(&error.to_string()))?;
    let (head, numbers) = rest.split_at_checked(length).ok_or_else(|| damaged("its head is cut off"))?;
    let head: Countable = serde_json::from_slice(head).map_err(|error| damaged(&error.to_string()))?;
    let (numbers, surplus) = numbers.as_chunks::<4>();
    let mut numbers = numbers.iter().map(|&bytes| f32::from_le_bytes(bytes));
    if !surplus.is_empty() || head.numbers() != Some(numbers.len()) {
        return Err(damaged(&format!("{} numbers, which are not those its head tells of", numbers.len())));
    }
    let mut take = |count: usize| numbers.by_ref().take(count).collect::<Vec<f32>>();
    let width = head.width;
    let centre = head.has_centre.then(|| take(width));
    let steps: Vec<_> = head.steps.into_iter().map(|(block, rewards)| (block, take(width), rewards)).collect();
    let row = |(hotkey, uid, has_gradient)| {
        let (parameters, velocity) = (take(width + 1), take(width + 1));
        (hotkey, Row { uid, parameters, velocity, gradient: if has_gradient { take(width + 1) } else { Vec::new() } })
    };
    let rows: BTreeMap<Hotkey, Row> = head.rows.into_iter().map(row).collect();
    let mut state = State {
        sequence: snapshot.sequence,
        since: head.since,
        coverage: head.coverage.into_iter().collect(),
        ..State::new(&rules.encoder)
    };
    if head.encoder == rules.encoder {
        state.head = Head::from_rows(width, rows);
        state.memory = Memory::restore(width, centre, steps.into_iter());
    } else {
        tracing::warn!(
            was = head.encoder,
            now = rules.encoder,
            "prompts are read by another encoder than the one that taught this state: head and forecasts begin anew"
        );
    }
    Ok(state)
}

impl Countable {
    /// How many numbers follow; none when they could not be counted.
    fn numbers(&self) -> Option<usize> {
        let with_gradient = self.rows.iter().filter(|(.., gradient)| *gradient).count();
        let of_memory = self.width.checked_mul(self.steps.len().checked_add(usize::from(self.has_centre))?)?;
        let in_layer = self.rows.len().checked_mul(2)?.checked_add(with_gradient)?;
        of_memory.checked_add(self.width.checked_add(1)?.checked_mul(in_layer)?)
    }
}
