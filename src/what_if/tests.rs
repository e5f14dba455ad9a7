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

/// A step in which a firewall ran as a shadow and would have blocked the best miner.
fn step_with_a_shadow(at: u64) -> StoredStep {
    let StoredStep { sequence, record, outcome } = step(at);
    let mut record = (*record).clone();
    if let Scoring::Scored(raw) = &mut record.scoring {
        let factors = vec![Some(0.0), Some(1.0), Some(1.0)];
        let name = "firewall_filter".to_owned();
        raw.shadows = vec![openvalidators_messages::Shadow { name, seconds: 0.5, factors, failure: None }];
    }
    StoredStep { sequence, record: Arc::new(record), outcome }
}

#[test]
fn a_filter_that_ran_as_a_shadow_counts_once_it_is_promoted() {
    let ranks = |after: &Config| {
        let before = config(&[]);
        let change = Change { promoted: promoted(&before, after), ..Change::default() };
        let mut comparison = Comparison::new(&before, after, change);
        (1..=40).for_each(|at| comparison.play(&step_with_a_shadow(at)));
        let first = comparison.rows()[0].uid.unwrap().0;
        (first, comparison.shadows.candidates())
    };
    let (first, candidates) = ranks(&config(&["rewards.shadows=[\"rank_normaliser\"]"]));
    assert_eq!(first, 1, "a shadow counts for nothing");
    let names: Vec<_> = candidates.iter().map(|candidate| (&*candidate.name, candidate.steps)).collect();
    assert_eq!(names, [("firewall_filter", 40), ("rank_normaliser", 40)]);
    assert!((candidates[0].would_block.unwrap() - 1.0 / 3.0).abs() < 1e-6 && candidates[0].seconds == Some(0.5));
    assert_eq!(candidates[1].rank_correlation, Some(1.0));
    let (first, _) = ranks(&config(&["rewards.firewall.enabled=true"]));
    assert_eq!(first, 2);
}

/// The ledger gives old steps up; what candidates did in them is in the archive.
#[test]
fn candidates_of_archived_steps_are_told_beside_those_played() {
    let directory = tempfile::tempdir().unwrap();
    let whose = Hotkey([9; 32]);
    let mut archive = archive::open(directory.path(), &Default::default(), whose).unwrap();
    archive.keep(&(1..=3).map(step_with_a_shadow).collect::<Vec<_>>()).unwrap();
    archive.keep(&(4..=6).map(step_with_a_shadow).collect::<Vec<_>>()).unwrap();
    let archived = Archived::of(directory.path(), Sequence(5)).unwrap();
    let candidates = archived.shadows.candidates();
    assert_eq!(
        (archived.steps, candidates[0].steps, candidates[0].seconds),
        (3, 3, Some(0.5)),
        "the ledger has the others"
    );
    assert_eq!(Archived::of(tempfile::tempdir().unwrap().path(), Sequence(5)).unwrap().steps, 0);
}

#[test]
fn an_unknown_filter_is_named_with_those_there_are() {
    let (_, comparison) = ranks(&config(&[]), Change { without: vec!["nsfw".into()], ..Change::default() });
    let error = format!("{:#}", comparison.check_filters().unwrap_err());
    assert!(error.contains("--without nsfw: the recorded filters are nsfw_filter"), "{error}");
}

/// Raw scores grow with every step, and miner 1 is always ahead of miner 2: by rank that is all there is.
#[test]
fn another_normaliser_changes_scores_and_the_same_one_does_not() {
    let with = |normalisation| {
        ranks(&config(&[]), Change { normalisation: Some(normalisation), ..Change::default() }).1.rows()
    };
    let score = |rows: &[Row], uid: u16| {
        let row = rows.iter().find(|row| row.uid == Some(Uid(uid))).unwrap();
        (row.before.score, row.after.score)
    };
    let same = with(Normalisation::Robust);
    assert!(same.iter().all(|row| row.before == row.after));
    let by_rank = with(Normalisation::Rank);
    let ((_, first), (_, second)) = (score(&by_rank, 1), score(&by_rank, 2));
    assert!(first > 0.0 && second.abs() < 1e-9, "0.5 and 0 of each step: {first} {second}");
    let short = with(Normalisation::Running { count_limit: 6 });
    assert_ne!(score(&short, 1).0, score(&short, 1).1);
}

/// What the filter found in its history is in the outcome; searching it again is for changes of the history alone.
#[test]
fn filters_count_as_they_were_applied_unless_the_history_changes() {
    let mut applied = step(1);
    let filters = vec![openvalidators_messages::Column {
        name: "nsfw_filter".into(),
        values: vec![Some(0.0), Some(1.0), Some(1.0)],
    }];
    let scored = openvalidators_messages::Scored {
        normalised: vec![],
        filters,
        rewards: vec![],
        best: None,
        gating_loss: None,
        shadows: vec![],
    };
    applied.outcome = Some(Arc::new(StepOutcome::Scored(scored)));
    let first = |after: &Config| {
        let mut comparison = Comparison::new(&config(&[]), after, Change::default());
        comparison.play(&applied);
        comparison.rows().iter().map(|row| (row.uid.unwrap().0, row.before.score > 0.0)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(first(&config(&[])), [(1, false), (2, true), (3, true)].into());
    let longer = config(&["rewards.diversity.history_rows=9"]);
    assert_eq!(first(&longer), [(1, true), (2, true), (3, false)].into(), "from the raw scores");
}

/// Prints what `WHAT_IF_STEPS` steps (1,000) of fifty completions cost, read from a ledger with their embeddings. Making that takes
/// longer; `WHAT_IF_LEDGER=DIR` keeps it there, for `openvalidators what-if --from DIR`.
/// `cargo test -p openvalidators --lib measure_what_if -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a check"]
#[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "measures wall time, for a person")]
fn measure_what_if() {
    const MINERS: usize = 50;
    const WIDTH: usize = 384;
    let steps = std::env::var("WHAT_IF_STEPS").map_or(1_000, |steps| steps.parse().unwrap());
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var("WHAT_IF_LEDGER").map_or_else(|_| temporary.path().to_owned(), Into::into);
    let identity = openvalidators_ledger::Identity {
        network: "local".into(),
        netuid: openvalidators_messages::Netuid(1),
        hotkey: Hotkey([9; 32]),
    };
    let mut store = openvalidators_ledger::Store::open(&folder, &identity, 0).unwrap();
    let mut record = (*step(1).record).clone();
    let (asked, completion) = (record.asked[0], record.completions[0].clone());
    let hotkey = |at: usize| Hotkey([at as u8 + 1; 32]);
    record.asked = (0..MINERS)
        .map(|at| openvalidators_messages::Asked { uid: Uid(at as u16), hotkey: hotkey(at), ..asked })
        .collect();
    record.completions = (0..MINERS)
        .map(|at| openvalidators_messages::Completion {
            uid: Uid(at as u16),
            hotkey: hotkey(at),
            text: "a completion of some length ".repeat(12),
            ..completion.clone()
        })
        .collect();
    for at in 1..=steps {
        let column = |name: &str, salt: usize| openvalidators_messages::Column {
            name: name.into(),
            values: (0..MINERS).map(|miner| Some(((miner * salt + at as usize) % 17) as f32 / 17.0)).collect(),
        };
        let filters = vec![column("diversity_reward_model", 3), column("nsfw_filter", 5)];
        let embeddings = openvalidators_messages::Embeddings {
            model: "all-MiniLM-L6-v2".into(),
            width: WIDTH,
            completions: (0..MINERS).collect(),
            rows: (0..MINERS * WIDTH).map(|place| ((place + at as usize) % 101) as f32 * 0.001).collect(),
        };
        let rewards = vec![column("dpo_reward_model", 7), column("rlhf_reward_model", 11)];
        record.scoring = Scoring::Scored(openvalidators_messages::RawScores {
            rewards,
            filters: filters.clone(),
            embeddings: Some(embeddings),
            ..openvalidators_messages::RawScores::default()
        });
        record.step.forward = openvalidators_messages::ForwardId(at);
        let sequence = store.append(&record).unwrap();
        let scored = openvalidators_messages::Scored {
            normalised: vec![],
            filters,
            rewards: vec![],
            best: None,
            gating_loss: None,
            shadows: vec![],
        };
        store.store_outcome(sequence, &StepOutcome::Scored(scored)).unwrap();
    }
    drop(store);
    let path = folder.display().to_string();
    let words = ["openvalidators", "what-if", "--from", &path, "--without", "nsfw_filter", "--top", "3"];
    let crate::cli::Task::WhatIf(command) = <crate::cli::Cli as clap::Parser>::parse_from(words).command else {
        panic!()
    };
    let began = std::time::Instant::now();
    run(&command, &config(&[]), &config(&[])).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    println!("{steps} steps of {MINERS} completions: {:.1} s, {memory}", began.elapsed().as_secs_f64());
}
