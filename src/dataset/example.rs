//! From steps to examples to train on.

use std::collections::BTreeMap;

use openvalidators_tables::StepRow;
use serde::Serialize;

use crate::cli::{ExportFilter, ExportKind};

/// One example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// What was asked.
    pub prompt: String,
    /// What to learn.
    pub completion: String,
    /// What it earned.
    pub reward: Option<f64>,
    /// For preference pairs: what not to learn, and what that earned.
    pub rejected: Option<(String, f64)>,
    /// Where it comes from.
    pub origin: Origin,
    /// What each reward model and filter said of it, raw.
    pub scores: BTreeMap<&'static str, f64>,
}

/// Where an example comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Origin {
    /// The run.
    pub run_id: String,
    /// The forward.
    pub forward: Option<i64>,
    /// A digest of the text that the forward is about.
    pub context: String,
    /// Its topic, where known.
    pub topic: Option<String>,
    /// The step.
    pub name: String,
    /// Microseconds since 1970.
    pub timestamp: i64,
    /// The miner's place.
    pub uid: Option<i64>,
    /// Who held it.
    pub hotkey: Option<String>,
}

/// What was left out, by reason.
pub type LeftOut = BTreeMap<&'static str, u64>;

/// Makes examples of steps.
pub struct Maker<'a> {
    kind: ExportKind,
    filter: &'a ExportFilter,
    blacklist: Vec<String>,
    /// What was left out so far.
    pub left_out: LeftOut,
}

// === impl Maker ===

impl<'a> Maker<'a> {
    /// With the completions that are not wanted.
    #[must_use]
    pub fn new(kind: ExportKind, filter: &'a ExportFilter, blacklist: Vec<String>) -> Self {
        Self { kind, filter, blacklist, left_out: LeftOut::new() }
    }

    /// The examples of a step.
    pub fn examples(&mut self, row: &StepRow) -> Vec<Example> {
        match self.kind {
            ExportKind::RewardModel => (0..row.completions.len()).filter_map(|at| self.scored(row, at)).collect(),
            ExportKind::Dpo => self.pair(row).into_iter().collect(),
            _ => self.best(row).into_iter().collect(),
        }
    }

    /// The best completion, as the validator chose it.
    fn best(&mut self, row: &StepRow) -> Option<Example> {
        let Some(best) = row.best.as_deref() else { return self.leave("a step without a best completion") };
        let place = row.completions.iter().position(|completion| completion.trim() == best);
        self.wanted(best, row.top_reward())?;
        Some(example(row, best, row.top_reward(), place))
    }

    /// A completion with its reward; a failed call is no example.
    fn scored(&mut self, row: &StepRow, place: usize) -> Option<Example> {
        let text = row.completions[place].trim();
        if text.is_empty() {
            return self.leave("an empty completion");
        }
        let Some(reward) = row.rewards.get(place).copied().flatten() else {
            return self.leave("a completion without a reward");
        };
        self.wanted(text, Some(reward))?;
        Some(example(row, text, Some(reward), Some(place)))
    }

    /// The best completion against the worst that is a text at all.
    fn pair(&mut self, row: &StepRow) -> Option<Example> {
        let texts = row.completions.iter().zip(&row.rewards).enumerate();
        let scored: Vec<(usize, &str, f64)> = texts
            .filter_map(|(place, (text, reward))| Some((place, text.trim(), (*reward)?)))
            .filter(|(_, text, _)| !text.is_empty())
            .collect();
        let worst = scored.iter().min_by(|left, right| left.2.total_cmp(&right.2));
        let best = scored.iter().filter(|(_, text, _)| !self.is_blacklisted(text));
        let best = best.max_by(|left, right| left.2.total_cmp(&right.2).then(right.0.cmp(&left.0)));
        let (Some(&(place, chosen, most)), Some(&(_, rejected, least))) = (best, worst) else {
            return self.leave("a step with nothing to compare");
        };
        self.wanted(chosen, Some(most))?;
        if most - least < self.filter.margin || chosen == rejected {
            return self.leave("a pair closer than the margin");
        }
        let rejected = Some((rejected.to_owned(), least));
        Some(Example { rejected, ..example(row, chosen, Some(most), Some(place)) })
    }

    /// `None`, and counted, for what is blacklisted or earned too little.
    fn wanted(&mut self, text: &str, reward: Option<f64>) -> Option<()> {
        if self.is_blacklisted(text) {
            return self.leave("a blacklisted completion");
        }
        match self.filter.min_reward {
            Some(least) if reward.is_none_or(|reward| reward < least) => self.leave("a reward below --min-reward"),
            _ => Some(()),
        }
    }

    fn is_blacklisted(&self, text: &str) -> bool {
        self.blacklist.iter().any(|phrase| phrase == text)
    }

    /// Counts what is left out.
    fn leave<T>(&mut self, reason: &'static str) -> Option<T> {
        *self.left_out.entry(reason).or_default() += 1;
        None
    }
}

fn example(row: &StepRow, text: &str, reward: Option<f64>, place: Option<usize>) -> Example {
    let scores = row.columns.iter().filter_map(|column| Some((column.name, (*column.raw.get(place?)?)?)));
    Example {
        prompt: row.prompt.clone(),
        completion: text.to_owned(),
        reward,
        rejected: None,
        origin: Origin {
            run_id: row.run.clone(),
            forward: row.forward,
            context: row.context.clone(),
            topic: row.topic.clone(),
            name: row.name.clone(),
            timestamp: row.timestamp,
            uid: place.and_then(|place| row.uids.get(place)).copied(),
            hotkey: place.and_then(|place| row.hotkeys.get(place)).cloned(),
        },
        scores: scores.collect(),
    }
}
