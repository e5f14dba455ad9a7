use proptest::prelude::*;

use super::*;
use crate::wandb::record::{HistoryRecord, Item, Kind};

fn record(num: i64, bytes: usize) -> Record {
    let item = vec![Item::new("prompt", format!("\"{}\"", "x".repeat(bytes)))];
    Record { num, kind: Some(Kind::History(HistoryRecord { item, step: None })) }
}

fn read(path: &Path) -> (Vec<i64>, Vec<&'static str>) {
    let (mut log, mut numbers, mut damages) = (LogReader::open(path).unwrap(), Vec::new(), Vec::new());
    loop {
        match log.next().unwrap() {
            Next::Record(record) => numbers.push(record.num),
            Next::Damage { what, .. } => damages.push(what),
            Next::End => return (numbers, damages),
        }
    }
}

/// Written by wandb's own core, client 0.31.0.
#[test]
fn what_the_real_client_wrote_reads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/wandb/core_written.wandb");
    let mut log = LogReader::open(Path::new(path)).unwrap();
    let mut columns = Vec::new();
    loop {
        match log.next().unwrap() {
            Next::Record(record) => {
                if let Some(Kind::History(history)) = record.kind {
                    columns.push(history.item.iter().map(|item| item.name().to_owned()).collect::<Vec<_>>());
                }
            }
            Next::Damage { at, what } => panic!("{at}: {what}"),
            Next::End => break,
        }
    }
    assert!(!columns.is_empty());
    assert!(columns.iter().all(|row| row.contains(&"_step".to_owned())), "{columns:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the lengths, whatever the cuts of the file: whole records are read, and the rest is as if never written.
    #[test]
    fn records_of_any_length_survive_and_a_cut_loses_only_the_last(
        lengths in prop::collection::vec(prop_oneof![0_usize..200, 32_600_usize..32_800, 0_usize..90_000], 1..8),
        cut in 0.0_f64..1.0,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run-a.wandb");
        let mut log = LogWriter::create(path.clone()).unwrap();
        let mut ends = Vec::new();
        for (num, length) in (1..).zip(&lengths) {
            log.append(&[record(num, *length)]).unwrap();
            ends.push(log.end);
        }
        let all: Vec<i64> = (1..).take(lengths.len()).collect();
        prop_assert_eq!(read(&path), (all, vec![]));

        drop(log);
        let size = *ends.last().unwrap();
        let at = HEADER_BYTES + (cut * (size - HEADER_BYTES) as f64) as u64;
        File::options().write(true).open(&path).unwrap().set_len(at).unwrap();
        let whole = ends.iter().filter(|end| **end <= at).count();
        let kept: Vec<i64> = (1..).take(whole).collect();
        prop_assert_eq!(read(&path), (kept.clone(), vec![]));

        // Continued behind the last whole record, the log is as good as new.
        let end = if whole == 0 { HEADER_BYTES } else { ends[whole - 1] };
        LogWriter::continue_at(path.clone(), end).unwrap().append(&[record(99, 50)]).unwrap();
        prop_assert_eq!(read(&path).0, [kept, vec![99]].concat());
    }
}

#[test]
fn damage_in_the_middle_costs_what_it_hit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run-a.wandb");
    let mut log = LogWriter::create(path.clone()).unwrap();
    for num in 1..=100 {
        log.append(&[record(num, 2_000)]).unwrap();
    }
    drop(log);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40_000] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let (numbers, damages) = read(&path);
    assert!(damages.contains(&"the checksum does not fit"), "{damages:?}");
    assert!(numbers.len() > 80 && numbers.first() == Some(&1) && numbers.last() == Some(&100), "{numbers:?}");
    assert!(numbers.is_sorted());
}

#[test]
fn other_files_and_other_versions_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run-a.wandb");
    for (bytes, words) in [
        (&b":W&B\xe1\xbf\x00rest"[..], "is no .wandb log"),
        (&b":W&B\xe1\xbe"[..], "is no .wandb log"),
        (&b"SQLite format 3\0"[..], "is no .wandb log"),
        (&b""[..], "is no .wandb log"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = LogReader::open(&path).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("run-a.wandb"), "{error}");
    }
    let mut header = IDENT.to_vec();
    header.extend_from_slice(&MAGIC.to_le_bytes());
    header.push(7);
    std::fs::write(&path, header).unwrap();
    let error = LogReader::open(&path).unwrap_err().to_string();
    assert!(error.contains("version 7") && error.contains("wandb sync"), "{error}");
}
