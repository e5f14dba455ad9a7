//! `completions.log`: one JSON object a line, as loguru writes it (`serialize=True`) for openvalidators 1.2.0 and as
//! `actors/reporting` writes it. Lines that are rows of wandb's history are read as well: the event itself, with its
//! `_timestamp`.
//!
//! Python's `json.dumps` writes NaN and infinity as bare words, which are no JSON: they are read as missing. Whatever else
//! logs at the level of events or above lands in the same file and is passed over.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    Item, Skip, Source, SourceError, StepRow,
    bounded::{Line, next_line},
    event,
};

/// loguru's level of events: `openvalidators/utils.py`, `logger.level("EVENTS", no=38)`.
const LEVEL: &str = "EVENTS";

/// Bytes read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// A file of events, or anything that holds such lines.
pub struct EventLog {
    lines: Box<dyn BufRead>,
    name: String,
    run: String,
    number: u64,
    /// Read but not handed on, latest first: an old row is two steps.
    rows: Vec<StepRow>,
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
        Ok(Self { lines: Box::new(BufReader::with_capacity(BUFFER_BYTES, file)), name, run, number: 0, rows: vec![] })
    }

    /// A run's id, in place of the folder's name.
    #[must_use]
    pub fn of_run(self, run: &str) -> Self {
        Self { run: run.to_owned(), ..self }
    }

    fn parse(&self, line: &[u8]) -> Result<Vec<StepRow>, Skip> {
        let no_json = |error: serde_json::Error| Skip { reason: "no JSON", place: error.to_string() };
        let envelope = match tolerant_json::<Envelope>(line) {
            Ok(envelope) => envelope,
            // JSON, but not loguru's: a row by itself.
            Err(error) if error.is_data() => {
                let event: Map<String, Value> = tolerant_json(line).map_err(|_| no_json(error))?;
                let seconds = event.get("_timestamp").and_then(Value::as_f64).unwrap_or(f64::NAN);
                return event::read(&event, &self.run, seconds, self.number);
            }
            Err(error) => return Err(no_json(error)),
        };
        let Record { extra, level, time } = envelope.record;
        if level.name != LEVEL {
            return Err(Skip { reason: "another level than EVENTS", place: level.name });
        }
        event::read(&extra, &self.run, time.timestamp, self.number)
    }
}

impl Source for EventLog {
    fn name(&self) -> &str {
        &self.name
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        loop {
            if let Some(row) = self.rows.pop() {
                return Ok(Some(Item::Row(Box::new(row))));
            }
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
            match parsed {
                Ok(rows) => self.rows = rows.into_iter().rev().collect(),
                Err(skip) => {
                    let found = if skip.place.is_empty() { String::new() } else { format!(" {}", skip.place) };
                    let place = format!("line {}{found}", self.number);
                    return Ok(Some(Item::Skipped(Skip { reason: skip.reason, place })));
                }
            }
        }
    }
}

/// Reads JSON in which `NaN`, `Infinity` and `-Infinity` may stand where a value is due: they are read as null.
///
/// # Errors
/// When it is no JSON even so, or of another shape.
pub fn tolerant_json<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    match find(text, b"NaN").or_else(|| find(text, b"Infinity")) {
        Some(_) => serde_json::from_slice(&without_bare_words(text)),
        None => serde_json::from_slice(text),
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
        let mut log = EventLog { lines, name: "log".into(), run: "r".into(), number: 0, rows: vec![] };
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

    /// As the server's `wandb-history.jsonl` has them: an old row is two steps.
    #[test]
    fn rows_of_wandb_are_steps_in_either_schema() {
        let long =
            r#"{"_step": 0, "_timestamp": 1.5, "name": "augment", "prompt": "p", "uids": [1], "completions": ["a"],
            "rewards": ["NaN"], "dpo_reward_model": [NaN]}"#
                .replace('\n', "");
        let wide = r#"{"_timestamp": 2, "base_prompt": "b", "followup_uids": [1], "followup_completions": ["q"],
            "answer_prompt": "c", "answer_uids": [2], "answer_completions": ["a"]}"#
            .replace('\n', "");
        let checkpoint = r#"{"_timestamp": 3, "neuron_weights": [0.5]}"#;
        let found = items(&format!("{long}\n{wide}\n{checkpoint}\n{{\"a\": 1}}\n"));
        let [Item::Row(long), Item::Row(followup), Item::Row(answer), Item::Skipped(checkpoint), Item::Skipped(other)] =
            &found[..]
        else {
            panic!("{found:?}")
        };
        assert_eq!((long.timestamp, &long.rewards[..]), (1_500_000, &[None][..]));
        assert_eq!((&*followup.name, &*answer.name), ("followup0", "answer0"));
        assert_eq!((checkpoint.reason, other.reason), ("a checkpoint, not a step", "no time"));
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
