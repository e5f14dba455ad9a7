//! A normaliser that a minority cannot move: median and median absolute deviation in place of mean and variance (Huber 1964,
//! "Robust estimation of a location parameter"; Hampel 1974, "The influence curve and its role in robust estimation").
//!
//! In openvalidators 1.2.0 every raw score enters the running mean and variance, what filters block included: thirty of a
//! hundred hotkeys that say `ok` score −11 each, the variance grows, and the good and the poor among the others earn nearly
//! the same. Three things differ here:
//!
//! - *Who counts.* Scores of completions that filters leave less than half of say nothing about what others are worth.
//! - *Location* is the median of the step: how hard a prompt is, is common to all who were asked it. With few completions it
//!   is drawn towards the median of the window, which counts as [`PRIOR_SCORES`] of them.
//! - *Scale* is 1.4826 × the median absolute deviation from the steps' medians over a window of so many latest scores, which
//!   is the standard deviation where scores are normal. Once the window has [`WARM_SCORES`] it is taken anew every so many
//!   steps only, and stands still in between: nobody moves it within an epoch.

use serde::{Deserialize, Serialize};

use crate::normaliser::normal_cdf;

/// Scores the window holds: with fifty asked, those of the latest sixty steps.
const WINDOW_SCORES: usize = 3_000;
/// Scores from which on the scale stands still between refreshes.
const WARM_SCORES: usize = 500;
/// Scored steps for which it stands still: a good half of an epoch of 360 blocks at a step every six blocks.
const FROZEN_STEPS: u64 = 30;
/// What the window's median counts against the step's.
const PRIOR_SCORES: f64 = 5.0;
/// The median absolute deviation of a normal distribution, in standard deviations: Φ⁻¹(3/4).
const NORMAL_MAD: f64 = 0.674_489_750_196_081_7;

/// What is remembered of one reward column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Robust {
    /// The latest scores that counted, oldest first: each with its distance from the median of its step.
    window: Vec<(f32, f64)>,
    /// Scored steps since location and scale were taken.
    steps: u64,
    /// The median of the window.
    pub location: f64,
    /// The scale; 0 while scores do not vary.
    pub scale: f64,
}

// === impl Robust ===

impl Robust {
    /// Takes a batch in, of which `counts` are honoured, then says where each of its scores lies: the normal cumulative
    /// distribution at its distance from the location, in scales. `None` and non-finite scores give `None`.
    pub fn normalise(&mut self, scores: &[Option<f32>], counts: &[bool]) -> Vec<Option<f32>> {
        let finite = |score: &Option<f32>| score.filter(|score| score.is_finite());
        let counted = scores.iter().zip(counts).filter(|(_, counts)| **counts);
        let counted: Vec<f32> = counted.filter_map(|(score, _)| finite(score)).collect();
        let median_of_step = median(counted.iter().copied().map(f64::from).collect());
        if let Some(median) = median_of_step {
            self.remember(&counted, median);
        }
        let location = match (median_of_step, self.window.len() > counted.len()) {
            (Some(median), true) => {
                let n = counted.len() as f64;
                (n * median + PRIOR_SCORES * self.location) / (n + PRIOR_SCORES)
            }
            (Some(median), false) => median,
            (None, _) => self.location,
        };
        let scale = if self.scale > 0.0 { self.scale } else { 1.0 };
        let share = |score: f32| normal_cdf((f64::from(score) - location) / scale) as f32;
        scores.iter().map(|score| finite(score).map(share)).collect()
    }

    fn remember(&mut self, counted: &[f32], median_of_step: f64) {
        self.window.extend(counted.iter().map(|score| (*score, f64::from(*score) - median_of_step)));
        self.window.drain(..self.window.len().saturating_sub(WINDOW_SCORES));
        self.steps += 1;
        if self.window.len() < WARM_SCORES || self.steps >= FROZEN_STEPS {
            self.steps = 0;
            let of = |pick: fn(&(f32, f64)) -> f64| median(self.window.iter().map(pick).collect()).unwrap_or_default();
            self.location = of(|(score, _)| (*score).into());
            self.scale = of(|(_, distance)| distance.abs()) / NORMAL_MAD;
        }
    }
}

/// The middle of the numbers; the mean of both where there are two. They are finite.
fn median(mut numbers: Vec<f64>) -> Option<f64> {
    let middle = numbers.len() / 2;
    let odd = numbers.len() % 2 == 1;
    if numbers.is_empty() {
        return None;
    }
    let (below, upper, _) = numbers.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    let lower = below.iter().copied().max_by(f64::total_cmp).filter(|_| !odd).unwrap_or(upper);
    Some(lower + (upper - lower) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some(scores: &[f32]) -> Vec<Option<f32>> {
        scores.iter().copied().map(Some).collect()
    }

    /// Fourteen honest scores from −3 to −1.7 and as many squeezers as are said, twenty steps long; only the honest ones count,
    /// or all.
    fn squeezed(squeezers: usize, all_count: bool) -> Vec<Option<f32>> {
        let mut robust = Robust::default();
        let scores = scores(squeezers);
        let counted: Vec<bool> = (0..scores.len()).map(|place| place < 14 || all_count).collect();
        (0..20).map(|_| robust.normalise(&scores, &counted)).next_back().unwrap()
    }

    fn scores(squeezers: usize) -> Vec<Option<f32>> {
        (0..14).map(|place| -3.0 + 0.1 * place as f32).chain(vec![-11.0; squeezers]).map(Some).collect()
    }

    /// `ok` from three of ten flattened what the others earned.
    #[test]
    fn the_squeeze_moves_nobody() {
        let apart = |shares: &[Option<f32>]| shares[13].unwrap() - shares[0].unwrap();
        assert_eq!(squeezed(6, false)[..14], squeezed(0, false)[..], "who does not count is as good as not there");
        let (alone, counted) = (apart(&squeezed(0, true)), apart(&squeezed(6, true)));
        assert!(counted > 0.5 * alone, "even where no filter stops it: {counted} of {alone}");
        let reference = |squeezers| {
            let mut normaliser = crate::normaliser::Normaliser::default();
            let scores = scores(squeezers);
            let last = (0..20).map(|_| normaliser.normalise(&scores, Default::default())).next_back();
            apart(&last.unwrap())
        };
        assert!(reference(6) < 0.2 * reference(0), "{} of {}", reference(6), reference(0));
    }

    #[test]
    fn a_hard_prompt_is_nobodys_fault() {
        let mut robust = Robust::default();
        let easy: Vec<f32> = (0..50).map(|place| -2.0 + 0.02 * place as f32).collect();
        let hard: Vec<f32> = easy.iter().map(|score| score - 3.0).collect();
        for _ in 0..10 {
            robust.normalise(&some(&easy), &[true; 50]);
        }
        let (easy, hard) = (robust.normalise(&some(&easy), &[true; 50]), robust.normalise(&some(&hard), &[true; 50]));
        let worst = easy.iter().zip(&hard).map(|(a, b)| (a.unwrap() - b.unwrap()).abs()).fold(0.0, f32::max);
        assert!(worst < 0.3, "{worst}");
        assert_eq!(robust.normalise(&some(&[robust.location as f32]), &[true]).len(), 1);
    }

    #[test]
    fn the_scale_stands_still_between_refreshes() {
        let mut robust = Robust::default();
        let batch: Vec<f32> = (0..50).map(|place| place as f32).collect();
        for _ in 0..WARM_SCORES / 50 {
            robust.normalise(&some(&batch), &[true; 50]);
        }
        let before = robust.scale;
        let wide: Vec<f32> = batch.iter().map(|score| score * 9.0).collect();
        let scales: Vec<f64> = (0..30)
            .map(|_| {
                robust.normalise(&some(&wide), &[true; 50]);
                robust.scale
            })
            .collect();
        let still = scales.iter().filter(|scale| **scale == before).count();
        assert!(still as u64 >= FROZEN_STEPS - 2 && scales[29] > 2.0 * before, "{scales:?}");
    }

    #[test]
    fn equal_scores_are_all_average_and_nothing_is_nothing() {
        assert_eq!(Robust::default().normalise(&[Some(0.1); 7], &[true; 7]), [Some(0.5); 7]);
        assert_eq!(Robust::default().normalise(&[Some(-11.0)], &[true]), [Some(0.5)]);
        assert_eq!(Robust::default().normalise(&[], &[]), []);
        let unseen = Robust::default().normalise(&[Some(0.0), None, Some(f32::NAN)], &[false; 3]);
        assert_eq!(unseen, [Some(0.5), None, None]);
    }

    proptest! {
        #[test]
        fn whatever_comes_in_nothing_but_shares_comes_out(
            batches in prop::collection::vec(
                prop::collection::vec((prop::option::of(prop::num::f32::ANY), any::<bool>()), 0..8), 1..8),
        ) {
            let mut robust = Robust::default();
            for batch in &batches {
                let (scores, counts): (Vec<_>, Vec<_>) = batch.iter().copied().unzip();
                let normalised = robust.normalise(&scores, &counts);
                for (share, score) in normalised.iter().zip(&scores) {
                    prop_assert_eq!(share.is_some(), score.is_some_and(f32::is_finite));
                    prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
                }
            }
            let written = serde_json::to_vec(&robust).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Robust>(&written).unwrap(), robust);
        }

        #[test]
        fn the_median_is_the_middle_of_the_sorted(numbers in prop::collection::vec(-100i32..100, 1..20)) {
            let mut sorted: Vec<f64> = numbers.iter().copied().map(f64::from).collect();
            sorted.sort_by(f64::total_cmp);
            let n = sorted.len();
            let middle = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
            prop_assert!((median(numbers.into_iter().map(f64::from).collect()).unwrap() - middle).abs() < 1e-9);
        }
    }
}
