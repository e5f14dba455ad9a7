//! Inbox of `actors/gating`: which miners a step asks, and what came of it.

use std::sync::Arc;

use actix::Message;

use crate::{Axon, Hotkey, PromptEmbedding, Sequence, StepId, StepOutcome, StepRecord, Uid, rewards::FoldError};

/// Chooses miners for a step.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Routing, NobodyToAsk>")]
pub struct Route {
    /// Same step, prompt, seed, metagraph and steps folded, same choice.
    pub step: StepId,
    /// What they will be asked.
    pub prompt: Arc<str>,
    /// How many; fewer come back when fewer are available.
    pub count: usize,
    /// Miners already asked in this forward: taken again only when the others do not suffice.
    pub exclude: Vec<Uid>,
}

/// A choice of miners.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// No uid appears twice.
    pub miners: Vec<Routed>,
    /// The prompt as the router read it, for the record of the step.
    pub embedding: Option<PromptEmbedding>,
}

/// A miner chosen for a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routed {
    /// Its place.
    pub uid: Uid,
    /// Who holds it at the metagraph's block.
    pub hotkey: Hotkey,
    /// Where it listens.
    pub axon: Axon,
    /// The probability with which this step would have chosen it, in 0..=1.
    pub propensity: f64,
    /// The probability with which uniform routing would have, where the step was not routed uniformly.
    pub uniform_propensity: Option<f64>,
}

/// Folds a settled step into what the router has learned. Idempotent by sequence, like [`crate::rewards::Apply`]. The answer is the
/// loss of the gating head on this step, if it learned from it now.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Option<f32>, FoldError>")]
pub struct Apply {
    /// Its place in the ledger.
    pub sequence: Sequence,
    /// What was appended there.
    pub record: Arc<StepRecord>,
    /// What `actors/rewards` made of it.
    pub outcome: Arc<StepOutcome>,
}

/// Asks for the gating head of openvalidators 1.2.0 as it is now.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "HeadTable")]
pub struct ReadHead;

/// The gating head after a step: a linear layer from a prompt's embedding to one score for each hotkey.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadTable {
    /// The latest step in it.
    pub sequence: Sequence,
    /// Numbers of an embedding; 0 before the first step taught it anything.
    pub width: usize,
    /// No uid appears twice.
    pub rows: Vec<HeadRow>,
}

/// What belongs to one hotkey.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadRow {
    /// Its place.
    pub uid: Uid,
    /// Whose.
    pub hotkey: Hotkey,
    /// `width` weights, then the bias.
    pub parameters: Vec<f32>,
}

/// Not one miner of the subnet can be asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("nobody to ask: of {neurons} neurons at block {block} none is a serving miner other than ourselves")]
pub struct NobodyToAsk {
    /// Size of the subnet.
    pub neurons: usize,
    /// The metagraph's block.
    pub block: u64,
}
