//! Inbox of `actors/weights`: moving-average scores.

use std::sync::Arc;

use actix::Message;
use serde::{Deserialize, Serialize};

use crate::{Hotkey, Sequence, StepOutcome, StepRecord, rewards::FoldError};

/// Folds the rewards of a settled step into the moving averages. Idempotent by sequence, like [`crate::rewards::Apply`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), FoldError>")]
pub struct Apply {
    /// Its place in the ledger.
    pub sequence: Sequence,
    /// What was appended there.
    pub record: Arc<StepRecord>,
    /// What `actors/rewards` made of it.
    pub outcome: Arc<StepOutcome>,
}

/// Asks for every score, best first.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "ScoreTable")]
pub struct ReadScores;

/// The moving averages after a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoreTable {
    /// The latest step in it.
    pub sequence: Sequence,
    /// Best first.
    pub rows: Vec<ScoreRow>,
}

/// One hotkey's standing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// Whose.
    pub hotkey: Hotkey,
    /// Exponential moving average of its rewards.
    pub score: f64,
    /// Steps in which it was asked.
    pub asked: u64,
    /// Steps in which it answered.
    pub answered: u64,
    /// Steps in which its reward was above 0.
    pub rewarded: u64,
    /// Wall clock of the latest scored step that it answered, seconds since 1970; 0 before the first.
    pub scored_at: f64,
}
