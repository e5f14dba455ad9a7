//! What can be asked of the chain in a transaction, and the two places where it can be refused: the pool, and the block.
//!
//! Names and order of the checks are those of `internal_set_weights`, `internal_commit_timelocked_weights`,
//! `validate_serve_axon` and the transaction extensions in `pallets/subtensor/src` at spec version 425.

use std::collections::BTreeSet;

use openvalidators_messages::{Axon, Hotkey, Uid};
use serde::{Deserialize, Serialize};

use super::{
    config::Rules,
    state::{Commit, Served, Subnet},
};

/// Unrevealed commits a hotkey may have in one epoch.
const MAX_UNREVEALED_COMMITS: usize = 10;

/// A transaction's content; its sender is the hotkey it acts for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// `set_weights`.
    SetWeights(WeightVector),
    /// `commit_timelocked_weights`.
    CommitWeights {
        /// What is hidden until the reveal.
        vector: WeightVector,
        /// The block from which it can be revealed: the drand round of the real chain.
        reveal_block: u64,
    },
    /// `serve_axon`. Unlike the real chain, this one accepts loopback addresses: its miners are on this machine.
    ServeAxon(Axon),
    /// `burned_register`, free of charge.
    Register {
        /// Who owns the hotkey.
        coldkey: Hotkey,
    },
    /// Sets the sender's stake; the real chain would have it added and removed.
    SetStake {
        /// In rao.
        rao: u64,
    },
}

/// Weights as they are sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightVector {
    /// Places.
    pub uids: Vec<u16>,
    /// Aligned with `uids`.
    pub weights: Vec<u16>,
    /// See [`Rules::weights_version_key`].
    pub version_key: u64,
}

/// What a call that succeeded did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// It is in the state.
    Done,
    /// Weights are committed.
    Committed {
        /// The epoch that reveals them.
        reveal_epoch: u64,
    },
    /// The hotkey has a place.
    Registered {
        /// Which.
        uid: Uid,
    },
}

/// Why the pool refuses a transaction, by the runtime's names (`CustomTransactionError`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the chain's own names")]
pub enum PoolError {
    StakeAmountTooLow,
    RateLimitExceeded,
    HotKeyNotRegisteredInNetwork,
    InvalidIpAddress,
    InvalidPort,
    ServingRateLimitExceeded,
}

/// Why a transaction failed inside its block, by the pallet's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the chain's own names")]
pub enum DispatchError {
    CommitRevealEnabled,
    CommitRevealDisabled,
    WeightVecNotEqualSize,
    UidsLengthExceedUidsInSubNet,
    HotKeyNotRegisteredInSubNet,
    NotEnoughStakeToSetWeights,
    IncorrectWeightVersionKey,
    SettingWeightsTooFast,
    CommittingWeightsTooFast,
    TooManyUnrevealedCommits,
    NeuronNoValidatorPermit,
    DuplicateUids,
    UidVecContainInvalidOne,
    WeightVecLengthIsLow,
    HotKeyNotRegisteredInNetwork,
    InvalidIpAddress,
    InvalidPort,
    ServingRateLimitExceeded,
    HotKeyAlreadyRegisteredInSubNet,
    NoNeuronIdAvailable,
}

// === impl Call ===

impl Call {
    /// The extrinsic's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SetWeights(_) => "set_weights",
            Self::CommitWeights { .. } => "commit_timelocked_weights",
            Self::ServeAxon(_) => "serve_axon",
            Self::Register { .. } => "burned_register",
            Self::SetStake { .. } => "set_stake",
        }
    }
}

// === impl Subnet: the pool ===

impl Subnet {
    /// The checks made before a transaction is admitted, as if it were in the next block. Few are: permit, version key,
    /// duplicates, unknown uids, length and the rate limit of timelocked commits only fail inside the block.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn admit(&self, rules: &Rules, sender: &Hotkey, call: &Call) -> Result<(), PoolError> {
        let block = self.block + 1;
        match call {
            Call::SetWeights(_) => {
                self.pool_stake(rules, sender)?;
                let limited = !rules.yuma.commit_reveal;
                match self.uid_of(sender) {
                    Some(uid) if limited && !self.rate_allows(rules, uid, block) => Err(PoolError::RateLimitExceeded),
                    _ => Ok(()),
                }
            }
            Call::CommitWeights { .. } => self.pool_stake(rules, sender),
            Call::ServeAxon(axon) => self.check_axon(rules, sender, axon, block).map_err(|error| match error {
                DispatchError::InvalidIpAddress => PoolError::InvalidIpAddress,
                DispatchError::InvalidPort => PoolError::InvalidPort,
                DispatchError::ServingRateLimitExceeded => PoolError::ServingRateLimitExceeded,
                _ => PoolError::HotKeyNotRegisteredInNetwork,
            }),
            Call::Register { .. } | Call::SetStake { .. } => Ok(()),
        }
    }

    fn pool_stake(&self, rules: &Rules, sender: &Hotkey) -> Result<(), PoolError> {
        if self.has_stake(rules, sender) { Ok(()) } else { Err(PoolError::StakeAmountTooLow) }
    }
}

// === impl Subnet: inside the block ===

impl Subnet {
    /// Applies a transaction to the block that is being made.
    ///
    /// # Errors
    /// The first check that fails; then nothing has changed.
    pub(super) fn apply(&mut self, rules: &Rules, sender: &Hotkey, call: &Call) -> Result<Applied, DispatchError> {
        match call {
            Call::SetWeights(_) if rules.yuma.commit_reveal => Err(DispatchError::CommitRevealEnabled),
            Call::SetWeights(vector) => self.set_weights(rules, sender, vector).map(|()| Applied::Done),
            Call::CommitWeights { vector, reveal_block } => self.commit(rules, sender, vector, *reveal_block),
            Call::ServeAxon(axon) => self.serve(rules, sender, *axon).map(|()| Applied::Done),
            Call::Register { coldkey } => {
                self.register(rules, *sender, *coldkey).map(|uid| Applied::Registered { uid: Uid(uid) })
            }
            Call::SetStake { rao } => {
                self.stakes.insert(*sender, *rao);
                Ok(Applied::Done)
            }
        }
    }

    /// `internal_set_weights`: for a direct setting and for a reveal.
    pub(super) fn set_weights(
        &mut self,
        rules: &Rules,
        sender: &Hotkey,
        vector: &WeightVector,
    ) -> Result<(), DispatchError> {
        let ensure = |holds: bool, error: DispatchError| if holds { Ok(()) } else { Err(error) };
        let WeightVector { uids, weights, version_key } = vector;
        ensure(uids.len() == weights.len(), DispatchError::WeightVecNotEqualSize)?;
        ensure(uids.len() <= self.members.len(), DispatchError::UidsLengthExceedUidsInSubNet)?;
        let uid = self.uid_of(sender).ok_or(DispatchError::HotKeyNotRegisteredInSubNet)?;
        ensure(self.has_stake(rules, sender), DispatchError::NotEnoughStakeToSetWeights)?;
        let required = rules.weights_version_key;
        ensure(required == 0 || *version_key >= required, DispatchError::IncorrectWeightVersionKey)?;
        if !rules.yuma.commit_reveal {
            ensure(self.rate_allows(rules, uid, self.block), DispatchError::SettingWeightsTooFast)?;
        }
        let lone_self_weight = uids.as_slice() == [uid];
        let permitted = self.members[usize::from(uid)].validator_permit || *sender == self.owner;
        ensure(lone_self_weight || permitted, DispatchError::NeuronNoValidatorPermit)?;
        let distinct: BTreeSet<u16> = uids.iter().copied().collect();
        ensure(distinct.len() == uids.len(), DispatchError::DuplicateUids)?;
        let known = uids.iter().all(|uid| usize::from(*uid) < self.members.len());
        ensure(known, DispatchError::UidVecContainInvalidOne)?;
        let fewest = usize::from(rules.min_allowed_weights).min(self.members.len());
        ensure(lone_self_weight || uids.len() >= fewest, DispatchError::WeightVecLengthIsLow)?;

        let member = &mut self.members[usize::from(uid)];
        member.weights = uids.iter().copied().zip(max_upscale(weights)).collect();
        if !rules.yuma.commit_reveal {
            member.last_update = self.block;
        }
        Ok(())
    }

    /// `internal_commit_timelocked_weights`: the vector itself is not looked at before its reveal.
    fn commit(
        &mut self,
        rules: &Rules,
        sender: &Hotkey,
        vector: &WeightVector,
        reveal_block: u64,
    ) -> Result<Applied, DispatchError> {
        if !rules.yuma.commit_reveal {
            return Err(DispatchError::CommitRevealDisabled);
        }
        let uid = self.uid_of(sender).ok_or(DispatchError::HotKeyNotRegisteredInSubNet)?;
        if !self.rate_allows(rules, uid, self.block) {
            return Err(DispatchError::CommittingWeightsTooFast);
        }
        let epoch = self.epoch_with_lookahead(rules);
        let commits = self.commits.entry(epoch).or_default();
        if commits.iter().filter(|commit| commit.hotkey == *sender).count() >= MAX_UNREVEALED_COMMITS {
            return Err(DispatchError::TooManyUnrevealedCommits);
        }
        commits.push(Commit {
            hotkey: *sender,
            block: self.block,
            reveal_block,
            uids: vector.uids.clone(),
            weights: vector.weights.clone(),
            version_key: vector.version_key,
        });
        self.members[usize::from(uid)].last_update = self.block;
        Ok(Applied::Committed { reveal_epoch: epoch + rules.reveal_period_epochs })
    }

    fn serve(&mut self, rules: &Rules, sender: &Hotkey, axon: Axon) -> Result<(), DispatchError> {
        self.check_axon(rules, sender, &axon, self.block)?;
        let uid = self.uid_of(sender).ok_or(DispatchError::HotKeyNotRegisteredInNetwork)?;
        self.members[usize::from(uid)].axon = Some(Served { axon, block: self.block });
        Ok(())
    }

    fn check_axon(&self, rules: &Rules, sender: &Hotkey, axon: &Axon, block: u64) -> Result<(), DispatchError> {
        let uid = self.uid_of(sender).ok_or(DispatchError::HotKeyNotRegisteredInNetwork)?;
        if let std::net::IpAddr::V4(ip) = axon.address.ip()
            && ip.is_broadcast()
        {
            return Err(DispatchError::InvalidIpAddress);
        }
        let served = self.members[usize::from(uid)].axon.map(|served| served.block);
        if served.is_some_and(|served| block.saturating_sub(served) < rules.serving_rate_limit) {
            return Err(DispatchError::ServingRateLimitExceeded);
        }
        if axon.address.port() == 0 {
            return Err(DispatchError::InvalidPort);
        }
        Ok(())
    }

    fn has_stake(&self, rules: &Rules, hotkey: &Hotkey) -> bool {
        *hotkey == self.owner || self.stake_of(hotkey) >= rules.yuma.stake_threshold
    }

    /// `check_rate_limit`: a `last_update` of 0 passes.
    fn rate_allows(&self, rules: &Rules, uid: u16, block: u64) -> bool {
        let last = self.members[usize::from(uid)].last_update;
        last == 0 || block.saturating_sub(last) >= rules.weights_rate_limit
    }
}

/// Scales so that the largest weight is 65535, rounding to the nearest (`vec_u16_max_upscale_to_u16`).
fn max_upscale(weights: &[u16]) -> Vec<u16> {
    let largest = u64::from(weights.iter().copied().max().unwrap_or(0));
    if largest == 0 {
        return weights.to_vec();
    }
    let upscale = |weight: u16| (2 * u64::from(weight) * u64::from(u16::MAX) + largest) / (2 * largest);
    weights.iter().map(|&weight| u16::try_from(upscale(weight)).unwrap_or(u16::MAX)).collect()
}

#[cfg(test)]
mod tests;
