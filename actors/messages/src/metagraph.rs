//! The subnet as the chain tells it, all read at one block.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{Block, Hotkey, Netuid, Uid};

/// A snapshot of the subnet. `actors/subtensor` publishes a fresh one after each block it follows; the others hold a
/// `tokio::sync::watch` receiver of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metagraph {
    /// The subnet.
    pub netuid: Netuid,
    /// The block everything below was read at.
    pub block: Block,
    /// The block of the latest epoch that ran; `Block(0)` before the first.
    pub last_epoch_block: Block,
    /// How many epochs have run.
    pub epoch_index: u64,
    /// The rules of the subnet.
    pub hyperparameters: Hyperparameters,
    /// The subnet owner's place, if its hotkey is registered.
    pub owner_uid: Option<Uid>,
    /// Every place, in order of uid: `neurons[u].uid == Uid(u)`.
    pub neurons: Vec<Neuron>,
}

/// One place on the subnet. Shares and trusts are in 0..=1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neuron {
    /// The place.
    pub uid: Uid,
    /// Who holds it now.
    pub hotkey: Hotkey,
    /// Who owns the hotkey; `None` where the runtime does not tell.
    #[serde(default)]
    pub coldkey: Option<Hotkey>,
    /// Where it says it listens; `None` when it never served.
    pub axon: Option<Axon>,
    /// Total stake in TAO (1e9 rao).
    pub stake: f64,
    /// Whether it may set weights that count.
    pub validator_permit: bool,
    /// Whether it set weights within the activity cut-off.
    pub active: bool,
    /// The block of its latest weights (or commit), its registration at first.
    pub last_update: Block,
    /// When its present holder came.
    pub registered_at: Block,
    /// Its share of what miners earn.
    pub incentive: f64,
    /// What the majority of stake agrees it deserves.
    pub consensus: f64,
    /// Its share of what validators earn.
    pub dividends: f64,
    /// How much of its weights the consensus accepted.
    pub validator_trust: f64,
    /// Its emission in the latest epoch, in rao.
    pub emission: u64,
}

impl Neuron {
    /// Who has just come: without stake, permit, weights or earnings, since block 0, serving this axon.
    #[must_use]
    pub fn newcomer(uid: Uid, hotkey: Hotkey, axon: Option<Axon>) -> Self {
        Self {
            uid,
            hotkey,
            coldkey: None,
            axon,
            stake: 0.0,
            validator_permit: false,
            active: true,
            last_update: Block(0),
            registered_at: Block(0),
            incentive: 0.0,
            consensus: 0.0,
            dividends: 0.0,
            validator_trust: 0.0,
            emission: 0,
        }
    }
}

/// An advertised endpoint. It is self-declared, hence hostile: `actors/dendrite` decides whether to talk to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axon {
    /// Address and port.
    pub address: SocketAddr,
    /// Self-declared protocol number (4 by default).
    pub protocol: u8,
    /// Self-declared SDK version as one integer.
    pub version: u32,
}

/// The subnet's rules that the validator obeys, by the chain's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// Blocks from one epoch to the next.
    pub tempo: u64,
    /// Fewest uids a weight vector may name.
    pub min_allowed_weights: u16,
    /// Largest share a single weight may have, in 0..=1.
    pub max_weight_limit: f64,
    /// Blocks that must pass between two weight settings of one hotkey.
    pub weights_rate_limit: u64,
    /// The version key our weights must carry at least; 0 accepts any.
    pub weights_version_key: u64,
    /// Whether weights are committed first and revealed later.
    pub commit_reveal: bool,
    /// Whether a commit is a hash, which its author has to reveal in the reveal epoch. Otherwise the chain opens it itself.
    pub commit_by_hash: bool,
    /// Epochs between a commit and its reveal.
    pub reveal_period_epochs: u64,
    /// Blocks after a validator's last update at which the chain counts it as inactive.
    pub activity_cutoff: u64,
    /// Stake below which weights are refused, in TAO.
    pub stake_threshold: f64,
}

// === impl Metagraph ===

impl Metagraph {
    /// The place this hotkey holds at this block.
    #[must_use]
    pub fn uid_of(&self, hotkey: &Hotkey) -> Option<Uid> {
        self.neurons.iter().find(|neuron| neuron.hotkey == *hotkey).map(|neuron| neuron.uid)
    }

    /// The neuron at a place.
    #[must_use]
    pub fn neuron(&self, uid: Uid) -> Option<&Neuron> {
        self.neurons.get(usize::from(uid.0))
    }
}
