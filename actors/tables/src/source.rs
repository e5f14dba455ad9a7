//! What every reader of recorded steps does.

use std::{collections::BTreeMap, fmt};

use crate::StepRow;

/// The longest record read: a thousand completions of 60 KB.
pub const RECORD_LIMIT_BYTES: usize = 64 << 20;

/// Places kept as examples of what was skipped for one reason.
const EXAMPLES: usize = 3;

/// Recorded steps, one at a time, oldest first as far as their file has them so.
pub trait Source {
    /// What people call it: its path.
    fn name(&self) -> &str;

    /// No step in it is older, in microseconds since 1970: it need not be opened before the others have come so far.
    fn not_before(&self) -> i64 {
        i64::MIN
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// When nothing more can be read from it. A record that makes no sense is no error but a [`Skip`].
    fn next(&mut self) -> Result<Option<Item>, SourceError>;
}

/// What a source holds next.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A step.
    Row(Box<StepRow>),
    /// Something that is none.
    Skipped(Skip),
}

/// A record that was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Why, in words that are the same for all of its kind.
    pub reason: &'static str,
    /// Where, and what exactly was found.
    pub place: String,
}

/// A source that cannot be read on.
#[derive(Debug, thiserror::Error)]
#[error("reading {source_name}: {reason}")]
pub struct SourceError {
    /// The source.
    pub source_name: String,
    /// What happened.
    pub reason: String,
}

/// What was read and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Steps handed on.
    pub steps: u64,
    /// Completions in them.
    pub completions: u64,
    /// How much was skipped, by reason, with the first few places.
    pub skipped: BTreeMap<&'static str, (u64, Vec<String>)>,
}

// === impl SourceError ===

impl SourceError {
    /// An error of a source by its name.
    pub fn new(source_name: &str, reason: impl fmt::Display) -> Self {
        Self { source_name: source_name.to_owned(), reason: reason.to_string() }
    }
}

// === impl Tally ===

impl Tally {
    /// Counts a step that is handed on.
    pub fn count(&mut self, row: &StepRow) {
        self.steps += 1;
        self.completions += row.completions.len() as u64;
    }

    /// Counts what is not.
    pub fn skip(&mut self, skip: Skip) {
        let (count, places) = self.skipped.entry(skip.reason).or_default();
        *count += 1;
        if places.len() < EXAMPLES {
            places.push(skip.place);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps, {} completions", self.steps, self.completions)?;
        for (reason, (count, places)) in &self.skipped {
            write!(f, "; skipped {count} ({reason}: {})", places.join(", "))?;
            if *count as usize > places.len() {
                f.write_str(" …")?;
            }
        }
        Ok(())
    }
}
