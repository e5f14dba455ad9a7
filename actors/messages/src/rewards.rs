//! Inbox of `actors/rewards`: raw scores, and their fold into final rewards.

use std::{collections::BTreeMap, sync::Arc};

use actix::Message;

use crate::{Completion, RawScores, Sequence, StepId, StepName, StepOutcome, StepRecord};

/// Computes raw scores. Touches no state, so any number run at once and a caller may give up at any time.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<ScoreSheet, Unscored>")]
pub struct Score {
    /// Which step: random choices are drawn from it.
    pub step: StepId,
    /// What was asked for.
    pub name: StepName,
    /// The prompt as sent.
    pub prompt: Arc<str>,
    /// The text the prompt was made about; for augment the prompt itself.
    pub base_text: Arc<str>,
    /// Questions and answers already used in this forward: repeating one earns nothing.
    pub used: Arc<[String]>,
    /// The replies.
    pub completions: Arc<[Completion]>,
}

/// Raw scores and what they were made with.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreSheet {
    /// The numbers.
    pub raw: RawScores,
    /// sha256 of each model and tokenizer file that took part, by name.
    pub digests: BTreeMap<String, String>,
}

/// The step could not be scored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unscored: {reason}")]
pub struct Unscored {
    /// Why.
    pub reason: String,
}

/// Folds a durable step into the normaliser and the diversity history and says what it came to. Steps come in the order
/// of their sequence; one that was folded already changes nothing and, if it is the latest, gets the same answer.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Arc<StepOutcome>, FoldError>")]
pub struct Apply {
    /// Its place in the ledger.
    pub sequence: Sequence,
    /// What was appended there.
    pub record: Arc<StepRecord>,
}

/// A fold that could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// Older than what the owner has folded, and no longer remembered.
    #[error("step {asked} was folded already; the state is at {applied}")]
    AlreadyFolded {
        /// The step offered.
        asked: Sequence,
        /// Where the state is.
        applied: Sequence,
    },
    /// Steps between were not offered and could not be read from the ledger.
    #[error("step {asked} does not follow {applied}, and the ledger could not fill the gap: {reason}")]
    Gap {
        /// The step offered.
        asked: Sequence,
        /// Where the state is.
        applied: Sequence,
        /// What the ledger said.
        reason: String,
    },
}
