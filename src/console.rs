//! What a person sees: one line for each settled step, and a table at the end. The same facts as JSON lines on request.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use comfy_table::{CellAlignment, LineStyle, Table, presets};
use openvalidators_messages::{
    Hotkey, Metagraph, Scoring, StepOutcome, StepRecord, Uid,
    ledger::StoredStep,
    prompts::topic,
    weights::{ScoreRow, ScoreTable},
};
use serde::Serialize;

use crate::status;

/// Set when standard output went away (`| head`, a terminal that was closed): a validator goes on without it.
static GONE: AtomicBool = AtomicBool::new(false);

/// How many of the best miners a progress line names.
const TOP_MINERS: usize = 3;

/// What the columns of the summary say.
const SUMMARY_LEGEND: &str = "asked most about: in this run, with the share of its steps; score: moving average of rewards; weight: as last set on the chain, 65535 is the most; \
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
    /// The topic it was asked about most in this run, and the share of its steps that were about it; none before
    /// [`FEWEST_STEPS_FOR_A_TOPIC`] steps of a source with topics.
    pub asked_about: Option<AskedAbout>,
    /// Moving average of its rewards.
    pub score: f64,
    /// The weight we have on chain for it, 65535 being the largest; none when we have set none.
    pub weight: Option<u16>,
    /// Its share of what miners earn, by all validators' weights.
    pub incentive: f64,
}

/// What a miner was asked about most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AskedAbout {
    /// As its source names it.
    pub topic: String,
    /// Of all its steps in this run, in 0..=1.
    pub share: f64,
}

/// Who was asked about what since the start of the program.
#[derive(Clone, Debug, Default)]
pub struct Topics(BTreeMap<Hotkey, BTreeMap<String, u64>>);

/// Steps a miner must have been asked in before a topic of it is named.
const FEWEST_STEPS_FOR_A_TOPIC: u64 = 5;

// === impl Topics ===

impl Topics {
    /// Counts a step, if its source names a topic.
    pub fn count(&mut self, record: &StepRecord) {
        let Some(topic) = topic(&record.source) else { return };
        for asked in &record.asked {
            *self.0.entry(asked.hotkey).or_default().entry(topic.to_owned()).or_default() += 1;
        }
    }

    fn most(&self, hotkey: &Hotkey) -> Option<AskedAbout> {
        let topics = self.0.get(hotkey)?;
        let all: u64 = topics.values().sum();
        let (topic, most) =
            topics.iter().max_by_key(|(_, count)| **count).filter(|_| all >= FEWEST_STEPS_FOR_A_TOPIC)?;
        Some(AskedAbout { topic: topic.clone(), share: *most as f64 / all as f64 })
    }
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

/// Everybody's standing, best weight first, from the chain's state and our scores.
#[must_use]
pub fn standings(
    metagraph: &Metagraph,
    ours: &Hotkey,
    kinds: &BTreeMap<Hotkey, String>,
    scores: &ScoreTable,
    weights: &[(Uid, u16)],
    topics: &Topics,
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
                asked_about: topics.most(&neuron.hotkey),
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

/// Prints the table at the end of a run.
pub fn print_summary(style: Style, standings: &[Standing]) {
    match style {
        Style::Text => print_text(&format!("{}\n{SUMMARY_LEGEND}", summary_table(standings))),
        Style::Json => print_json(&serde_json::json!({ "event": "summary", "miners": standings })),
        Style::Quiet => {}
    }
}

fn summary_table(standings: &[Standing]) -> Table {
    let mut table = Table::new();
    // One line a miner.
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(["uid", "kind", "asked", "answered", "asked most about", "score", "weight", "incentive"]);
    for standing in standings {
        table.add_row([
            standing.uid.to_string(),
            standing.kind.clone().unwrap_or_else(|| "?".to_owned()),
            standing.asked.to_string(),
            standing.answered.to_string(),
            standing
                .asked_about
                .as_ref()
                .map_or_else(String::new, |about| format!("{} ({:.0} %)", about.topic, 100.0 * about.share)),
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

    /// Only what is often asked about is named, and only for who was asked often.
    #[test]
    fn topics_are_counted_by_hotkey_and_the_most_frequent_is_told() {
        let mut topics = Topics::default();
        let mut step = |source: &str, uid: u16| {
            let record = serde_json::json!({
                "version": 1, "step": {"forward": 0, "index": 0}, "name": "augment", "block": 1, "started_at": 0.0,
                "length_seconds": 0.0, "seed": 0, "code_version": "", "source": source, "prompt": "", "base_text": "",
                "asked": [{"uid": uid, "hotkey": Hotkey([uid as u8; 32]), "propensity": 0.5}],
                "completions": [], "scoring": {"unscored": {"reason": ""}}, "digests": {},
            });
            topics.count(&serde_json::from_value(record).unwrap());
        };
        (0..4).for_each(|_| step("embedded:earth-and-climate/7", 1));
        (0..4).for_each(|_| step("embedded:earth-and-climate/7", 2));
        step("embedded:history-and-archaeology/1", 1);
        step("stdin", 2);
        let told = AskedAbout { topic: "earth-and-climate".to_owned(), share: 0.8 };
        assert_eq!(topics.most(&Hotkey([1; 32])), Some(told));
        assert_eq!(topics.most(&Hotkey([2; 32])), None, "four steps are too few");
    }

    #[test]
    fn the_table_names_its_columns_and_what_is_not_set() {
        let standing = Standing {
            uid: Uid(3),
            kind: Some("honest (good)".into()),
            asked: 4,
            answered: 4,
            asked_about: Some(AskedAbout { topic: "earth-and-climate".into(), share: 0.5 }),
            score: 0.25,
            weight: None,
            incentive: 0.0,
        };
        let table = summary_table(&[standing.clone(), standing]).to_string();
        assert_eq!(table.lines().count(), 3 + 2 + 1, "one line a miner: {table}");
        for expected in ["uid", "kind", "incentive", "honest (good)", "earth-and-climate (50 %)", "0.2500", "not set"] {
            assert!(table.contains(expected), "{table}");
        }
    }
}
