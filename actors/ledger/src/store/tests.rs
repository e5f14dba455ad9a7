use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use openvalidators_messages::{
    Asked, Block, Column, Completion, Embeddings, Hotkey, Netuid, QueryOutcome, RawScores, Reward, STEP_RECORD_VERSION,
    Scored, Scoring, StepName, Uid,
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{LOCK_FILE, READ_LIMIT_BYTES, READ_LIMIT_INTENTS, Reader, SCHEMA_VERSION};

mod disk;

pub(crate) const CHECK_ALL: u64 = u64::MAX;

pub(crate) fn identity() -> Identity {
    Identity { network: "local".into(), netuid: Netuid(1), hotkey: Hotkey([7; 32]) }
}

pub(crate) fn open(directory: &Path) -> Store {
    Store::open(directory, &identity(), CHECK_ALL).unwrap()
}

fn new() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    (directory, store)
}

/// A record with `texts` completions of `bytes` bytes each.
pub(crate) fn record(forward: u64, index: u8, texts: u16, bytes: usize) -> StepRecord {
    let hotkey = |uid: u16| Hotkey([uid as u8; 32]);
    StepRecord {
        version: STEP_RECORD_VERSION,
        step: StepId { forward: ForwardId(forward), index },
        name: StepName::Followup(index % 4),
        block: Block(100 + forward),
        started_at: 1_700_000_000.25,
        length_seconds: 9.5,
        seed: u64::MAX,
        code_version: "0.1.0".into(),
        source: "test".into(),
        prompt: "Ask one relevant question.".into(),
        embedding: None,
        base_text: "A context.".into(),
        asked: (0..texts)
            .map(|uid| Asked {
                uid: Uid(uid),
                hotkey: hotkey(uid),
                propensity: 0.1,
                uniform_propensity: None,
                origin: Default::default(),
            })
            .collect(),
        completions: (0..texts)
            .map(|uid| Completion {
                uid: Uid(uid),
                hotkey: hotkey(uid),
                text: "é".repeat(bytes / 2),
                outcome: QueryOutcome::Answered,
                status_code: 200,
                status_message: "Success".into(),
                elapsed_seconds: 1.5,
            })
            .collect(),
        scoring: Scoring::Scored(RawScores {
            rewards: vec![Column { name: "dpo".into(), values: vec![Some(-2.5); texts.into()] }],
            filters: vec![],
            ..RawScores::default()
        }),
        digests: BTreeMap::new(),
    }
}

pub(crate) fn outcome(reward: f32) -> StepOutcome {
    StepOutcome::Scored(Scored {
        normalised: vec![],
        filters: vec![],
        rewards: vec![Reward::new(reward).unwrap()],
        best: Some(0),
        gating_loss: None,
        shadows: vec![],
    })
}

pub(crate) fn intent(block: u64) -> WeightIntent {
    WeightIntent {
        block: Block(block),
        epoch_index: block / 360,
        after_step: Sequence(0),
        uids: vec![Uid(3), Uid(9)],
        hotkeys: vec![Hotkey([3; 32]), Hotkey([9; 32])],
        weights: vec![65_535, 1],
        version_key: 0,
        salt: None,
        basis: None,
    }
}

/// Everything in a directory, byte for byte.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

// === Steps ===

#[test]
fn places_are_dense_and_a_second_append_changes_nothing() {
    let (_directory, mut store) = new();
    assert_eq!(store.latest().unwrap(), Sequence(0));
    for number in 1..=5 {
        assert_eq!(store.append(&record(number, 0, 2, 8)).unwrap(), Sequence(number));
    }
    assert_eq!(store.append(&record(2, 0, 2, 8)).unwrap(), Sequence(2));
    let error = store.append(&record(2, 0, 3, 8)).unwrap_err();
    assert_eq!(error.to_string(), "the ledger could not append a step: step 2.0 is at 2 already, with other contents");
    assert_eq!(store.append(&record(6, 0, 2, 8)).unwrap(), Sequence(6));
    let places: Vec<_> = store.read_steps(Sequence(0), 100).unwrap().iter().map(|step| step.sequence.0).collect();
    assert_eq!(places, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_record_that_json_would_change_is_refused() {
    let (_directory, mut store) = new();
    let mut bad = record(1, 0, 1, 2);
    bad.length_seconds = f64::NAN;
    assert!(store.append(&bad).unwrap_err().reason.contains("does not survive JSON"));
    let mut bad = record(1, 0, 1, 2);
    let column = Column { name: "dpo".into(), values: vec![Some(f32::NAN)] };
    bad.scoring = Scoring::Scored(RawScores { rewards: vec![column], ..RawScores::default() });
    assert!(store.append(&bad).unwrap_err().reason.contains("not finite"));
    assert_eq!(store.append(&record(1, 0, 1, 2)).unwrap(), Sequence(1), "nothing of the refused ones is there");
}

#[test]
fn outcomes_belong_to_a_step_and_may_be_replaced() {
    let (_directory, mut store) = new();
    assert!(
        store.store_outcome(Sequence(1), &outcome(1.0)).unwrap_err().reason.contains("step 1 is not in the ledger")
    );
    store.append(&record(1, 0, 1, 2)).unwrap();
    assert_eq!(store.read_steps(Sequence(0), 1).unwrap()[0].outcome, None);
    store.store_outcome(Sequence(1), &outcome(1.0)).unwrap();
    store.store_outcome(Sequence(1), &outcome(0.5)).unwrap();
    assert_eq!(store.read_steps(Sequence(0), 1).unwrap()[0].outcome.as_deref(), Some(&outcome(0.5)));
}

#[test]
fn a_read_is_bounded_in_steps_and_in_bytes() {
    let (_directory, mut store) = new();
    let large = READ_LIMIT_BYTES / 3;
    for number in 1..=5 {
        store.append(&record(number, 0, 1, large)).unwrap();
    }
    let read = store.read_steps(Sequence(1), usize::MAX).unwrap();
    assert_eq!(read.iter().map(|step| step.sequence.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(store.read_steps(Sequence(4), 9).unwrap().len(), 1);
    assert!(store.read_steps(Sequence(5), 9).unwrap().is_empty());
}

#[test]
fn the_next_forward_is_past_every_one_that_was() {
    let (directory, mut store) = new();
    assert_eq!(store.next_forward().unwrap(), ForwardId(1));
    store.append(&record(41, 0, 1, 2)).unwrap();
    store.append(&record(7, 0, 1, 2)).unwrap();
    assert_eq!(store.next_forward().unwrap(), ForwardId(42));
    store.save_snapshot("rewards", &Snapshot { sequence: Sequence(2), version: 1, state: vec![] }).unwrap();
    assert_eq!(store.prune(1).unwrap(), 1, "forward 41 is gone");
    assert_eq!(store.next_forward().unwrap(), ForwardId(42));
    drop(store);
    assert_eq!(open(directory.path()).next_forward().unwrap(), ForwardId(42));
}

// === Owners and readers ===

#[test]
fn snapshots_and_cursors_come_back_after_reopening() {
    let (directory, mut store) = new();
    store.append(&record(1, 0, 1, 2)).unwrap();
    let snapshot = Snapshot { sequence: Sequence(1), version: 3, state: (0..=255).collect() };
    assert_eq!(store.load_snapshot("weights").unwrap(), None);
    store.save_snapshot("weights", &snapshot).unwrap();
    assert_eq!(store.load_cursor("wandb").unwrap(), Sequence(0));
    store.save_cursor("wandb", Sequence(1)).unwrap();
    drop(store);
    let mut store = open(directory.path());
    assert_eq!(store.load_snapshot("weights").unwrap(), Some(snapshot.clone()));
    assert_eq!(store.load_cursor("wandb").unwrap(), Sequence(1));
    store.save_cursor("wandb", Sequence(0)).unwrap();

    let ahead = Snapshot { sequence: Sequence(2), ..snapshot.clone() };
    assert!(store.save_snapshot("weights", &ahead).unwrap_err().reason.contains("ahead of the ledger"));
    assert!(store.save_cursor("wandb", Sequence(2)).unwrap_err().reason.contains("ahead of the ledger"));
    let behind = Snapshot { sequence: Sequence(0), ..snapshot };
    assert!(store.save_snapshot("weights", &behind).unwrap_err().reason.contains("has a snapshot at 1"));
}

#[test]
fn pruning_keeps_what_anyone_needs() {
    let (_directory, mut store) = new();
    let batch = PRUNE_BATCH_STEPS;
    let steps = batch + 44;
    for number in 1..=steps {
        store.append(&record(number, 0, 1, 2)).unwrap();
        store.store_outcome(Sequence(number), &outcome(0.5)).unwrap();
    }
    assert_eq!(store.prune(10).unwrap(), 0, "nobody has a snapshot yet");
    let at = |sequence| Snapshot { sequence: Sequence(sequence), version: 1, state: vec![] };
    store.save_snapshot("rewards", &at(steps)).unwrap();
    store.load_snapshot("gating").unwrap();
    assert_eq!(store.prune(10).unwrap(), 0, "gating runs and has none");
    store.save_snapshot("gating", &at(30)).unwrap();
    store.load_cursor("wandb").unwrap();
    assert_eq!(store.prune(10).unwrap(), 0, "wandb has read nothing");
    store.save_cursor("wandb", Sequence(20)).unwrap();
    assert_eq!(store.prune(10).unwrap(), 20);
    assert_eq!(store.read_steps(Sequence(0), 1).unwrap()[0].sequence, Sequence(21));
    store.save_cursor("wandb", Sequence(steps)).unwrap();
    assert_eq!(store.prune(10).unwrap(), 10, "up to gating's snapshot");
    store.save_snapshot("gating", &at(steps)).unwrap();
    assert_eq!(store.prune(0).unwrap(), batch, "so many at once");
    assert_eq!(store.prune(0).unwrap(), steps - 1 - 30 - batch);
    assert_eq!(store.prune(0).unwrap(), 0, "the latest stays");
    assert_eq!(store.append(&record(9_999, 0, 1, 2)).unwrap(), Sequence(steps + 1));
    assert!(store.store_outcome(Sequence(1), &outcome(0.5)).is_err());
    let orphans: i64 = store
        .connection
        .query_row("SELECT count(*) FROM outcomes WHERE sequence NOT IN (SELECT sequence FROM steps)", [], |r| r.get(0))
        .unwrap();
    assert_eq!(orphans, 0, "outcomes go with their steps");
}

// === Intents ===

#[test]
fn an_intent_goes_from_open_to_one_end() {
    let (directory, mut store) = new();
    let first = store.record_intent(&intent(360)).unwrap();
    assert_eq!(first, IntentId(1));
    assert_eq!(store.record_intent(&intent(360)).unwrap(), first, "the same open intent is the one meant");
    let committed = Settlement::Committed { block: Block(361), reveal_epoch: 2 };
    store.settle_intent(first, &committed).unwrap();
    store.settle_intent(first, &committed).unwrap();
    let confirmed = Settlement::Confirmed { block: Block(725) };
    store.settle_intent(first, &confirmed).unwrap();
    store.settle_intent(first, &confirmed).unwrap();
    let error = store.settle_intent(first, &Settlement::Superseded).unwrap_err();
    assert!(error.reason.contains("cannot become Superseded"), "{error}");
    assert!(store.settle_intent(first, &Settlement::Open).is_err());
    assert!(store.settle_intent(IntentId(2), &confirmed).unwrap_err().reason.contains("there is no intent 2"));
    assert_eq!(store.record_intent(&intent(360)).unwrap(), IntentId(2), "an ended one is not the one meant");
    drop(store);
    let stored = open(directory.path()).read_intents(10).unwrap();
    assert_eq!(stored[0], StoredIntent { id: IntentId(2), intent: intent(360), settlement: Settlement::Open });
    assert_eq!(stored[1], StoredIntent { id: IntentId(1), intent: intent(360), settlement: confirmed });
    assert_eq!(stored.len(), 2);
}

/// More than one read gives: `explain`, `replay` and `export` once knew of the latest thousand alone.
#[test]
fn intents_of_all_time_are_read_in_their_order() {
    let (directory, mut store) = new();
    let first = store.record_intent(&intent(360)).unwrap();
    let many = READ_LIMIT_INTENTS as u64 + 250;
    let copies = "WITH RECURSIVE ids (id) AS (SELECT 2 UNION ALL SELECT id + 1 FROM ids WHERE id < ?1)
                  INSERT INTO intents (id, intent) SELECT ids.id, intents.intent FROM ids, intents WHERE intents.id = 1";
    store.connection.execute(copies, [many as i64]).unwrap();
    store.settle_intent(first, &Settlement::Superseded).unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let all: Vec<StoredIntent> = reader.intents().collect::<Result<_, _>>().unwrap();
    assert_eq!(all[0], StoredIntent { id: first, intent: intent(360), settlement: Settlement::Superseded });
    assert!(all.iter().map(|stored| stored.id.0).eq(1..=many), "{} of {many}", all.len());
}

#[test]
fn an_intent_with_ragged_columns_is_refused() {
    let (_directory, mut store) = new();
    let ragged = WeightIntent { weights: vec![1], ..intent(1) };
    assert!(store.record_intent(&ragged).unwrap_err().reason.contains("2 uids, 2 hotkeys and 1 weights"));
    assert!(store.read_intents(1).unwrap().is_empty());
}

// === Opening ===

fn refused(directory: &Path, identity: &Identity) -> OpenError {
    let before = contents(directory);
    let error = Store::open(directory, identity, CHECK_ALL).unwrap_err();
    let mut after = contents(directory);
    if !before.contains_key(LOCK_FILE) {
        after.remove(LOCK_FILE);
    }
    assert_eq!(after, before, "a refused directory is as it was");
    error
}

#[test]
fn another_validators_ledger_is_refused_untouched() {
    let (directory, mut store) = new();
    store.append(&record(1, 0, 1, 2)).unwrap();
    drop(store);
    let cases = [
        (Identity { netuid: Netuid(2), ..identity() }, "was made for netuid 1, this program runs with netuid 2"),
        (
            Identity { network: "finney".into(), ..identity() },
            "for network local, this program runs with network finney",
        ),
        (Identity { hotkey: Hotkey([8; 32]), ..identity() }, "runs with hotkey 0x0808"),
    ];
    for (other, expected) in cases {
        let text = refused(directory.path(), &other).to_string();
        assert!(text.contains(expected) && text.contains(LEDGER_FILE) && text.contains("state directory"), "{text}");
    }
    assert_eq!(open(directory.path()).latest().unwrap(), Sequence(1));
}

#[test]
fn another_version_is_refused_untouched() {
    let (directory, store) = new();
    drop(store);
    let file = directory.path().join(LEDGER_FILE);
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = refused(directory.path(), &identity());
    assert!(matches!(error, OpenError::OtherVersion { found: 99, wanted: SCHEMA_VERSION, .. }), "{error}");
    assert!(error.to_string().contains("start the release that wrote it"), "{error}");
}

#[test]
fn foreign_files_are_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(LEDGER_FILE);
    fs::write(&file, b"short").unwrap();
    assert!(matches!(refused(directory.path(), &identity()), OpenError::Foreign { .. }));
    fs::write(&file, [b'x'; 4096]).unwrap();
    assert!(refused(directory.path(), &identity()).to_string().contains("not an SQLite database"));
    fs::remove_file(&file).unwrap();
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
    assert!(refused(directory.path(), &identity()).to_string().contains("another program"));
}

#[test]
fn a_damaged_file_is_refused() {
    let (directory, mut store) = new();
    for number in 1..=50 {
        store.append(&record(number, 0, 4, 400)).unwrap();
    }
    drop(store);
    let file = directory.path().join(LEDGER_FILE);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    for page in (middle..bytes.len()).step_by(4096) {
        bytes[page..page + 8].fill(0xff);
    }
    fs::write(&file, bytes).unwrap();
    let error = Store::open(directory.path(), &identity(), CHECK_ALL).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("restore the whole directory from a backup"), "{error}");
    assert!(Store::open(directory.path(), &identity(), 0).is_ok(), "too large a file is opened unchecked");
}

#[test]
fn a_log_without_its_ledger_is_not_swallowed() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(format!("{LEDGER_FILE}-wal")), b"precious").unwrap();
    assert!(matches!(refused(directory.path(), &identity()), OpenError::OrphanedLog { .. }));
}

#[test]
fn what_a_crash_left_while_making_the_ledger_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(format!("{LEDGER_FILE}.new")), b"half").unwrap();
    fs::write(directory.path().join(format!("{LEDGER_FILE}.new-journal")), b"half").unwrap();
    assert_eq!(open(directory.path()).latest().unwrap(), Sequence(0));
}

#[test]
fn a_path_with_odd_characters_works() {
    let directory = tempfile::tempdir().unwrap();
    let odd = directory.path().join("a?b#c%20d é");
    drop(open(&odd));
    let error = Store::open(&odd, &Identity { netuid: Netuid(2), ..identity() }, CHECK_ALL).unwrap_err();
    assert!(matches!(error, OpenError::OtherIdentity { .. }), "{error}");
    assert!(odd.join(LEDGER_FILE).exists());
}

#[test]
fn a_second_opening_names_the_directory_and_the_pid() {
    let (directory, store) = new();
    let text = refused(directory.path(), &identity()).to_string();
    assert!(text.contains(&directory.path().display().to_string()), "{text}");
    assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    drop(store);
    open(directory.path());
}

#[test]
fn a_commit_waits_for_the_disk() {
    let (_directory, store) = new();
    let number =
        |name: &str| -> i64 { store.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap() };
    assert_eq!(number("synchronous"), 2, "FULL");
    assert_eq!(number("foreign_keys"), 1);
    let mode: String = store.connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

// === Beside the writer ===

#[test]
fn offline_tools_read_while_the_validator_writes() {
    let (directory, mut store) = new();
    store.append(&record(1, 0, 2, 8)).unwrap();
    store.store_outcome(Sequence(1), &outcome(0.25)).unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    assert_eq!(reader.identity(), &identity());
    store.append(&record(2, 0, 2, 8)).unwrap();
    assert_eq!(reader.latest().unwrap(), Sequence(2));
    assert_eq!(*reader.read_steps(Sequence(0), 9).unwrap()[1].record, record(2, 0, 2, 8));
    assert!(reader.read_intents(9).unwrap().is_empty());
    let row = reader_row(directory.path());
    assert_eq!(row, ("followup0".to_owned(), 0, format!("0x{}", "00".repeat(32)), 0.25));
    let missing = Reader::open(&directory.path().join("nowhere")).unwrap_err();
    assert!(missing.to_string().contains("there is no ledger at"), "{missing}");
}

/// What an analyst's shell sees.
fn reader_row(directory: &Path) -> (String, u16, String, f64) {
    let sql = "SELECT step, uid, hotkey, reward FROM completions WHERE sequence = 1 ORDER BY uid LIMIT 1";
    let connection = rusqlite::Connection::open(directory.join(LEDGER_FILE)).unwrap();
    connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap()
}

// === Properties ===

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("finite", |value| value.is_finite())
}

fn cells() -> impl Strategy<Value = Vec<Column>> {
    let value = proptest::option::of(any::<f32>().prop_filter("finite", |value| value.is_finite()));
    let column =
        (any::<String>(), proptest::collection::vec(value, 0..4)).prop_map(|(name, values)| Column { name, values });
    proptest::collection::vec(column, 0..3)
}

fn scoring() -> impl Strategy<Value = Scoring> {
    let row = proptest::collection::vec(any::<f32>().prop_filter("not NaN", |value| !value.is_nan()), 3);
    let embeddings =
        (any::<String>(), row).prop_map(|(model, rows)| Embeddings { model, width: 3, completions: vec![0], rows });
    prop_oneof![
        any::<String>().prop_map(|reason| Scoring::Unscored { reason }),
        (cells(), cells(), proptest::option::of(embeddings)).prop_map(|(rewards, filters, embeddings)| {
            Scoring::Scored(RawScores { rewards, filters, embeddings, ..RawScores::default() })
        }),
    ]
}

fn completion() -> impl Strategy<Value = Completion> {
    (
        any::<u16>(),
        any::<[u8; 32]>(),
        any::<String>(),
        0..QueryOutcome::ALL.len(),
        any::<u16>(),
        any::<String>(),
        finite(),
    )
        .prop_map(|(uid, hotkey, text, outcome, status_code, status_message, elapsed_seconds)| Completion {
            uid: Uid(uid),
            hotkey: Hotkey(hotkey),
            text,
            outcome: QueryOutcome::ALL[outcome],
            status_code,
            status_message,
            elapsed_seconds,
        })
}

fn step_record() -> impl Strategy<Value = StepRecord> {
    let ids = (0..=u64::MAX / 2, any::<u8>(), any::<u64>(), any::<u64>(), any::<u8>());
    let texts = (any::<String>(), any::<String>(), any::<String>(), any::<String>());
    let rest = (
        proptest::collection::vec(completion(), 0..4),
        scoring(),
        proptest::collection::btree_map(any::<String>(), any::<String>(), 0..3),
        (finite(), finite(), finite()),
    );
    (ids, texts, rest).prop_map(
        |((forward, index, block, seed, round), (source, prompt, base_text, code_version), rest)| {
            let (completions, scoring, digests, (started_at, length_seconds, propensity)) = rest;
            StepRecord {
                version: STEP_RECORD_VERSION,
                step: StepId { forward: ForwardId(forward), index },
                name: StepName::Answer(round),
                block: Block(block),
                started_at,
                length_seconds,
                seed,
                code_version,
                source,
                prompt,
                embedding: None,
                base_text,
                asked: completions
                    .iter()
                    .map(|c| Asked {
                        uid: c.uid,
                        hotkey: c.hotkey,
                        propensity,
                        uniform_propensity: None,
                        origin: Default::default(),
                    })
                    .collect(),
                completions,
                scoring,
                digests,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any records, any of them appended again at any time: what was first appended comes back, in order, once.
    #[test]
    fn what_is_appended_is_what_is_read(
        records in proptest::collection::vec(step_record(), 1..8),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (directory, mut store) = new();
        let mut expected: Vec<&StepRecord> = Vec::new();
        for record in records.iter().chain(again.iter().map(|index| index.get(&records))) {
            let answer = store.append(record);
            match expected.iter().position(|there| there.step == record.step) {
                Some(place) if expected[place] == record => prop_assert_eq!(answer.unwrap(), Sequence(place as u64 + 1)),
                Some(_) => prop_assert!(answer.is_err()),
                None => {
                    expected.push(record);
                    prop_assert_eq!(answer.unwrap(), Sequence(expected.len() as u64));
                }
            }
        }
        drop(store);
        let store = open(directory.path());
        let read = store.read_steps(Sequence(0), 100).unwrap();
        prop_assert_eq!(read.len(), expected.len());
        for (place, (step, expected)) in read.iter().zip(expected).enumerate() {
            prop_assert_eq!(step.sequence, Sequence(place as u64 + 1));
            prop_assert_eq!(&*step.record, expected);
        }
    }
}

// === Measurements ===

/// Prints what one transaction for each append costs. `cargo test -p openvalidators-ledger measure -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a check"]
#[allow(clippy::disallowed_methods, reason = "measures wall time")]
fn measure_appends() {
    for (name, texts, width) in [("50 completions, no embeddings", 50, 0), ("50 completions with embeddings", 50, 768)]
    {
        let directory = tempfile::tempdir_in(".").unwrap();
        let mut store = open(directory.path());
        let mut record = record(1, 0, texts, 600);
        if let Scoring::Scored(raw) = &mut record.scoring
            && width > 0
        {
            let rows = (0..texts as usize * width).map(|value| value as f32 * 0.001).collect();
            let model = "all-mpnet-base-v2".into();
            raw.embeddings = Some(Embeddings { model, width, completions: (0..texts.into()).collect(), rows });
        }
        const APPENDS: u64 = 400;
        let before = std::time::Instant::now();
        for forward in 1..=APPENDS {
            record.step.forward = ForwardId(forward);
            store.append(&record).unwrap();
        }
        let seconds = before.elapsed().as_secs_f64();
        let before = std::time::Instant::now();
        check_again(&store);
        println!(
            "{name}: {:.0} appends/s, {:.2} ms each, {} bytes each; quick_check of {} bytes in {:.0} ms",
            APPENDS as f64 / seconds,
            seconds * 1e3 / APPENDS as f64,
            store.bytes() / APPENDS,
            store.bytes(),
            before.elapsed().as_secs_f64() * 1e3,
        );
    }
}

fn check_again(store: &Store) {
    let answer: String = store.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
}
