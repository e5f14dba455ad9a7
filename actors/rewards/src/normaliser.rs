//! The running normaliser of a reward column: raw scores of any scale become shares of 0..=1.

use serde::{Deserialize, Serialize};

use crate::robust::Robust;

/// The count stops growing here, so that old scores keep fading: `count_limit` of the reference's `reward/reward.py`.
pub const COUNT_LIMIT_SCORES: u64 = 3000;

/// How raw scores become shares of 0..=1. The validator knows the first two; the others are there to be compared with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalisation {
    /// By median and median absolute deviation of what filters pass: [`crate::robust`], the default.
    Robust,
    /// By the running mean and variance of so many latest scores: [`Normaliser`].
    Running {
        /// [`COUNT_LIMIT_SCORES`] in the reference and the validator.
        count_limit: u64,
    },
    /// By the mean and variance of the step's own scores.
    Step,
    /// By the share of the step's other scores that are below, an equal one counting as half: only the order counts.
    Rank,
    /// As they are.
    Raw,
}

impl Normalisation {
    /// The normalised scores of a column. Only the running one reads and changes `running`; the robust one, whose memory the
    /// fold keeps, begins and ends with this column.
    pub fn apply(self, running: &mut Normaliser, scores: &[Option<f32>], single: SingleScore) -> Vec<Option<f32>> {
        match self {
            Self::Robust => Robust::default().normalise(scores, &vec![true; scores.len()]),
            Self::Running { count_limit } => running.normalise_within(count_limit, scores, single),
            Self::Step => Normaliser::default().normalise(scores, single),
            Self::Rank => ranks(scores),
            Self::Raw => scores.iter().map(|score| score.filter(|score| score.is_finite())).collect(),
        }
    }
}

/// For each score the share of the others that lie below it. A score by itself is in the middle.
fn ranks(scores: &[Option<f32>]) -> Vec<Option<f32>> {
    let finite: Vec<f32> = scores.iter().flatten().copied().filter(|score| score.is_finite()).collect();
    let rank = |score: f32| {
        let others = finite.len().saturating_sub(1);
        let (below, equal) = (
            finite.iter().filter(|other| **other < score).count(),
            finite.iter().filter(|other| **other == score).count().saturating_sub(1),
        );
        if others == 0 { 0.5 } else { ((below as f64 + 0.5 * equal as f64) / others as f64) as f32 }
    };
    scores.iter().map(|score| score.filter(|score| score.is_finite()).map(rank)).collect()
}

/// Running mean and variance of a reward column.
///
/// After `reward/reward.py` of openvalidators 1.2.0, arithmetic included: a batch enters with its *unbiased* variance
/// mixed by *population* weights, and is normalised with the statistics that already contain it. Two things differ:
/// the variance of a single score counts as 0 (there it is NaN, and stays so for ever: [`SingleScore`]), and a score that
/// is not finite never enters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Normaliser {
    /// Scores seen, at most [`COUNT_LIMIT_SCORES`].
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their variance.
    pub variance: f64,
    /// Scores are not scaled any more: what NaN for a variance does to the reference.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unscaled: bool,
}

/// What a batch of a single score does to the variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SingleScore {
    /// It counts as a variance of 0.
    #[default]
    VariesNot,
    /// Scores are never scaled again, as in the reference, where the variance is NaN from then on.
    EndsScaling,
}

impl Normaliser {
    /// Takes a batch in, then says where each of its scores lies: the normal cumulative distribution at its distance
    /// from the mean, in standard deviations. `None` and non-finite scores give `None`.
    pub fn normalise(&mut self, scores: &[Option<f32>], single: SingleScore) -> Vec<Option<f32>> {
        self.normalise_within(COUNT_LIMIT_SCORES, scores, single)
    }

    /// As [`Self::normalise`], with another limit to the count.
    fn normalise_within(&mut self, count_limit: u64, scores: &[Option<f32>], single: SingleScore) -> Vec<Option<f32>> {
        let finite: Vec<f64> = scores.iter().flatten().filter(|score| score.is_finite()).map(|&s| s.into()).collect();
        self.update(&finite, count_limit);
        self.unscaled |= finite.len() == 1 && single == SingleScore::EndsScaling;
        let scale = if self.variance > 0.0 && !self.unscaled { self.variance.sqrt() } else { 1.0 };
        let place = |score: f32| normal_cdf((f64::from(score) - self.mean) / scale) as f32;
        scores.iter().map(|score| score.filter(|score| score.is_finite()).map(place)).collect()
    }

    fn update(&mut self, scores: &[f64], count_limit: u64) {
        if scores.is_empty() {
            return;
        }
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let variance = match scores.len() {
            1 => 0.0,
            _ => scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / (n - 1.0),
        };
        let total = self.count as f64 + n;
        let (new, old) = (n / total, self.count as f64 / total);
        let moved = mean - self.mean;
        self.mean = new * mean + old * self.mean;
        self.variance = new * variance + old * self.variance + new * old * moved * moved;
        self.count = (self.count + scores.len() as u64).min(count_limit);
    }
}

/// The share of a normal distribution below `z` standard deviations.
pub(crate) fn normal_cdf(z: f64) -> f64 {
    0.5 * (1.0 + libm::erf(z / std::f64::consts::SQRT_2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parity::{golden, numbers};

    /// Every recorded model with a normaliser.
    const MODELS: [&str; 4] = ["dpo_gpt2", "dpo_btlm", "rlhf_deberta", "reciprocate_gptj"];

    /// Below it the reference's f32 arithmetic shows.
    const TINY_VARIANCE: f64 = 1e-3;

    #[test]
    fn other_normalisations_order_scores_alike_and_do_not_run() {
        let scores = [Some(3.0), None, Some(-1.0), Some(3.0), Some(f32::NAN), Some(10.0)];
        let apply = |normalisation: Normalisation| {
            let mut running = Normaliser::default();
            let normalised = normalisation.apply(&mut running, &scores, SingleScore::default());
            (normalised, running.count)
        };
        let half = 1.0 / 3.0 + 0.5 / 3.0;
        let (ranks, count) = apply(Normalisation::Rank);
        assert_eq!((ranks, count), (vec![Some(half), None, Some(0.0), Some(half), None, Some(1.0)], 0));
        let (raw, count) = apply(Normalisation::Raw);
        assert_eq!((raw, count), (vec![Some(3.0), None, Some(-1.0), Some(3.0), None, Some(10.0)], 0));
        let (step, count) = apply(Normalisation::Step);
        assert_eq!(
            (step, count),
            (apply(Normalisation::Running { count_limit: COUNT_LIMIT_SCORES }).0, 0),
            "as the first step of a running one"
        );
        let mut short = Normaliser::default();
        for _ in 0..3 {
            Normalisation::Running { count_limit: 5 }.apply(&mut short, &scores, SingleScore::default());
        }
        assert_eq!(short.count, 5);
        let alone = Normalisation::Rank.apply(&mut short, &[Some(7.0)], SingleScore::default());
        assert_eq!(alone, [Some(0.5)]);
    }

    #[test]
    fn ninety_recorded_steps_come_out_as_in_the_reference() {
        let mut normaliser = Normaliser::default();
        let steps = golden("normalizer");
        for (index, step) in steps.as_array().unwrap().iter().enumerate() {
            let normalised = normaliser.normalise(&numbers(&step["rewards"]), SingleScore::default());
            for (ours, theirs) in normalised.iter().zip(numbers(&step["normalized"])) {
                assert!((ours.unwrap() - theirs.unwrap()).abs() <= 1e-4, "step {index}: {ours:?} {theirs:?}");
            }
            assert_eq!(normaliser.count, step["state"]["count"].as_u64().unwrap());
            assert!((normaliser.mean - step["state"]["mean"].as_f64().unwrap()).abs() <= 1e-4);
            assert!((normaliser.variance - step["state"]["var"].as_f64().unwrap()).abs() <= 1e-3);
        }
        assert_eq!(steps.as_array().unwrap().len(), 90);
    }

    /// The second of these steps has one success: in the reference the third is not scaled any more.
    #[test]
    fn one_success_does_not_poison_the_variance_unless_asked_to() {
        for model in MODELS {
            let (mut ours, mut reference) = (Normaliser::default(), Normaliser::default());
            for step in golden(model)["trajectory"]["single_success_variant"].as_array().unwrap() {
                let raw = numbers(&step["result"]["raw"]);
                let theirs = numbers(&step["result"]["normalized"]);
                for (same, theirs) in reference.normalise(&raw, SingleScore::EndsScaling).iter().zip(theirs) {
                    assert!((same.unwrap_or(0.0) - theirs.unwrap()).abs() <= 1e-3, "{model}: {same:?} {theirs:?}");
                }
                let shares = ours.normalise(&raw, SingleScore::VariesNot);
                assert!(ours.variance.is_finite() && ours.mean.is_finite());
                assert!(shares.iter().flatten().all(|share| (0.0..=1.0).contains(share)));
            }
            assert!(reference.unscaled && !ours.unscaled && ours.variance > 0.0, "{model}: {ours:?}");
        }
    }

    #[test]
    fn recorded_trajectories_of_a_model_come_out_as_in_the_reference() {
        for model in MODELS {
            let mut normaliser = Normaliser::default();
            for (index, step) in golden(model)["trajectory"]["steps"].as_array().unwrap().iter().enumerate() {
                let raw = numbers(&step["raw"]);
                let normalised = normaliser.normalise(&raw, SingleScore::EndsScaling);
                let tolerance = if normaliser.variance < TINY_VARIANCE { 1e-3 } else { 1e-4 };
                for (ours, theirs) in normalised.iter().zip(numbers(&step["normalized"])) {
                    let apart = (ours.unwrap_or(0.0) - theirs.unwrap()).abs();
                    assert!(apart <= tolerance, "{model}, step {index}: {ours:?} {theirs:?}");
                }
            }
        }
    }

    #[test]
    fn equal_scores_are_all_average() {
        let mut normaliser = Normaliser::default();
        assert_eq!(normaliser.normalise(&[Some(0.1); 7], SingleScore::default()), [Some(0.5); 7]);
        assert_eq!(Normaliser::default().normalise(&[Some(-11.0)], SingleScore::default()), [Some(0.5)]);
        assert_eq!(Normaliser::default().normalise(&[], SingleScore::default()), []);
    }

    proptest! {
        #[test]
        fn whatever_comes_in_nothing_but_shares_comes_out(
            batches in prop::collection::vec(prop::collection::vec(prop::option::of(prop::num::f32::ANY), 0..8), 1..8),
        ) {
            let mut normaliser = Normaliser::default();
            for batch in &batches {
                let normalised = normaliser.normalise(batch, SingleScore::default());
                prop_assert_eq!(normalised.len(), batch.len());
                for (share, score) in normalised.iter().zip(batch) {
                    prop_assert_eq!(share.is_some(), score.is_some_and(f32::is_finite));
                    prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
                }
                prop_assert!(normaliser.mean.is_finite() && normaliser.variance.is_finite());
            }
        }
    }
}
