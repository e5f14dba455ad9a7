//! `kill -9` for real: this test binary starts itself as a child that appends without end, and kills it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::{
    tests::{open, outcome, record},
    *,
};

/// Names the directory the child works in; without it the child's test does nothing.
const DIRECTORY: &str = "OPENVALIDATORS_LEDGER_CRASH_DIRECTORY";
/// Kills in an ordinary run; `OPENVALIDATORS_LEDGER_KILLS` may ask for more.
const KILLS: usize = 24;
/// From the child's first acknowledgement to its end, at most.
const LONGEST_LIFE_MICROSECONDS: u64 = 60_000;

/// Sizes that make commits of one page and of many, so that checkpoints happen too.
fn step(forward: u64) -> StepRecord {
    record(forward, 0, if forward.is_multiple_of(7) { 50 } else { 3 }, 1_500)
}

/// The child: appends, stores outcomes and snapshots for ever, and prints each place once it is acknowledged.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let mut store = Store::open(Path::new(&directory), &super::tests::identity(), 0).unwrap();
    let mut acknowledge = std::io::stdout().lock();
    // The test harness has written the beginning of a line.
    writeln!(acknowledge).unwrap();
    loop {
        let forward = store.next_forward().unwrap().0;
        let sequence = store.append(&step(forward)).unwrap();
        writeln!(acknowledge, "appended {} {forward}", sequence.0).unwrap();
        acknowledge.flush().unwrap();
        store.store_outcome(sequence, &outcome(0.5)).unwrap();
        writeln!(acknowledge, "folded {}", sequence.0).unwrap();
        acknowledge.flush().unwrap();
        if forward.is_multiple_of(3) {
            let state = forward.to_le_bytes().to_vec();
            store.save_snapshot("weights", &Snapshot { sequence, version: 1, state }).unwrap();
        }
    }
}

fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::crash::child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the child a while after its first acknowledgement, and returns all it acknowledged: (place, forward) and folded places.
fn live_and_die(directory: &Path, life: Duration) -> (Vec<(u64, u64)>, Vec<u64>) {
    let mut child = start(directory);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut appended, mut folded) = (Vec::new(), Vec::new());
    let mut take = |line: std::io::Result<String>| {
        let line = line.unwrap_or_default();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["appended", place, forward] => appended.push((place.parse().unwrap(), forward.parse().unwrap())),
            ["folded", place] => folded.push(place.parse().unwrap()),
            _ => {}
        }
    };
    for line in lines.by_ref() {
        let first = line.as_deref().is_ok_and(|line| line.starts_with("appended"));
        take(line);
        if first {
            break;
        }
    }
    std::thread::sleep(life);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "killed, not finished");
    // The pipe still holds what was acknowledged before the end.
    lines.for_each(take);
    assert!(!appended.is_empty(), "the child never worked");
    (appended, folded)
}

fn read_all(store: &Store) -> Vec<StoredStep> {
    let mut steps: Vec<StoredStep> = Vec::new();
    loop {
        let after = steps.last().map_or(Sequence(0), |step| step.sequence);
        match store.read_steps(after, 500).unwrap() {
            more if more.is_empty() => return steps,
            more => steps.extend(more),
        }
    }
}

#[test]
fn killed_anywhere_it_loses_nothing_acknowledged_and_doubles_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut acknowledged, mut outcomes) = (Vec::new(), Vec::new());
    let kills = std::env::var("OPENVALIDATORS_LEDGER_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    for kill in 0..kills {
        let life = Duration::from_micros(random.next_u64() % LONGEST_LIFE_MICROSECONDS);
        let (appended, folded) = live_and_die(directory.path(), life);
        acknowledged.extend(appended);
        outcomes.extend(folded);

        let mut store = open(directory.path());
        let steps = read_all(&store);
        for (index, stored) in steps.iter().enumerate() {
            assert_eq!(stored.sequence.0, index as u64 + 1, "dense after kill {kill}");
            assert_eq!(*stored.record, step(stored.record.step.forward.0), "whole after kill {kill}");
        }
        let mut forwards: Vec<u64> = steps.iter().map(|step| step.record.step.forward.0).collect();
        forwards.dedup();
        assert_eq!(forwards.len(), steps.len(), "none doubled after kill {kill}");
        for (place, forward) in &acknowledged {
            assert_eq!(forwards.get(*place as usize - 1), Some(forward), "acknowledged {place} after kill {kill}");
        }
        for place in &outcomes {
            assert!(steps[*place as usize - 1].outcome.is_some(), "folded {place} after kill {kill}");
        }
        // At most the one append in flight was durable but not acknowledged, in each life.
        assert!(steps.len() <= acknowledged.len() + kill + 1);
        if let Some(snapshot) = store.load_snapshot("weights").unwrap() {
            assert!(snapshot.sequence <= store.latest().unwrap());
            assert_eq!(snapshot.state, forwards[snapshot.sequence.0 as usize - 1].to_le_bytes());
        }
    }
    assert!(acknowledged.len() > kills, "the children lived long enough to be killed in the middle of something");
}

#[test]
fn a_log_torn_anywhere_leaves_a_dense_beginning() {
    let directory = tempfile::tempdir().unwrap();
    live_and_die(directory.path(), Duration::from_millis(40));
    let log = format!("{LEDGER_FILE}-wal");
    let whole = fs::read(directory.path().join(&log)).unwrap();
    assert!(whole.len() > 4096, "the kill left a log to tear");
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..16 {
        let torn = tempfile::tempdir().unwrap();
        fs::copy(directory.path().join(LEDGER_FILE), torn.path().join(LEDGER_FILE)).unwrap();
        let cut = random.next_u64() as usize % whole.len();
        let mut bytes = whole.clone();
        // A torn write: the tail is another write's bytes, not a clean end.
        bytes[cut..].iter_mut().for_each(|byte| *byte = random.next_u32() as u8);
        fs::write(torn.path().join(&log), bytes).unwrap();
        let mut store = open(torn.path());
        let steps = read_all(&store);
        for (index, stored) in steps.iter().enumerate() {
            assert_eq!(stored.sequence.0, index as u64 + 1);
            assert_eq!(*stored.record, step(stored.record.step.forward.0));
        }
        let next = store.next_forward().unwrap().0;
        assert_eq!(store.append(&step(next)).unwrap().0, steps.len() as u64 + 1);
    }
}

#[test]
fn a_second_process_is_refused_within_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start(directory.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.by_ref().map_while(Result::ok) {
        if line.starts_with("appended") {
            break;
        }
    }
    #[allow(clippy::disallowed_methods, reason = "the promise is about wall time")]
    let before = std::time::Instant::now();
    let error = Store::open(directory.path(), &super::tests::identity(), 0).unwrap_err();
    let waited = before.elapsed();
    let pid = child.id();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(error, OpenError::InUse { pid: Some(found), .. } if found == pid), "{error}");
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    open(directory.path());
}
