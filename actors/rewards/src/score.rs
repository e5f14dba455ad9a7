//! Raw scores of a step: every reward function and filter asked at once. Touches no state.

use std::{collections::BTreeMap, time::Duration};

use futures::future::{try_join_all, try_join3};
use openvalidators_messages::{
    Column, Embeddings, RawScores,
    inference::{LoadedModel, ModelName, Models},
    rewards::{ScoreSheet, Unscored},
};
use openvalidators_runtime::SharedClock;

use crate::{
    admission::Admission,
    config::{Config, ConfigError},
    function::{Filter, Filtered, Memory, RewardFunction},
    registry,
    shadow::{Candidate, Shadows},
    step::{Inference, Step},
};

/// Why a step without a single successful completion has no scores.
const NOBODY_ANSWERED: &str = "nobody answered";

/// The configured reward functions and filters.
pub struct Scorer {
    rewards: Vec<Box<dyn RewardFunction>>,
    filters: Vec<Box<dyn Filter>>,
    shadows: Shadows,
    admission: Admission,
    silence_counts: bool,
    inference: Inference,
}

impl Scorer {
    /// As configured.
    ///
    /// # Errors
    /// When a reward function cannot be made as configured.
    pub fn new(config: &Config, inference: Inference, clock: SharedClock) -> Result<Self, ConfigError> {
        let limit = Duration::from_secs(config.shadow_timeout_seconds);
        Ok(Self {
            rewards: registry::rewards(config)?,
            filters: registry::filters(config)?,
            shadows: Shadows::new(registry::shadows(config)?, limit, config.shadow_share, clock),
            admission: config.admission(),
            silence_counts: config.compat.nobody_answered_zero,
            inference,
        })
    }

    /// What a [`Step`] is made with: the rules of admission, and the models.
    #[must_use]
    pub fn admission(&self) -> (Admission, Inference) {
        (self.admission, self.inference.clone())
    }

    /// The raw scores of a step. Without any text to score no model is asked.
    ///
    /// # Errors
    /// When one model cannot say what it thinks, or no completion succeeded: then the step is unscored as a whole, for
    /// zeros would be a judgement. A step nobody answered says more about our network than about so many miners.
    pub async fn score(&self, step: &Step) -> Result<ScoreSheet, Unscored> {
        if step.texts.is_empty() && step.refused.is_empty() && !self.silence_counts {
            return Err(Unscored { reason: NOBODY_ANSWERED.to_owned() });
        }
        if step.texts.is_empty() {
            let empty = |name: &str| Column { name: name.to_owned(), values: vec![None; step.completions] };
            let shadows = self.shadows.candidates().iter().filter(|shadow| matches!(shadow, Candidate::Reward(_)));
            let names = self.rewards.iter().map(|function| function.name()).chain(shadows.map(Candidate::name));
            let rewards = in_order(names.map(empty).collect());
            let filters = self.filters.iter().map(|filter| empty(filter.name())).collect();
            let raw = RawScores { rewards, filters, ..RawScores::default() };
            return Ok(ScoreSheet { raw, digests: BTreeMap::new() });
        }
        let rewards = try_join_all(self.rewards.iter().map(|function| self.reward(&**function, step)));
        let filters = try_join_all(self.filters.iter().map(|filter| self.filter(&**filter, step)));
        let shadows = async { Ok(self.shadows.ask(step).await) };
        let (mut rewards, filtered, mut said) = try_join3(rewards, filters, shadows).await?;
        rewards.append(&mut said.rewards);
        let mut filters = Vec::with_capacity(filtered.len());
        let mut embeddings = None;
        for (column, memory) in filtered {
            filters.push(column);
            embeddings = embeddings.or(memory);
        }
        let (rewards, judgements) = (in_order(rewards), step.take_judgements());
        let raw = RawScores { rewards, filters, embeddings, shadows: said.shadows, judgements };
        Ok(ScoreSheet { raw, digests: self.digests().await? })
    }

    async fn reward(&self, function: &dyn RewardFunction, step: &Step) -> Result<Column, Unscored> {
        let name = function.name();
        let values = function.score(step).await.map_err(|error| unscored(name, error))?;
        Ok(Column { name: name.to_owned(), values: step.scatter(&values) })
    }

    async fn filter(&self, filter: &dyn Filter, step: &Step) -> Result<(Column, Option<Embeddings>), Unscored> {
        let name = filter.name();
        let Filtered { factors, memory } = filter.filter(step).await.map_err(|error| unscored(name, error))?;
        let column = Column { name: name.to_owned(), values: step.scatter(&factors) };
        Ok((column, memory.map(|memory| embeddings(step, memory))))
    }

    /// sha256 of every file a column depends on, under `COLUMN/MODEL/FILE`.
    ///
    /// # Errors
    /// When inference does not say which models it has loaded, or not all that are asked.
    pub async fn digests(&self) -> Result<BTreeMap<String, String>, Unscored> {
        let users = self.rewards.iter().map(|function| (function.name(), function.models()));
        let users = users.chain(self.filters.iter().map(|filter| (filter.name(), filter.models())));
        let users = users.map(|user| (user, true));
        let shadows = self.shadows.candidates().iter().map(|shadow| ((shadow.name(), shadow.models()), false));
        let used: Vec<(&str, ModelName, bool)> = users
            .chain(shadows)
            .flat_map(|((name, models), needed)| models.into_iter().map(move |model| (name, model, needed)))
            .collect();
        if used.is_empty() {
            return Ok(BTreeMap::new());
        }
        let loaded = self.inference.models.call(Models).await.map_err(|error| unscored("the list of models", error))?;
        let mut digests = BTreeMap::new();
        for (column, model, needed) in used {
            let Some(LoadedModel { digests: files, .. }) = loaded.iter().find(|loaded| loaded.model == model) else {
                if !needed {
                    continue;
                }
                return Err(unscored(column, format!("model `{model}` answered, but is not among the loaded ones")));
            };
            digests.extend(files.iter().map(|(file, digest)| (format!("{column}/{model}/{file}"), digest.clone())));
        }
        Ok(digests)
    }
}

/// In the order of the registry, whether a column counts or not.
fn in_order(mut rewards: Vec<Column>) -> Vec<Column> {
    rewards.sort_by_key(|column| registry::place_of(&column.name));
    rewards
}

fn unscored(what: &str, error: impl std::fmt::Display) -> Unscored {
    Unscored { reason: format!("{what}: {error}") }
}

fn embeddings(step: &Step, memory: Memory) -> Embeddings {
    let Memory { model, width, rows } = memory;
    let (mut completions, mut flat) = (Vec::new(), Vec::with_capacity(rows.len() * width));
    for (&place, row) in step.places.iter().zip(&rows) {
        if let Some(row) = row {
            completions.push(place);
            flat.extend_from_slice(row);
        }
    }
    Embeddings { model: model.to_string(), width, completions, rows: flat }
}

#[cfg(test)]
mod tests;
