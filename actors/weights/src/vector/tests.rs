use openvalidators_messages::{Sequence, weights::ScoreRow};

use super::*;
use crate::{
    fixtures::{EPOCH_START, OWN, key, metagraph, step},
    scores::{FoldRules, Scores},
};

const NOW: f64 = 1_000_000.0;

fn table(scores: &[(Hotkey, f64)]) -> ScoreTable {
    let row = |(hotkey, score): &(Hotkey, f64)| ScoreRow {
        hotkey: *hotkey,
        score: *score,
        asked: 1,
        answered: 1,
        rewarded: 1,
        scored_at: NOW - 60.0,
    };
    ScoreTable { rows: scores.iter().map(row).collect(), ..ScoreTable::default() }
}

fn config() -> WeightsConfig {
    WeightsConfig { min_scored: 2, ..WeightsConfig::default() }
}

fn vector(scores: &[(Hotkey, f64)], config: &WeightsConfig) -> Result<Vec<(u16, u16)>, NoVector> {
    let made = make(&metagraph(5, EPOCH_START), &OWN, &table(scores), config, NOW)?;
    Ok(made.entries.into_iter().map(|(uid, _, weight)| (uid.0, weight)).collect())
}

#[test]
fn scores_find_their_uid_by_hotkey() {
    let strangers = [(key(4), 0.25), (key(99), 9.0), (OWN, 9.0), (key(2), 0.5), (key(1), -1.0)];
    assert_eq!(vector(&strangers, &config()), Ok(vec![(2, 65_535), (4, 32_768)]), "strangers and we get nothing");

    let mut recycled = metagraph(5, EPOCH_START);
    recycled.neurons[2].hotkey = key(77);
    let made = make(&recycled, &OWN, &table(&strangers), &config(), NOW).unwrap();
    assert_eq!(made.entries, [(Uid(4), key(4), 65_535)], "who took over uid 2 inherits nothing");
}

#[test]
fn without_evidence_nobody_is_paid() {
    let hold = config();
    assert_eq!(vector(&[], &hold), Err(NoVector::TooFewScored { scored: 0, askable: 4, wanted: 2 }));
    let one_and_a_stranger = vector(&[(key(1), 1.0), (key(99), 1.0)], &hold);
    assert_eq!(one_and_a_stranger, Err(NoVector::TooFewScored { scored: 1, askable: 4, wanted: 2 }));
    assert_eq!(vector(&[(key(1), 0.0), (key(2), 0.0)], &hold), Err(NoVector::NothingEarned { scored: 2 }));
    let old = WeightsConfig { max_score_age_seconds: 59, ..config() };
    let error = vector(&[(key(1), 1.0), (key(2), 1.0)], &old).unwrap_err();
    assert_eq!(error.to_string(), "the newest scored answer is 60 s old, at most 59 s are allowed");
    let all = WeightsConfig { min_scored: 100, ..config() };
    let four: Vec<_> = (1..5).map(|number| (key(number), 1.0)).collect();
    assert_eq!(vector(&four, &all).unwrap().len(), 4, "a small subnet has no hundred miners");
}

/// Whatever is to be done when scores are empty: a subnet of another protocol must not get weights of ours.
#[test]
fn before_the_first_weights_somebody_must_have_answered() {
    let metagraph = metagraph(5, EPOCH_START);
    let probe = |rows: &[(Hotkey, u64, u64)], probe_axons| {
        let row = |&(hotkey, asked, answered): &(Hotkey, u64, u64)| ScoreRow {
            hotkey,
            score: 0.0,
            asked,
            answered,
            rewarded: 0,
            scored_at: 0.0,
        };
        let table = ScoreTable { rows: rows.iter().map(row).collect(), ..ScoreTable::default() };
        probe(&metagraph, &OWN, &table, &WeightsConfig { probe_axons, ..config() })
    };
    assert_eq!(probe(&[], 20), Err(NoVector::Unproven { asked: 0, wanted: 4 }), "no more than four serve");
    let silent = [(key(1), 9, 0), (key(2), 9, 0), (key(99), 9, 9)];
    let told = probe(&silent, 2).unwrap_err();
    assert_eq!(told, NoVector::Unproven { asked: 2, wanted: 2 }, "who has left the subnet says nothing about it");
    assert!(told.to_string().contains("none of the 2 axons asked so far has answered"), "{told}");
    assert_eq!(probe(&[(key(1), 9, 0), (key(2), 9, 1)], 20), Ok(()));
    assert_eq!(probe(&silent, 0), Ok(()), "switched off");
}

#[test]
fn a_small_subnet_waits_only_for_neurons_that_may_answer() {
    let all = WeightsConfig { min_scored: 10, ..config() };
    let two = table(&[(key(1), 1.0), (key(2), 1.0)]);
    let made = |change: &dyn Fn(&mut Metagraph), table: &ScoreTable| {
        let mut small = metagraph(5, EPOCH_START);
        small.neurons[4].axon = None;
        change(&mut small);
        make(&small, &OWN, table, &all, NOW).map(|made| made.entries.len())
    };
    let waiting = NoVector::TooFewScored { scored: 2, askable: 3, wanted: 3 };
    assert_eq!(waiting.to_string(), "2 neurons have a scored answer; of 3 that may answer, 3 are wanted");
    let serving = |_: &mut Metagraph| ();
    assert_eq!(made(&serving, &two), Err(waiting.clone()), "uid 3 may answer yet");
    assert_eq!(made(&|m| m.neurons[3].axon = None, &two), Ok(2), "it cannot be asked");
    let validator = |m: &mut Metagraph| (m.neurons[3].validator_permit, m.neurons[3].stake) = (true, 2_000.0);
    assert_eq!(made(&validator, &two), Ok(2), "it is not asked");

    let asked = |steps: u64| {
        let mut table = table(&[(key(1), 1.0), (key(2), 1.0), (key(3), 0.0)]);
        (table.rows[2].asked, table.rows[2].answered) = (steps, 0);
        table
    };
    assert_eq!(made(&serving, &asked(9)), Err(waiting.clone()), "being asked is no answer");
    assert_eq!(made(&validator, &asked(9)), Err(waiting), "it is asked after all");
    assert_eq!(made(&serving, &asked(10)), Ok(2), "it never answers");
}

#[test]
fn the_operator_may_choose_the_owner_or_everyone() {
    let uniform = WeightsConfig { when_empty: WhenEmpty::Uniform, ..config() };
    assert_eq!(vector(&[], &uniform).unwrap(), (0..5).map(|uid| (uid, 65_535)).collect::<Vec<_>>());
    let owner = WeightsConfig { when_empty: WhenEmpty::Owner, ..config() };
    assert_eq!(vector(&[], &owner), Err(NoVector::NoOwner));
    let mut owned = metagraph(5, EPOCH_START);
    owned.owner_uid = Some(Uid(3));
    let made = make(&owned, &OWN, &table(&[]), &owner, NOW).unwrap();
    assert_eq!(made.entries, [(Uid(3), key(3), 65_535)]);
}

#[test]
fn the_subnets_rules_are_obeyed() {
    let mut strict = metagraph(5, EPOCH_START);
    strict.hyperparameters.min_allowed_weights = 4;
    let made = make(&strict, &OWN, &table(&[(key(1), 1.0), (key(2), 1.0)]), &config(), NOW).unwrap();
    assert_eq!(made.entries.len(), 5, "too few are padded with dust");
    assert_eq!(made.entries[0].2, 1);
}

/// While the validator was down, the subnet grew, shrank, was shuffled, or lost every miner it had.
#[test]
fn whoever_holds_a_uid_after_a_pause_is_paid_for_what_it_did_itself() {
    let rules = FoldRules::from(&config());
    let fold = |scores: &mut Scores, number: u64, asked: &[(Hotkey, Option<f32>)]| {
        let (record, outcome) = step(number, number, asked);
        scores.fold(Sequence(number), &record, &outcome, rules);
    };
    let mut before = Scores::default();
    let earned: Vec<_> = (1..5_u8).map(|number| (key(number), Some(f32::from(number) / 4.0))).collect();
    (1..=6).for_each(|number| fold(&mut before, number, &earned));
    let mut scores = Scores::restore(&before.snapshot().unwrap()).unwrap();
    let paid = |scores: &Scores, metagraph: &Metagraph| -> Result<Vec<(u16, Hotkey, u16)>, NoVector> {
        let made = make(metagraph, &OWN, &scores.table(), &config(), 20.0)?;
        Ok(made.entries.into_iter().map(|(uid, hotkey, weight)| (uid.0, hotkey, weight)).collect())
    };
    let entry = |uid: u16, hotkey: u8, quarters: u32| (uid, key(hotkey), ((65_535 * quarters + 2) / 4) as u16);
    let same = vec![entry(1, 1, 1), entry(2, 2, 2), entry(3, 3, 3), entry(4, 4, 4)];

    assert_eq!(paid(&scores, &metagraph(9, EPOCH_START)).unwrap(), same, "four newcomers behind them have nothing");
    let shrunk = paid(&scores, &metagraph(3, EPOCH_START)).unwrap();
    assert_eq!(shrunk.iter().map(|(uid, hotkey, _)| (*uid, *hotkey)).collect::<Vec<_>>(), [(1, key(1)), (2, key(2))]);
    let mut shuffled = metagraph(5, EPOCH_START);
    (1..5_u8).for_each(|uid| shuffled.neurons[usize::from(uid)].hotkey = key(5 - uid));
    assert_eq!(paid(&scores, &shuffled).unwrap(), [entry(1, 4, 4), entry(2, 3, 3), entry(3, 2, 2), entry(4, 1, 1)]);

    let mut others = metagraph(5, EPOCH_START);
    (1..5_u8).for_each(|uid| others.neurons[usize::from(uid)].hotkey = key(100 + uid));
    let nobody = NoVector::TooFewScored { scored: 0, askable: 4, wanted: 2 };
    assert_eq!(paid(&scores, &others), Err(nobody), "not one of those who earned is left");
    fold(&mut scores, 7, &[(key(101), Some(0.5)), (key(103), Some(1.0))]);
    assert_eq!(paid(&scores, &others).unwrap(), [entry(1, 101, 2), entry(3, 103, 4)], "by their own first step");
}
