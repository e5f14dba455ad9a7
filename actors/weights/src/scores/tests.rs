use openvalidators_messages::StepOutcome;
use openvalidators_runtime::Seed;
use proptest::prelude::*;
use rand::Rng;

use super::*;
use crate::fixtures::{key, step};

const RULES: FoldRules = FoldRules { alpha: 0.05, max_importance: 10.0, forget_after_blocks: 1_000, rest: Rest::NEVER };

fn folded(steps: &[Vec<(Hotkey, Option<f32>)>]) -> Scores {
    let mut scores = Scores::default();
    for (index, asked) in steps.iter().enumerate() {
        let number = index as u64 + 1;
        let (record, outcome) = step(number, number, asked);
        scores.fold(Sequence(number), &record, &outcome, RULES);
    }
    scores
}

fn row(scores: &Scores, hotkey: Hotkey) -> Option<ScoreRow> {
    scores.table().rows.into_iter().find(|row| row.hotkey == hotkey)
}

#[test]
fn only_the_asked_move_and_a_failure_counts_as_nothing_earned() {
    let scores = folded(&[
        vec![(key(1), Some(1.0)), (key(2), Some(0.5))],
        vec![(key(1), None), (key(3), Some(0.0))],
        vec![(key(3), Some(1.0))],
    ]);
    let one = row(&scores, key(1)).unwrap();
    assert!((one.score - 0.05 * 0.95).abs() < 1e-12);
    assert_eq!((one.asked, one.answered, one.rewarded, one.scored_at), (2, 1, 1, 1.0));
    let two = row(&scores, key(2)).unwrap();
    assert_eq!((two.score, two.asked, two.scored_at), (0.05 * 0.5, 1, 1.0));
    let three = row(&scores, key(3)).unwrap();
    assert_eq!((three.score, three.asked, three.answered, three.rewarded), (0.05, 2, 2, 1));
    let order: Vec<_> = scores.table().rows.iter().map(|row| row.hotkey).collect();
    assert_eq!(order, [key(3), key(1), key(2)], "best first");
}

#[test]
fn scores_made_elsewhere_go_on_and_wait_from_the_first_step_here() {
    let mut scores = Scores::begin_with([(key(1), 0.4), (key(2), 0.6)]);
    let mut fold = |number: u64, block: u64| {
        let (record, outcome) = step(number, block, &[(key(1), Some(1.0))]);
        scores.fold(Sequence(number), &record, &outcome, RULES);
        (row(&scores, key(1)).unwrap(), row(&scores, key(2)))
    };
    let (one, two) = fold(1, 5_000_000);
    assert_eq!((one.score, one.asked), (0.05 + 0.95 * 0.4, 1));
    assert_eq!(two.map(|row| (row.score, row.asked, row.answered)), Some((0.6, 0, 0)));
    assert!(fold(2, 5_001_000).1.is_some());
    assert!(fold(3, 5_001_001).1.is_none(), "nobody has asked it for too long");
}

#[test]
fn scores_are_as_fresh_as_the_latest_answer() {
    let scores = folded(&[vec![(key(1), Some(0.0)), (key(2), None)], vec![(key(1), None)], vec![(key(1), None)]]);
    let one = row(&scores, key(1)).unwrap();
    assert_eq!(
        (one.asked, one.answered, one.scored_at),
        (3, 1, 1.0),
        "an answer worth nothing is one, silence is none"
    );
    let two = row(&scores, key(2)).unwrap();
    assert_eq!((two.asked, two.answered, two.scored_at), (1, 0, 0.0));
}

#[test]
fn an_unscored_step_changes_only_the_place() {
    let mut scores = folded(&[vec![(key(1), Some(1.0))]]);
    let before = scores.table().rows;
    let (record, _) = step(2, 2, &[(key(1), Some(1.0)), (key(2), Some(1.0))]);
    scores.fold(Sequence(2), &record, &StepOutcome::Unscored { reason: "test".into() }, RULES);
    assert_eq!((scores.sequence(), scores.table().rows), (Sequence(2), before.clone()));
    let (_, of_another_step) = step(3, 3, &[(key(1), Some(1.0))]);
    scores.fold(Sequence(3), &record, &of_another_step, RULES);
    assert_eq!((scores.sequence(), scores.table().rows), (Sequence(3), before), "nor does one that does not fit");
}

#[test]
fn who_was_not_asked_for_long_is_forgotten() {
    let mut scores = folded(&[vec![(key(1), Some(1.0)), (key(2), Some(1.0))]]);
    let (record, outcome) = step(2, 1_001, &[(key(2), Some(1.0))]);
    scores.fold(Sequence(2), &record, &outcome, RULES);
    assert_eq!(scores.len(), 2, "exactly the limit is not too long");
    let (record, outcome) = step(3, 1_002, &[(key(2), Some(1.0))]);
    scores.fold(Sequence(3), &record, &outcome, RULES);
    assert_eq!(row(&scores, key(1)), None);
    let (record, outcome) = step(4, 1_003, &[(key(1), Some(1.0))]);
    scores.fold(Sequence(4), &record, &outcome, RULES);
    assert_eq!(row(&scores, key(1)).unwrap().score, 0.05, "it starts from nothing");
}

#[test]
fn another_versions_snapshot_is_refused() {
    let mut snapshot = folded(&[vec![(key(1), Some(1.0))]]).snapshot().unwrap();
    snapshot.version += 1;
    let error = Scores::restore(&snapshot).unwrap_err();
    assert_eq!(error.to_string(), "the snapshot has version 2; this program reads version 1");
    let damaged = Snapshot { version: SNAPSHOT_VERSION, state: b"[[".to_vec(), ..snapshot };
    assert!(Scores::restore(&damaged).is_err());
}

fn steps() -> impl Strategy<Value = Vec<Vec<(Hotkey, Option<f32>)>>> {
    let asked = (0u8..6, proptest::option::of(0.0f32..1.0)).prop_map(|(number, reward)| (key(number), reward));
    proptest::collection::vec(proptest::collection::vec(asked, 0..5), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A crash at any step, resumed from a snapshot at any earlier one, with steps offered again: the same to the last bit.
    #[test]
    fn resuming_anywhere_gives_the_same_scores(steps in steps(), cut in any::<prop::sample::Index>()) {
        let whole = folded(&steps);
        let cut = cut.index(steps.len());
        let mut resumed = Scores::restore(&folded(&steps[..cut]).snapshot().unwrap()).unwrap();
        for (index, asked) in steps.iter().enumerate() {
            let number = index as u64 + 1;
            let (record, outcome) = step(number, number, asked);
            resumed.fold(Sequence(number), &record, &outcome, RULES);
            resumed.fold(Sequence(number), &record, &outcome, RULES);
        }
        prop_assert_eq!(resumed, whole);
    }

    /// Scores stay within the rewards, and counters in order.
    #[test]
    fn standings_stay_in_bounds(steps in steps()) {
        for row in folded(&steps).table().rows {
            prop_assert!((0.0..=1.0).contains(&row.score));
            prop_assert!(row.rewarded <= row.answered && row.answered <= row.asked && row.asked > 0);
        }
    }
}

/// Two miners of the same quality, good at one of two kinds of prompts and poor at the other. One is asked half of the time
/// whatever the prompt; the other is sought out for what it is good at.
#[test]
fn equal_miners_score_alike_however_often_and_whatever_they_are_asked() {
    let rules = FoldRules { alpha: 0.01, ..RULES };
    let mut scores = Scores::default();
    let (mut counts, mut means, mut naive) = ([0_u32; 2], [0.0; 2], 0.0);
    let steps = 40_000;
    for number in 1..=steps {
        let mut random = Seed(5).rng("test", &[number]);
        let reward = if random.random::<bool>() { 0.9 } else { 0.3 };
        let sought = if reward > 0.5 { 0.9 } else { 0.125 };
        let odds = [0.5, sought];
        let asked: Vec<usize> = (0..2).filter(|miner| random.random_bool(odds[*miner])).collect();
        let replies: Vec<_> = asked.iter().map(|miner| (key(*miner as u8 + 1), Some(reward))).collect();
        let (record, outcome) = step(number, number, &replies);
        let mut record = StepRecord::clone(&record);
        for (place, miner) in asked.iter().enumerate() {
            (record.asked[place].propensity, record.asked[place].uniform_propensity) = (odds[*miner], Some(0.5));
            counts[*miner] += 1;
            naive += if *miner == 1 { 0.01 * (f64::from(reward) - naive) } else { 0.0 };
        }
        scores.fold(Sequence(number), &record, &outcome, rules);
        if number > steps / 2 {
            for (mean, miner) in means.iter_mut().zip(1..) {
                *mean += row(&scores, key(miner)).unwrap().score / (steps / 2) as f64;
            }
        }
    }
    assert!((means[0] - 0.6).abs() < 0.01 && (means[1] / means[0] - 1.0).abs() < 0.05, "{means:?}, {counts:?}");
    assert!(naive > 0.75, "without the odds the one sought out would have {naive}");
}

#[test]
fn one_reward_counts_no_more_than_allowed_and_uniform_routing_is_the_references_to_the_last_bit() {
    assert_eq!(RULES.share(1.0), RULES.alpha);
    assert_eq!(RULES.share(4.0), 0.2);
    assert_eq!(RULES.share(1e300), 0.5);
    assert_eq!(FoldRules { alpha: 1.0, ..RULES }.share(7.0), 1.0);
}

// === resting ===

const REST: Rest = Rest { grace_turns: 4.0, half_life_turns: 8.0 };

/// Two hotkeys work one step; from then on `steps` steps ask the second alone, each half a turn.
fn rested(steps: u64, rest: Rest) -> Scores {
    let rules = FoldRules { rest, ..RULES };
    let mut scores = Scores::default();
    for number in 1..=steps + 1 {
        let mut asked = vec![(key(2), Some(1.0))];
        if number == 1 {
            asked.push((key(1), Some(1.0)));
        }
        let (record, outcome) = step(number, number, &asked);
        scores.fold(Sequence(number), &record, &outcome, rules);
    }
    scores
}

#[test]
fn who_rests_keeps_its_score_for_the_grace_and_loses_half_in_a_half_life() {
    let score = |steps, rest| row(&rested(steps, rest), key(1)).unwrap().score;
    assert_eq!(score(8, REST), 0.05, "four turns");
    assert!((score(24, REST) - 0.025).abs() < 1e-12, "eight more");
    assert!((score(40, REST) - 0.0125).abs() < 1e-12, "and eight more");
    assert_eq!(score(40, Rest::NEVER), 0.05, "as openvalidators 1.2.0");
    let working = |rest| row(&rested(40, rest), key(2)).unwrap().score;
    assert_eq!(working(REST), working(Rest::NEVER), "who is asked loses nothing");
}

#[test]
fn a_restart_in_the_middle_of_a_rest_changes_nothing() {
    let rules = FoldRules { rest: REST, ..RULES };
    let mut resumed = Scores::restore(&rested(15, REST).snapshot().unwrap()).unwrap();
    for number in 17..=31 {
        let (record, outcome) = step(number, number, &[(key(2), Some(1.0))]);
        resumed.fold(Sequence(number), &record, &outcome, rules);
    }
    assert_eq!(resumed, rested(30, REST));
}

#[test]
fn a_snapshot_from_before_there_was_rest_goes_on() {
    let mut snapshot = rested(3, REST).snapshot().unwrap();
    let mut standings: serde_json::Value = serde_json::from_slice(&snapshot.state).unwrap();
    for standing in standings.as_array_mut().unwrap() {
        let fields = standing[1].as_object_mut().unwrap();
        assert!(fields.remove("missed_turns").is_some() && fields.remove("importance").is_some());
    }
    snapshot.state = serde_json::to_vec(&standings).unwrap();
    assert_eq!(row(&Scores::restore(&snapshot).unwrap(), key(1)).unwrap().score, 0.05);
}

/// A router that asks one miner at a tenth of uniform odds leaves it out for ten times as long.
#[test]
fn who_is_seldom_asked_by_the_router_is_given_more_time() {
    let rules = FoldRules { rest: REST, ..RULES };
    let mut scores = Scores::default();
    for number in 1..=41 {
        let mut asked = vec![(key(2), Some(1.0))];
        if number == 1 {
            asked.push((key(1), Some(1.0)));
        }
        let (record, outcome) = step(number, number, &asked);
        let mut record = (*record).clone();
        for asked in record.asked.iter_mut().filter(|asked| asked.hotkey == key(1)) {
            (asked.propensity, asked.uniform_propensity) = (0.05, Some(0.5));
        }
        scores.fold(Sequence(number), &record, &outcome, rules);
    }
    assert_eq!(row(&scores, key(1)).unwrap().score, rules.share(10.0), "two turns, of twenty");
}
