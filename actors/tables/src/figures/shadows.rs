//! Candidates beside what is in force.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Figure, Form, Series, mean};
use crate::Shadow;

/// How candidates did over the steps taken in.
#[derive(Debug, Default)]
pub struct Shadows {
    tallies: BTreeMap<String, Tally>,
    captures: BTreeMap<String, f64>,
}

/// A candidate over all its steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Mean of Spearman's rank correlation with what it would take the place of.
    pub rank_correlation: Option<f64>,
    /// Mean share of completions that a filter would block.
    pub would_block: Option<f64>,
    /// The highest capture ratio of any attack on the benchmark with it in force; `None` where that was not played.
    pub capture: Option<f64>,
    /// Mean seconds a step.
    pub seconds: Option<f64>,
    /// Steps it was asked about.
    pub steps: u64,
    /// Of them, those it said nothing of.
    pub failed: u64,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    steps: u64,
    failed: u64,
    correlation: Mean,
    blocked: Mean,
    seconds: Mean,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

// === impl Shadows ===

impl Shadows {
    /// Nothing taken in, and the highest capture ratio of each candidate on the benchmark.
    #[must_use]
    pub fn new(captures: BTreeMap<String, f64>) -> Self {
        Self { tallies: BTreeMap::new(), captures }
    }

    /// Takes in the candidates of a step.
    pub fn add(&mut self, shadows: &[Shadow]) {
        for shadow in shadows {
            let tally = self.tallies.entry(shadow.name.clone()).or_default();
            tally.steps += 1;
            tally.failed += u64::from(shadow.failed);
            tally.correlation.add(shadow.correlation);
            tally.blocked.add(shadow.blocked);
            tally.seconds.add(shadow.seconds);
        }
    }

    /// Every candidate, by name.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(name, tally): (&String, &Tally)| Candidate {
            name: name.clone(),
            rank_correlation: tally.correlation.get(),
            would_block: tally.blocked.get(),
            capture: self.captures.get(name).copied(),
            seconds: tally.seconds.get(),
            steps: tally.steps,
            failed: tally.failed,
        };
        self.tallies.iter().map(candidate).collect()
    }

    /// How far each agrees with what it would take the place of, and what it costs.
    pub(super) fn figure(&self) -> Figure {
        let candidates = self.candidates();
        let series = |name: &str, of: &dyn Fn(&Candidate) -> Option<f64>| Series {
            name: name.to_owned(),
            y: candidates.iter().map(of).collect(),
            labels: candidates.iter().map(|candidate| candidate.name.clone()).collect(),
            ..Series::default()
        };
        let all = vec![
            series("rank correlation", &|candidate| candidate.rank_correlation),
            series("would block", &|candidate| candidate.would_block),
            series("worst capture", &|candidate| candidate.capture),
            series("seconds a step", &|candidate| candidate.seconds),
            series("steps", &|candidate| Some(candidate.steps as f64)),
            series("failed", &|candidate| Some(candidate.failed as f64)),
        ];
        Figure {
            id: "shadows",
            title: "Candidates that count for nothing".to_owned(),
            note: "Spearman's rank correlation with what each would take the place of, the mean over steps: near 1 it would \
                   change little, near 0 it judges by something else. Worst capture: what the best attack of the benchmark earns with it in force, where 1 \
                   is an average miner (--benchmark). Candidates are run with rewards.shadows.",
            form: Form::Matrix,
            x_label: "candidate".to_owned(),
            y_label: String::new(),
            series: if candidates.is_empty() { Vec::new() } else { all },
        }
    }
}

// === impl Mean ===

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        self.sum += value.unwrap_or(0.0);
        self.count += u64::from(value.is_some());
    }

    fn get(self) -> Option<f64> {
        mean(self.sum, self.count)
    }
}
