//! From what miners promise to how probably each is asked, and a draw that keeps to it. Pure.
//!
//! Three rules, in this order:
//!
//! 1. Who has waited too long is asked, the longest first: starvation has a bound.
//! 2. Of the places left, all but a share go to the best for certain, and where several are as good to all of these alike.
//! 3. That share is given out whatever anybody promises (ε-greedy, Sutton & Barto 2018, chapter 2.2), as one over what is known
//!    of each: everyone has a floor, and a newcomer is tried out soon. Explored are thus the last places, never the first:
//!    what a step is worth is what its best completion is.
//!
//! The draw is systematic sampling (Madow 1949) in random order: of exactly as many as there are places, each is in it with
//! exactly the probability it was given. These propensities are what averages over the completions need
//! ([`openvalidators_messages::Asked::importance`]).

use rand::{Rng, seq::SliceRandom};

/// One who could be asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// What its completion promises to be worth, doubt in its favour.
    pub value: f64,
    /// Rewards that is known from.
    pub observations: usize,
    /// Blocks it has waited, where that is too long.
    pub overdue: Option<u64>,
}

/// The probability of each candidate to have one of `places`; they add up to `places`, or all are 1 where everyone has one.
///
/// `exploration` is the share of places given out whatever anybody promises, in 0..=1.
#[must_use]
pub fn propensities(candidates: &[Candidate], places: usize, exploration: f64) -> Vec<f64> {
    if places >= candidates.len() {
        return vec![1.0; candidates.len()];
    }
    let (overdue, others): (Vec<usize>, Vec<usize>) =
        (0..candidates.len()).partition(|&at| candidates[at].overdue.is_some());
    let mut odds = vec![0.0; candidates.len()];
    let waited = |at: usize| candidates[at].overdue.unwrap_or_default() as f64;
    for (at, share) in best(&overdue, waited, places as f64) {
        odds[at] = share;
    }
    let left = places.saturating_sub(overdue.len()) as f64;
    for (at, share) in best(&others, |at| candidates[at].value, (1.0 - exploration) * left) {
        odds[at] = share;
    }
    let room: Vec<f64> = others.iter().map(|&at| 1.0 - odds[at]).collect();
    let novelty: Vec<f64> = others.iter().map(|&at| 1.0 / (1.0 + candidates[at].observations as f64)).collect();
    for (&at, floor) in others.iter().zip(floors(&novelty, &room, exploration * left)) {
        odds[at] += floor;
    }
    odds
}

/// Shares of `places` in proportion to `novelty`, but none above the room there is.
fn floors(novelty: &[f64], room: &[f64], places: f64) -> Vec<f64> {
    let (mut floors, mut full) = (vec![0.0; room.len()], vec![false; room.len()]);
    loop {
        let (mut left, mut weights) = (places, 0.0);
        for ((full, room), weight) in full.iter().zip(room).zip(novelty) {
            if *full {
                left -= room;
            } else {
                weights += weight;
            }
        }
        for (at, floor) in floors.iter_mut().enumerate() {
            *floor = if full[at] { room[at] } else { left.max(0.0) * novelty[at] / weights };
        }
        // Whoever would have more than there is room for leaves the rest to others; each turn fills at least one.
        let over: Vec<usize> = (0..room.len()).filter(|&at| !full[at] && floors[at] > room[at]).collect();
        if over.is_empty() {
            return floors;
        }
        over.into_iter().for_each(|at| full[at] = true);
    }
}

/// Shares of `places` among `of`, the greatest key first; equals at the end of the places share what is left.
fn best(of: &[usize], key: impl Fn(usize) -> f64, places: f64) -> Vec<(usize, f64)> {
    let mut order: Vec<(usize, f64)> = of.iter().map(|&at| (at, key(at))).collect();
    order.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    let mut left = places;
    let mut shares = Vec::with_capacity(order.len());
    for equals in order.chunk_by(|(_, left), (_, right)| left == right) {
        let share = (left / equals.len() as f64).min(1.0);
        left = (left - equals.len() as f64).max(0.0);
        shares.extend(equals.iter().map(|(at, _)| (*at, share)));
    }
    shares
}

/// Draws `places` of them, or all if they are fewer, in random order; the one at `i` with probability `odds[i]`.
pub fn draw(odds: &[f64], places: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..odds.len()).collect();
    order.shuffle(rng);
    if places >= odds.len() {
        return order;
    }
    // Marks at one random point of each unit of the sum: who stands on a mark is drawn.
    let (mut mark, mut sum): (f64, f64) = (rng.random(), 0.0);
    let (mut drawn, mut passed) = (Vec::with_capacity(places), Vec::new());
    for at in order {
        sum += odds[at];
        if sum > mark && drawn.len() < places {
            drawn.push(at);
            mark += 1.0;
        } else {
            passed.push(at);
        }
    }
    // A sum rounded down may end before the last mark.
    passed.sort_by(|left, right| odds[*right].total_cmp(&odds[*left]));
    let missing = places - drawn.len();
    drawn.extend(passed.into_iter().take(missing));
    drawn.shuffle(rng);
    drawn
}

/// How evenly a step asks: the entropy of its propensities as a distribution over the available, by that of the uniform
/// one: 1 asks everybody alike, 0 a single one of several.
#[must_use]
pub fn evenness(odds: &[f64]) -> f64 {
    let sum: f64 = odds.iter().sum();
    if odds.len() < 2 || sum <= 0.0 {
        return 1.0;
    }
    let entropy: f64 =
        odds.iter().map(|odd| odd / sum).filter(|share| *share > 0.0).map(|share| -share * share.ln()).sum();
    entropy / (odds.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use openvalidators_runtime::Seed;
    use proptest::prelude::*;

    use super::*;

    fn worth(value: f64) -> Candidate {
        Candidate { value, observations: 10, overdue: None }
    }

    #[test]
    fn the_best_are_asked_and_everyone_has_a_floor() {
        let candidates = [0.1, 0.9, 0.5, 0.7].map(worth);
        let odds = propensities(&candidates, 2, 0.2);
        // The best is asked for certain; the second has six tenths of a place, and what is explored is of the second place.
        for (odd, expected) in odds.iter().zip([0.4 / 3.0, 1.0, 0.4 / 3.0, 0.6 + 0.4 / 3.0]) {
            assert!((odd - expected).abs() < 1e-12, "{odds:?}");
        }
    }

    #[test]
    fn equals_are_asked_alike() {
        for exploration in [0.0, 0.3, 1.0] {
            let odds = propensities(&[worth(0.4); 10], 3, exploration);
            assert!(odds.iter().all(|odd| (odd - 0.3).abs() < 1e-12), "{odds:?}");
        }
        let odds = propensities(&[0.9, 0.5, 0.5, 0.1].map(worth), 2, 0.0);
        assert_eq!(odds, [1.0, 0.5, 0.5, 0.0]);
        assert!((evenness(&[0.3; 10]) - 1.0).abs() < 1e-12);
        assert_eq!(evenness(&[1.0, 0.0]), 0.0);
    }

    /// Of ten, one is unknown: of the share given out whatever is promised, it gets what nine known ones get.
    #[test]
    fn newcomers_are_tried_out_more_often() {
        let mut candidates = [worth(0.4); 10];
        candidates.iter_mut().for_each(|candidate| candidate.observations = 8);
        candidates[0] = Candidate { value: 0.0, observations: 0, overdue: None };
        let odds = propensities(&candidates, 2, 0.5);
        assert!((odds[0] - 0.5 * 2.0 * 9.0 / 18.0).abs() < 1e-12, "{odds:?}");
        assert!(odds[1..].iter().all(|odd| (odd - (2.0 - odds[0]) / 9.0).abs() < 1e-12));
        // Never more than a whole place, however little is known of the one and much of the others.
        candidates[1..].iter_mut().for_each(|candidate| candidate.observations = 1_000_000);
        assert!((propensities(&candidates, 2, 1.0)[0] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn whoever_waited_too_long_comes_first_the_longest_waiting_before_all() {
        let late = |blocks| Candidate { overdue: Some(blocks), ..worth(0.0) };
        let odds = propensities(&[worth(0.9), late(300), worth(0.8), worth(0.1)], 2, 0.0);
        assert_eq!(odds, [1.0, 1.0, 0.0, 0.0]);
        let odds = propensities(&[worth(0.9), late(300), late(400), late(350)], 2, 0.5);
        assert_eq!(odds, [0.0, 0.0, 1.0, 1.0]);
        let odds = propensities(&[worth(0.9), late(300), late(300), late(300)], 2, 0.5);
        assert_eq!(odds[0], 0.0);
        assert!(odds[1..].iter().all(|odd| (odd - 2.0 / 3.0).abs() < 1e-12));
    }

    #[test]
    fn as_many_places_as_candidates_are_for_all() {
        assert_eq!(propensities(&[worth(0.1), worth(0.9)], 2, 0.2), [1.0, 1.0]);
        assert_eq!(propensities(&[], 5, 0.2), [0.0; 0]);
        let mut all = draw(&[1.0; 3], 5, &mut Seed(1).rng("test", &[]));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
    }

    /// Three places of twelve, odds of every size: over many draws each is drawn as often as its odds say.
    #[test]
    fn each_is_drawn_exactly_as_probably_as_it_was_given() {
        let candidates: Vec<Candidate> = (0..12).map(|at| worth(f64::from(at / 2))).collect();
        let odds = propensities(&candidates, 3, 0.4);
        let (mut counts, draws) = ([0_u32; 12], 40_000_u32);
        for at in 0..draws {
            let drawn = draw(&odds, 3, &mut Seed(9).rng("test", &[at.into()]));
            assert_eq!(drawn.len(), 3);
            drawn.iter().for_each(|&at| counts[at] += 1);
        }
        for (count, odd) in counts.iter().zip(&odds) {
            let deviation = (odd * (1.0 - odd) / f64::from(draws)).sqrt().max(1e-9);
            let found = f64::from(*count) / f64::from(draws);
            assert!((found - odd).abs() < 5.0 * deviation, "{found} is not {odd}: {counts:?}");
        }
    }

    proptest! {
        #[test]
        fn odds_are_odds_and_add_up_to_the_places(
            given in prop::collection::vec((0..5_i32, 0..200_usize, prop::option::of(0..3_u64)), 1..40),
            places in 1..20_usize,
            exploration in 0.0..=1.0_f64,
            seed: u64,
        ) {
            let candidates: Vec<_> =
                given.iter().map(|&(value, observations, overdue)| Candidate { value: value.into(), observations, overdue }).collect();
            let odds = propensities(&candidates, places, exploration);
            prop_assert!(odds.iter().all(|odd| (0.0..=1.0 + 1e-12).contains(odd)), "{odds:?}");
            prop_assert!((odds.iter().sum::<f64>() - places.min(candidates.len()) as f64).abs() < 1e-9);
            let drawn = draw(&odds, places, &mut Seed(seed).rng("test", &[]));
            let distinct: std::collections::BTreeSet<_> = drawn.iter().collect();
            prop_assert_eq!(distinct.len(), places.min(candidates.len()));
            prop_assert!(drawn.iter().all(|&at| odds[at] > 0.0), "{:?} of {:?}", drawn, odds);
        }
    }
}
