//! The other validators of a local subnet.
//!
//! They know what anybody can read from the chain and nothing else: a copying validator multiplies the weights that the
//! validators outside the simulation had stored an epoch ago by noise; a random one draws weights for every uid alike.
//! Neither can see what kind of miner answers behind a uid.

use std::collections::BTreeMap;

use openvalidators_messages::Hotkey;
use openvalidators_runtime::Seed;
use rand::Rng;
use rand::RngCore;
use serde::{Deserialize, Serialize};

use super::{
    calls::{Call, WeightVector},
    config::Rules,
    state::Subnet,
};

/// Who they are and what they saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulated {
    /// Those that copy.
    pub copying: Vec<Hotkey>,
    /// Those that draw.
    pub random: Vec<Hotkey>,
    /// The weights of the validators outside the simulation at the latest epoch.
    pub seen: BTreeMap<Hotkey, f64>,
    /// The same at the epoch before: what is copied.
    pub seen_before: BTreeMap<Hotkey, f64>,
}

/// A public key that nobody can sign for, derived from the seed.
pub(super) fn hotkey(seed: Seed, purpose: &str, index: u64) -> Hotkey {
    let mut key = [0; 32];
    seed.rng(purpose, &[index]).fill_bytes(&mut key);
    Hotkey(key)
}

// === impl Simulated ===

impl Simulated {
    pub(super) fn new(rules: &Rules, seed: Seed) -> Self {
        let keys = |purpose: &str, count: usize| (0..count as u64).map(|i| hotkey(seed, purpose, i)).collect();
        Self {
            copying: keys("copying-validator", rules.validators.copying),
            random: keys("random-validator", rules.validators.random),
            ..Self::default()
        }
    }

    /// All of them.
    pub fn hotkeys(&self) -> Vec<Hotkey> {
        self.copying.iter().chain(&self.random).copied().collect()
    }
}

// === impl Subnet ===

impl Subnet {
    /// After an epoch: what was seen at the epoch before is now old enough to be copied.
    pub(super) fn observe_weights(&mut self) {
        let now = self.weights_of_others();
        self.simulated.seen_before = std::mem::replace(&mut self.simulated.seen, now);
    }

    /// Stake-weighted mean of the stored rows of permitted validators outside the simulation, by hotkey.
    fn weights_of_others(&self) -> BTreeMap<Hotkey, f64> {
        let simulated = self.simulated.hotkeys();
        let mut mean = BTreeMap::new();
        for member in self.members.iter().filter(|m| m.validator_permit && !simulated.contains(&m.hotkey)) {
            let total: f64 = member.weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
            let stake = self.stake_of(&member.hotkey);
            if total <= 0.0 || stake <= 0.0 {
                continue;
            }
            for (uid, weight) in &member.weights {
                if let Some(target) = self.members.get(usize::from(*uid)) {
                    *mean.entry(target.hotkey).or_insert(0.0) += stake * f64::from(*weight) / total;
                }
            }
        }
        mean
    }

    /// The transactions the simulated validators put into this block: each sets weights once an epoch, one after the
    /// other in the blocks that follow it.
    pub(super) fn simulated_calls(&self, rules: &Rules, seed: Seed) -> Vec<(Hotkey, Call)> {
        if self.epoch_index == 0 {
            return Vec::new();
        }
        let since_epoch = self.block.saturating_sub(self.last_epoch_block);
        let slots = (rules.yuma.tempo - 1).max(1);
        let copying = self.simulated.copying.iter().map(|hotkey| (*hotkey, true));
        let random = self.simulated.random.iter().map(|hotkey| (*hotkey, false));
        (0_u64..)
            .zip(copying.chain(random))
            .filter(|(index, _)| 1 + index % slots == since_epoch)
            .filter_map(|(index, (hotkey, copies))| {
                let mut rng = seed.rng("simulated-weights", &[self.epoch_index, index]);
                let weights = if copies {
                    self.copied_weights(rules.validators.noise, &mut rng)
                } else {
                    self.random_weights(&hotkey, &mut rng)
                };
                Some((hotkey, self.simulated_call(rules, weights)?))
            })
            .collect()
    }

    fn copied_weights(&self, noise: f64, rng: &mut impl Rng) -> Vec<(u16, f64)> {
        let seen = &self.simulated.seen_before;
        seen.iter()
            .filter_map(|(hotkey, weight)| {
                // The draw comes first, so that one hotkey's leaving does not change the noise of the others.
                let factor = (noise * normal(rng)).exp();
                Some((self.uid_of(hotkey)?, weight * factor))
            })
            .collect()
    }

    fn random_weights(&self, own: &Hotkey, rng: &mut impl Rng) -> Vec<(u16, f64)> {
        let simulated = self.simulated.hotkeys();
        (0_u16..)
            .zip(&self.members)
            .filter(|(_, member)| {
                member.hotkey != *own && member.hotkey != self.owner && !simulated.contains(&member.hotkey)
            })
            .map(|(uid, _)| (uid, rng.random()))
            .collect()
    }

    fn simulated_call(&self, rules: &Rules, mut weights: Vec<(u16, f64)>) -> Option<Call> {
        weights.sort_by_key(|(uid, _)| *uid);
        let largest = weights.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
        if largest <= 0.0 {
            return None;
        }
        let scaled = |weight: f64| (weight / largest * f64::from(u16::MAX)).round() as u16;
        let vector = WeightVector {
            uids: weights.iter().map(|(uid, _)| *uid).collect(),
            weights: weights.iter().map(|(_, weight)| scaled(*weight)).collect(),
            version_key: rules.weights_version_key,
        };
        Some(self.weights_call(rules, vector, self.block))
    }

    /// How weights are put on this subnet in block `inclusion`: directly, or as a commit.
    #[must_use]
    pub fn weights_call(&self, rules: &Rules, vector: WeightVector, inclusion: u64) -> Call {
        if rules.yuma.commit_reveal {
            Call::CommitWeights { vector, reveal_block: self.reveal_block(rules, inclusion) }
        } else {
            Call::SetWeights(vector)
        }
    }
}

/// A standard normal draw (Box and Muller, 1958).
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
