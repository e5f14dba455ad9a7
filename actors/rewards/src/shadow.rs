//! Shadows: candidate reward functions, filters and normalisers, run on live traffic and recorded, without any effect on
//! rewards. One that fails or is slow costs its own numbers and nothing else.
//!
//! A candidate is named in `rewards.shadows` and promoted by taking its place in the configuration: a share in
//! `rewards.weights`, or `enabled` for a filter.

pub mod benchmark;

use std::time::Duration;

use futures::future::join_all;
use openvalidators_messages::{Column, RawScores, Shadow, ShadowStanding, inference::ModelName};
use openvalidators_runtime::{SharedClock, within};

use crate::{
    combination::{Weights, weighted_sums},
    correlation::spearman,
    function::{Filter, RewardFunction, Values},
    normaliser::{COUNT_LIMIT_SCORES, Normalisation},
    step::{AskError, Step},
};

/// A factor below this counts as blocked.
const BLOCKED_BELOW: f32 = 0.5;

/// Normalisers that may be candidates, by name. Those that remember do so in the state of the fold, each for itself.
pub const NORMALISERS: [(&str, Normalisation); 4] = [
    ("robust_normaliser", Normalisation::Robust),
    ("running_normaliser", Normalisation::Running { count_limit: COUNT_LIMIT_SCORES }),
    ("step_normaliser", Normalisation::Step),
    ("rank_normaliser", Normalisation::Rank),
];

/// The normaliser of this name, among those that may be candidates.
#[must_use]
pub fn normaliser(name: &str) -> Option<Normalisation> {
    NORMALISERS.into_iter().find(|(known, _)| *known == name).map(|(_, normalisation)| normalisation)
}

/// A reward function or filter that counts for nothing.
pub enum Candidate {
    /// Its scores become a column without a share, normalised as any other: promoted, it does not begin anew.
    Reward(Box<dyn RewardFunction>),
    /// Its factors are recorded beside the filters.
    Filter(Box<dyn Filter>),
}

/// The candidates of a scorer.
pub struct Shadows {
    candidates: Vec<Candidate>,
    limit: Duration,
    share: f64,
    clock: SharedClock,
}

/// What the candidates said of a step.
#[derive(Default)]
pub struct Said {
    /// Scores of the reward functions that did not fail.
    pub rewards: Vec<Column>,
    /// One note for each candidate.
    pub shadows: Vec<Shadow>,
}

// === impl Candidate ===

impl Candidate {
    /// Its column.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reward(function) => function.name(),
            Self::Filter(filter) => filter.name(),
        }
    }

    /// The models it asks.
    #[must_use]
    pub fn models(&self) -> Vec<ModelName> {
        match self {
            Self::Reward(function) => function.models(),
            Self::Filter(filter) => filter.models(),
        }
    }

    async fn ask(&self, step: &Step) -> Result<Values, AskError> {
        match self {
            Self::Reward(function) => function.score(step).await,
            Self::Filter(filter) => Ok(filter.filter(step).await?.factors),
        }
    }
}

// === impl Shadows ===

impl Shadows {
    /// Each of which has `limit` for a step, and sees this share of its texts.
    #[must_use]
    pub fn new(candidates: Vec<Candidate>, limit: Duration, share: f64, clock: SharedClock) -> Self {
        Self { candidates, limit, share, clock }
    }

    /// Who they are.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// What all of them say of a step, asked at once. Never fails: what failed is noted.
    pub async fn ask(&self, step: &Step) -> Said {
        let mut said = Said::default();
        if self.candidates.is_empty() {
            return said;
        }
        let sample = (self.share < 1.0).then(|| step.sample(self.share));
        let seen = sample.as_ref().unwrap_or(step);
        for (column, shadow) in join_all(self.candidates.iter().map(|candidate| self.ask_one(candidate, seen))).await {
            said.rewards.extend(column);
            said.shadows.push(shadow);
        }
        if let Some(sample) = &sample {
            step.note_judgements(sample.take_judgements());
        }
        said
    }

    async fn ask_one(&self, candidate: &Candidate, step: &Step) -> (Option<Column>, Shadow) {
        let since = self.clock.now();
        let answer = within(&*self.clock, self.limit, candidate.ask(step)).await;
        let seconds = self.clock.now().saturating_sub(since).as_secs_f64();
        let mut shadow = Shadow { name: candidate.name().to_owned(), seconds, factors: Vec::new(), failure: None };
        let values = match answer {
            Ok(Ok(values)) => step.scatter(&values),
            Ok(Err(error)) => {
                shadow.failure = Some(error.to_string());
                return (None, shadow);
            }
            Err(late) => {
                shadow.failure = Some(late.to_string());
                return (None, shadow);
            }
        };
        match candidate {
            Candidate::Reward(_) => (Some(Column { name: shadow.name.clone(), values }), shadow),
            Candidate::Filter(_) => {
                shadow.factors = values;
                (None, shadow)
            }
        }
    }
}

/// What a candidate for the normaliser made of a step.
pub struct Renormalised {
    /// The candidate.
    pub name: &'static str,
    /// The reward columns.
    pub columns: Vec<Column>,
    /// How long it took, where anybody measured.
    pub seconds: Option<f64>,
}

/// How the candidates of a step stand beside what is in force: a pure function of what the fold has in its hands.
#[must_use]
pub fn standings(
    raw: &RawScores,
    weights: &Weights,
    normalised: &[Column],
    filters: &[Column],
    renormalised: &[Renormalised],
) -> Vec<ShadowStanding> {
    if raw.shadows.is_empty() && renormalised.is_empty() {
        return Vec::new();
    }
    let completions = filters.iter().chain(normalised).map(|column| column.values.len()).next().unwrap_or_default();
    let in_force = weighted_sums(weights, normalised, completions);
    let product: Vec<Option<f64>> = (0..completions)
        .map(|place| filters.iter().try_fold(1.0, |product, column| Some(product * f64::from(column.values[place]?))))
        .collect();
    let of_normaliser = |Renormalised { name, columns, seconds }: &Renormalised| {
        let correlation = spearman(&weighted_sums(weights, columns, completions), &in_force);
        ShadowStanding { name: (*name).to_owned(), correlation, blocked: None, seconds: *seconds }
    };
    let standing = |shadow: &Shadow| {
        let name = shadow.name.clone();
        if shadow.factors.is_empty() {
            let column = raw.rewards.iter().find(|column| column.name == shadow.name);
            let correlation = column.and_then(|column| spearman(&widened(&column.values), &in_force));
            return ShadowStanding { name, correlation, blocked: None, seconds: None };
        }
        let there: Vec<f32> = shadow.factors.iter().flatten().copied().collect();
        let blocked = there.iter().filter(|&&factor| factor < BLOCKED_BELOW).count();
        let blocked = (!there.is_empty()).then(|| blocked as f32 / there.len() as f32);
        let correlation = spearman(&widened(&shadow.factors), &product);
        ShadowStanding { name, correlation, blocked, seconds: None }
    };
    raw.shadows.iter().map(standing).chain(renormalised.iter().map(of_normaliser)).collect()
}

fn widened(values: &[Option<f32>]) -> Vec<Option<f64>> {
    values.iter().map(|value| value.map(f64::from)).collect()
}

#[cfg(test)]
mod tests;
