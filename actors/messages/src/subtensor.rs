//! Inbox of `actors/subtensor`: what we ask of the chain. (The metagraph needs no asking: it is published, see
//! [`crate::Metagraph`].)

use actix::Message;
use serde::{Deserialize, Serialize};

use crate::{Block, Uid};

/// Puts weights on the chain: directly, or as a commit where the subnet demands it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Submission, ChainError>")]
pub struct SetWeights {
    /// Places, ascending, without repetition.
    pub uids: Vec<Uid>,
    /// Aligned with `uids`.
    pub weights: Vec<u16>,
    /// At least the subnet's `weights_version_key`.
    pub version_key: u64,
    /// Goes into the hash where the subnet takes commits as hashes; written down before, for [`RevealWeights`].
    pub salt: Option<Vec<u16>>,
}

/// Says what was committed as a hash. The chain takes it in the commit's reveal epoch alone, and stores the weights; the
/// answer is the block that did.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Block, ChainError>")]
pub struct RevealWeights {
    /// Places, as committed.
    pub uids: Vec<Uid>,
    /// Aligned with `uids`, as committed.
    pub weights: Vec<u16>,
    /// As committed.
    pub version_key: u64,
    /// As committed.
    pub salt: Vec<u16>,
}

/// What the chain did with a submission it accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Submission {
    /// The weights are in the state of this block.
    Set {
        /// The block that holds them.
        block: Block,
    },
    /// A commit is in this block; the weights appear when it is revealed, if they pass the checks then.
    Committed {
        /// The block that holds the commit.
        block: Block,
        /// The epoch whose start reveals it.
        reveal_epoch: u64,
    },
}

/// Reads a row of weights as the chain stores it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Vec<(Uid, u16)>, ChainError>")]
pub struct ReadWeights {
    /// Whose row.
    pub uid: Uid,
}

/// Why the chain did not do what was asked. Inclusion is not success, so the three ways of "no" are kept apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ChainError {
    /// The transaction never entered a block. Nothing changed.
    #[error("the transaction pool refused {call}: {name}")]
    RefusedByPool {
        /// The extrinsic.
        call: String,
        /// The runtime's name for it, e.g. `RateLimitExceeded`.
        name: String,
    },
    /// It is in a block, and that block says it failed.
    #[error("{call} is in block {block} but failed: {name}")]
    FailedInBlock {
        /// The extrinsic.
        call: String,
        /// Where.
        block: Block,
        /// The runtime's name for it, e.g. `NeuronNoValidatorPermit`.
        name: String,
    },
    /// No answer: it may or may not have been included. Ask the chain's state before trying again.
    #[error("the chain could not be reached for {call}: {reason}")]
    Unreachable {
        /// What was attempted.
        call: String,
        /// What happened.
        reason: String,
    },
    /// The chain answered something we do not understand.
    #[error("the chain's answer to {call} could not be read: {reason}")]
    BadAnswer {
        /// What was attempted.
        call: String,
        /// What was found.
        reason: String,
    },
}
