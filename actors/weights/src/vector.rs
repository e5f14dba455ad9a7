//! From scores to a weight vector for one metagraph, or the reason why the scores are none to pay anyone.

use std::collections::{HashMap, HashSet};

use openvalidators_messages::{
    Hotkey, Metagraph, Neuron, Uid,
    ledger::{Paid, WeightBasis},
    weights::{ScoreRow, ScoreTable},
};

use crate::{
    WeightsConfig, WhenEmpty,
    process::{BadWeight, Limits, emit, process},
};

/// A neuron that was asked in so many scored steps and never answered is not waited for.
const SILENT_AFTER_STEPS: u64 = 10;

/// The chain's weights of one validator: uids ascending, the largest weight 65535.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightVector {
    /// Whom, who held the place, how much.
    pub entries: Vec<(Uid, Hotkey, u16)>,
    /// What it was made from: [`emitted`] makes it again.
    pub basis: WeightBasis,
}

/// Why no vector was made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoVector {
    /// Too little is known of the miners of this metagraph.
    #[error("{scored} neurons have a scored answer; of {askable} that may answer, {wanted} are wanted")]
    TooFewScored {
        /// So many have answered a step that was scored.
        scored: usize,
        /// So many others serve an axon, are no validators, and are not always silent.
        askable: usize,
        /// So many should have answered.
        wanted: usize,
    },
    /// Nobody speaks our protocol, as far as is known.
    #[error(
        "none of the {asked} axons asked so far has answered, and before the first weights one of {wanted} must: is chain.netuid \
         a subnet of text prompting, and are we reachable?"
    )]
    Unproven {
        /// So many were asked.
        asked: usize,
        /// So many are to be asked before the subnet is given up, as far as there are miners.
        wanted: usize,
    },
    /// Nobody has earned anything.
    #[error("none of {scored} neurons with a scored answer has a score above 0")]
    NothingEarned {
        /// So many have answered a step that was scored.
        scored: usize,
    },
    /// No answer was scored for long.
    #[error("the newest scored answer is {age_seconds:.0} s old, at most {limit_seconds} s are allowed")]
    TooOld {
        /// Age of the newest scored answer.
        age_seconds: f64,
        /// The limit.
        limit_seconds: u64,
    },
    /// The owner should get everything, but has no place on the subnet.
    #[error("the subnet owner, who should get everything, has no uid")]
    NoOwner,
    /// A score that cannot be one.
    #[error(transparent)]
    Bad(#[from] BadWeight),
}

/// Makes the vector for this metagraph. Scores find their uid by hotkey, so a recycled uid inherits nothing; hotkeys that are
/// not registered, and our own, count for nothing. Negative scores count as 0.
///
/// # Errors
/// When the scores are no reason to pay anyone and [`WhenEmpty::Hold`] is configured, or the owner has no place.
pub fn make(
    metagraph: &Metagraph,
    own: &Hotkey,
    scores: &ScoreTable,
    config: &WeightsConfig,
    unix_seconds: f64,
) -> Result<WeightVector, NoVector> {
    let paid = match (earned(metagraph, own, scores, config, unix_seconds), config.when_empty) {
        (Ok(paid), _) => paid,
        (Err(reason), WhenEmpty::Hold) => return Err(reason),
        (Err(_), WhenEmpty::Uniform) => Paid::Uniform,
        (Err(_), WhenEmpty::Owner) => Paid::Owner { uid: metagraph.owner_uid.ok_or(NoVector::NoOwner)? },
    };
    let basis = WeightBasis {
        paid,
        neurons: metagraph.neurons.len(),
        min_allowed: metagraph.hyperparameters.min_allowed_weights.into(),
        max_share: metagraph.hyperparameters.max_weight_limit,
        exclude_quantile: config.exclude_quantile,
    };
    let entries = emitted(&basis)?
        .into_iter()
        .filter_map(|(uid, weight)| metagraph.neuron(uid).map(|neuron| (uid, neuron.hotkey, weight)))
        .collect();
    Ok(WeightVector { entries, basis })
}

/// Whether anybody on this subnet speaks our protocol: the steps so far are the probe. Asked before the first weights alone.
///
/// # Errors
/// [`NoVector::Unproven`], until somebody has answered.
pub fn probe(metagraph: &Metagraph, own: &Hotkey, scores: &ScoreTable, config: &WeightsConfig) -> Result<(), NoVector> {
    let registered: HashSet<_> = metagraph.neurons.iter().map(|neuron| neuron.hotkey).collect();
    let asked: Vec<_> = scores.rows.iter().filter(|row| row.asked > 0 && registered.contains(&row.hotkey)).collect();
    if config.probe_axons == 0 || asked.iter().any(|row| row.answered > 0) {
        return Ok(());
    }
    let serving = metagraph.neurons.iter().filter(|neuron| neuron.axon.is_some() && neuron.hotkey != *own).count();
    Err(NoVector::Unproven { asked: asked.len(), wanted: config.probe_axons.min(serving).max(1) })
}

/// The vector of a basis, as the chain takes it.
///
/// # Errors
/// When a weight is none.
pub fn emitted(basis: &WeightBasis) -> Result<Vec<(Uid, u16)>, BadWeight> {
    emit(&processed(basis)?)
}

/// The shares of a basis after the subnet's rules; they sum to 1.
///
/// # Errors
/// When a weight is none.
pub fn processed(basis: &WeightBasis) -> Result<Vec<(Uid, f64)>, BadWeight> {
    let WeightBasis { neurons, min_allowed, max_share, exclude_quantile, .. } = *basis;
    process(&raw(basis), &Limits { neurons, min_allowed, max_share, exclude_quantile })
}

/// What each uid would get before the subnet's rules: scores divided by their sum.
#[must_use]
pub fn raw(basis: &WeightBasis) -> Vec<f32> {
    let mut raw = vec![0.0; basis.neurons];
    match &basis.paid {
        Paid::Uniform => {}
        Paid::Owner { uid } => {
            if let Some(place) = raw.get_mut(usize::from(uid.0)) {
                *place = 1.0;
            }
        }
        Paid::Scores { scores } => {
            let sum: f64 = scores.iter().map(|(.., score)| score).sum();
            for (uid, _, score) in scores {
                if let Some(place) = raw.get_mut(usize::from(uid.0)) {
                    *place = (score / sum) as f32;
                }
            }
        }
    }
    raw
}

/// The scores above 0 of this metagraph's miners.
fn earned(
    metagraph: &Metagraph,
    own: &Hotkey,
    scores: &ScoreTable,
    config: &WeightsConfig,
    unix_seconds: f64,
) -> Result<Paid, NoVector> {
    let rows: HashMap<_, _> = scores.rows.iter().map(|row| (row.hotkey, row)).collect();
    let found: Vec<_> = metagraph
        .neurons
        .iter()
        .map(|neuron| if neuron.hotkey == *own { None } else { rows.get(&neuron.hotkey) })
        .collect();
    let scored = found.iter().flatten().filter(|row| row.answered > 0).count();
    let stake_threshold = metagraph.hyperparameters.stake_threshold;
    let others = metagraph.neurons.iter().zip(&found).filter(|(neuron, _)| neuron.hotkey != *own);
    let askable = others.filter(|(neuron, row)| may_answer(neuron, row.copied(), stake_threshold)).count();
    let wanted = config.min_scored.min(askable).max(1);
    if scored < wanted {
        return Err(NoVector::TooFewScored { scored, askable, wanted });
    }
    let newest = found.iter().flatten().map(|row| row.scored_at).fold(f64::NEG_INFINITY, f64::max);
    let age_seconds = unix_seconds - newest;
    if age_seconds > config.max_score_age_seconds as f64 {
        return Err(NoVector::TooOld { age_seconds, limit_seconds: config.max_score_age_seconds });
    }
    let positive = metagraph.neurons.iter().zip(&found).filter_map(|(neuron, row)| {
        let score = row.map_or(0.0, |row| row.score);
        (score > 0.0).then_some((neuron.uid, neuron.hotkey, score))
    });
    let scores: Vec<_> = positive.collect();
    if scores.is_empty() { Err(NoVector::NothingEarned { scored }) } else { Ok(Paid::Scores { scores }) }
}

/// Whether an answer of this neuron is worth waiting for. Validators are never asked, many neurons serve no axon, and one that
/// is always silent must not keep a small subnet from getting weights.
fn may_answer(neuron: &Neuron, row: Option<&ScoreRow>, stake_threshold: f64) -> bool {
    let is_validator = neuron.validator_permit && neuron.stake > stake_threshold;
    neuron.axon.is_some() && row.map_or(!is_validator, |row| row.answered > 0 || row.asked < SILENT_AFTER_STEPS)
}

#[cfg(test)]
mod tests;
