use openvalidators_messages::ledger::Snapshot;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{
    LEDGER_FILE,
    store::tests::{intent, open, outcome, record},
};

fn ledger() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    for number in 1..=5 {
        let sequence = store.append(&record(number, 0, 3, 40)).unwrap();
        store.store_outcome(sequence, &outcome(0.5)).unwrap();
    }
    store.save_snapshot("weights", &Snapshot { sequence: Sequence(4), version: 1, state: vec![1] }).unwrap();
    store.save_cursor("events", Sequence(5)).unwrap();
    store.record_intent(&intent(360)).unwrap();
    directory
}

#[test]
fn a_whole_ledger_has_no_findings_even_while_it_is_written() {
    let directory = ledger();
    let mut store = open(directory.path());
    let reader = Reader::open(directory.path()).unwrap();
    store.append(&record(6, 0, 3, 40)).unwrap();
    let checked = reader.check().unwrap();
    let expected = Checked {
        oldest: Sequence(1),
        latest: Sequence(6),
        steps: 6,
        outcomes: 5,
        digests: 6,
        intents: 1,
        snapshots: vec![("weights".into(), Sequence(4))],
        findings: vec![],
    };
    assert_eq!(checked, expected, "the outcome of the latest step may be on its way");
}

/// Each damage is one that SQLite's own check does not see.
#[test]
fn what_is_wrong_is_found_and_named() {
    let damages = [
        ("DELETE FROM steps WHERE sequence = 3", "after step 2 comes step 4"),
        (
            "UPDATE steps SET record = replace(record, 'relevant', 'relevent') WHERE sequence = 2",
            "step 2 is not the one",
        ),
        ("UPDATE steps SET record = '{}' WHERE sequence = 2", "the record of step 2 cannot be read"),
        ("UPDATE outcomes SET outcome = '[]' WHERE sequence = 4", "the outcome of step 4 cannot be read"),
        ("DELETE FROM outcomes WHERE sequence = 1", "step 1 has no outcome, though step 2"),
        ("UPDATE snapshots SET sequence = 9", "the snapshot of `weights` is at 9, the latest step is 5"),
        ("PRAGMA foreign_keys = OFF; DELETE FROM steps", "belongs to nothing"),
        ("UPDATE cursors SET sequence = 9", "`events` has read up to 9"),
        ("UPDATE intents SET intent = 'x'", "intent 1 cannot be read"),
        ("UPDATE intents SET id = 7", "there are 1 intents, and the latest is 7"),
        ("INSERT INTO settlements VALUES (1, 1, '{}')", "a settlement of intent 1 cannot be read"),
    ];
    for (damage, said) in damages {
        let directory = ledger();
        Connection::open(directory.path().join(LEDGER_FILE)).unwrap().execute_batch(damage).unwrap();
        let findings = Reader::open(directory.path()).unwrap().check().unwrap().findings;
        assert!(findings.iter().any(|found| found.contains(said)), "{damage}: {findings:?}");
    }
}
