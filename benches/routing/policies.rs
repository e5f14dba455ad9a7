//! The ways to route that are compared.

use std::collections::BTreeMap;

use openvalidators_gating::{
    Config,
    forecast::Forecast,
    learned::{self, Ask, Choice},
    policy::{Candidate, draw, propensities},
    state::State,
    uniform,
};
use openvalidators_messages::{Block, Hotkey, Metagraph, Neuron, gating::Routed};
use rand::Rng;

use crate::world::{NOISE, PLACES, TEMPO, TOPICS, World, normal};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The program's default.
    Learned,
    /// The same with half the places.
    Half,
    /// The same, told of another prompt than the one that is asked.
    Shuffled,
    /// LinUCB (Li et al. 2010), a ridge regression for each hotkey on the same features: our forecasts without forgetting, all
    /// places to the upper ends of their doubt.
    LinUcb,
    /// Linear Thompson sampling (Agrawal & Goyal 2013): our forecasts, all places to the best of one sample of each.
    Thompson,
    /// The same policy, over the scores of the reference's head.
    Head,
    /// Upper confidence bounds for each hotkey, whatever the prompt: discounted UCB (Garivier & Moulines 2011), all places to
    /// the best.
    Blind,
    /// As openvalidators 1.2.0.
    Uniform,
    /// Knows what everyone is worth.
    Oracle,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Learned,
        Self::Half,
        Self::Shuffled,
        Self::LinUcb,
        Self::Thompson,
        Self::Head,
        Self::Blind,
        Self::Uniform,
        Self::Oracle,
    ];
    /// What settings are chosen by.
    pub const TUNED: [Self; 3] = [Self::Learned, Self::Blind, Self::Oracle];

    pub fn label(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Half => "learned, half the queries",
            Self::Shuffled => "learned, prompts shuffled",
            Self::LinUcb => "LinUCB",
            Self::Thompson => "Thompson sampling",
            Self::Head => "1.2.0's gating head",
            Self::Blind => "text-blind UCB",
            Self::Uniform => "uniform",
            Self::Oracle => "oracle",
        }
    }

    pub fn places(self) -> usize {
        if self == Self::Half { PLACES / 2 } else { PLACES }
    }
}

/// One standard deviation, as in earlier tables, whatever ours is set to.
const LINUCB_OPTIMISM: f64 = 1.0;

/// Two tempos: the text-blind bandit too forgets, or it would never notice who turns bad.
const BLIND_HALF_LIFE_BLOCKS: f64 = 2.0 * TEMPO as f64;

/// Discounted sums of one hotkey's rewards and of their number.
#[derive(Clone, Copy, Default)]
struct Arm {
    sum: f64,
    count: f64,
}

pub struct Router {
    kind: Kind,
    config: Config,
    arms: BTreeMap<Hotkey, Arm>,
    block: Block,
}

/// What a step is about.
pub struct Situation<'a> {
    pub step: usize,
    pub topic: usize,
    pub embedding: &'a [f32],
    pub metagraph: &'a Metagraph,
}

impl Router {
    pub fn new(kind: Kind, config: Config) -> Self {
        Self { kind, config, arms: BTreeMap::new(), block: Block(0) }
    }

    pub fn route(&mut self, state: &mut State, at: &Situation<'_>, rng: &mut impl Rng) -> Vec<Routed> {
        let available: Vec<&Neuron> = at.metagraph.neurons.iter().collect();
        let places = self.kind.places();
        let learned = match self.kind {
            Kind::Learned | Kind::Half | Kind::Shuffled => {
                let choice = Choice {
                    memory: self.config.rules().memory,
                    exploration: self.config.exploration,
                    optimism: self.config.optimism,
                    longest_wait_blocks: TEMPO,
                };
                let ask = Ask {
                    block: at.metagraph.block,
                    embedding: at.embedding,
                    count: places,
                    exclude: &[],
                    pending: &BTreeMap::new(),
                };
                learned::route(state, choice, ask, &available, rng).map(|(routed, _)| routed)
            }
            Kind::LinUcb | Kind::Thompson => {
                let mut rules = self.config.rules().memory;
                if self.kind == Kind::LinUcb {
                    rules.half_life_blocks = u64::MAX;
                }
                let hotkeys: Vec<Hotkey> = available.iter().map(|neuron| neuron.hotkey).collect();
                let forecasts = state.memory_mut().forecast(rules, at.embedding, &hotkeys);
                forecasts.map(|forecasts| {
                    let value = |forecast: &Forecast| match self.kind {
                        Kind::Thompson => forecast.mean + forecast.doubt * normal(rng),
                        _ => forecast.mean + LINUCB_OPTIMISM * forecast.doubt,
                    };
                    let values = forecasts.iter().map(value).collect();
                    self.by(values, 0.0, &available, rng)
                })
            }
            Kind::Head if state.memory().is_warm() => {
                let score = |neuron: &&Neuron| state.head().score(&neuron.hotkey, at.embedding).map_or(0.0, f64::from);
                Some(self.by(available.iter().map(score).collect(), self.config.exploration, &available, rng))
            }
            Kind::Blind => {
                let bounds = available.iter().map(|neuron| self.bound(&neuron.hotkey, rng)).collect();
                Some(self.by(bounds, 0.0, &available, rng))
            }
            Kind::Oracle => {
                let worth = |uid: usize| World::worth(at.step, uid, at.topic);
                Some(self.by((0..available.len()).map(worth).collect(), 0.0, &available, rng))
            }
            Kind::Uniform | Kind::Head => None,
        };
        learned.unwrap_or_else(|| uniform::draw(available.iter().copied(), places, &[], rng))
    }

    fn by(&self, values: Vec<f64>, exploration: f64, available: &[&Neuron], rng: &mut impl Rng) -> Vec<Routed> {
        let candidates: Vec<_> =
            values.into_iter().map(|value| Candidate { value, observations: 1, overdue: None }).collect();
        let odds = propensities(&candidates, self.kind.places(), exploration);
        let uniform = self.kind.places() as f64 / available.len() as f64;
        let routed = |at: usize| Routed {
            uid: available[at].uid,
            hotkey: available[at].hotkey,
            axon: available[at].axon.unwrap(),
            propensity: odds[at],
            uniform_propensity: Some(uniform),
        };
        draw(&odds, self.kind.places(), rng).into_iter().map(routed).collect()
    }

    /// As wide as rewards of one miner scatter, so that it explores no more than it must. Ties are broken by chance.
    fn bound(&self, hotkey: &Hotkey, rng: &mut impl Rng) -> f64 {
        const WIDTH: f64 = NOISE;
        let all: f64 = self.arms.values().map(|arm| arm.count).sum();
        let arm = self.arms.get(hotkey).copied().unwrap_or_default();
        if arm.count < 1e-9 {
            return 2.0 + rng.random::<f64>();
        }
        arm.sum / arm.count + WIDTH * (2.0 * all.max(2.0).ln() / arm.count).sqrt() + 1e-9 * rng.random::<f64>()
    }

    /// The blind one's learning; the others learn by the program's own fold.
    pub fn learn(&mut self, block: Block, rewards: &[(Hotkey, f64)]) {
        let kept = (-((block.0 - self.block.0) as f64) / BLIND_HALF_LIFE_BLOCKS).exp2();
        self.block = block;
        for arm in self.arms.values_mut() {
            (arm.sum, arm.count) = (arm.sum * kept, arm.count * kept);
        }
        for (hotkey, reward) in rewards {
            let arm = self.arms.entry(*hotkey).or_default();
            (arm.sum, arm.count) = (arm.sum + reward, arm.count + 1.0);
        }
    }

    /// Whether a miner is sought out: asked with more than half the certainty there is.
    pub fn seeks(routed: &[Routed], uid: usize) -> bool {
        routed.iter().any(|routed| usize::from(routed.uid.0) == uid && routed.propensity > 0.5)
    }
}

const _: () = assert!(TOPICS == 10, "the embedded passages are of ten fields");
