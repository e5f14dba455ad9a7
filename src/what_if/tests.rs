use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::{cli::Settings, config::DEFAULT_TOML};

fn config(set: &[&str]) -> Config {
    let set = ["rewards.weights={dpo_reward_model=1.0}"].iter().chain(set).map(|&key| key.to_owned()).collect();
    let settings = Settings { set, ..Settings::default() };
    let command = crate::cli::command().try_get_matches_from(["openvalidators", "models", "list"]).unwrap();
    Config::load_over(&[DEFAULT_TOML], &settings, &command, None).unwrap()
}

/// Miner 1 is good and slow, miner 2 worse and quick, miner 3 best of all and blocked by a filter.
fn step(at: u64) -> StoredStep {
    let miner = |uid: u8, seconds: f64| {
        json!({ "uid": uid, "hotkey": Hotkey([uid; 32]), "text": format!("text {uid} {at}"), "outcome": "answered",
                "status_code": 200, "status_message": "", "elapsed_seconds": seconds })
    };
    let asked = |uid: u8| json!({ "uid": uid, "hotkey": Hotkey([uid; 32]), "propensity": 1.0 });
    // A normaliser tells values apart only when they vary.
    let good = [1.0, 0.0, 2.0].map(|score| score + 0.01 * at as f64);
    let record = json!({
        "version": 1, "step": { "forward": at, "index": 0 }, "name": "augment", "block": at, "started_at": 1e9,
        "length_seconds": 1.0, "seed": 0, "code_version": "", "source": "", "prompt": "p", "base_text": "p",
        "asked": [asked(1), asked(2), asked(3)],
        "completions": [miner(1, 9.0), miner(2, 0.5), miner(3, 0.5)],
        "scoring": { "scored": {
            "rewards": [{ "name": "dpo_reward_model", "values": good }],
            "filters": [{ "name": "nsfw_filter", "values": [1.0, 1.0, 0.0] }],
            "embeddings": null } },
        "digests": {},
    });
    StoredStep { sequence: Sequence(at), record: Arc::new(serde_json::from_value(record).unwrap()), outcome: None }
}

fn ranks(after: &Config, change: Change) -> (Vec<u16>, Comparison) {
    let mut comparison = Comparison::new(&config(&[]), after, change);
    (1..=40).for_each(|at| comparison.play(&step(at)));
    (comparison.rows().iter().map(|row| row.uid.unwrap().0).collect(), comparison)
}

#[test]
fn the_same_settings_change_nothing() {
    let (ranks, comparison) = ranks(&config(&[]), Change::default());
    assert_eq!(ranks[..2], [1, 2], "the blocked miner is last");
    assert!(comparison.rows().iter().all(|row| row.before == row.after));
    assert!(comparison.summary().contains("0 of 3 miners change rank; 0 steps have another best"));
}

#[test]
fn a_filter_that_is_lifted_and_a_shorter_timeout_change_ranks() {
    let lifted = Change { without: vec!["nsfw_filter".into()], ..Change::default() };
    let (found, comparison) = ranks(&config(&[]), lifted);
    assert_eq!(found, [3, 1, 2]);
    assert!(comparison.other_best > 30);
    let (found, comparison) = ranks(&config(&[]), Change { timeout: Some(5.0), ..Change::default() });
    assert_eq!(found[0], 2);
    let slow = comparison.rows().into_iter().find(|row| row.uid == Some(Uid(1))).unwrap();
    assert_eq!(slow.after.score, 0.0);
    assert!(slow.before.score > 0.0);
}

#[test]
fn another_alpha_changes_scores_and_a_reward_without_records_is_named() {
    let (_, comparison) = ranks(&config(&["weights.moving_average_alpha=0.5"]), Change::default());
    assert!(comparison.rows()[0].after.score > comparison.rows()[0].before.score);
    let (_, comparison) =
        ranks(&config(&["rewards.weights={dpo_reward_model=0.0,rlhf_reward_model=1.0}"]), Change::default());
    assert!(comparison.summary().contains("40 steps lose their scores"), "{}", comparison.summary());
    assert!(comparison.summary().contains("rlhf_reward_model"));
}

#[test]
fn an_unknown_filter_is_named_with_those_there_are() {
    let (_, comparison) = ranks(&config(&[]), Change { without: vec!["nsfw".into()], ..Change::default() });
    let error = format!("{:#}", comparison.check_filters().unwrap_err());
    assert!(error.contains("--without nsfw: the recorded filters are nsfw_filter"), "{error}");
}
