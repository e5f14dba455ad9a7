use openvalidators_messages::{Sequence, StepRecord, ledger::Snapshot};
use tempfile::TempDir;

use super::*;
use crate::{
    ARCHIVE_EVERY_STEPS, LedgerConfig, Reader,
    store::tests::{open, outcome, record},
};

const DAY: f64 = 86_400.0;

/// A step an hour, each with some 50 KB of text.
fn hourly(count: u64) -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    for number in 1..=count {
        let step = StepRecord { started_at: number as f64 * DAY / 24.0, ..record(number, 0, 5, 10_000) };
        let sequence = store.append(&step).unwrap();
        store.store_outcome(sequence, &outcome(0.5)).unwrap();
    }
    (directory, store)
}

fn at(sequence: u64) -> Snapshot {
    Snapshot { sequence: Sequence(sequence), version: 1, state: vec![7; 100] }
}

#[test]
fn old_texts_go_numbers_stay_and_the_file_shrinks() {
    let (directory, mut store) = hourly(300);
    let whole = store.used_bytes().unwrap();
    assert_eq!(store.forget_texts(10.0 * DAY).unwrap(), 0, "nobody has a snapshot: they may be read again");
    store.save_snapshot("rewards", &at(300)).unwrap();
    store.load_cursor("events").unwrap();
    assert_eq!(store.forget_texts(10.0 * DAY).unwrap(), 0, "the event log has still to be written");
    store.save_cursor("events", Sequence(300)).unwrap();
    assert_eq!(store.forget_texts(10.0 * DAY).unwrap(), FORGET_BATCH_STEPS, "so many at once");
    assert_eq!(store.forget_texts(10.0 * DAY).unwrap(), 239 - FORGET_BATCH_STEPS, "younger than ten days at that time");
    assert_eq!(store.forget_texts(10.0 * DAY).unwrap(), 0);

    let steps = store.read_steps(Sequence(238), 2).unwrap();
    let (old, young) = (&steps[0].record, &steps[1].record);
    assert!(old.prompt.is_empty() && old.completions.iter().all(|completion| completion.text.is_empty()));
    assert_eq!((&old.scoring, &old.asked), (&young.scoring, &young.asked), "numbers stay");
    assert_eq!(young.completions[0].text.len(), 10_000);
    assert!(store.used_bytes().unwrap() < whole / 3);
    let reader = Reader::open(directory.path()).unwrap();
    assert_eq!(reader.textless_until().unwrap(), Sequence(239));
    let checked = reader.check().unwrap();
    assert!(checked.findings.is_empty() && checked.digests == 300, "{checked:?}");

    let free =
        |store: &Store| store.connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = free(&store);
    assert!(before > 0);
    assert_eq!(store.shrink().unwrap(), before as u64, "given back while the ledger is open");
    assert_eq!((free(&store), store.shrink().unwrap()), (0, 0));
}

#[test]
fn states_put_aside_go_with_the_steps_they_serve() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let last = 2 * ARCHIVE_EVERY_STEPS + 600;
    let transaction = store.connection.transaction().unwrap();
    for place in 1..=last as i64 {
        let json = "{}";
        let row = (place, json);
        transaction.execute("INSERT INTO steps (sequence, forward, idx, record) VALUES (?1, ?1, 0, ?2)", row).unwrap();
    }
    transaction.commit().unwrap();
    let mut saved = 0;
    while saved + 200 <= last {
        saved += 200;
        store.save_snapshot("rewards", &at(saved)).unwrap();
    }
    let reader = Reader::open(directory.path()).unwrap();
    let places = |reader: &Reader| reader.states("rewards").unwrap().iter().map(|place| place.0).collect::<Vec<_>>();
    let second = 200 + ARCHIVE_EVERY_STEPS;
    assert_eq!(places(&reader), [200, second, second + ARCHIVE_EVERY_STEPS, saved]);
    let found = |last| reader.load_state_until("rewards", Sequence(last)).unwrap().map(|found| found.sequence.0);
    assert_eq!(
        [found(199), found(second - 1), found(second), found(last)],
        [None, Some(200), Some(second), Some(saved)]
    );

    while store.prune(last - second).unwrap() > 0 {}
    assert_eq!(
        places(&reader),
        [second, second + ARCHIVE_EVERY_STEPS, saved],
        "the oldest step left follows the first"
    );
}

/// What an import begins with is in no step: `replay` found other averages than were kept.
#[test]
fn a_state_from_before_the_first_step_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    store.save_snapshot("weights", &Snapshot { state: vec![1; 10], ..at(0) }).unwrap();
    store.save_snapshot("weights", &at(0)).unwrap();
    for number in 1..=2 {
        store.append(&record(number, 0, 1, 10)).unwrap();
        store.save_snapshot("weights", &at(number)).unwrap();
    }
    let reader = Reader::open(directory.path()).unwrap();
    assert_eq!(reader.states("weights").unwrap(), [Sequence(0), Sequence(1), Sequence(2)]);
    let found = reader.load_state_until("weights", Sequence(0)).unwrap();
    assert_eq!(found, Some(at(0)), "the latest of them, and others are put aside as often as ever");
}

#[test]
fn a_forecast_knows_the_pace_and_the_settings() {
    let (directory, mut store) = hourly(100);
    store.save_snapshot("rewards", &at(100)).unwrap();
    let sizes = Reader::open(directory.path()).unwrap().sizes().unwrap();
    assert!((sizes.steps_a_day.unwrap() - 24.0).abs() < 1e-9);
    assert!(sizes.step_bytes > 50_000.0 && sizes.textless_step_bytes < 5_000.0, "{sizes:?}");
    let forecast = |retention_steps, keep_texts_days, max_bytes, days| {
        let config = LedgerConfig { retention_steps, keep_texts_days, max_bytes, ..LedgerConfig::default() };
        sizes.forecast_bytes(&config, days).unwrap()
    };
    let now = forecast(0, 0, 0, 0.0);
    assert!((now / sizes.used_bytes as f64 - 1.0).abs() < 0.01, "{now} is what there is: {sizes:?}");
    assert!(forecast(0, 0, 0, 100.0) > 20.0 * now);
    assert!(forecast(1_000, 0, 0, 1e6) < 11.0 * now, "steps have an end");
    assert!(forecast(1_000, 1, 0, 1e3) < forecast(1_000, 0, 0, 1e3) / 5.0, "and texts before");
    assert_eq!(forecast(0, 0, 4_096, 100.0), 4_096.0);
}

/// 180 days of the busiest validator we know of would be 150,000 steps. Here with smaller texts, in the proportions that
/// count: texts for a sixth of the time, whole steps for a third.
#[test]
fn half_a_year_stays_within_its_bound() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let (days, steps_a_day) = (180, 10);
    let (texts_days, kept) = (30, 60 * steps_a_day);
    let mut highest = 0;
    for number in 1..=days * steps_a_day {
        let now = number as f64 * DAY / steps_a_day as f64;
        let sequence = store.append(&StepRecord { started_at: now, ..record(number, 0, 5, 4_000) }).unwrap();
        store.store_outcome(sequence, &outcome(0.5)).unwrap();
        if number % 64 == 0 {
            store.save_snapshot("rewards", &at(number)).unwrap();
            store.prune(kept).unwrap();
            store.forget_texts(now - texts_days as f64 * DAY).unwrap();
            store.shrink().unwrap();
        }
        highest = highest.max(store.used_bytes().unwrap());
    }
    let sizes = Reader::open(directory.path()).unwrap().sizes().unwrap();
    let config = LedgerConfig { retention_steps: kept, keep_texts_days: texts_days, ..LedgerConfig::default() };
    let bound = 1.3 * sizes.forecast_bytes(&config, 0.0).unwrap();
    assert!((highest as f64) < bound, "{highest} bytes at most, {bound} foretold");
    assert!(sizes.file_bytes as f64 <= bound, "{sizes:?}: the file shrinks, too");
}
