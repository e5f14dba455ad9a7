use std::path::Path;

use std::{fs, process::Command};

use serde_json::Value;
use time::UtcOffset;

use super::*;
use crate::testing::{step, steps};

const ORIGIN: Origin = Origin { started_at: std::time::Duration::ZERO, offset: UtcOffset::UTC, process_id: 1 };

fn log(folder: &Path, limit: u64) -> EventLog {
    EventLog::new(folder.to_owned(), ByteSize(limit), true, ORIGIN)
}

/// A process being started holds our locks for a moment, between its fork and its exec: then no log is opened.
static STARTING: parking_lot::RwLock<()> = parking_lot::RwLock::new(());

/// The sequences in every file, the oldest first.
fn sequences(folder: &Path) -> Vec<u64> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort_by_cached_key(|path| (path.ends_with(EVENT_LOG_FILE), path.clone()));
    let lines = files.iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    lines
        .map(|line| serde_json::from_str::<Value>(&line).unwrap()["record"]["extra"]["sequence"].as_u64().unwrap())
        .collect()
}

#[test]
fn what_was_written_is_found_again() {
    let _quiet = STARTING.read();
    let folder = tempfile::tempdir().unwrap();
    let mut first = log(folder.path(), u64::MAX);
    assert_eq!(first.recover().unwrap(), None);
    first.append(&steps(1..=3)).unwrap();
    let mark = first.recover().unwrap().unwrap();
    assert!(is_about(&mark, &step(3)));
    assert!(!is_about(&mark, &step(2)));
    let bytes = fs::metadata(folder.path().join(EVENT_LOG_FILE)).unwrap().len();
    assert_eq!(first.take_tally(), Tally { bytes, rotations: 0 });
    assert_eq!(first.take_tally(), Tally::default());
}

#[test]
fn the_same_steps_again_change_nothing() {
    let _quiet = STARTING.read();
    let folder = tempfile::tempdir().unwrap();
    let mut log = log(folder.path(), u64::MAX);
    log.append(&steps(1..=3)).unwrap();
    log.append(&steps(1..=5)).unwrap();
    log.append(&[]).unwrap();
    assert_eq!(sequences(folder.path()), [1, 2, 3, 4, 5]);
}

#[test]
fn a_file_torn_at_any_byte_is_mended_to_the_same_file() {
    let _quiet = STARTING.read();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(EVENT_LOG_FILE);
    log(folder.path(), u64::MAX).append(&steps(1..=3)).unwrap();
    let whole = fs::read(&path).unwrap();
    // Each cut costs a few syncs, so not all of them: every place around a line's end, and some in between.
    let ends: Vec<_> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    let near = |cut: &usize| *cut < 3 || ends.iter().any(|end| end.abs_diff(*cut) < 3);
    for cut in (0..=whole.len()).filter(|cut| near(cut) || cut % 151 == 0) {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut log = log(folder.path(), u64::MAX);
        if let Some(mark) = log.recover().unwrap() {
            log.assume_written(Sequence(mark.sequence));
        }
        log.append(&steps(1..=3)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
    }
    // As after a power cut on a file system that had made room but not written.
    fs::write(&path, [&whole[..], &[0; 9_000]].concat()).unwrap();
    assert_eq!(log(folder.path(), u64::MAX).recover().unwrap().unwrap().sequence, 3);
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn a_line_longer_than_the_scan_is_found() {
    let _quiet = STARTING.read();
    let folder = tempfile::tempdir().unwrap();
    let mut long = step(2);
    std::sync::Arc::make_mut(&mut long.record).prompt = "x".repeat(3 * SCAN_BYTES as usize);
    let mut log = log(folder.path(), u64::MAX);
    log.append(&[step(1), long]).unwrap();
    assert_eq!(log.recover().unwrap().unwrap().sequence, 2);
}

#[test]
fn a_full_file_is_renamed_as_loguru_does() {
    let _quiet = STARTING.read();
    let folder = tempfile::tempdir().unwrap();
    let mut line = Vec::new();
    write_line(&mut line, &step(1), &ORIGIN, true).unwrap();
    // Room for two lines and a half.
    let mut log = log(folder.path(), line.len() as u64 * 5 / 2);
    log.append(&steps(1..=3)).unwrap();
    log.append(&steps(4..=7)).unwrap();
    assert_eq!(log.take_tally().rotations, 3);
    assert_eq!(sequences(folder.path()), [1, 2, 3, 4, 5, 6, 7]);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != EVENT_LOG_FILE {
            let time = name.strip_prefix("completions.").unwrap().strip_suffix(".log").unwrap();
            let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert_eq!(shape, "0000-00-00_00-00-00_000000");
        }
    }
    // A crash just after a rename: the newest renamed file tells where we are.
    fs::remove_file(folder.path().join(EVENT_LOG_FILE)).unwrap();
    assert_eq!(log.recover().unwrap().unwrap().sequence, 6);
}

#[test]
fn a_line_larger_than_the_limit_gets_a_file_of_its_own() {
    let _quiet = STARTING.read();
    let folder = tempfile::tempdir().unwrap();
    let mut log = log(folder.path(), 1);
    log.append(&steps(1..=3)).unwrap();
    assert_eq!(log.take_tally().rotations, 2, "an empty file is never renamed");
    assert_eq!(sequences(folder.path()), [1, 2, 3]);
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let _quiet = STARTING.read();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(EVENT_LOG_FILE);
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let mut log = log(folder.path(), u64::MAX);
    let error = log.append(&steps(1..=2)).unwrap_err().to_string();
    assert!(error.contains("write") && error.contains(EVENT_LOG_FILE) && error.contains("dont_save_events"), "{error}");
    fs::remove_file(&path).unwrap();
    log.append(&steps(1..=3)).unwrap();
    assert_eq!(sequences(folder.path()), [1, 2, 3]);
}

#[test]
fn two_writers_do_not_mix() {
    let _quiet = STARTING.read();
    let folder = tempfile::tempdir().unwrap();
    let mut first = log(folder.path(), u64::MAX);
    first.append(&steps(1..=1)).unwrap();
    let error = log(folder.path(), u64::MAX).append(&steps(1..=1)).unwrap_err().to_string();
    assert!(error.contains("lock"), "{error}");
    drop(first);
    log(folder.path(), u64::MAX).recover().unwrap();
}

#[test]
fn a_line_of_the_reference_is_left_alone() {
    let _quiet = STARTING.read();
    let folder = tempfile::tempdir().unwrap();
    let theirs = include_str!("../../../../tests/fixtures/reporting/loguru_completions.log");
    fs::write(folder.path().join(EVENT_LOG_FILE), theirs).unwrap();
    let mut log = log(folder.path(), u64::MAX);
    assert_eq!(log.recover().unwrap(), None);
    log.append(&steps(1..=1)).unwrap();
    assert!(fs::read_to_string(folder.path().join(EVENT_LOG_FILE)).unwrap().starts_with(theirs));
}

/// Where the child of the test below works; unset in an ordinary run.
const CHILD_FOLDER: &str = "OPENVALIDATORS_TEST_EVENT_LOG_FOLDER";

/// Not a test: what the next test runs in a process of its own, until it is killed.
#[test]
fn child_that_appends_for_ever() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else { return };
    let folder = PathBuf::from(folder);
    let cursor_file = folder.join("cursor");
    let cursor: u64 = fs::read_to_string(&cursor_file).map_or(0, |text| text.parse().unwrap());
    let mut log = log(&folder, 20_000);
    let mark = log.recover().unwrap();
    let mut at = mark.map_or(cursor, |mark| mark.sequence.max(cursor));
    log.assume_written(Sequence(at));
    loop {
        log.append(&steps(at + 1..=at + 3)).unwrap();
        at += 3;
        // What the ledger does for a cursor: all or nothing.
        fs::write(folder.join("cursor.new"), at.to_string()).unwrap();
        fs::rename(folder.join("cursor.new"), &cursor_file).unwrap();
    }
}

#[test]
fn killed_anywhere_nothing_is_lost_or_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let mut cursor = 0;
    for round in 0..12_u64 {
        let starting = STARTING.write();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "event_log::tests::child_that_appends_for_ever", "--nocapture"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        drop(starting);
        // Until it has done something in this round, and then to a moment that differs from round to round.
        let path = folder.path().join("cursor");
        let read = || fs::read_to_string(&path).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        while read() <= cursor {
            assert!(child.try_wait().unwrap().is_none(), "the child ended");
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_micros(137 * (round * 29 % 13)));
        child.kill().unwrap();
        child.wait().unwrap();
        cursor = read();
    }
    let _quiet = STARTING.read();
    log(folder.path(), 20_000).recover().unwrap();
    let found = sequences(folder.path());
    assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
    assert!(found.len() as u64 >= cursor && cursor >= 36, "{} lines, cursor {cursor}", found.len());
}
