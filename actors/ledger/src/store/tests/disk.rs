//! A disk that is full, takes nothing, or is held by somebody else.

use super::*;

#[test]
fn a_full_disk_tears_nothing() {
    let (directory, mut store) = new();
    store.append(&record(1, 0, 2, 100)).unwrap();
    let pages: i64 = store.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    let limit = |store: &Store, pages: i64| {
        store.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    };
    limit(&store, pages + 3);
    let error = store.append(&record(2, 0, 50, 2_000)).unwrap_err();
    assert_eq!(error.attempted, "append a step");
    assert!(error.reason.contains("full"), "{error}");
    let state = Snapshot { sequence: Sequence(1), version: 1, state: vec![0; 1 << 20] };
    assert_eq!(store.save_snapshot("rewards", &state).unwrap_err().attempted, "save a snapshot");
    assert_eq!(store.latest().unwrap(), Sequence(1));
    assert_eq!(store.load_snapshot("rewards").unwrap(), None);
    assert_eq!(store.record_intent(&intent(360)).unwrap(), IntentId(1), "what still fits is still taken");

    limit(&store, 1 << 20);
    assert_eq!(store.append(&record(2, 0, 50, 2_000)).unwrap(), Sequence(2));
    drop(store);
    let store = open(directory.path());
    assert_eq!(*store.read_steps(Sequence(1), 1).unwrap()[0].record, record(2, 0, 50, 2_000));
}

/// A file system that was remounted read-only, and comes back.
#[test]
fn a_disk_that_takes_nothing_for_a_while_loses_nothing() {
    let (directory, mut store) = new();
    store.append(&record(1, 0, 2, 100)).unwrap();
    store.connection.pragma_update(None, "query_only", true).unwrap();
    for _ in 0..3 {
        assert!(store.append(&record(2, 0, 2, 100)).unwrap_err().reason.contains("readonly"));
        assert!(store.record_intent(&intent(360)).is_err() && store.prune(1).is_err());
        assert_eq!(store.read_steps(Sequence(0), 9).unwrap().len(), 1, "what is there can be read");
    }
    store.connection.pragma_update(None, "query_only", false).unwrap();
    assert_eq!(store.append(&record(2, 0, 2, 100)).unwrap(), Sequence(2), "the next place, none left out");
    drop(store);
    let checked = Reader::open(directory.path()).unwrap().check().unwrap();
    assert!(checked.findings.is_empty() && checked.steps == 2, "{checked:?}");
}

#[test]
fn a_writer_elsewhere_is_an_error_not_a_hang() {
    let (directory, mut store) = new();
    store.connection.busy_timeout(Duration::from_millis(50)).unwrap();
    let other = rusqlite::Connection::open(directory.path().join(LEDGER_FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(store.append(&record(1, 0, 1, 2)).unwrap_err().reason.contains("locked"));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.append(&record(1, 0, 1, 2)).unwrap(), Sequence(1));
}
