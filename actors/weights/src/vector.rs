//! From scores to a weight vector for one metagraph, or the reason why the scores are none to pay anyone.

use std::collections::{HashMap, HashSet};

use openvalidators_messages::{
    Hotkey, Metagraph, Neuron, Uid,
    weights::{ScoreRow, ScoreTable},
};

use crate::{
    WeightsConfig, WhenEmpty,
    process::{BadWeight, Limits, emit, process},
};

/// A neuron that was asked in so many scored steps and never answered is not waited for.
const SILENT_AFTER_STEPS: u64 = 10;

/// The chain's weights of one validator: uids ascending, the largest weight 65535.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightVector {
    /// Whom, who held the place, how much.
    pub entries: Vec<(Uid, Hotkey, u16)>,
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
    let raw = match (earned(metagraph, own, scores, config, unix_seconds), config.when_empty) {
        (Ok(raw), _) => raw,
        (Err(reason), WhenEmpty::Hold) => return Err(reason),
        (Err(_), WhenEmpty::Uniform) => vec![0.0; metagraph.neurons.len()],
        (Err(_), WhenEmpty::Owner) => {
            let owner = usize::from(metagraph.owner_uid.ok_or(NoVector::NoOwner)?.0);
            (0..metagraph.neurons.len()).map(|uid| if uid == owner { 1.0 } else { 0.0 }).collect()
        }
    };
    let limits = Limits {
        neurons: metagraph.neurons.len(),
        min_allowed: metagraph.hyperparameters.min_allowed_weights.into(),
        max_share: metagraph.hyperparameters.max_weight_limit,
        exclude_quantile: config.exclude_quantile,
    };
    let weights = emit(&process(&raw, &limits)?)?;
    let entries = weights
        .into_iter()
        .filter_map(|(uid, weight)| metagraph.neuron(uid).map(|neuron| (uid, neuron.hotkey, weight)))
        .collect();
    Ok(WeightVector { entries })
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

/// The scores of this metagraph's miners, divided by their sum: one for each uid.
fn earned(
    metagraph: &Metagraph,
    own: &Hotkey,
    scores: &ScoreTable,
    config: &WeightsConfig,
    unix_seconds: f64,
) -> Result<Vec<f32>, NoVector> {
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
    let scores: Vec<f64> = found.iter().map(|row| row.map_or(0.0, |row| row.score.max(0.0))).collect();
    let sum: f64 = scores.iter().sum();
    if sum > 0.0 {
        Ok(scores.iter().map(|score| (score / sum) as f32).collect())
    } else {
        Err(NoVector::NothingEarned { scored })
    }
}

/// Whether an answer of this neuron is worth waiting for. Validators are never asked, many neurons serve no axon, and one that
/// is always silent must not keep a small subnet from getting weights.
fn may_answer(neuron: &Neuron, row: Option<&ScoreRow>, stake_threshold: f64) -> bool {
    let is_validator = neuron.validator_permit && neuron.stake > stake_threshold;
    neuron.axon.is_some() && row.map_or(!is_validator, |row| row.answered > 0 || row.asked < SILENT_AFTER_STEPS)
}

#[cfg(test)]
mod tests;
