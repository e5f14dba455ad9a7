//! What a person sees: one line for each settled step, and a table at the end. The same facts as JSON lines on request.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use comfy_table::{CellAlignment, LineStyle, Table, presets};
use openvalidators_gating::interests::{Interest, Interests, NAMED, OTHER_TOPICS, is_beyond_chance};
use openvalidators_messages::{
    Hotkey, Metagraph, Scoring, StepOutcome, Uid,
    ledger::StoredStep,
    weights::{ScoreRow, ScoreTable},
};
use serde::Serialize;

use crate::status;

/// Set when standard output went away (`| head`, a terminal that was closed): a validator goes on without it.
static GONE: AtomicBool = AtomicBool::new(false);

/// How many of the best miners a progress line names.
const TOP_MINERS: usize = 3;

/// Topics in the table of who was asked about what, the most frequent first.
const TOPICS_SHOWN: usize = 12;

/// What the columns of the summary say.
const SUMMARY_LEGEND: &str = "sought out for: in this run, and how many times as often as if all were asked alike, where chance does not explain it; score: moving average of rewards; weight: as last set on the chain, 65535 is the most; \
                              incentive: share of the miners' emission";

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
    /// Nothing.
    Quiet,
}

/// A settled step, as printed.
#[derive(Debug, Serialize)]
struct StepLine<'a> {
    event: &'static str,
    sequence: u64,
    forward: u64,
    step: String,
    block: u64,
    asked: usize,
    answered: usize,
    seconds: f64,
    /// Smallest, mean and largest final reward; none when the step is unscored.
    rewards: Option<Spread>,
    unscored: Option<&'a str>,
    best_uid: Option<Uid>,
    top: Vec<(Uid, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    least: f32,
    mean: f32,
    most: f32,
}

/// A miner's standing at the end of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// Its place.
    pub uid: Uid,
    /// What the local network knows it to be; the validator never sees this.
    pub kind: Option<String>,
    /// Steps in which it was asked.
    pub asked: u64,
    /// Steps in which it answered.
    pub answered: u64,
    /// What it was sought out for in this run; none before it was asked a few times.
    pub sought_for: Option<Preference>,
    /// Moving average of its rewards.
    pub score: f64,
    /// The weight we have on chain for it, 65535 being the largest; none when we have set none.
    pub weight: Option<u16>,
    /// Its share of what miners earn, by all validators' weights.
    pub incentive: f64,
}

/// A topic that a miner was asked about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Preference {
    /// As its source names it.
    pub topic: String,
    /// Steps.
    pub asked: u64,
    /// These, by what they would be were all asked alike.
    pub ratio: f64,
}

/// Whom a topic was asked most in a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopicLine {
    /// As its source names it.
    pub topic: String,
    /// Settled questions about it, whoever was asked.
    pub questions: u64,
    /// The first few.
    pub sought_out: Vec<SoughtOut>,
}

/// One miner of a [`TopicLine`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SoughtOut {
    /// Its place.
    pub uid: Uid,
    /// See [`Standing::kind`].
    pub kind: Option<String>,
    /// Steps about this topic.
    pub asked: u64,
    /// See [`Preference::ratio`].
    pub ratio: f64,
}

// === progress ===

/// Prints one settled step.
pub fn print_step(style: Style, step: &StoredStep, metagraph: &Metagraph, scores: &ScoreTable) {
    let line = step_line(step, metagraph, scores);
    match style {
        Style::Text => print_text(&line.text()),
        Style::Json => print_json(&line),
        Style::Quiet => {}
    }
}

/// Prints a sentence about the run itself.
pub fn print_note(style: Style, text: &str) {
    match style {
        Style::Text => print_text(text),
        Style::Json => print_json(&serde_json::json!({ "event": "note", "text": text })),
        Style::Quiet => {}
    }
}

/// Prints any value as one JSON line.
pub fn print_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(json) => print_text(&json),
        Err(error) => tracing::error!(%error, "a line could not be written as JSON"),
    }
}

/// Prints plain text, as it is.
pub fn print_text(text: &str) {
    if GONE.load(Ordering::Relaxed) {
        return;
    }
    let write = || {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush())
    };
    if let Err(error) = status::above(write)
        && !GONE.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(%error, "standard output is gone; nothing more is printed");
    }
}

fn step_line<'a>(step: &'a StoredStep, metagraph: &Metagraph, scores: &ScoreTable) -> StepLine<'a> {
    let record = &step.record;
    let scored = step.outcome.as_deref().and_then(StepOutcome::scored);
    let unscored = match (step.outcome.as_deref(), &record.scoring) {
        (Some(StepOutcome::Unscored { reason }), _) | (None, Scoring::Unscored { reason }) => Some(reason.as_str()),
        _ => None,
    };
    let best = scored.and_then(|scored| scored.best).and_then(|index| record.completions.get(index));
    let uid_of = |row: &ScoreRow| metagraph.uid_of(&row.hotkey).map(|uid| (uid, row.score));
    StepLine {
        event: "step",
        sequence: step.sequence.0,
        forward: record.step.forward.0,
        step: record.name.to_string(),
        block: record.block.0,
        asked: record.asked.len(),
        answered: record.completions.iter().filter(|completion| completion.is_success()).count(),
        seconds: record.length_seconds,
        rewards: scored.and_then(|scored| Spread::of(scored.rewards.iter().map(|reward| reward.get()))),
        unscored,
        best_uid: best.map(|completion| completion.uid),
        top: scores.rows.iter().filter(|row| row.score > 0.0).filter_map(uid_of).take(TOP_MINERS).collect(),
    }
}

impl StepLine<'_> {
    fn text(&self) -> String {
        let rewards = match (self.rewards, self.unscored) {
            (Some(Spread { least, mean, most }), _) => format!("rewards {least:.2}–{most:.2} (mean {mean:.2})"),
            (None, Some(reason)) => format!("unscored: {reason}"),
            (None, None) => "rewards pending".to_owned(),
        };
        let best = self.best_uid.map_or_else(|| "none".to_owned(), |uid| format!("uid {uid}"));
        let top: Vec<_> = self.top.iter().map(|(uid, score)| format!("uid {uid} ({score:.3})")).collect();
        format!(
            "forward {:<3} {:<9}  {:>5.1} s  asked {:>2}, answered {:>2}  {rewards}  best {best:<7} top scores: {}",
            self.forward,
            self.step,
            self.seconds,
            self.asked,
            self.answered,
            if top.is_empty() { "nobody yet".to_owned() } else { top.join(", ") },
        )
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = f32>) -> Option<Self> {
        let values: Vec<f32> = values.collect();
        let least = values.iter().copied().reduce(f32::min)?;
        let most = values.iter().copied().reduce(f32::max)?;
        Some(Self { least, mean: values.iter().sum::<f32>() / values.len() as f32, most })
    }
}

// === summary ===

impl From<Interest> for Preference {
    fn from(Interest { topic, asked, ratio, .. }: Interest) -> Self {
        Self { topic, asked, ratio }
    }
}

/// Everybody's standing, best weight first, from the chain's state and our scores. `available` are the miners that can be asked.
#[must_use]
pub fn standings(
    metagraph: &Metagraph,
    ours: &Hotkey,
    kinds: &BTreeMap<Hotkey, String>,
    scores: &ScoreTable,
    weights: &[(Uid, u16)],
    interests: &Interests,
    available: usize,
) -> Vec<Standing> {
    let scores: BTreeMap<Hotkey, &ScoreRow> = scores.rows.iter().map(|row| (row.hotkey, row)).collect();
    let weights: BTreeMap<Uid, u16> = weights.iter().copied().collect();
    let mut standings: Vec<Standing> = metagraph
        .neurons
        .iter()
        // Validators that serve no axon are nobody's miners.
        .filter(|neuron| neuron.hotkey != *ours && neuron.axon.is_some())
        .map(|neuron| {
            let row = scores.get(&neuron.hotkey);
            Standing {
                uid: neuron.uid,
                kind: kinds.get(&neuron.hotkey).cloned(),
                asked: row.map_or(0, |row| row.asked),
                answered: row.map_or(0, |row| row.answered),
                sought_for: interests.sought_for(&neuron.hotkey, available).map(Preference::from),
                score: row.map_or(0.0, |row| row.score),
                weight: (!weights.is_empty()).then(|| weights.get(&neuron.uid).copied().unwrap_or_default()),
                incentive: neuron.incentive,
            }
        })
        .collect();
    standings
        .sort_by(|a, b| (b.weight, b.score).partial_cmp(&(a.weight, a.score)).unwrap_or(std::cmp::Ordering::Equal));
    standings
}

/// Who was asked about what, by topic.
#[must_use]
pub fn topic_lines(
    metagraph: &Metagraph,
    kinds: &BTreeMap<Hotkey, String>,
    interests: &Interests,
    available: usize,
) -> Vec<TopicLine> {
    let sought_out = |Interest { hotkey, asked, ratio, .. }: Interest| {
        Some(SoughtOut { uid: metagraph.uid_of(&hotkey)?, kind: kinds.get(&hotkey).cloned(), asked, ratio })
    };
    let line = |(topic, questions): (&str, u64)| TopicLine {
        topic: topic.to_owned(),
        questions,
        sought_out: interests.sought_out(topic, NAMED, available).into_iter().filter_map(sought_out).collect(),
    };
    let lines = interests.topics().into_iter().map(line).filter(|line| !line.sought_out.is_empty());
    lines.take(TOPICS_SHOWN).collect()
}

/// Prints the tables at the end of a run.
pub fn print_summary(style: Style, standings: &[Standing], topics: &[TopicLine]) {
    match style {
        Style::Text => {
            if let Some(table) = topic_table(topics) {
                print_text(&table.to_string());
            }
            print_text(&format!("{}\n{SUMMARY_LEGEND}", summary_table(standings)));
        }
        Style::Json => {
            print_json(&serde_json::json!({ "event": "summary", "miners": standings, "topics": topics }));
        }
        Style::Quiet => {}
    }
}

/// Only what chance does not explain; `None` where that is nothing, or the source names no topics.
fn topic_table(topics: &[TopicLine]) -> Option<Table> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["about", "questions", "asked most, and how many times as often as if all were asked alike"]);
    for TopicLine { topic, questions, sought_out } in topics {
        let named = |SoughtOut { uid, kind, ratio, .. }: &SoughtOut| {
            let kind = kind.as_ref().map_or_else(String::new, |kind| format!("  {kind}"));
            format!("{ratio:>4.1} ×  uid {uid}{kind}")
        };
        let beyond_chance = sought_out.iter().filter(|found| is_beyond_chance(found.asked, found.ratio));
        let named: Vec<String> = beyond_chance.map(named).collect();
        if !named.is_empty() {
            table.add_row([topic.clone(), questions.to_string(), named.join("\n")]);
        }
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    (!table.is_empty() && topics.iter().any(|line| line.topic != OTHER_TOPICS)).then_some(table)
}

fn summary_table(standings: &[Standing]) -> Table {
    let mut table = Table::new();
    // One line a miner.
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(["uid", "kind", "asked", "answered", "sought out for", "score", "weight", "incentive"]);
    for standing in standings {
        table.add_row([
            standing.uid.to_string(),
            standing.kind.clone().unwrap_or_else(|| "?".to_owned()),
            standing.asked.to_string(),
            standing.answered.to_string(),
            standing
                .sought_for
                .as_ref()
                .filter(|found| is_beyond_chance(found.asked, found.ratio))
                .map_or_else(String::new, |found| format!("{} ({:.1} ×)", found.topic, found.ratio)),
            format!("{:.4}", standing.score),
            standing.weight.map_or_else(|| "not set".to_owned(), |weight| weight.to_string()),
            format!("{:.4}", standing.incentive),
        ]);
    }
    for column in [0, 2, 3, 5, 6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_what_is_there() {
        assert_eq!(Spread::of([0.5, 0.0, 1.0].into_iter()), Some(Spread { least: 0.0, mean: 0.5, most: 1.0 }));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn the_table_of_topics_names_who_is_sought_out() {
        let sought_out = vec![
            SoughtOut { uid: Uid(7), kind: Some("specialist: earth-and-climate".into()), asked: 12, ratio: 3.26 },
            SoughtOut { uid: Uid(9), kind: None, asked: 12, ratio: 3.1 },
            SoughtOut { uid: Uid(8), kind: None, asked: 6, ratio: 1.8 },
        ];
        let line = TopicLine { topic: "earth-and-climate".into(), questions: 40, sought_out };
        let table = topic_table(std::slice::from_ref(&line)).unwrap().to_string();
        for expected in ["about", "questions", "40", " 3.3 ×  uid 7  specialist: earth-and-climate", " 3.1 ×  uid 9"]
        {
            assert!(table.contains(expected), "{table}");
        }
        assert!(!table.contains("uid 8"), "what chance explains is not told: {table}");
        let chance = TopicLine { sought_out: line.sought_out[2..].to_vec(), ..line };
        assert!(topic_table(&[chance]).is_none());
    }

    #[test]
    fn the_table_names_its_columns_and_what_is_not_set() {
        let standing = Standing {
            uid: Uid(3),
            kind: Some("honest (good)".into()),
            asked: 4,
            answered: 4,
            sought_for: Some(Preference { topic: "earth-and-climate".into(), asked: 23, ratio: 2.54 }),
            score: 0.25,
            weight: None,
            incentive: 0.0,
        };
        let table = summary_table(&[standing.clone(), standing]).to_string();
        assert_eq!(table.lines().count(), 3 + 2 + 1, "one line a miner: {table}");
        for expected in ["uid", "kind", "incentive", "honest (good)", "earth-and-climate (2.5 ×)", "0.2500", "not set"]
        {
            assert!(table.contains(expected), "{table}");
        }
    }
}
