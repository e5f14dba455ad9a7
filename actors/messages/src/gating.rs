//! Inbox of `actors/gating`: which miners a step asks.

use actix::Message;

use crate::{Axon, Hotkey, StepId, Uid};

/// Chooses miners for a step.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Routed>, NobodyToAsk>")]
pub struct Route {
    /// Same step, seed and metagraph, same choice.
    pub step: StepId,
    /// How many; fewer come back when fewer are available.
    pub count: usize,
    /// Miners already asked in this forward: taken again only when the others do not suffice.
    pub exclude: Vec<Uid>,
}

/// A miner chosen for a step. No uid appears twice in an answer.
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
