//! `completions.log`: one JSON object a line, as loguru writes it (`serialize=True`) for openvalidators 1.2.0 and as
//! `actors/reporting` writes it.
//!
//! Python's `json.dumps` writes NaN and infinity as bare words, which are no JSON: they are read as missing. Whatever else
//! logs at the level of events or above lands in the same file and is passed over.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Item, Skip, Source, SourceError, StepRow,
    bounded::{Line, next_line},
    event,
};

/// loguru's level of events: `openvalidators/utils.py`, `logger.level("EVENTS", no=38)`.
const LEVEL: &str = "EVENTS";

/// A file of events, or anything that holds such lines.
pub struct EventLog {
    lines: Box<dyn BufRead>,
    name: String,
    run: String,
    number: u64,
}

#[derive(Deserialize)]
struct Envelope {
    record: Record,
}

#[derive(Deserialize)]
struct Record {
    extra: Map<String, Value>,
    level: Level,
    time: Time,
}

#[derive(Deserialize)]
struct Level {
    name: String,
}

#[derive(Deserialize)]
struct Time {
    timestamp: f64,
}

// === impl EventLog ===

impl EventLog {
    /// Opens a log; its run is the name of the folder it lies in, of which there is one for each validator.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| SourceError::new(&name, error))?;
        let folder = path.canonicalize().ok().and_then(|path| Some(path.parent()?.file_name()?.to_owned()));
        let run = folder.map_or_else(|| name.clone(), |folder| folder.to_string_lossy().into_owned());
        Ok(Self { lines: Box::new(BufReader::with_capacity(1 << 20, file)), name, run, number: 0 })
    }

    /// A run's id, in place of the folder's name.
    #[must_use]
    pub fn of_run(self, run: &str) -> Self {
        Self { run: run.to_owned(), ..self }
    }

    fn parse(&self, line: &[u8]) -> Result<StepRow, Skip> {
        let no_json = |error: serde_json::Error| Skip { reason: "no JSON", place: error.to_string() };
        let envelope: Envelope = match find(line, b"NaN").or_else(|| find(line, b"Infinity")) {
            Some(_) => serde_json::from_slice(&without_bare_words(line)),
            None => serde_json::from_slice(line),
        }
        .map_err(no_json)?;
        let Record { extra, level, time } = envelope.record;
        if level.name != LEVEL {
            return Err(Skip { reason: "another level than EVENTS", place: level.name });
        }
        let mut rows = event::read(&extra, &self.run, time.timestamp, self.number)?;
        rows.pop().filter(|_| rows.is_empty()).ok_or(Skip { reason: "no single step", place: String::new() })
    }
}

impl Source for EventLog {
    fn name(&self) -> &str {
        &self.name
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        loop {
            let line = next_line(&mut self.lines).map_err(|error| SourceError::new(&self.name, error))?;
            self.number += 1;
            let parsed = match line {
                None => return Ok(None),
                Some(Line::Whole(line) | Line::Cut(line)) if line.iter().all(u8::is_ascii_whitespace) => continue,
                Some(Line::Whole(line)) => self.parse(&line),
                Some(Line::Cut(line)) => {
                    self.parse(&line).map_err(|skip| Skip { reason: "a last line that was cut off", ..skip })
                }
                Some(Line::TooLong) => Err(Skip { reason: "a line longer than 64 MiB", place: String::new() }),
            };
            return Ok(Some(match parsed {
                Ok(row) => Item::Row(Box::new(row)),
                Err(skip) => {
                    let found = if skip.place.is_empty() { String::new() } else { format!(" {}", skip.place) };
                    Item::Skipped(Skip { reason: skip.reason, place: format!("line {}{found}", self.number) })
                }
            }));
        }
    }
}

/// JSON text in which `NaN`, `Infinity` and `-Infinity` outside of strings have become `null`.
pub(crate) fn without_bare_words(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let (mut at, mut in_string) = (0, false);
    while let Some(&byte) = line.get(at) {
        let word = [&b"NaN"[..], b"-Infinity", b"Infinity"].into_iter().find(|word| line[at..].starts_with(word));
        match (in_string, byte, word) {
            (false, _, Some(word)) => {
                out.extend_from_slice(b"null");
                at += word.len();
                continue;
            }
            (true, b'\\', _) => {
                out.push(byte);
                at += 1;
                out.extend(line.get(at));
            }
            (_, b'"', _) => {
                in_string = !in_string;
                out.push(byte);
            }
            _ => out.push(byte),
        }
        at += 1;
    }
    out
}

fn find(line: &[u8], word: &[u8]) -> Option<usize> {
    line.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// As loguru 0.7.3 wrote it.
    const LOGURU: &str = include_str!("../tests/fixtures/loguru_completions.log");

    fn items(text: &str) -> Vec<Item> {
        let lines = Box::new(Cursor::new(text.to_owned()));
        let mut log = EventLog { lines, name: "log".into(), run: "r".into(), number: 0 };
        std::iter::from_fn(|| log.next().unwrap()).collect()
    }

    #[test]
    fn a_line_of_loguru_with_a_bare_nan_is_a_step() {
        let items = items(LOGURU);
        let [Item::Row(row), ..] = &items[..] else { panic!("{items:?}") };
        assert_eq!((row.name.as_str(), row.uids.as_slice()), ("augment", &[3, 7][..]));
        assert_eq!(row.rewards, [Some(0.400_000_005_960_464_5), None]);
        assert_eq!(row.prompt, "Summarize é\n\"x\"");
        assert_eq!(row.timestamp, 1_795_339_015_321_338);
        assert_eq!(row.columns[0].raw, [Some(0.25), Some(-1.5)]);
    }

    #[test]
    fn what_is_no_event_is_told_with_its_line() {
        let event = LOGURU.lines().next().unwrap();
        let error = event.replace("\"EVENTS\"", "\"ERROR\"");
        let text = format!("{event}\n\nnoise\n{error}\n{event}\n{}", &event[..event.len() / 2]);
        let skips: Vec<_> = items(&text)
            .into_iter()
            .filter_map(|item| match item {
                Item::Skipped(skip) => Some((skip.reason, skip.place)),
                Item::Row(_) => None,
            })
            .collect();
        assert_eq!(skips.len(), 3, "{skips:?}");
        assert!(skips[0].0 == "no JSON" && skips[0].1.starts_with("line 3 "), "{skips:?}");
        assert_eq!(skips[1], ("another level than EVENTS", "line 4 ERROR".to_owned()));
        assert_eq!(skips[2].0, "a last line that was cut off");
    }

    #[test]
    fn bare_words_are_replaced_outside_of_strings_only() {
        let text = br#"{"a": [NaN, -Infinity, 1], "NaN": "Infinity \" NaN", "b": Infinity}"#;
        let expected = r#"{"a": [null, null, 1], "NaN": "Infinity \" NaN", "b": null}"#;
        assert_eq!(String::from_utf8(without_bare_words(text)).unwrap(), expected);
    }
}
