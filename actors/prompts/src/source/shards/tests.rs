use super::*;
use crate::source::testing::{gzip, json_lines, parquet, texts, zstandard};

struct Memory(Bytes);

impl ShardFile for Memory {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        Ok(self.0.slice(range.start as usize..range.end as usize))
    }
}

fn open(name: &str, bytes: &[u8], column: &str, from: Mark) -> Result<Box<dyn Reader>, ReadError> {
    read(name, Arc::new(Memory(Bytes::copy_from_slice(bytes))), column, from)
}

fn all(reader: &mut dyn Reader) -> Vec<Record> {
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

fn refused(name: &str, bytes: &[u8]) -> String {
    let read = open(name, bytes, "text", Mark::default()).and_then(|mut reader| {
        while reader.next()?.is_some() {}
        Ok(())
    });
    let error = read.unwrap_err();
    assert!(error.lasting, "{error}");
    error.reason
}

/// One file of each kind with the same ten texts.
fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    let lines = json_lines(&texts(0..10));
    let titled = texts(0..10).iter().map(|text| format!("# Title\n{text}\n")).collect::<String>().into_bytes();
    vec![
        ("a.parquet", parquet("text", &texts(0..10))),
        ("a.jsonl.gz", gzip(&lines)),
        ("a.json.zst", zstandard(&lines)),
        ("a.ndjson?signature=x", lines),
        ("a.txt.gz", gzip(&titled)),
        ("a.TXT", titled),
    ]
}

#[test]
fn every_kind_gives_its_texts_from_any_mark() {
    let expected: Vec<Record> = texts(0..10).into_iter().map(Ok).collect();
    for (name, bytes) in kinds() {
        assert!(is_readable(name));
        let mut reader = open(name, &bytes, "text", Mark::default()).unwrap();
        let mut marks = vec![reader.mark()];
        let mut found = Vec::new();
        while let Some(record) = reader.next().unwrap() {
            found.push(record);
            marks.push(reader.mark());
        }
        assert_eq!(found, expected, "{name}");
        for (read, mark) in marks.into_iter().enumerate() {
            let mut rest = open(name, &bytes, "text", mark).unwrap();
            assert_eq!(all(&mut *rest), expected[read..], "{name} from {mark:?}");
        }
    }
}

#[test]
fn names_that_hold_no_texts_are_passed_over() {
    for name in ["README.md", "dataset_infos.json", "a.parquet.gz", "texts.zip", "a.csv", "jsonl"] {
        assert!(!is_readable(name), "{name}");
    }
}

#[test]
fn an_empty_shard_has_no_records() {
    for name in ["a.parquet", "a.jsonl", "a.jsonl.zst", "a.jsonl.gz", "a.txt"] {
        assert_eq!(all(&mut *open(name, b"", "text", Mark::default()).unwrap()), []);
    }
    assert_eq!(all(&mut *open("a.parquet", &parquet("text", &[]), "text", Mark::default()).unwrap()), []);
}

#[test]
fn bad_lines_are_told_and_passed_over() {
    let long = format!("{{\"text\": \"{}\"}}\n", "x".repeat(MAX_TEXT_BYTES as usize));
    let lines = format!(
        "{{\"text\": \"one\"}}\n\n{{broken\n{{\"txt\": 1, \"n\": 2}}\n{long}{{\"text\": 3}}\n{{\"text\": \"last\"}}"
    );
    let found = all(&mut *open("a.jsonl", lines.as_bytes(), "text", Mark::default()).unwrap());
    let faults: Vec<&str> = found.iter().filter_map(|record| record.as_ref().err()).map(String::as_str).collect();
    assert_eq!((found.len(), found[0].as_deref(), found[5].as_deref()), (6, Ok("one"), Ok("last")));
    for (fault, words) in
        faults.iter().zip(["JSON object", "it has n, txt", "more than 16777216 bytes", "expected a string"])
    {
        assert!(fault.contains(words), "{fault}");
    }
}

#[test]
fn a_table_without_the_column_says_which_it_has() {
    let reason = refused("a.parquet", &parquet("content", &texts(0..2)));
    assert_eq!(reason, "it has no column of texts `text`; it has heavy, content; set the source's `column`");
}

#[test]
fn damaged_files_are_errors_and_nothing_else() {
    for (name, bytes) in kinds().into_iter().take(3) {
        let reason = refused(name, &bytes[..bytes.len() / 2]);
        assert!(reason.contains("it is damaged") || reason.contains("not Parquet"), "{name}: {reason}");
        // Whatever byte is wrong, reading ends and does not panic.
        for at in (0..bytes.len()).step_by(bytes.len() / 97 + 1).chain(bytes.len().saturating_sub(400)..bytes.len()) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xFF;
            if let Ok(mut reader) = open(name, &damaged, "text", Mark::default()) {
                let mut left = 100;
                while left > 0 && matches!(reader.next(), Ok(Some(_))) {
                    left -= 1;
                }
            }
        }
    }
}

#[test]
fn a_small_file_that_unpacks_without_end_is_bounded() {
    let bomb = zstandard(&vec![b'x'; 3 * MAX_TEXT_BYTES as usize]);
    assert!(bomb.len() < 100_000);
    assert!(refused("a.txt.zst", &bomb).contains("more than 16777216 bytes"));
    let found = all(&mut *open("a.jsonl.zst", &bomb, "text", Mark::default()).unwrap());
    assert!(found.len() == 1 && found[0].as_ref().is_err_and(|fault| fault.contains("bytes on this line")));
}
