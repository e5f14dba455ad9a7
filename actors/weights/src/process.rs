//! From shares to the u16 vector the chain takes: `process_weights_for_netuid`, `normalize_max_weight` and
//! `convert_weights_and_uids_for_emit` of the Bittensor SDK (`bittensor/utils/weight_utils.py`, v5.3 to v10 alike). Bit for bit
//! what 10.5.0 computes with numpy, so that a subnet's validators agree to the last unit.

use openvalidators_messages::Uid;

/// The subnet's rules for a weight vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Neurons on the subnet.
    pub neurons: usize,
    /// Fewest uids a vector may name.
    pub min_allowed: usize,
    /// Largest share of one uid, in 0..=1.
    pub max_share: f64,
    /// Shares below this quantile of the positive ones are dropped, in 0..=1. SDK 5.3 read it from the chain
    /// (`ValidatorExcludeQuantile`, gone since); SDK 10 says 0.
    pub exclude_quantile: f64,
}

/// A weight that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the weight of uid {uid} must be finite and not negative, found {found}")]
pub struct BadWeight {
    /// Whose.
    pub uid: Uid,
    /// What it was.
    pub found: f64,
}

/// The SDK's guard against division by zero.
const EPSILON: f64 = 1e-7;
/// What the SDK gives everyone when too few have earned something.
const DUST: f64 = 1e-5;
/// The chain's largest weight.
const MAX_WEIGHT: f64 = 65_535.0;

/// The floating-point type the SDK happens to compute in. Values are kept as f64 and rounded after every operation: for
/// +, −, × and ÷ that is exactly single-precision arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Precision {
    Single,
    Double,
}

/// Shapes raw weights (one for each uid from 0; missing ones are 0) after the subnet's rules; the result sums to 1.
///
/// * no positive weight, or a subnet smaller than `min_allowed`: the same for everyone;
/// * fewer positive weights than `min_allowed`: a dust of 1e-5 for everyone on top;
/// * else the positive ones above the excluded quantile, clipped to `max_share`.
///
/// # Errors
/// When a weight is NaN, infinite or negative.
pub fn process(weights: &[f32], limits: &Limits) -> Result<Vec<(Uid, f64)>, BadWeight> {
    for (uid, weight) in weights.iter().enumerate() {
        refuse_bad(uid_at(uid), f64::from(*weight))?;
    }
    let positive: Vec<(Uid, f64)> = weights
        .iter()
        .enumerate()
        .filter(|(_, weight)| **weight > 0.0)
        .map(|(uid, weight)| (uid_at(uid), f64::from(*weight)))
        .collect();
    let everyone = |values: Vec<f64>| values.into_iter().enumerate().map(|(uid, value)| (uid_at(uid), value)).collect();
    if positive.is_empty() || limits.neurons < limits.min_allowed {
        return Ok(everyone(vec![1.0 / limits.neurons as f64; limits.neurons]));
    }
    if positive.len() < limits.min_allowed {
        let mut padded = vec![DUST; limits.neurons];
        for (uid, weight) in &positive {
            if let Some(place) = padded.get_mut(usize::from(uid.0)) {
                *place += weight;
            }
        }
        return Ok(everyone(clip(padded, limits.max_share, Precision::Double)));
    }
    let spare = (positive.len() - limits.min_allowed) as f64 / positive.len() as f64;
    let floor = quantile(&positive, limits.exclude_quantile.min(spare));
    let (uids, kept): (Vec<Uid>, Vec<f64>) = positive.into_iter().filter(|(_, weight)| floor <= *weight).unzip();
    Ok(uids.into_iter().zip(clip(kept, limits.max_share, Precision::Single)).collect())
}

/// Scales to the largest weight, rounds half to even, and leaves out what comes to 0.
///
/// # Errors
/// When a weight is NaN, infinite or negative.
pub fn emit(weights: &[(Uid, f64)]) -> Result<Vec<(Uid, u16)>, BadWeight> {
    // The SDK casts to single precision before it emits.
    let weights: Vec<(Uid, f64)> =
        weights.iter().map(|(uid, weight)| (*uid, Precision::Single.round(*weight))).collect();
    for (uid, weight) in &weights {
        refuse_bad(*uid, *weight)?;
    }
    let largest = weights.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
    if largest == 0.0 {
        return Ok(Vec::new());
    }
    let scaled = weights.iter().map(|(uid, weight)| (*uid, (weight / largest * MAX_WEIGHT).round_ties_even() as u16));
    Ok(scaled.filter(|(_, weight)| *weight > 0).collect())
}

/// Normalises to sum 1 with no share above `limit`: the largest are cut at the one height that makes it so.
fn clip(weights: Vec<f64>, limit: f64, precision: Precision) -> Vec<f64> {
    let round = |value: f64| precision.round(value);
    let count = weights.len();
    let normalise = |weights: Vec<f64>| {
        let sum = precision.sum(&weights);
        weights.into_iter().map(|weight| round(weight / sum)).collect()
    };
    if precision.sum(&weights) == 0.0 || count as f64 * limit <= 1.0 {
        return vec![round(1.0 / count as f64); count];
    }
    let mut sorted = weights.clone();
    sorted.sort_by(f64::total_cmp);
    let sum = precision.sum(&sorted);
    let shares: Vec<f64> = sorted.iter().map(|value| round(value / sum)).collect();
    if shares.last().is_none_or(|largest| *largest <= round(limit)) {
        return normalise(weights);
    }
    let mut running = 0.0;
    let cumulative: Vec<f64> = shares
        .iter()
        .map(|share| {
            running = round(running + share);
            running
        })
        .collect();
    // Were everything above share i cut to it, would it stay below the limit?
    let below = (0..count)
        .filter(|&i| {
            let rest = round((count - i - 1) as f64 * shares[i]);
            let total = round(round(rest + cumulative[i]) + round(EPSILON));
            round(shares[i] / total) < round(limit)
        })
        .count();
    let uncut = cumulative[below.checked_sub(1).unwrap_or(count - 1)];
    let height = round(round(round(limit) * uncut) - round(EPSILON)) / (1.0 - limit * (count - below) as f64);
    let height = height * sum;
    normalise(weights.into_iter().map(|weight| if weight > height { round(height) } else { weight }).collect())
}

/// Linear interpolation between the two nearest ranks, as numpy's default.
fn quantile(weights: &[(Uid, f64)], quantile: f64) -> f64 {
    let mut sorted: Vec<f64> = weights.iter().map(|(_, weight)| *weight).collect();
    sorted.sort_by(f64::total_cmp);
    let place = quantile.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

fn refuse_bad(uid: Uid, found: f64) -> Result<(), BadWeight> {
    if found.is_finite() && found >= 0.0 { Ok(()) } else { Err(BadWeight { uid, found }) }
}

fn uid_at(index: usize) -> Uid {
    Uid(u16::try_from(index).unwrap_or(u16::MAX))
}

// === impl Precision ===

impl Precision {
    fn round(self, value: f64) -> f64 {
        match self {
            Self::Single => f64::from(value as f32),
            Self::Double => value,
        }
    }

    /// numpy's pairwise summation: eight running sums for up to 128 values, halves of a multiple of 8 above.
    fn sum(self, values: &[f64]) -> f64 {
        const LANES: usize = 8;
        const BLOCK: usize = 128;
        let add = |left: f64, right: f64| self.round(left + right);
        if values.len() < LANES {
            return values.iter().fold(0.0, |sum, value| add(sum, *value));
        }
        if values.len() > BLOCK {
            let half = values.len() / 2;
            let (left, right) = values.split_at(half - half % LANES);
            return add(self.sum(left), self.sum(right));
        }
        let mut chunks = values.chunks_exact(LANES);
        let mut lanes = [0.0; LANES];
        for chunk in chunks.by_ref() {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = add(*lane, *value);
            }
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        let total = add(add(add(a, b), add(c, d)), add(add(e, f), add(g, h)));
        chunks.remainder().iter().fold(total, |sum, value| add(sum, *value))
    }
}

#[cfg(test)]
mod tests;
