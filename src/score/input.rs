//! Lines of input: bounded, one at a time, with the number of the line in every complaint.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead, BufReader, Read, stdin},
    path::Path,
};

use anyhow::{Context, bail};
use openvalidators_messages::StepName;
use serde::Deserialize;

/// The longest line: a thousand completions of 60 KB.
const LINE_LIMIT_BYTES: u64 = 64 << 20;

/// The most completions of one line: more than any subnet has places.
const COMPLETIONS_LIMIT: usize = 4_096;

/// One step to score.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// What was asked for.
    pub name: StepName,
    /// The prompt as sent.
    pub prompt: String,
    /// The text the prompt was made about; without one, the prompt.
    #[serde(default)]
    pub base_prompt: Option<String>,
    /// What came back; `None` where the call failed.
    pub completions: Vec<Option<String>>,
}

/// A file of lines, or standard input.
pub struct Input {
    lines: Box<dyn BufRead>,
    name: String,
    number: u64,
}

// === impl Input ===

impl Input {
    /// Opens a file, or for `-` standard input.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::new(BufReader::new(stdin()), "standard input"));
        }
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("opening the input {name}"))?;
        Ok(Self::new(BufReader::new(file), &name))
    }

    fn new(lines: impl BufRead + 'static, name: &str) -> Self {
        Self { lines: Box::new(lines), name: name.to_owned(), number: 0 }
    }

    /// The next line that is not blank; none at the end. Bytes that are not UTF-8 and halves of surrogate pairs, which
    /// Python writes without a thought, come as U+FFFD.
    ///
    /// # Errors
    /// When it cannot be read, is too long, or is not what [`Line`] says.
    pub fn next(&mut self) -> anyhow::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.lines).take(LINE_LIMIT_BYTES + 1).read_until(b'\n', &mut bytes);
            self.number += 1;
            if read.with_context(|| self.place())? == 0 {
                return Ok(None);
            }
            if bytes.len() as u64 > LINE_LIMIT_BYTES {
                bail!(
                    "{}: it is longer than {} MiB; score its completions in several lines",
                    self.place(),
                    LINE_LIMIT_BYTES >> 20
                );
            }
            let text = String::from_utf8_lossy(&bytes);
            if !text.trim().is_empty() {
                return self.parse(text.trim_end()).map(Some);
            }
        }
    }

    fn parse(&self, text: &str) -> anyhow::Result<Line> {
        let line: Line = serde_json::from_str(&whole_surrogates(text)).map_err(|error| {
            // The line serde_json counts is the one inside this line.
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or_default();
            anyhow::anyhow!("{}, column {}: {said}", self.place(), error.column())
        })?;
        if line.completions.len() > COMPLETIONS_LIMIT {
            bail!("{}: it has {} completions; the limit is {COMPLETIONS_LIMIT}", self.place(), line.completions.len());
        }
        Ok(line)
    }

    fn place(&self) -> String {
        format!("{}, line {}", self.name, self.number)
    }
}

/// JSON text in which every half of a surrogate pair that stands alone has become `\ufffd`.
fn whole_surrogates(text: &str) -> Cow<'_, str> {
    let mut whole = String::new();
    let (mut kept, mut at) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        let escape = at + found;
        let unit = |place: usize| -> Option<u32> {
            let digits = text.get(place..)?.strip_prefix("\\u")?.get(..4)?;
            u32::from_str_radix(digits, 16).ok()
        };
        at = match (unit(escape), unit(escape + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => escape + 12,
            (Some(0xd800..=0xdfff), _) => {
                whole += &text[kept..escape];
                whole += "\\ufffd";
                kept = escape + 6;
                kept
            }
            // An escaped backslash escapes nothing behind it.
            _ => text[escape + 1..].chars().next().map_or(text.len(), |next| escape + 1 + next.len_utf8()),
        };
    }
    if kept == 0 { Cow::Borrowed(text) } else { Cow::Owned(whole + &text[kept..]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes: &[u8]) -> Input {
        Input::new(std::io::Cursor::new(bytes.to_vec()), "in.jsonl")
    }

    fn error(bytes: &[u8]) -> String {
        let mut input = input(bytes);
        loop {
            match input.next() {
                Ok(line) => assert!(line.is_some(), "no error in {}", String::from_utf8_lossy(bytes)),
                Err(error) => return format!("{error:#}"),
            }
        }
    }

    #[test]
    fn lines_come_one_by_one_and_blank_ones_are_no_lines() {
        let mut input = input(
            b"{\"name\": \"augment\", \"prompt\": \"p\", \"completions\": [\"a\", null]}\n\n  \r\n\
            {\"name\": \"followup3\", \"prompt\": \"p\", \"base_prompt\": \"\", \"completions\": []}",
        );
        let first = input.next().unwrap().unwrap();
        assert_eq!((first.name, first.base_prompt), (StepName::Augment, None));
        assert_eq!(first.completions, [Some("a".to_owned()), None]);
        let second = input.next().unwrap().unwrap();
        assert_eq!((second.name, second.base_prompt.as_deref()), (StepName::Followup(3), Some("")));
        assert_eq!(input.next().unwrap(), None);
    }

    #[test]
    fn a_complaint_names_file_line_and_column() {
        let good = "{\"name\": \"augment\", \"prompt\": \"p\", \"completions\": []}\n";
        for (line, expected) in [
            (
                "{\"name\": \"summary\", \"prompt\": \"p\", \"completions\": []}",
                "`summary` is no step name: expected augment",
            ),
            ("{\"name\": \"augment\", \"completions\": []}", "missing field `prompt`"),
            ("{\"name\": \"augment\", \"prompt\": \"p\", \"completions\": [1]}", "invalid type: integer `1`"),
            (
                "{\"name\": \"augment\", \"prompt\": \"p\", \"completions\": [], \"base_promt\": \"\"}",
                "unknown field `base_promt`",
            ),
            ("[", "column 1: EOF while parsing"),
        ] {
            let error = error(format!("{good}\n{line}\n").as_bytes());
            assert!(error.starts_with("in.jsonl, line 3, column ") && error.contains(expected), "{error}");
            assert!(!error.contains("at line"), "{error}");
        }
        let many = vec!["null"; COMPLETIONS_LIMIT + 1].join(",");
        let error =
            error(format!("{{\"name\": \"augment\", \"prompt\": \"p\", \"completions\": [{many}]}}").as_bytes());
        assert!(error.contains("line 1: it has 4097 completions; the limit is 4096"), "{error}");
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut input = Input::new(BufReader::new(std::io::repeat(b'x')), "in.jsonl");
        let error = input.next().unwrap_err().to_string();
        assert!(error.contains("line 1: it is longer than 64 MiB"), "{error}");
    }

    #[test]
    fn what_is_no_text_becomes_the_replacement_character() {
        let mut input = input(b"{\"name\": \"augment\", \"prompt\": \"\\ud800 \\\\ud800 \\ud83d\\ude80 \\uDC00\\ud800\\u0041\", \"completions\": [\"\xff\"]}");
        let line = input.next().unwrap().unwrap();
        assert_eq!(line.prompt, "\u{fffd} \\ud800 🚀 \u{fffd}\u{fffd}A");
        assert_eq!(line.completions, [Some("\u{fffd}".to_owned())]);
        assert!(matches!(whole_surrogates("\"\\ud83d\\ude80 \\n\""), Cow::Borrowed(_)));
        assert_eq!(whole_surrogates("\"\\ud8"), "\"\\ud8");
        assert_eq!(whole_surrogates("\"\\日\\ud800\\"), "\"\\日\\ufffd\\");
    }
}
