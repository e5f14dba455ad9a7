use std::path::Path;

use openvalidators_messages::{Block, Hotkey, Sequence, Uid, ledger::WeightIntent};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::{
    LEDGER_FILE, Reader, SCHEMA_VERSION,
    store::tests::{identity, intent, open, outcome, record},
};

/// A ledger as the release before made it, and its statements.
fn earlier_release(directory: &Path) -> Connection {
    let file = directory.join(LEDGER_FILE);
    let is_new = !file.exists();
    let connection = Connection::open(file).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    if is_new {
        connection.execute_batch(include_str!("before.sql")).unwrap();
        connection.pragma_update(None, "user_version", SCHEMA_VERSION).unwrap();
        connection.pragma_update(None, "application_id", 0x6f76_6c64).unwrap();
        let rows = [
            ("network", "local".to_owned()),
            ("netuid", identity().netuid.to_string()),
            ("hotkey", identity().hotkey.to_string()),
        ];
        for row in rows {
            connection.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", row).unwrap();
        }
    }
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 1, "it opens no other");
    connection
}

fn append(connection: &Connection, place: u64) {
    let record = serde_json::to_string(&record(place, 0, 2, 8)).unwrap();
    let row = (place as i64, place as i64, 0, record);
    connection.execute("INSERT INTO steps (sequence, forward, idx, record) VALUES (?1, ?2, ?3, ?4)", row).unwrap();
    let outcome = (place as i64, serde_json::to_string(&outcome(0.5)).unwrap());
    connection.execute("INSERT OR REPLACE INTO outcomes (sequence, outcome) VALUES (?1, ?2)", outcome).unwrap();
}

/// Update, work, back to the release before, work, update again: every step is there.
#[test]
fn an_update_can_be_taken_back_and_loses_no_step() {
    let directory = tempfile::tempdir().unwrap();
    let before = earlier_release(directory.path());
    append(&before, 1);
    drop(before);
    assert_eq!(Reader::open(directory.path()).unwrap().check().unwrap().findings, [] as [String; 0], "read as it is");

    let mut store = open(directory.path());
    assert_eq!(store.append(&record(2, 0, 2, 8)).unwrap(), Sequence(2));
    store.store_outcome(Sequence(2), &outcome(0.5)).unwrap();
    store.forget_texts(f64::MAX).unwrap();
    drop(store);

    let before = earlier_release(directory.path());
    let steps: i64 =
        before.query_row("SELECT count(*) FROM steps JOIN outcomes USING (sequence)", [], |r| r.get(0)).unwrap();
    assert_eq!(steps, 2, "it reads what the newer one wrote");
    append(&before, 3);
    before.execute("UPDATE pruned SET highest_forward = 0", []).unwrap();
    drop(before);

    let mut store = open(directory.path());
    assert_eq!(store.append(&record(4, 0, 2, 8)).unwrap(), Sequence(4));
    drop(store);
    let checked = Reader::open(directory.path()).unwrap().check().unwrap();
    assert_eq!((checked.steps, checked.outcomes, checked.digests), (4, 3, 2));
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
}

/// An intent of the release before, which knew no salts.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct EarlierIntent {
    block: Block,
    epoch_index: u64,
    after_step: Sequence,
    uids: Vec<Uid>,
    hotkeys: Vec<Hotkey>,
    weights: Vec<u16>,
    version_key: u64,
}

/// The salt of a commit is an addition too.
#[test]
fn an_intent_with_a_salt_is_read_by_the_release_before_and_one_without_by_this() {
    let directory = tempfile::tempdir().unwrap();
    let salted = WeightIntent { salt: Some((1..=8).collect()), ..intent(400) };
    let mut store = open(directory.path());
    let id = store.record_intent(&salted).unwrap();
    drop(store);

    let before = earlier_release(directory.path());
    let text: String = before.query_row("SELECT intent FROM intents", [], |row| row.get(0)).unwrap();
    let read: EarlierIntent = serde_json::from_str(&text).unwrap();
    assert_eq!((read.block, &read.weights), (salted.block, &salted.weights));
    let unsalted = serde_json::to_string(&EarlierIntent { block: Block(800), ..read }).unwrap();
    before.execute("INSERT INTO intents (id, intent) VALUES (?1, ?2)", (id.0 as i64 + 1, unsalted)).unwrap();
    drop(before);

    let intents = Reader::open(directory.path()).unwrap().read_intents(10).unwrap();
    let salts: Vec<_> = intents.into_iter().map(|stored| (stored.intent.block, stored.intent.salt)).collect();
    assert_eq!(salts, [(Block(800), None), (Block(400), salted.salt)]);
}
