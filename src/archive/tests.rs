use openvalidators_ledger::{Identity, PRUNE_BATCH_STEPS, Reader, Store};
use openvalidators_messages::{
    Asked, Block, Column, Completion, Netuid, QueryOutcome, RawScores, Reward, Scored, Scoring, Sequence, Shadow,
    ShadowStanding, StepId, StepOutcome, StepRecord, Uid,
    ledger::{Snapshot, WeightIntent},
};
use openvalidators_tables::StepRow;

use super::*;
use crate::{
    cli::{Cli, Task},
    dataset::Selected,
    topology::tests::unscored,
};

const BATCH: u64 = PRUNE_BATCH_STEPS;

fn ours() -> Identity {
    Identity { network: "local".into(), netuid: Netuid(1), hotkey: Hotkey([7; 32]) }
}

/// A step as real ones are: its numbers differ from miner to miner.
fn step(number: u64) -> (StepRecord, StepOutcome) {
    let hotkey = |uid: u16| Hotkey([uid as u8; 32]);
    let value = |uid: u16| ((number * 7 + u64::from(uid)) % 100) as f32 / 100.0;
    let column = || Column { name: "dpo_reward_model".into(), values: (0..4).map(|uid| Some(value(uid))).collect() };
    // Candidates: a filter that was asked, and a normaliser of the fold.
    let firewall = || Shadow {
        name: "firewall_filter".into(),
        seconds: 0.5,
        factors: vec![Some(0.0), Some(1.0), None, Some(1.0)],
        failure: None,
    };
    let standing =
        |name: &str, blocked| ShadowStanding { name: name.into(), correlation: Some(value(1)), blocked, seconds: None };
    let completion = |uid: u16| Completion {
        uid: Uid(uid),
        hotkey: hotkey(uid),
        text: format!("completion {uid} of step {number}"),
        outcome: QueryOutcome::Answered,
        status_code: 200,
        status_message: "Success".into(),
        elapsed_seconds: 0.5,
    };
    let record = StepRecord {
        step: StepId { forward: openvalidators_messages::ForwardId(number), index: 0 },
        block: Block(number),
        started_at: 1_795_339_015.0 + number as f64,
        prompt: format!("prompt {number}"),
        asked: (0..4)
            .map(|uid| Asked {
                uid: Uid(uid),
                hotkey: hotkey(uid),
                propensity: 0.25,
                uniform_propensity: None,
                origin: Default::default(),
            })
            .collect(),
        completions: (0..4).map(completion).collect(),
        scoring: Scoring::Scored(RawScores {
            rewards: vec![column()],
            shadows: vec![firewall()],
            ..RawScores::default()
        }),
        ..unscored()
    };
    let rewards = (0..4).map(|uid| Reward::new(value(uid)).unwrap()).collect();
    let normalised = vec![column()];
    (
        record,
        StepOutcome::Scored(Scored {
            normalised,
            filters: vec![],
            rewards,
            best: Some(0),
            gating_loss: None,
            shadows: vec![standing("firewall_filter", Some(0.25)), standing("rank_normaliser", None)],
        }),
    )
}

/// A ledger of so many steps that nobody has still to read.
fn ledger(directory: &Path, steps: u64) -> Store {
    let mut store = Store::open(directory, &ours(), 0).unwrap();
    for number in 1..=steps {
        let (record, outcome) = step(number);
        let sequence = store.append(&record).unwrap();
        store.store_outcome(sequence, &outcome).unwrap();
    }
    store.save_snapshot("rewards", &Snapshot { sequence: Sequence(steps), version: 1, state: vec![1] }).unwrap();
    store
}

/// As `dataset` and `analyze` read a state directory.
fn rows(directory: &Path) -> Vec<StepRow> {
    let directory = directory.display().to_string();
    let words = ["openvalidators", "dataset", "collect", "--from", &directory, "--output", "x.csv"];
    let Task::Dataset(command) = <Cli as clap::Parser>::parse_from(words).command else { panic!() };
    let crate::cli::DatasetAction::Collect(collect) = command.action else { panic!() };
    let mut selected = Selected::open(&collect.select).unwrap();
    std::iter::from_fn(|| selected.next_step().unwrap()).collect()
}

#[test]
fn steps_that_the_ledger_gives_up_are_in_the_archive_and_every_number_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let steps = 2 * BATCH + 100;
    let mut store = ledger(directory.path(), steps);
    let before = rows(directory.path());
    assert_eq!(before.len() as u64, steps);
    let config = LedgerConfig { retention_steps: 60, ..LedgerConfig::default() };
    let mut archive = open(directory.path(), &config, ours().hotkey).unwrap();
    let mut rolled = 0;
    while let gone @ 1.. = store.roll(60, archive.as_mut()).unwrap() {
        rolled += gone;
    }
    assert_eq!(rolled, 2 * BATCH, "whole batches only");
    let files = files(directory.path()).unwrap();
    let places: Vec<_> = files.iter().map(|file| (file.first, file.last)).collect();
    assert_eq!(places, [(1, BATCH), (BATCH + 1, 2 * BATCH)]);
    let reader = Reader::open(directory.path()).unwrap();
    assert_eq!(reader.oldest().unwrap(), Sequence(2 * BATCH + 1));

    let after = rows(directory.path());
    assert_eq!(after.len(), before.len(), "none lost, none twice");
    assert!(after.iter().all(|row| row.shadows.len() == 2), "what candidates said is kept");
    let raw = after[0].columns.iter().find(|column| column.name == "firewall_filter").unwrap();
    assert_eq!(raw.raw, [Some(0.0), Some(1.0), None, Some(1.0)], "and their numbers");
    for (place, (mut before, after)) in before.into_iter().zip(after).enumerate() {
        if (place as u64) < 2 * BATCH {
            assert!(after.prompt.is_empty() && after.completions.iter().all(String::is_empty), "texts are not kept");
            before.prompt.clear();
            before.completions.iter_mut().for_each(String::clear);
            (before.best, before.context) = (after.best.clone(), after.context.clone());
        }
        assert_eq!(before, after, "step {}", place + 1);
    }
}

/// Killed between the file and the commit: the same steps come again, and are there once.
#[test]
fn a_batch_archived_again_after_a_crash_is_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = ledger(directory.path(), BATCH + 10);
    let config = LedgerConfig::default();
    let mut archive = open(directory.path(), &config, ours().hotkey).unwrap();
    let steps = store.read_steps(Sequence(0), BATCH as usize).unwrap();
    archive.keep(&steps).unwrap();
    fs::write(directory.path().join(FOLDER).join("steps-000000257-000000512.new"), b"cut off").unwrap();
    assert_eq!(store.roll(1, archive.as_mut()).unwrap(), BATCH);
    assert_eq!(files(directory.path()).unwrap().len(), 1);
    assert_eq!(rows(directory.path()).len() as u64, BATCH + 10);
}

#[test]
fn an_archive_that_refuses_leaves_every_step_in_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = ledger(directory.path(), BATCH + 10);
    fs::write(directory.path().join(FOLDER), b"in the way").unwrap();
    let mut archive = open(directory.path(), &LedgerConfig::default(), ours().hotkey).unwrap();
    let error = store.roll(1, archive.as_mut()).unwrap_err().to_string();
    assert!(error.contains("prune old steps") && error.contains("steps-000000001-000000256.parquet"), "{error}");
    assert_eq!(Reader::open(directory.path()).unwrap().oldest().unwrap(), Sequence(1));
}

#[test]
fn an_archive_has_an_end_and_the_oldest_go_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = ledger(directory.path(), 4 * BATCH + 10);
    let mut bytes = Vec::new();
    let mut archive = open(directory.path(), &LedgerConfig::default(), ours().hotkey).unwrap();
    assert_eq!(store.roll(10, archive.as_mut()).unwrap(), BATCH);
    bytes.push(files(directory.path()).unwrap()[0].bytes);
    let config = LedgerConfig { archive_max_bytes: bytes[0] * 5 / 2, ..LedgerConfig::default() };
    let mut archive = open(directory.path(), &config, ours().hotkey).unwrap();
    while store.roll(10, archive.as_mut()).unwrap() > 0 {}
    let left: Vec<_> = files(directory.path()).unwrap().iter().map(|file| file.first).collect();
    assert_eq!(left, [2 * BATCH + 1, 3 * BATCH + 1]);
    let none = LedgerConfig { archive_max_bytes: 0, ..LedgerConfig::default() };
    assert!(open(directory.path(), &none, ours().hotkey).is_none());
}

/// 180 days at a step a minute are 259,200 steps; an ordinary run takes a hundredth of them, and keeps a hundredth.
/// `OPENVALIDATORS_HALF_YEAR_STEPS=259200` and `OPENVALIDATORS_HALF_YEAR_COMPLETIONS=50` ask for all of it.
#[test]
fn half_a_year_stays_within_its_bound_and_opens_at_once() {
    let wanted = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |found| found.parse().unwrap());
    let steps = wanted("OPENVALIDATORS_HALF_YEAR_STEPS", 2_592);
    let completions = u16::try_from(wanted("OPENVALIDATORS_HALF_YEAR_COMPLETIONS", 10)).unwrap();
    let (days, kept, text_days) = (180.0, steps * 50_000 / 259_200, 30.0);
    let (day, started) = (86_400.0, 1_795_339_015.0);
    let config = LedgerConfig { retention_steps: kept, ..LedgerConfig::default() };
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), &ours(), 0).unwrap();
    let mut archive = open(directory.path(), &config, ours().hotkey).unwrap();
    let archived = || -> u64 { files(directory.path()).unwrap().iter().map(|file| file.bytes).sum() };
    let (mut highest, mut appended) = (0, 0);
    for number in 1..=steps {
        let now = started + number as f64 * days * day / steps as f64;
        let (record, outcome) = realistic(number, completions, now);
        appended += serde_json::to_vec(&record).unwrap().len() as u64;
        let sequence = store.append(&record).unwrap();
        store.store_outcome(sequence, &outcome).unwrap();
        if number % 72 == 0 {
            store.record_intent(&full_intent(number)).unwrap();
        }
        // As the actor keeps house.
        if number % 64 == 0 {
            store.save_snapshot("rewards", &Snapshot { sequence, version: 1, state: vec![1; 100_000] }).unwrap();
            store.roll(kept, archive.as_mut()).unwrap();
            store.forget_texts(now - text_days * day).unwrap();
            store.shrink().unwrap();
            highest = highest.max(store.bytes() + archived());
        }
    }
    drop(store);
    let sizes = Reader::open(directory.path()).unwrap().sizes().unwrap();
    let foretold = sizes.forecast_bytes(&config, 0.0).unwrap();
    // What a batch holds on to, and the log of what was written last.
    let slack = 64.0 * 1_048_576.0;
    let bound = 1.3 * foretold + archived() as f64 + slack;

    let clock = openvalidators_runtime::SystemClock::new();
    let before = openvalidators_runtime::Clock::now(&clock);
    let mut store = Store::open(directory.path(), &ours(), config.check_up_to_bytes).unwrap();
    let snapshot = store.load_snapshot("rewards").unwrap().unwrap();
    let follows = store.read_steps(snapshot.sequence, 1_000).unwrap().len();
    let took = openvalidators_runtime::Clock::now(&clock) - before;
    let mib = |bytes: f64| bytes / 1_048_576.0;
    println!(
        "{steps} steps of {completions} completions, {:.0} MiB appended: at most {:.0} MiB on the disk ({:.0} foretold for the \
         ledger, {:.0} of archive in {} files), opened in {took:?} with {follows} steps to fold",
        mib(appended as f64),
        mib(highest as f64),
        mib(foretold),
        mib(archived() as f64),
        files(directory.path()).unwrap().len()
    );
    assert!((highest as f64) < bound, "{highest} bytes at most, {bound} is the bound");
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    let reader = Reader::open(directory.path()).unwrap();
    let last = files(directory.path()).unwrap().last().unwrap().last;
    assert_eq!(reader.oldest().unwrap(), Sequence(last + 1), "every step is in the ledger or in the archive");
}

/// Texts of the usual length, numbers that differ, the columns of the default stack.
fn realistic(number: u64, completions: u16, now: f64) -> (StepRecord, StepOutcome) {
    let (mut record, mut outcome) = step(number);
    let hotkey = |uid: u16| Hotkey([(uid % 256) as u8; 32]);
    let value = |uid: u16, of: u64| ((number * 31 + u64::from(uid) * 7 + of) % 9_973) as f32 / 9_973.0;
    let of = |name: &str, of: u64| Column {
        name: name.into(),
        values: (0..completions).map(|uid| Some(value(uid, of))).collect(),
    };
    record.started_at = now;
    record.asked = (0..completions)
        .map(|uid| Asked {
            uid: Uid(uid),
            hotkey: hotkey(uid),
            propensity: 0.25,
            uniform_propensity: Some(0.2),
            origin: Default::default(),
        })
        .collect();
    record.completions = (0..completions)
        .map(|uid| Completion {
            uid: Uid(uid),
            hotkey: hotkey(uid),
            text: format!("{number} {uid} ").repeat(600 / 10),
            elapsed_seconds: f64::from(value(uid, 3)),
            ..record.completions[0].clone()
        })
        .collect();
    let filters = ["relevance_filter", "diversity_reward_model", "blacklist_filter", "task_validator_filter"];
    let filters: Vec<_> = filters.into_iter().map(|name| of(name, 5)).collect();
    record.scoring = Scoring::Scored(RawScores {
        rewards: vec![of("dpo_reward_model", 1)],
        filters: filters.clone(),
        ..RawScores::default()
    });
    if let StepOutcome::Scored(scored) = &mut outcome {
        scored.normalised = vec![of("dpo_reward_model", 2)];
        scored.filters = filters;
        scored.rewards = (0..completions).map(|uid| Reward::new(value(uid, 4)).unwrap()).collect();
    }
    (record, outcome)
}

/// Weights for a full subnet.
fn full_intent(number: u64) -> WeightIntent {
    let uids = 0..256_u16;
    WeightIntent {
        block: Block(number * 5),
        epoch_index: number / 72,
        after_step: Sequence(number),
        uids: uids.clone().map(Uid).collect(),
        hotkeys: uids.clone().map(|uid| Hotkey([uid as u8; 32])).collect(),
        weights: uids.map(|uid| uid.wrapping_mul(251)).collect(),
        version_key: number,
        salt: None,
        basis: None,
    }
}
