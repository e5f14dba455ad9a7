//! The state as a snapshot: everything countable in its head, then the numbers
//!
//! ```text
//! centre │ rows of the memory │ rows of the layer: parameters, velocity, gradient
//! ```

use std::collections::BTreeMap;

use openvalidators_messages::{Block, Hotkey, Uid, ledger::Snapshot};
use openvalidators_recovery::{SnapshotError, damaged};
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

/// Writes a state down.
///
/// # Errors
/// When the head cannot be written as JSON.
pub fn encode(state: &State) -> Result<Snapshot, serde_json::Error> {
    let head = Countable {
        since: state.since,
        coverage: state.coverage.iter().map(|(hotkey, coverage)| (*hotkey, *coverage)).collect(),
        encoder: state.encoder.clone(),
        width: state.memory.width(),
        has_centre: state.memory.is_warm(),
        steps: state.memory.steps().map(|(block, _, rewards)| (block, rewards.to_vec())).collect(),
        rows: state.head.rows().map(|(hotkey, row)| (*hotkey, row.uid, !row.gradient.is_empty())).collect(),
    };
    let memory = state.memory.centre().into_iter().chain(state.memory.steps().map(|(_, row, _)| row));
    let layer = state.head.rows().flat_map(|(_, row)| [&*row.parameters, &row.velocity, &row.gradient]);
    let bytes = openvalidators_recovery::encode(&head, memory.chain(layer).flatten())?;
    Ok(Snapshot { sequence: state.sequence, version: SNAPSHOT_VERSION, state: bytes })
}

/// Reads a state back. What another encoder has taught is left out, with a warning: who was asked, and when, stays.
///
/// # Errors
/// When another version wrote it, or the bytes are damaged.
pub fn decode(snapshot: &Snapshot, rules: &Rules) -> Result<State, SnapshotError> {
    let (head, numbers): (Countable, Vec<f32>) = openvalidators_recovery::decode(snapshot, SNAPSHOT_VERSION)?;
    if head.numbers() != Some(numbers.len()) {
        return Err(damaged(snapshot, format!("{} numbers, which are not those its head tells of", numbers.len())));
    }
    let mut numbers = numbers.into_iter();
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
