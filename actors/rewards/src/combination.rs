//! From normalised columns to the final rewards of a step, and its best completion.

use std::collections::BTreeMap;

use openvalidators_messages::{Column, Reward};

/// The share of each reward column, by name; they add up to 1.
pub type Weights = BTreeMap<String, f64>;

/// Weighted sum of the reward columns × product of the filters, as in the reference's `forward.py:run_step`, one for
/// each completion. A completion that failed, or lacks any of these numbers, gets 0.
///
/// Columns without a weight do not count; every column is as long as `succeeded`.
#[must_use]
pub fn combine(succeeded: &[bool], weights: &Weights, rewards: &[Column], filters: &[Column]) -> Vec<Reward> {
    let sums = weighted_sums(weights, rewards, succeeded.len());
    let reward = |index: usize| -> Option<Reward> {
        let mut sum = sums[index]?;
        for column in filters {
            sum *= f64::from(column.values[index]?);
        }
        Reward::new(sum as f32).ok()
    };
    let zero_unless = |(index, &success): (usize, &bool)| success.then(|| reward(index)).flatten().unwrap_or_default();
    succeeded.iter().enumerate().map(zero_unless).collect()
}

/// The weighted sum of the reward columns of so many completions; `None` where a number is missing.
#[must_use]
pub fn weighted_sums(weights: &Weights, rewards: &[Column], completions: usize) -> Vec<Option<f64>> {
    let weighted: Vec<_> = rewards
        .iter()
        .filter_map(|column| weights.get(&column.name).filter(|&&weight| weight > 0.0).map(|weight| (weight, column)))
        .collect();
    let sum = |index: usize| {
        let add = |sum, (weight, column): &(&f64, &Column)| Some(sum + **weight * f64::from(column.values[index]?));
        weighted.iter().try_fold(0.0, add)
    };
    (0..completions).map(sum).collect()
}

/// The first of the highest rewards above 0. The reference takes index 0 when nobody earned anything, possibly a failed
/// completion, and makes it the next prompt; here nobody is best then.
#[must_use]
pub fn best(rewards: &[Reward]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (index, &reward) in rewards.iter().enumerate() {
        if reward > best.map_or(Reward::ZERO, |leader| rewards[leader]) {
            best = Some(index);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, values: &[Option<f32>]) -> Column {
        Column { name: name.into(), values: values.to_vec() }
    }

    fn numbers(rewards: &[Reward]) -> Vec<f32> {
        rewards.iter().map(|reward| reward.get()).collect()
    }

    #[test]
    fn weighted_sum_times_filters() {
        let weights = Weights::from([("a".into(), 0.75), ("b".into(), 0.25), ("off".into(), 0.0)]);
        let rewards = combine(
            &[true, true, false, true],
            &weights,
            &[
                column("a", &[Some(1.0), Some(0.4), Some(1.0), None]),
                column("b", &[Some(0.0), Some(0.8), Some(1.0), Some(1.0)]),
                column("off", &[None; 4]),
                column("unknown", &[None; 4]),
            ],
            &[column("f", &[Some(1.0), Some(0.5), Some(1.0), Some(1.0)]), column("g", &[Some(1.0); 4])],
        );
        assert_eq!(numbers(&rewards), [0.75, 0.25, 0.0, 0.0]);
        assert_eq!(best(&rewards), Some(0));
    }

    #[test]
    fn a_missing_or_absurd_filter_value_blocks() {
        let weights = Weights::from([("a".into(), 1.0)]);
        let reward = [column("a", &[Some(1.0); 3])];
        let filter = [column("f", &[None, Some(f32::INFINITY), Some(f32::NAN)])];
        assert_eq!(numbers(&combine(&[true; 3], &weights, &reward, &filter)), [0.0; 3]);
    }

    #[test]
    fn nobody_is_best_when_nobody_earned_anything() {
        let rewards = |values: &[f32]| values.iter().map(|&v| Reward::new(v).unwrap()).collect::<Vec<_>>();
        assert_eq!(best(&[]), None);
        assert_eq!(best(&rewards(&[0.0, 0.0])), None);
        assert_eq!(best(&rewards(&[0.0, 0.25, 0.5, 0.5])), Some(2), "the first of equals, as torch's argmax");
    }
}
