//! Who the miners are, how they change, and what each would have earned.

use std::sync::Arc;

use openvalidators_messages::{Axon, Block, Hotkey, Hyperparameters, Metagraph, Netuid, Neuron, Uid};
use openvalidators_runtime::Seed;
use rand::Rng;

use crate::prompts::Prompt;

pub const MINERS: usize = 64;
/// Miners asked in a step.
pub const PLACES: usize = 8;
pub const TOPICS: usize = 10;
pub const TEMPO: u64 = 360;
pub const BLOCKS_A_STEP: u64 = 3;
pub const STEPS_A_TEMPO: usize = (TEMPO / BLOCKS_A_STEP) as usize;
pub const TEMPOS: usize = 20;
pub const STEPS: usize = TEMPOS * STEPS_A_TEMPO;
/// Standard deviation of a reward about what the miner is worth.
pub const NOISE: f64 = 0.15;

/// Three specialists of each field come first: 0.8 in their own, 0.3 in others, 0.35 on average.
pub const SPECIALISTS: std::ops::Range<usize> = 0..30;
/// Then those who are worth that average in every field.
pub const ALL_ROUNDERS: std::ops::Range<usize> = 30..34;
const FAIR: std::ops::Range<usize> = 34..50;
/// A specialist of the last field takes this poor miner's uid.
pub const NEWCOMER: usize = 63;
pub const NEWCOMER_AT: usize = 8 * STEPS_A_TEMPO;
/// This specialist of the first field turns bad in it.
pub const TURNED: usize = 0;
pub const TURNED_AT: usize = 12 * STEPS_A_TEMPO;

/// Two uniform numbers to a normal one, after Box and Muller.
pub fn normal(rng: &mut impl Rng) -> f64 {
    let (radius, angle): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

pub struct World<'a> {
    pub seed: Seed,
    pub prompts: &'a [Prompt],
    seen: Vec<usize>,
    rewards: Vec<f64>,
}

impl<'a> World<'a> {
    pub fn new(seed: u64, prompts: &'a [Prompt]) -> Self {
        let seed = Seed(seed);
        let seen = (0..prompts.len()).filter(|at| prompts[*at].seen).collect();
        let mut rng = seed.rng("noise", &[]);
        let rewards = (0..STEPS * MINERS).map(|_| NOISE * normal(&mut rng)).collect();
        Self { seed, prompts, seen, rewards }
    }

    /// The prompt of a step.
    pub fn prompt(&self, step: usize) -> &Prompt {
        let at = self.seed.rng("prompt", &[step as u64]).random_range(0..self.seen.len());
        &self.prompts[self.seen[at]]
    }

    /// What a miner is worth in a field at a step.
    pub fn worth(step: usize, miner: usize, topic: usize) -> f64 {
        match miner {
            TURNED if step >= TURNED_AT && topic == TURNED % TOPICS => 0.05,
            NEWCOMER if step >= NEWCOMER_AT => {
                if topic == TOPICS - 1 {
                    0.85
                } else {
                    0.3
                }
            }
            miner if SPECIALISTS.contains(&miner) => {
                if miner % TOPICS == topic {
                    0.8
                } else {
                    0.3
                }
            }
            miner if ALL_ROUNDERS.contains(&miner) => 0.35,
            miner if FAIR.contains(&miner) => 0.5,
            _ => 0.15,
        }
    }

    /// What a miner earns in a step, asked or not: the same for every way to route.
    pub fn reward(&self, step: usize, miner: usize, topic: usize) -> f64 {
        (Self::worth(step, miner, topic) + self.rewards[step * MINERS + miner]).clamp(0.0, 1.0)
    }

    pub fn block(step: usize) -> Block {
        Block(step as u64 * BLOCKS_A_STEP)
    }

    pub fn hotkey(step: usize, miner: usize) -> Hotkey {
        let mut bytes = [miner as u8; 32];
        bytes[0] = u8::from(miner == NEWCOMER && step >= NEWCOMER_AT);
        Hotkey(bytes)
    }

    pub fn metagraph(step: usize) -> Arc<Metagraph> {
        let neuron = |miner: usize| Neuron {
            uid: Uid(miner as u16),
            hotkey: Self::hotkey(step, miner),
            coldkey: None,
            axon: Some(Axon { address: ([10, 0, 0, 1], 8_091).into(), protocol: 4, version: 1 }),
            stake: 0.0,
            validator_permit: false,
            active: true,
            last_update: Block(0),
            registered_at: if miner == NEWCOMER && step >= NEWCOMER_AT { Self::block(NEWCOMER_AT) } else { Block(0) },
            incentive: 0.0,
            consensus: 0.0,
            dividends: 0.0,
            validator_trust: 0.0,
            emission: 0,
        };
        Arc::new(Metagraph {
            netuid: Netuid(1),
            block: Self::block(step),
            last_epoch_block: Block(0),
            epoch_index: 0,
            hyperparameters: Hyperparameters {
                tempo: TEMPO,
                min_allowed_weights: 1,
                max_weight_limit: 1.0,
                weights_rate_limit: 0,
                weights_version_key: 0,
                commit_reveal: false,
                commit_by_hash: false,
                reveal_period_epochs: 1,
                activity_cutoff: 5_000,
                stake_threshold: 0.0,
            },
            owner_uid: None,
            neurons: (0..MINERS).map(neuron).collect(),
        })
    }
}
