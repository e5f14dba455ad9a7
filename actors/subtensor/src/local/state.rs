//! The subnet's state: who holds which place, and what stands in each.
//!
//! Pure. A block is [`Subnet::next_block`] (in `block.rs`); everything here changes only inside one.

use std::collections::BTreeMap;

use openvalidators_messages::{Axon, Block, Hotkey, Hyperparameters, Metagraph, Neuron, Uid};
use serde::{Deserialize, Serialize};

use super::{
    calls::DispatchError,
    config::Rules,
    simulated::{self, Simulated},
};

/// 1 TAO.
pub const RAO_PER_TAO: f64 = 1e9;

/// A subnet and its chain's head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// The head.
    pub block: u64,
    /// The block of the latest epoch; 0 before the first.
    pub last_epoch_block: u64,
    /// A block for which a late epoch was put down; 0 when there is none.
    pub pending_epoch_at: u64,
    /// Epochs that have run.
    pub epoch_index: u64,
    /// Emission not yet divided.
    pub pending_rao: u64,
    /// The subnet's owner: always registered, never replaced.
    pub owner: Hotkey,
    /// The neuron at each uid.
    pub members: Vec<Member>,
    /// Stake in rao. It belongs to a hotkey and survives its replacement.
    pub stakes: BTreeMap<Hotkey, u64>,
    /// Weights committed in an epoch and not revealed yet, by that epoch, in order.
    pub commits: BTreeMap<u64, Vec<Commit>>,
    /// What the simulated validators remember.
    pub simulated: Simulated,
}

/// The neuron at one uid, as the chain stores it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Who holds the place.
    pub hotkey: Hotkey,
    /// Who owns the hotkey.
    pub coldkey: Hotkey,
    /// When it came.
    pub registered_at: u64,
    /// The block of its latest weights or commit; its registration at first.
    pub last_update: u64,
    /// Where it listens.
    pub axon: Option<Served>,
    /// `(uid, weight)`, the largest 65535.
    pub weights: Vec<(u16, u16)>,
    /// `(uid, bond)` of the latest epoch.
    pub bonds: Vec<(u16, u16)>,
    /// Permit of the latest epoch.
    pub validator_permit: bool,
    /// Whether it was active in the latest epoch; true for a newcomer.
    pub active: bool,
    /// Shares of 65535, of the latest epoch.
    pub incentive: u16,
    /// See [`Member::incentive`].
    pub consensus: u16,
    /// See [`Member::incentive`].
    pub dividends: u16,
    /// See [`Member::incentive`].
    pub validator_trust: u16,
    /// Emission of the latest epoch.
    pub emission_rao: u64,
}

/// An axon and when it was served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// What was served.
    pub axon: Axon,
    /// In which block.
    pub block: u64,
}

/// Weights that wait for their reveal. On the real chain this is a ciphertext that nobody can read before its round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Whose.
    pub hotkey: Hotkey,
    /// In which block.
    pub block: u64,
    /// The block from which it can be read: the drand round of the real chain.
    pub reveal_block: u64,
    /// The committed vector.
    pub uids: Vec<u16>,
    /// Aligned with `uids`.
    pub weights: Vec<u16>,
    /// The committed version key.
    pub version_key: u64,
}

// === impl Subnet ===

impl Subnet {
    /// Block 0: the owner and the simulated validators, registered and staked.
    #[must_use]
    pub fn genesis(rules: &Rules, seed: openvalidators_runtime::Seed) -> Self {
        let owner = simulated::hotkey(seed, "subnet-owner", 0);
        let mut subnet = Self {
            block: 0,
            last_epoch_block: 0,
            pending_epoch_at: 0,
            epoch_index: 0,
            pending_rao: 0,
            owner,
            members: Vec::new(),
            stakes: BTreeMap::new(),
            commits: BTreeMap::new(),
            simulated: Simulated::new(rules, seed),
        };
        subnet.members.push(Member::new(owner, owner, 0));
        for hotkey in subnet.simulated.hotkeys() {
            subnet.members.push(Member::new(hotkey, hotkey, 0));
            subnet.stakes.insert(hotkey, (rules.validators.stake * RAO_PER_TAO) as u64);
        }
        subnet
    }

    /// The place a hotkey holds.
    #[must_use]
    pub fn uid_of(&self, hotkey: &Hotkey) -> Option<u16> {
        let index = self.members.iter().position(|member| member.hotkey == *hotkey)?;
        u16::try_from(index).ok()
    }

    /// Stake in TAO.
    #[must_use]
    pub fn stake_of(&self, hotkey: &Hotkey) -> f64 {
        self.stakes.get(hotkey).map_or(0.0, |rao| *rao as f64 / RAO_PER_TAO)
    }

    /// Whether an epoch should run in this block (`should_run_epoch`).
    #[must_use]
    pub fn epoch_is_due(&self, rules: &Rules) -> bool {
        let pending = self.pending_epoch_at > 0 && self.block >= self.pending_epoch_at;
        pending || self.block.saturating_sub(self.last_epoch_block) >= rules.yuma.tempo
    }

    /// The epoch a commit or reveal of this block belongs to: one more while a due epoch waits
    /// (`current_epoch_with_lookahead`).
    #[must_use]
    pub fn epoch_with_lookahead(&self, rules: &Rules) -> u64 {
        self.epoch_index + u64::from(self.epoch_is_due(rules))
    }

    /// Everything a validator reads, at the head.
    #[must_use]
    pub fn metagraph(&self, rules: &Rules) -> Metagraph {
        let share = |value: u16| f64::from(value) / f64::from(u16::MAX);
        let neurons = (0_u16..).zip(&self.members).map(|(uid, member)| Neuron {
            uid: Uid(uid),
            hotkey: member.hotkey,
            coldkey: Some(member.coldkey),
            axon: member.axon.map(|served| served.axon),
            stake: self.stake_of(&member.hotkey),
            validator_permit: member.validator_permit,
            active: member.active,
            last_update: Block(member.last_update),
            registered_at: Block(member.registered_at),
            incentive: share(member.incentive),
            consensus: share(member.consensus),
            dividends: share(member.dividends),
            validator_trust: share(member.validator_trust),
            emission: member.emission_rao,
        });
        Metagraph {
            netuid: rules.netuid,
            block: Block(self.block),
            last_epoch_block: Block(self.last_epoch_block),
            epoch_index: self.epoch_index,
            hyperparameters: Hyperparameters {
                tempo: rules.yuma.tempo,
                min_allowed_weights: rules.min_allowed_weights,
                max_weight_limit: 1.0,
                weights_rate_limit: rules.weights_rate_limit,
                weights_version_key: rules.weights_version_key,
                commit_reveal: rules.yuma.commit_reveal,
                commit_by_hash: false,
                reveal_period_epochs: rules.reveal_period_epochs,
                activity_cutoff: rules.yuma.activity_cutoff,
                stake_threshold: rules.yuma.stake_threshold,
            },
            owner_uid: self.uid_of(&self.owner).map(Uid),
            neurons: neurons.collect(),
        }
    }

    /// Gives a hotkey a place: the next free one, or that of the neuron that pruning chooses.
    pub(super) fn register(&mut self, rules: &Rules, hotkey: Hotkey, coldkey: Hotkey) -> Result<u16, DispatchError> {
        if self.uid_of(&hotkey).is_some() {
            return Err(DispatchError::HotKeyAlreadyRegisteredInSubNet);
        }
        let newcomer = Member::new(hotkey, coldkey, self.block);
        if self.members.len() < usize::from(rules.max_uids) {
            self.members.push(newcomer);
            return self.uid_of(&hotkey).ok_or(DispatchError::NoNeuronIdAvailable);
        }
        let uid = self.uid_to_prune(rules).ok_or(DispatchError::NoNeuronIdAvailable)?;
        for member in &mut self.members {
            member.weights.iter_mut().filter(|(target, _)| *target == uid).for_each(|(_, weight)| *weight = 0);
        }
        // A fresh member has no weights, bonds, permit, axon or emission: nothing of the old one stays.
        self.members[usize::from(uid)] = newcomer;
        Ok(uid)
    }

    /// Lowest emission, then oldest registration, then lowest uid; immune ones only when too few others are left
    /// (`get_neuron_to_prune`).
    fn uid_to_prune(&self, rules: &Rules) -> Option<u16> {
        let immune = |member: &Member| self.block.saturating_sub(member.registered_at) < rules.immunity_blocks;
        let candidates = || (0_u16..).zip(&self.members).filter(|(_, member)| member.hotkey != self.owner);
        let weakest = |immunity: bool| {
            candidates()
                .filter(|(_, member)| immune(member) == immunity)
                .min_by_key(|(uid, member)| (member.emission_rao, member.registered_at, *uid))
                .map(|(uid, _)| uid)
        };
        let free = candidates().filter(|(_, member)| !immune(member)).count();
        weakest(false).filter(|_| free > rules.min_non_immune_uids).or_else(|| weakest(true))
    }
}

// === impl Member ===

impl Member {
    fn new(hotkey: Hotkey, coldkey: Hotkey, block: u64) -> Self {
        Self {
            hotkey,
            coldkey,
            registered_at: block,
            last_update: block,
            axon: None,
            weights: Vec::new(),
            bonds: Vec::new(),
            validator_permit: false,
            active: true,
            incentive: 0,
            consensus: 0,
            dividends: 0,
            validator_trust: 0,
            emission_rao: 0,
        }
    }
}
