//! `openvalidators what-if`: recorded steps played again under other settings.
//!
//! The folds are the validator's own: [`openvalidators_rewards::fold`] makes final rewards of raw scores,
//! [`openvalidators_weights::scores`] makes moving averages of those. Only the shares of weights are simpler than on chain: a
//! score above 0 over their sum, before the limits of a subnet.
//!
//! What the diversity filter made of its history depends on neither rewards nor weights, and is the most work of a fold: it is
//! taken from the recorded outcomes, unless the change is about the history itself.

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use anyhow::{Context, ensure};
use comfy_table::{CellAlignment, LineStyle, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use openvalidators_ledger::{READ_LIMIT_STEPS, Reader};
use openvalidators_messages::{
    Column, Hotkey, QueryOutcome, Scoring, Sequence, StepOutcome, StepRecord, Uid, ledger::StoredStep,
};
use openvalidators_rewards::{
    fold::{Rules, State},
    normaliser::Normalisation,
    registry,
};
use openvalidators_tables::{
    Item, Source, Store,
    figures::shadows::{Candidate, Shadows},
};
use openvalidators_weights::scores::{FoldRules, Scores};
use serde::Serialize;

use crate::{
    archive,
    cli::WhatIf,
    config::Config,
    console::{print_json, print_text},
    dataset::shadows,
};

/// What a change does to recorded steps before they are folded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Filters that let everything pass.
    pub without: Vec<String>,
    /// Calls that took longer failed.
    pub timeout: Option<f64>,
    /// Another normalisation of raw scores than the configured one.
    pub normalisation: Option<Normalisation>,
    /// Filters that ran as shadows and count now.
    pub promoted: Vec<&'static str>,
}

/// One play of the steps.
struct Play {
    rules: Rules,
    rewards: State,
    score_rules: FoldRules,
    scores: Scores,
    unscored: u64,
}

/// Two plays of the same steps, and what they saw.
pub struct Comparison {
    before: Play,
    after: Play,
    change: Change,
    /// Filters as they were applied serve both plays.
    same_history: bool,
    /// Who held which place last.
    uids: BTreeMap<Hotkey, Uid>,
    /// Filters found in the records.
    filters: std::collections::BTreeSet<String>,
    steps: u64,
    /// Steps whose best completion became another.
    other_best: u64,
    /// Why a step that had scores has none after the change.
    lost: Option<String>,
    /// Candidates that ran as shadows.
    shadows: Shadows,
}

/// Steps that the ledger has given up: what candidates did in them is kept, what they are played from is not.
#[derive(Default)]
struct Archived {
    steps: u64,
    shadows: Shadows,
}

/// A miner before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its place when it was asked last.
    pub uid: Option<Uid>,
    /// Who.
    pub hotkey: Hotkey,
    /// Its rank, score and share of the weights, without the change.
    pub before: Standing,
    /// With it.
    pub after: Standing,
}

/// How a miner stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// From 1, by score.
    pub rank: usize,
    /// The moving average.
    pub score: f64,
    /// Of all positive scores.
    pub share: f64,
}

/// Plays and prints.
///
/// # Errors
/// When the ledger cannot be read, or a filter is named that no step has.
pub fn run(command: &WhatIf, before: &Config, after: &Config) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(&command.from)?;
    let change = Change {
        without: command.without.clone(),
        timeout: command.timeout,
        normalisation: command.normalisation(),
        promoted: promoted(before, after),
    };
    let progress = ProgressBar::new(reader.latest()?.0);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} of {len} steps, {eta} left") {
        progress.set_style(style);
    }
    let mut comparison = Comparison::new(before, after, change);
    let captures = after.rewards.benchmark()?.map(|benchmark| benchmark.worst()).unwrap_or_default();
    comparison.shadows = Shadows::new(captures);
    let mut place = Sequence(0);
    loop {
        let steps = reader.read_steps(place, READ_LIMIT_STEPS)?;
        let Some(last) = steps.last() else { break };
        place = last.sequence;
        steps.iter().for_each(|step| comparison.play(step));
        progress.set_position(place.0);
    }
    progress.finish_and_clear();
    ensure!(comparison.steps > 0, "{} holds no steps yet", command.from.display());
    comparison.check_filters()?;
    let archived = Archived::of(&command.from, reader.oldest()?)?;
    let rows = comparison.rows();
    let shown = &rows[..command.top.unwrap_or(rows.len()).min(rows.len())];
    if command.json {
        print_json(&serde_json::json!({
            "event": "what_if", "steps": comparison.steps, "other_best": comparison.other_best,
            "unscored": [comparison.before.unscored, comparison.after.unscored], "miners": shown,
            "shadows": comparison.shadows.candidates(),
            "archived": { "steps": archived.steps, "shadows": archived.shadows.candidates() },
        }));
    } else {
        print_text(&format!("{}\n{}", table(shown), comparison.summary()));
        let candidates = comparison.shadows.candidates();
        if !candidates.is_empty() {
            print_text(&candidates_table(&candidates).to_string());
        }
        let candidates = archived.shadows.candidates();
        if !candidates.is_empty() {
            let steps = archived.steps;
            print_text(&format!(
                "{steps} older steps are in the archive, which cannot be played; as they were recorded:"
            ));
            print_text(&candidates_table(&candidates).to_string());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(["uid", "rank", "was", "moved", "score", "was", "share", "was"]);
    for Row { uid, before, after, .. } in rows {
        let moved = match before.rank.cmp(&after.rank) {
            std::cmp::Ordering::Equal => String::new(),
            std::cmp::Ordering::Greater => format!("up {}", before.rank - after.rank),
            std::cmp::Ordering::Less => format!("down {}", after.rank - before.rank),
        };
        table.add_row([
            uid.map_or_else(|| "?".to_owned(), |uid| uid.to_string()),
            after.rank.to_string(),
            before.rank.to_string(),
            moved,
            format!("{:.4}", after.score),
            format!("{:.4}", before.score),
            format!("{:.1} %", 100.0 * after.share),
            format!("{:.1} %", 100.0 * before.share),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn candidates_table(candidates: &[Candidate]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header([
        "shadow",
        "rank correlation",
        "would block",
        "worst capture",
        "seconds a step",
        "steps",
        "failed",
    ]);
    let number = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"));
    for Candidate { name, rank_correlation, would_block, capture, seconds, steps, failed } in candidates {
        let blocked = would_block.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        let [correlation, capture, seconds] = [rank_correlation, capture, seconds].map(|found| number(*found));
        table.add_row([name.clone(), correlation, blocked, capture, seconds, steps.to_string(), failed.to_string()]);
    }
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}

/// Filters that the change turns on.
fn promoted(before: &Config, after: &Config) -> Vec<&'static str> {
    let was = registry::enabled_filters(&before.rewards);
    registry::enabled_filters(&after.rewards).into_iter().filter(|name| !was.contains(name)).collect()
}

// === impl Archived ===

impl Archived {
    /// Of the files whose steps are all before `oldest`; after a crash the ledger may hold again what the latest has.
    fn of(directory: &Path, oldest: Sequence) -> anyhow::Result<Self> {
        let mut archived = Self::default();
        for file in archive::files(directory)?.iter().filter(|file| file.last < oldest.0) {
            let mut steps = Store::open(&file.path)?;
            while let Some(item) = steps.next()? {
                let Item::Row(row) = item else { continue };
                archived.steps += 1;
                archived.shadows.add(&row.shadows);
            }
        }
        Ok(archived)
    }
}

// === impl Comparison ===

impl Comparison {
    /// Nothing played yet.
    #[must_use]
    pub fn new(before: &Config, after: &Config, change: Change) -> Self {
        let (mut before, mut after) = (Play::new(before), Play::new(after));
        if let Some(normalisation) = change.normalisation {
            after.rules = after.rules.normalised_by(normalisation);
        }
        let same_history = before.rules.remembers_as(&after.rules);
        if same_history {
            for play in [&mut before, &mut after] {
                play.rules = play.rules.clone().without_memory();
            }
        }
        Self {
            same_history,
            before,
            after,
            change,
            uids: BTreeMap::new(),
            filters: std::collections::BTreeSet::new(),
            steps: 0,
            other_best: 0,
            lost: None,
            shadows: Shadows::default(),
        }
    }

    /// Plays a step in both.
    pub fn play(&mut self, step: &StoredStep) {
        self.steps += 1;
        let record = if self.same_history { &remembered(step) } else { &*step.record };
        self.uids.extend(record.completions.iter().map(|completion| (completion.hotkey, completion.uid)));
        if let Scoring::Scored(raw) = &record.scoring {
            self.filters.extend(raw.filters.iter().map(|column| column.name.clone()));
        }
        let before = self.before.play(step.sequence, record);
        let changed = self.change.of(record);
        let after = self.after.play(step.sequence, &changed);
        self.shadows.add(&shadows(&changed.scoring, after.scored()));
        match (&before, &after) {
            (StepOutcome::Scored(before), StepOutcome::Scored(after)) => {
                self.other_best += u64::from(before.best != after.best);
            }
            (StepOutcome::Scored(_), StepOutcome::Unscored { reason }) => {
                self.lost.get_or_insert_with(|| reason.clone());
            }
            _ => {}
        }
    }

    /// Every miner, best after the change first.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let before = self.before.standings();
        let mut rows: Vec<Row> = self
            .after
            .standings()
            .into_iter()
            .filter_map(|(hotkey, after)| {
                let before = *before.get(&hotkey)?;
                Some(Row { uid: self.uids.get(&hotkey).copied(), hotkey, before, after })
            })
            .collect();
        rows.sort_by_key(|row| row.after.rank);
        rows
    }

    fn check_filters(&self) -> anyhow::Result<()> {
        let unknown = self.change.without.iter().find(|name| !self.filters.contains(*name));
        let known: Vec<_> = self.filters.iter().map(String::as_str).collect();
        match unknown {
            Some(name) => Err(anyhow::anyhow!("no step has a filter `{name}`"))
                .with_context(|| format!("--without {name}: the recorded filters are {}", known.join(" "))),
            None => Ok(()),
        }
    }

    fn summary(&self) -> String {
        let moved = self.rows().iter().filter(|row| row.before.rank != row.after.rank).count();
        let mut summary = format!(
            "{} steps; {moved} of {} miners change rank; {} steps have another best completion",
            self.steps,
            self.uids.len(),
            self.other_best
        );
        if let Some(reason) = &self.lost {
            let lost = self.after.unscored.saturating_sub(self.before.unscored);
            summary += &format!("\n{lost} steps lose their scores by the change: {reason}");
        }
        summary
    }
}

/// A step whose filters are as they were applied, with what diversity found in its history.
fn remembered(step: &StoredStep) -> StepRecord {
    let mut record = (*step.record).clone();
    if let Scoring::Scored(raw) = &mut record.scoring {
        if let Some(scored) = step.outcome.as_deref().and_then(StepOutcome::scored) {
            raw.filters.clone_from(&scored.filters);
        }
        raw.embeddings = None;
    }
    record
}

// === impl Change ===

impl Change {
    /// A step under the change.
    #[must_use]
    pub fn of(&self, record: &StepRecord) -> StepRecord {
        let mut record = record.clone();
        let limit = self.timeout.unwrap_or(f64::INFINITY);
        let late: Vec<usize> = record
            .completions
            .iter()
            .enumerate()
            .filter(|(_, completion)| completion.is_success() && completion.elapsed_seconds > limit)
            .map(|(place, _)| place)
            .collect();
        for &place in &late {
            record.completions[place].outcome = QueryOutcome::TimedOut;
            record.completions[place].text.clear();
        }
        let Scoring::Scored(raw) = &mut record.scoring else { return record };
        let said = raw.shadows.iter().filter(|shadow| !shadow.factors.is_empty());
        for shadow in said.filter(|shadow| self.promoted.contains(&&*shadow.name)) {
            raw.filters.retain(|column| column.name != shadow.name);
            // What it did not see of a sampled step passes.
            let values = shadow.factors.iter().map(|factor| factor.or(Some(1.0))).collect();
            raw.filters.push(Column { name: shadow.name.clone(), values });
        }
        for column in raw.filters.iter_mut().filter(|column| self.without.contains(&column.name)) {
            column.values.iter_mut().for_each(|value| *value = Some(1.0));
        }
        for column in raw.rewards.iter_mut().chain(&mut raw.filters) {
            late.iter().for_each(|&place| column.values[place] = None);
        }
        // What diversity compares with the past multiplies its column: without it there is nothing to compare.
        if self.without.iter().any(|name| name == openvalidators_rewards::diversity::NAME) {
            raw.embeddings = None;
        }
        record
    }
}

// === impl Play ===

impl Play {
    fn new(config: &Config) -> Self {
        Self {
            rules: Rules::new(&config.rewards),
            rewards: State::default(),
            score_rules: FoldRules::from(&config.weights),
            scores: Scores::default(),
            unscored: 0,
        }
    }

    fn play(&mut self, sequence: Sequence, record: &StepRecord) -> StepOutcome {
        let outcome = self.rewards.fold(&self.rules, sequence, record);
        self.unscored += u64::from(outcome.scored().is_none());
        self.scores.fold(sequence, record, &outcome, self.score_rules);
        (*outcome).clone()
    }

    fn standings(&self) -> BTreeMap<Hotkey, Standing> {
        let rows = self.scores.table().rows;
        let sum: f64 = rows.iter().map(|row| row.score.max(0.0)).sum();
        let share = |score: f64| if sum > 0.0 { score.max(0.0) / sum } else { 0.0 };
        let standing = |(place, score): (usize, f64)| Standing { rank: place + 1, score, share: share(score) };
        rows.iter().enumerate().map(|(place, row)| (row.hotkey, standing((place, row.score)))).collect()
    }
}

#[cfg(test)]
mod tests;
