//! Learned routing: forecasts of the state, made into odds by the policy, drawn. Pure.

use std::collections::BTreeMap;

use openvalidators_messages::{Block, Hotkey, Neuron, Uid, gating::Routed};
use rand::{Rng, seq::SliceRandom};

use crate::{
    forecast,
    policy::{Candidate, draw, propensities},
    state::State,
};

/// Share of the longest wait after which a miner is overdue: what is left is for the steps under way.
const OVERDUE_SHARE: f64 = 0.75;

/// How learned routing chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What forecasts are made from.
    pub memory: forecast::Rules,
    /// Share of places given out whatever anybody promises.
    pub exploration: f64,
    /// Standard deviations of doubt added to what a miner is expected to earn.
    pub optimism: f64,
    /// Blocks within which every available miner is asked.
    pub longest_wait_blocks: u64,
}

/// The step a choice is for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The metagraph's block.
    pub block: Block,
    /// The prompt.
    pub embedding: &'a [f32],
    /// Places.
    pub count: usize,
    /// Asked already in this forward: they come last, as in uniform routing.
    pub exclude: &'a [Uid],
    /// The blocks of choices that are not folded yet.
    pub pending: &'a BTreeMap<Hotkey, Block>,
}

/// Chooses among `available`, and says with which odds it did, for each; `None` while too little is known to tell them apart.
pub fn route(
    state: &mut State,
    choice: Choice,
    ask: Ask<'_>,
    available: &[&Neuron],
    rng: &mut impl Rng,
) -> Option<(Vec<Routed>, Vec<f64>)> {
    let hotkeys: Vec<Hotkey> = available.iter().map(|neuron| neuron.hotkey).collect();
    let forecasts = state.memory_mut().forecast(choice.memory, ask.embedding, &hotkeys)?;
    let overdue_after = (choice.longest_wait_blocks as f64 * OVERDUE_SHARE) as u64;
    let candidate = |(neuron, forecast): (&&Neuron, &forecast::Forecast)| {
        let waited = waited(state, neuron, ask.block, ask.pending);
        Candidate {
            value: forecast.mean + choice.optimism * forecast.doubt,
            observations: forecast.observations,
            overdue: Some(waited).filter(|waited| *waited >= overdue_after.max(1)),
        }
    };
    let candidates: Vec<Candidate> = available.iter().zip(&forecasts).map(candidate).collect();
    let (excluded, others): (Vec<usize>, Vec<usize>) =
        (0..available.len()).partition(|&at| ask.exclude.contains(&available[at].uid));
    let mut all_odds = vec![0.0; available.len()];
    let mut choose = |of: &[usize], places: usize| -> Vec<Routed> {
        let candidates: Vec<Candidate> = of.iter().map(|&at| candidates[at]).collect();
        let odds = propensities(&candidates, places, choice.exploration);
        of.iter().zip(&odds).for_each(|(&at, odd)| all_odds[at] = *odd);
        let uniform = (places as f64 / of.len().max(1) as f64).min(1.0);
        let routed = |at: usize| -> Option<Routed> {
            let neuron = available[of[at]];
            let (propensity, uniform_propensity) = (odds[at].min(1.0), Some(uniform));
            Some(Routed { uid: neuron.uid, hotkey: neuron.hotkey, axon: neuron.axon?, propensity, uniform_propensity })
        };
        draw(&odds, places, rng).into_iter().filter_map(routed).collect()
    };
    let mut drawn = choose(&others, ask.count);
    let missing = ask.count - drawn.len();
    if missing > 0 {
        drawn.extend(choose(&excluded, missing));
        drawn.shuffle(rng);
    }
    Some((drawn, all_odds))
}

/// Blocks a neuron has waited to be asked.
#[must_use]
pub fn waited(state: &State, neuron: &Neuron, now: Block, pending: &BTreeMap<Hotkey, Block>) -> u64 {
    let folded = state.waiting_since(&neuron.hotkey, neuron.registered_at, now);
    let since = pending.get(&neuron.hotkey).map_or(folded, |asked| folded.max(*asked));
    now.0.saturating_sub(since.0)
}

#[cfg(test)]
mod tests;
