use std::{path::Path, time::Duration};

use openvalidators_runtime::DrivenClock;
use serde_json::json;

use super::*;
use crate::{testing::steps, wandb::config::Redact};

/// The steps of the tests began at 1,795,339,000 s.
const NOW: Duration = Duration::from_secs(1_795_339_000);

pub(in crate::wandb) fn about() -> RunAbout {
    let config = json!({ "neuron": { "moving_average_alpha": 0.05 }, "reward": { "dpo_weight": 1.0 }, "netuid": 1 });
    RunAbout {
        project: "openvalidators".into(),
        entity: String::new(),
        notes: "my notes".into(),
        tags: vec!["5Fhotkey".into(), "0.1.0".into(), "netuid_1".into()],
        config: config.as_object().unwrap().clone(),
        gating_model: "facebook/bart".into(),
    }
}

/// A life of a validator.
pub(in crate::wandb) fn journal(folder: &Path, offline: bool, run_step_length: u64) -> Journal {
    let columns = Columns { log_rewards: true, redact: Redact::None };
    let clock = std::sync::Arc::new(DrivenClock::new(NOW));
    Journal::new(folder.to_owned(), offline, about().into(), columns, run_step_length, UtcOffset::UTC, clock)
}

/// The rows of each run, by what their columns hold, and its exit code.
pub(crate) fn rows(folder: &Path) -> Vec<(Vec<Value>, Option<i32>)> {
    let read = |run: &RunFolder| {
        let (mut log, mut rows, mut exit) = (LogReader::open(&run.log()).unwrap(), Vec::new(), None);
        loop {
            match log.next().unwrap() {
                Next::Record(record) => match record.kind.unwrap() {
                    Kind::History(history) => {
                        let value = |item: &Item| serde_json::from_str::<Value>(&item.value_json).unwrap();
                        rows.push(history.item.iter().map(|item| (item.key.clone(), value(item))).collect());
                    }
                    Kind::Exit(record) => exit = Some(record.exit_code),
                    _ => {}
                },
                Next::Damage { at, what } => panic!("{at}: {what}"),
                Next::End => return (rows, exit),
            }
        }
    };
    runs::list(folder).unwrap().iter().map(read).collect()
}

fn column(rows: &[Value], name: &str) -> Vec<u64> {
    rows.iter().map(|row| row[name].as_u64().unwrap()).collect()
}

#[test]
fn every_step_is_one_row_numbered_and_dated() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path(), true, 1_500);
    assert_eq!(journal.recover().unwrap(), None);
    assert_eq!(journal.append(&steps(1..=5)).unwrap(), 5);
    assert_eq!(journal.append(&steps(4..=7)).unwrap(), 2, "those that are there are left out");
    journal.append_row(vec![Item::new("neuron_weights", "[0.5]")]).unwrap();
    journal.append_stats(vec![Item::new("cpu", "1.5")]).unwrap();
    journal.finish(FINISHED).unwrap();
    let runs = rows(folder.path());
    let [(rows, Some(0))] = &runs[..] else { panic!("{runs:?}") };
    assert_eq!(column(&rows[..7], "sequence"), (1..=7).collect::<Vec<_>>());
    assert_eq!(column(rows, "_step"), (0..8).collect::<Vec<_>>());
    // It began 1 s and took 3.25 s; the run began with the journal.
    assert_eq!((&rows[0]["_timestamp"], &rows[0]["_runtime"]), (&json!(1_795_339_004.25), &json!(4.25)));
    assert!(rows[0]["step_length"] == 3.25 && rows[0]["forward"] == 0);
    assert_eq!(rows[7]["neuron_weights"], json!([0.5]));
}

#[test]
fn a_run_ends_after_its_forwards_even_in_the_middle_of_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path(), false, 2);
    // Sequence 9 begins forward 1; 0 would begin the first, and the one before it never began here.
    assert_eq!(journal.append(&steps(0..45)).unwrap(), 45);
    journal.finish(FINISHED).unwrap();
    let runs = rows(folder.path());
    assert_eq!(
        runs.iter().map(|(rows, exit)| (rows.len(), *exit)).collect::<Vec<_>>(),
        [(18, Some(0)), (18, Some(0)), (9, Some(0))]
    );
    assert_eq!(column(&runs[1].0, "_step"), (0..18).collect::<Vec<_>>());
    assert_eq!(column(&runs[1].0, "forward")[0], 2);
    let names: Vec<_> = runs::list(folder.path()).unwrap().into_iter().map(|run| run.id).collect();
    assert!(names[0] != names[1] && names.iter().all(|id| id.len() == 8));
}

/// The ledger's cursor may be behind what the log holds: the log knows.
#[test]
fn after_a_crash_the_torn_row_is_cut_and_the_run_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = journal(folder.path(), false, 1_500);
    first.append(&steps(1..=9)).unwrap();
    let log = runs::list(folder.path()).unwrap()[0].log();
    drop(first);
    let size = std::fs::metadata(&log).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(size - 10).unwrap();

    let mut second = journal(folder.path(), false, 1_500);
    assert_eq!(second.recover().unwrap(), Some(8), "the ninth was torn");
    assert_eq!(second.recover().unwrap(), Some(8), "and again: nothing is left to mend");
    second.assume_written(8);
    second.append(&steps(7..=10)).unwrap();
    second.finish(FINISHED).unwrap();
    let runs = rows(folder.path());
    assert_eq!(
        runs.iter().map(|(rows, exit)| (column(rows, "sequence"), *exit)).collect::<Vec<_>>(),
        [((1..=8).collect(), Some(1)), ((9..=10).collect(), Some(0))]
    );
}

#[test]
fn a_log_of_another_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("run-20991122_090300-aaaaaaaa");
    std::fs::create_dir_all(&theirs).unwrap();
    std::fs::write(theirs.join("run-aaaaaaaa.wandb"), b":W&B\xe1\xbe\x07").unwrap();
    let mut journal = journal(folder.path(), false, 1_500);
    assert_eq!(journal.recover().unwrap(), None);
    journal.append(&steps(1..=1)).unwrap();
    assert_eq!(std::fs::read(theirs.join("run-aaaaaaaa.wandb")).unwrap(), b":W&B\xe1\xbe\x07");
}

/// `/dev/full` is a disk without room.
#[test]
fn a_disk_that_is_full_is_told_and_the_rows_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path(), false, 1_500);
    journal.append(&steps(1..=2)).unwrap();
    let log = runs::list(folder.path()).unwrap()[0].log();
    let (kept, full) = (log.with_extension("kept"), Path::new("/dev/full"));
    // The open file is exchanged for one that takes nothing.
    std::fs::rename(&log, &kept).unwrap();
    std::os::unix::fs::symlink(full, &log).unwrap();
    let run = journal.open.as_mut().unwrap();
    let whole = std::mem::replace(&mut run.log, LogWriter::over_device(log.clone()).unwrap());
    let error = journal.append(&steps(1..=4)).unwrap_err().to_string();
    assert!(error.contains("No space left") && error.contains("reporting.wandb.mode"), "{error}");
    std::fs::remove_file(&log).unwrap();
    std::fs::rename(&kept, &log).unwrap();
    journal.open.as_mut().unwrap().log = whole;
    assert_eq!(journal.append(&steps(1..=4)).unwrap(), 2);
    journal.finish(FINISHED).unwrap();
    let runs = rows(folder.path());
    assert_eq!((column(&runs[0].0, "sequence"), column(&runs[0].0, "_step")), (vec![1, 2, 3, 4], vec![0, 1, 2, 3]));
}
