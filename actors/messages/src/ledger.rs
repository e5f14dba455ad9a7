//! Inbox of `actors/ledger`: what happened, in order, exactly once. An answer means the bytes are durable.

use std::sync::Arc;

use actix::Message;
use serde::{Deserialize, Serialize};

use crate::{Block, Hotkey, IntentId, Sequence, StepOutcome, StepRecord, Uid};

/// Appends a step. Appending the same step id again gives the sequence it already has.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Sequence, LedgerError>")]
pub struct Append {
    /// What happened.
    pub record: Arc<StepRecord>,
}

/// Stores what the folds made of a step: a derived row, overwritten freely.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), LedgerError>")]
pub struct StoreOutcome {
    /// Which step.
    pub sequence: Sequence,
    /// Its outcome.
    pub outcome: Arc<StepOutcome>,
}

/// Reads steps in order.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Vec<StoredStep>, LedgerError>")]
pub struct ReadSteps {
    /// The first one read is the one after this.
    pub after: Sequence,
    /// At most so many.
    pub limit: usize,
}

/// A step as it lies in the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredStep {
    /// Its place.
    pub sequence: Sequence,
    /// The input.
    pub record: Arc<StepRecord>,
    /// The derived row; `None` between append and fold.
    pub outcome: Option<Arc<StepOutcome>>,
}

/// Keeps an owner's state, replacing its earlier snapshot.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), LedgerError>")]
pub struct SaveSnapshot {
    /// Whose state.
    pub owner: &'static str,
    /// The state itself.
    pub snapshot: Snapshot,
}

/// Asks for an owner's state.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Option<Snapshot>, LedgerError>")]
pub struct LoadSnapshot {
    /// Whose.
    pub owner: &'static str,
}

/// An owner's state after some step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The latest step folded into it.
    pub sequence: Sequence,
    /// The owner's format.
    pub version: u16,
    /// The owner's bytes.
    pub state: Vec<u8>,
}

/// Records that weights are about to be submitted, before they are.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<IntentId, LedgerError>")]
pub struct RecordIntent {
    /// What is about to be submitted.
    pub intent: WeightIntent,
}

/// Records how an intent ended, or how far it has come.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), LedgerError>")]
pub struct SettleIntent {
    /// Which.
    pub id: IntentId,
    /// Its state now.
    pub settlement: Settlement,
}

/// Reads intents, latest first.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Vec<StoredIntent>, LedgerError>")]
pub struct ReadIntents {
    /// At most so many.
    pub limit: usize,
}

/// An intent as it lies in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredIntent {
    /// Its place.
    pub id: IntentId,
    /// What was to be submitted.
    pub intent: WeightIntent,
    /// How far it has come.
    pub settlement: Settlement,
}

/// A weight vector about to be submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightIntent {
    /// The metagraph it was made from.
    pub block: Block,
    /// The epoch that was running.
    pub epoch_index: u64,
    /// The scores it was made from.
    pub after_step: Sequence,
    /// Places, ascending.
    pub uids: Vec<Uid>,
    /// Who held them at `block`; if one of them changes before submission the intent is superseded.
    pub hotkeys: Vec<Hotkey>,
    /// The vector as sent, its largest value 65535.
    pub weights: Vec<u16>,
    /// The version key sent along.
    pub version_key: u64,
    /// What reveals the vector if it is committed as a hash: written down before the commit, or a restart could not reveal it.
    /// `None` where the chain opens commits itself, or takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<Vec<u16>>,
    /// What the vector was made from, so that it can be made again; `None` in intents of releases that did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<WeightBasis>,
}

/// Everything a weight vector is a function of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightBasis {
    /// Whom the validator would pay, before the subnet's rules.
    pub paid: Paid,
    /// Neurons on the subnet.
    pub neurons: usize,
    /// Fewest uids a vector may name.
    pub min_allowed: usize,
    /// Largest share of one uid, in 0..=1.
    pub max_share: f64,
    /// Shares below this quantile of the positive ones are dropped, in 0..1.
    pub exclude_quantile: f64,
}

/// Whom a validator would pay, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Paid {
    /// The moving averages above 0 of registered hotkeys, by uid, ascending.
    Scores {
        /// Each in proportion to its score.
        scores: Vec<(Uid, Hotkey, f64)>,
    },
    /// Everyone the same: nobody's score was a reason to pay, and the operator wants it so.
    Uniform,
    /// All to the subnet's owner, likewise.
    Owner {
        /// The owner's place.
        uid: Uid,
    },
}

/// How far an intent has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Settlement {
    /// Recorded, nothing known of its submission.
    Open,
    /// A commit is on the chain; its reveal is awaited.
    Committed {
        /// The block of the commit.
        block: Block,
        /// The epoch whose start reveals it.
        reveal_epoch: u64,
    },
    /// The chain holds exactly this vector.
    Confirmed {
        /// The block that showed it.
        block: Block,
    },
    /// The chain said no, or does not hold the vector when it should.
    Failed {
        /// The chain's words.
        reason: String,
    },
    /// A hotkey changed, or newer weights took its place before submission.
    Superseded,
}

/// Keeps how far a reader of the ledger has come.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), LedgerError>")]
pub struct SaveCursor {
    /// Who reads.
    pub reader: &'static str,
    /// The latest step it is done with.
    pub sequence: Sequence,
}

/// Asks how far a reader had come; [`Sequence`] 0 for a new one.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Sequence, LedgerError>")]
pub struct LoadCursor {
    /// Who reads.
    pub reader: &'static str,
}

/// The ledger could not do it; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger could not {attempted}: {reason}")]
pub struct LedgerError {
    /// The operation.
    pub attempted: &'static str,
    /// What the database said.
    pub reason: String,
}
