//! One step as one line of `completions.log`: the shape openvalidators 1.2.0 writes through loguru
//! (`serialize=True`), so that what reads those files reads these.
//!
//! Kept: the keys of `record` and their order, the reference's event keys in the reference's order, Python's `, ` and
//! `: `, rewards widened from f32. Different: strict JSON (`null` where the reference writes a bare `NaN`), escapes for
//! what could deceive a terminal, and more keys after `best`. The line is a function of the step and of [`Origin`] alone.

use std::{io, time::Duration};

use openvalidators_messages::{
    Column, Completion, Scoring, Shadow, ShadowStanding, StepOutcome, StepRecord, ledger::StoredStep,
};
use serde::{
    Deserialize, Serialize, Serializer,
    ser::{Error as _, SerializeMap},
};
use serde_json::{Map, Value};
use time::{OffsetDateTime, UtcOffset, format_description::FormatItem, macros::format_description};

/// The version of the additions after `best`; raised when a reader of the old shape would misread the new one.
pub const EVENT_SCHEMA_VERSION: u16 = 1;

const TEXT_TIME: &[FormatItem<'_>] = format_description!("[year]-[month]-[day] at [hour]:[minute]:[second]");
const RECORD_TIME: &[FormatItem<'_>] = format_description!(
    "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6][offset_hour sign:mandatory]:[offset_minute]"
);

/// Who writes, for the parts of a line that are not about the step.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Wall clock when the program began, since 1970.
    pub started_at: Duration,
    /// The local time zone, for the times people read.
    pub offset: UtcOffset,
    /// The process.
    pub process_id: u32,
}

/// What a line says about its step, read back to find where a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct Mark {
    pub sequence: u64,
    pub forward: u64,
    pub step: u8,
    #[serde(skip)]
    pub timestamp: f64,
}

/// Appends a line, its end included.
pub(crate) fn write_line(line: &mut Vec<u8>, step: &StoredStep, origin: &Origin, log_rewards: bool) -> io::Result<()> {
    let text = Line { step, origin, log_rewards, at: settled_at(&step.record, origin.offset)? };
    text.serialize(&mut serde_json::Serializer::with_formatter(&mut *line, PythonSpacing))?;
    line.push(b'\n');
    Ok(())
}

/// The mark of a line, if it is one of ours.
pub(crate) fn read_mark(line: &[u8]) -> Option<Mark> {
    #[derive(Deserialize)]
    struct Line {
        record: Record,
    }
    #[derive(Deserialize)]
    struct Record {
        extra: Mark,
        time: Time,
    }
    #[derive(Deserialize)]
    struct Time {
        timestamp: f64,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    Some(Mark { timestamp: line.record.time.timestamp, ..line.record.extra })
}

/// The mark that a step's line would have.
pub(crate) fn mark_of(step: &StoredStep) -> io::Result<Mark> {
    Ok(Mark {
        sequence: step.sequence.0,
        forward: step.record.step.forward.0,
        step: step.record.step.index,
        timestamp: timestamp(settled_at(&step.record, UtcOffset::UTC)?),
    })
}

/// When the raw scores were there: the reference's moment of logging. To the microsecond, as loguru has it.
fn settled_at(record: &StepRecord, offset: UtcOffset) -> io::Result<OffsetDateTime> {
    let seconds = record.started_at + record.length_seconds;
    #[allow(clippy::cast_possible_truncation, reason = "saturates, and what is out of range is refused below")]
    let micros = (seconds * 1e6).round() as i128;
    OffsetDateTime::from_unix_timestamp_nanos(micros.saturating_mul(1_000))
        .map(|at| at.to_offset(offset))
        .map_err(|error| io::Error::other(format!("step {}: {seconds} s is no time: {error}", record.step)))
}

#[allow(clippy::cast_precision_loss, reason = "microseconds since 1970 fit in 53 bits until the year 2255")]
fn timestamp(at: OffsetDateTime) -> f64 {
    micros(at) as f64 / 1e6
}

/// Since 1970, which no step is older than.
fn micros(at: OffsetDateTime) -> u128 {
    u128::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(0)
}

/// The event alone, for those who send it elsewhere.
pub(crate) fn values(step: &StoredStep, log_rewards: bool) -> Result<Map<String, Value>, serde_json::Error> {
    match serde_json::to_value(Event { step, log_rewards })? {
        Value::Object(values) => Ok(values),
        other => Err(serde_json::Error::custom(format!("an event is no object: {other}"))),
    }
}

/// When a step settled, in seconds since 1970.
pub(crate) fn settled_timestamp(step: &StoredStep) -> io::Result<f64> {
    settled_at(&step.record, UtcOffset::UTC).map(timestamp)
}

// === The envelope that loguru puts around an event ===

struct Line<'a> {
    step: &'a StoredStep,
    origin: &'a Origin,
    log_rewards: bool,
    at: OffsetDateTime,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = self.at.format(TEXT_TIME).map_err(S::Error::custom)?;
        let mut line = serializer.serialize_map(Some(2))?;
        line.serialize_entry("text", &format!("{written} | EVENTS | events\n"))?;
        line.serialize_entry("record", &LoguruRecord(self))?;
        line.end()
    }
}

struct LoguruRecord<'a>(&'a Line<'a>);

impl Serialize for LoguruRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Line { step, origin, log_rewards, at } = self.0;
        // Zero for steps of an earlier process.
        let elapsed =
            Duration::from_micros(micros(*at).saturating_sub(origin.started_at.as_micros()).try_into().unwrap_or(0));
        let mut record = serializer.serialize_map(None)?;
        record
            .serialize_entry("elapsed", &Elapsed { repr: python_timedelta(elapsed), seconds: elapsed.as_secs_f64() })?;
        record.serialize_entry("exception", &())?;
        record.serialize_entry("extra", &Event { step, log_rewards: *log_rewards })?;
        record.serialize_entry("file", &SourceFile { name: "event.rs", path: file!() })?;
        record.serialize_entry("function", "write_line")?;
        record.serialize_entry("level", &Level { icon: "📝", name: "EVENTS", no: 38 })?;
        record.serialize_entry("line", &line!())?;
        record.serialize_entry("message", "events")?;
        record.serialize_entry("module", "event")?;
        record.serialize_entry("name", "openvalidators.reporting")?;
        record.serialize_entry("process", &Named { id: origin.process_id, name: "openvalidators" })?;
        record.serialize_entry("thread", &Named { id: 0, name: "reporting" })?;
        let repr = at.format(RECORD_TIME).map_err(S::Error::custom)?;
        record.serialize_entry("time", &Time { repr, timestamp: timestamp(*at) })?;
        record.end()
    }
}

#[derive(Serialize)]
struct Elapsed {
    repr: String,
    seconds: f64,
}

#[derive(Serialize)]
struct SourceFile {
    name: &'static str,
    path: &'static str,
}

#[derive(Serialize)]
struct Level {
    icon: &'static str,
    name: &'static str,
    no: u8,
}

#[derive(Serialize)]
struct Named {
    id: u32,
    name: &'static str,
}

#[derive(Serialize)]
struct Time {
    repr: String,
    timestamp: f64,
}

/// `str()` of a Python `timedelta`: `0:00:00.069846`, `1 day, 3:00:00`.
fn python_timedelta(elapsed: Duration) -> String {
    let (days, seconds) = (elapsed.as_secs() / 86_400, elapsed.as_secs() % 86_400);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        days => format!("{days} days, "),
    };
    let fraction = match elapsed.subsec_micros() {
        0 => String::new(),
        micros => format!(".{micros:06}"),
    };
    format!("{days}{}:{:02}:{:02}{fraction}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

// === The event itself: the reference's `run_step` (`openvalidators/forward.py`) ===

struct Event<'a> {
    step: &'a StoredStep,
    log_rewards: bool,
}

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &*self.step.record;
        let scored = self.step.outcome.as_ref().and_then(|outcome| outcome.scored());
        let mut event = serializer.serialize_map(None)?;
        event.serialize_entry("name", &record.name)?;
        if let (Scoring::Scored(raw), true) = (&record.scoring, self.log_rewards) {
            for column in &raw.rewards {
                serialize_column(&mut event, column, scored.map(|scored| &scored.normalised[..]))?;
            }
            for column in &raw.filters {
                serialize_column(&mut event, column, scored.map(|scored| &scored.filters[..]))?;
            }
        }
        let completions = &record.completions[..];
        let best = scored.and_then(|scored| scored.best).and_then(|best| completions.get(best));
        let rewards =
            scored.map(|scored| scored.rewards.iter().map(|reward| f64::from(reward.get())).collect::<Vec<_>>());
        event.serialize_entry("block", &record.block)?;
        event.serialize_entry("step_length", &record.length_seconds)?;
        event.serialize_entry("prompt", &record.prompt)?;
        event.serialize_entry("uids", &each(completions, |completion| completion.uid))?;
        event.serialize_entry("completions", &each(completions, |completion| &completion.text))?;
        event.serialize_entry("completion_times", &each(completions, |completion| completion.elapsed_seconds))?;
        event.serialize_entry("rewards", &rewards)?;
        event.serialize_entry("gating_loss", &scored.and_then(|scored| scored.gating_loss).map(f64::from))?;
        event.serialize_entry("best", &best.map(|completion| completion.text.trim()))?;
        // From here on not in the reference.
        event.serialize_entry("forward", &record.step.forward)?;
        event.serialize_entry("step", &record.step.index)?;
        event.serialize_entry("sequence", &self.step.sequence)?;
        event.serialize_entry("status_codes", &each(completions, |completion| completion.status_code))?;
        event.serialize_entry("hotkeys", &each(completions, |completion| completion.hotkey))?;
        event.serialize_entry("unscored", &why_unscored(self.step))?;
        if let Scoring::Scored(raw) = &record.scoring {
            let standings = scored.map_or(&[][..], |scored| &scored.shadows);
            if !raw.shadows.is_empty() || !standings.is_empty() {
                event.serialize_entry("shadows", &shadows(&raw.shadows, standings))?;
            }
            if !raw.judgements.is_empty() {
                event.serialize_entry("judgements", &raw.judgements)?;
            }
        }
        event.serialize_entry("schema_version", &EVENT_SCHEMA_VERSION)?;
        event.end()
    }
}

/// A candidate that counts for nothing: what it said, or how it stands.
#[derive(Serialize)]
struct Candidate<'a> {
    name: &'a str,
    correlation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a str>,
}

fn shadows<'a>(said: &'a [Shadow], standings: &'a [ShadowStanding]) -> Vec<Candidate<'a>> {
    let candidate = |name: &'a str, said: Option<&'a Shadow>| {
        let standing = standings.iter().find(|standing| standing.name == name);
        Candidate {
            name,
            correlation: standing.and_then(|standing| standing.correlation).map(f64::from),
            blocked: standing.and_then(|standing| standing.blocked).map(f64::from),
            seconds: said.map(|said| said.seconds).or(standing.and_then(|standing| standing.seconds)),
            failure: said.and_then(|said| said.failure.as_deref()),
        }
    };
    let silent = standings.iter().filter(|standing| said.iter().all(|said| said.name != standing.name));
    let said = said.iter().map(|said| candidate(&said.name, Some(said)));
    said.chain(silent.map(|standing| candidate(&standing.name, None))).collect()
}

/// The raw column, and `NAME_normalized`: the one of that name in `folded`, `null` while there is none.
fn serialize_column<M: SerializeMap>(event: &mut M, raw: &Column, folded: Option<&[Column]>) -> Result<(), M::Error> {
    let widened = |column: &Column| column.values.iter().map(|value| value.map(f64::from)).collect::<Vec<_>>();
    let folded = folded.and_then(|columns| columns.iter().find(|column| column.name == raw.name));
    event.serialize_entry(&raw.name, &widened(raw))?;
    event.serialize_entry(&format!("{}_normalized", raw.name), &folded.map(widened))
}

fn each<'a, T>(completions: &'a [Completion], of: impl Fn(&'a Completion) -> T) -> Vec<T> {
    completions.iter().map(of).collect()
}

fn why_unscored(step: &StoredStep) -> Option<&str> {
    match (&step.record.scoring, step.outcome.as_deref()) {
        (Scoring::Unscored { reason }, _) | (_, Some(StepOutcome::Unscored { reason })) => Some(reason),
        (Scoring::Scored(_), Some(StepOutcome::Scored(_))) => None,
        (Scoring::Scored(_), None) => Some("the fold left no outcome"),
    }
}

// === Spacing ===

/// `json.dumps` of Python: a space after each comma and colon.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    /// JSON escapes what would end a line; this escapes, too, what would move a terminal's cursor or turn its text
    /// around.
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, char)) = rest.char_indices().find(|(_, char)| deceives_terminals(*char)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            write!(writer, "\\u{:04x}", u32::from(char))?;
            rest = &rest[at + char.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Control characters, line and paragraph separators, and the characters of Unicode's property `Bidi_Control`; all of
/// them below U+10000, so that one `\u` escape holds each.
fn deceives_terminals(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests;
