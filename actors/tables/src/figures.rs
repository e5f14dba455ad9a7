//! What analysts ask of recorded steps, as figures: lists of points with names, that a page can draw, a terminal can print
//! and another program can read.
//!
//! The first eight are those of openvalidators 1.2.0's `analysis/plotting.py`, and compute the same numbers
//! (`tests/fixtures/plotting.json` was recorded from it). One pass over the steps; what is kept grows with the number of
//! different completions and miners, not with their length.

mod completions;
mod crowd;
mod miners;
mod models;
mod over_time;
pub mod shadows;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::StepRow;

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// The width of a bin of throughput, scores and comparison, minutes.
    pub interval_minutes: u32,
    /// The width of a bin of completion rates, minutes.
    pub rate_minutes: u32,
    /// How many miners, completions or pairs a figure shows; without it each its own number, as in the reference.
    pub top: Option<usize>,
    /// Which kind of step, where a figure is about one; without it followups for completion rewards and the network,
    /// answers for leaderboard and calls, as in the reference.
    pub step: Option<String>,
    /// Completions to follow, instead of the most frequent.
    pub completions: Vec<String>,
    /// Follow the most frequent completions that match.
    pub regex: Option<regex::Regex>,
    /// What the leaderboard is of.
    pub by: By,
    /// How it adds up.
    pub agg: Agg,
    /// Leave out empty completions where diversity is counted.
    pub drop_failed: bool,
    /// How many of a miner's most frequent texts the network is about; 1 in the reference.
    pub network_texts: usize,
    /// Only these miners, where a figure shows some.
    pub uids: Vec<i64>,
    /// Share of the newest reward in a moving average.
    pub alpha: f64,
    /// Where the second period of the comparison begins; without it in the middle.
    pub split: Option<i64>,
    /// The highest capture ratio on the benchmark with each candidate in force, where that was played.
    pub captures: BTreeMap<String, f64>,
}

/// What a leaderboard ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Miners.
    #[default]
    Uid,
    /// Texts.
    Completion,
}

/// How a leaderboard adds up rewards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Agg {
    /// Their mean.
    #[default]
    Mean,
    /// The highest.
    Max,
    /// How many there are.
    Size,
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Its name in files and flags.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: &'static str,
    /// How to draw it.
    pub form: Form,
    /// What `x` is.
    pub x_label: String,
    /// What `y` is.
    pub y_label: String,
    /// What is in it.
    pub series: Vec<Series>,
}

/// How a figure is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Lines over time: `x` in microseconds since 1970.
    Timeline,
    /// Points over time.
    TimeScatter,
    /// Points.
    Scatter,
    /// Horizontal bars, one for each label.
    Bars,
    /// A table of numbers: a column for each series, a row for each label.
    Matrix,
}

/// Points of one name. Every list that is not empty is as long as `y`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Where, for lines and points.
    pub x: Vec<f64>,
    /// How much; `None` where there is nothing to say.
    pub y: Vec<Option<f64>>,
    /// Of what: labels of bars and rows, and what a point is.
    pub labels: Vec<String>,
    /// How large the points are.
    pub sizes: Vec<f64>,
}

/// Gathers figures over one pass.
#[derive(Debug)]
pub struct Figures {
    options: Options,
    steps: u64,
    texts: completions::Texts,
    completions: completions::Completions,
    miners: miners::Miners,
    models: models::Models,
    over_time: over_time::OverTime,
    crowd: crowd::Crowd,
    shadows: shadows::Shadows,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            interval_minutes: 10,
            rate_minutes: 60,
            top: None,
            step: None,
            completions: Vec::new(),
            regex: None,
            by: By::default(),
            agg: Agg::default(),
            drop_failed: false,
            network_texts: 1,
            uids: Vec::new(),
            alpha: 0.05,
            split: None,
            captures: BTreeMap::new(),
        }
    }
}

impl Options {
    fn is_about(&self, row: &StepRow, unless_said: &str) -> bool {
        let wanted = self.step.as_deref().unwrap_or(unless_said);
        row.kind() == wanted || row.name == wanted
    }

    fn shows(&self, uid: i64) -> bool {
        self.uids.is_empty() || self.uids.contains(&uid)
    }
}

// === impl Figures ===

impl Figures {
    /// Nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let shadows = shadows::Shadows::new(options.captures.clone());
        Self {
            options,
            steps: 0,
            texts: completions::Texts::default(),
            completions: completions::Completions::default(),
            miners: miners::Miners::default(),
            models: models::Models::default(),
            over_time: over_time::OverTime::default(),
            crowd: crowd::Crowd::default(),
            shadows,
        }
    }

    /// Takes a step in.
    pub fn add(&mut self, row: &StepRow) {
        self.steps += 1;
        let ids: Vec<u32> = row.completions.iter().map(|text| self.texts.id(text, &self.options)).collect();
        self.completions.add(row, &ids, &self.options);
        self.miners.add(row, &ids, &self.options);
        self.models.add(row);
        self.over_time.add(row, &self.options);
        self.crowd.add(row, &ids, &self.texts);
        self.shadows.add(&row.shadows);
    }

    /// Every figure, those of the reference first. What there is no data for has no series.
    #[must_use]
    pub fn finish(&self) -> Vec<Figure> {
        let Self { options, texts, .. } = self;
        vec![
            self.over_time.throughput(options),
            self.over_time.scores(options),
            self.miners.diversity(options),
            self.completions.rates(texts, options),
            self.completions.rewards(texts, options),
            self.miners.leaderboard(texts, options),
            self.miners.calls(options),
            self.miners.network(texts, options),
            self.models.rewards(),
            self.models.correlations(),
            self.models.filters(),
            self.miners.latency(options),
            self.crowd.copycats(options),
            self.crowd.routes(options),
            self.over_time.comparison(options),
            self.shadows.figure(),
        ]
    }

    /// How many steps were taken in.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

/// How often each uid, text or pair came, most first; among equals who came first.
fn ranked<K: Clone, V: PartialOrd>(counts: impl Iterator<Item = (K, V)>) -> Vec<(K, V)> {
    let mut ranked: Vec<_> = counts.collect();
    ranked.sort_by(|left, right| right.1.partial_cmp(&left.1).unwrap_or(std::cmp::Ordering::Equal));
    ranked
}

fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests;
