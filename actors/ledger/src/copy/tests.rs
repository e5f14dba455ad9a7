use super::*;
use crate::{
    Store,
    store::tests::{identity, intent, open, outcome, record},
};

#[test]
fn a_backup_of_a_running_ledger_goes_on_elsewhere() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = open(here.path());
    let sequence = store.append(&record(1, 0, 3, 400)).unwrap();
    store.store_outcome(sequence, &outcome(0.25)).unwrap();
    store.record_intent(&intent(360)).unwrap();
    let file = there.path().join("backup.sqlite3");
    assert!(backup(here.path(), &file).unwrap() > 0);
    store.append(&record(2, 0, 3, 400)).unwrap();

    let elsewhere = there.path().join("state");
    let (whose, checked) = restore(&file, &elsewhere).unwrap();
    assert_eq!((whose, checked.steps, checked.intents), (identity(), 1, 1));
    let mut restored = Store::open(&elsewhere, &identity(), u64::MAX).unwrap();
    assert_eq!(restored.read_steps(Default::default(), 9).unwrap(), store.read_steps(Default::default(), 1).unwrap());
    assert_eq!(restored.append(&record(2, 0, 3, 400)).unwrap().0, 2, "it goes on where the copy ends");
    assert_eq!(restored.read_intents(9).unwrap(), store.read_intents(9).unwrap());
}

#[test]
fn nothing_is_overwritten_and_nothing_damaged_is_restored() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = open(here.path());
    for number in 1..=20 {
        store.append(&record(number, 0, 3, 4_000)).unwrap();
    }
    let file = there.path().join("backup.sqlite3");
    backup(here.path(), &file).unwrap();
    assert!(matches!(backup(here.path(), &file), Err(CopyError::Exists(_))));
    let refused = restore(&file, here.path()).unwrap_err().to_string();
    assert!(refused.contains("is in use by the process"), "{refused}");
    drop(store);
    assert!(matches!(restore(&file, here.path()), Err(CopyError::Exists(_))));

    let elsewhere = there.path().join("state");
    let whole = fs::read(&file).unwrap();
    for (bytes, said) in [
        (whole[..whole.len() / 2].to_vec(), "damaged"),
        (b"no ledger at all".to_vec(), "shorter than"),
        ([b'x'; 4_096].to_vec(), "not an SQLite database"),
        (
            {
                let mut changed = whole.clone();
                // SQLite may leave stale copies in the free part of a page, so everywhere.
                while let Some(at) = changed.windows(8).position(|there| there == b"relevant") {
                    changed[at] = b'R';
                }
                changed
            },
            "is not the one that was written",
        ),
    ] {
        fs::write(&file, bytes).unwrap();
        let error = restore(&file, &elsewhere).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(!elsewhere.join(LEDGER_FILE).exists(), "{said}");
    }
    fs::write(&file, whole).unwrap();
    restore(&file, &elsewhere).unwrap();
}
