use openvalidators_messages::weights::ScoreRow;

use super::*;
use crate::fixtures::{EPOCH_START, OWN, key, metagraph};

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
    assert_eq!(vector(&[], &hold), Err(NoVector::TooFewScored { scored: 0, wanted: 2 }));
    assert_eq!(vector(&[(key(1), 1.0), (key(99), 1.0)], &hold), Err(NoVector::TooFewScored { scored: 1, wanted: 2 }));
    assert_eq!(vector(&[(key(1), 0.0), (key(2), 0.0)], &hold), Err(NoVector::NothingEarned { scored: 2 }));
    let old = WeightsConfig { max_score_age_seconds: 59, ..config() };
    let error = vector(&[(key(1), 1.0), (key(2), 1.0)], &old).unwrap_err();
    assert_eq!(error.to_string(), "the newest score is 60 s old, at most 59 s are allowed");
    let all = WeightsConfig { min_scored: 100, ..config() };
    let four: Vec<_> = (1..5).map(|number| (key(number), 1.0)).collect();
    assert_eq!(vector(&four, &all).unwrap().len(), 4, "a small subnet has no hundred miners");
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
