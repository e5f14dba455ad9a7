//! The operator's settings of rewards and filters.

mod compat;
mod filters;
mod functions;

use std::collections::{BTreeMap, BTreeSet};

pub use compat::Compat;
pub use filters::{
    BlacklistConfig, DiversityConfig, Measure, NsfwConfig, RelevanceConfig, RelevanceStage, TaskValidatorConfig,
};
pub use functions::{DpoConfig, PromptConfig, PromptTemplates, RewardModelConfig};
use serde::{Deserialize, Serialize};

use crate::{admission::Admission, combination::Weights, dpo, prompt, registry};

/// How far the sum of the weights may be from 1.
const WEIGHT_SUM_TOLERANCE: f64 = 1e-6;

/// Everything an operator can say about rewards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The share of each reward function, by column name; they must add up to 1. One that is left out, or 0, is not
    /// computed, unless it is among `shadows`.
    pub weights: Weights,
    /// Reward functions that are computed and recorded whatever their share.
    pub shadows: BTreeSet<String>,
    /// A completion longer than this earns nothing and reaches no model. Honest ones stay below 2,000.
    pub completion_limit_characters: usize,
    /// A step whose raw scores take longer is unscored.
    pub score_timeout_seconds: u64,
    /// The normalisers and the diversity history are kept in the ledger after so many steps, and on stopping.
    pub snapshot_every_steps: u64,
    /// The log-probability reward.
    pub dpo: DpoConfig,
    /// The reward model trained on human preferences.
    pub rlhf: RewardModelConfig,
    /// The reward model trained on ranked conversations.
    pub reciprocate: RewardModelConfig,
    /// The reward model whose score of the completion alone is subtracted.
    pub dahoas: RewardModelConfig,
    /// The prompt-scored reward.
    pub prompt: PromptConfig,
    /// The relevance filter.
    pub relevance: RelevanceConfig,
    /// The diversity filter.
    pub diversity: DiversityConfig,
    /// The filter of hateful and indecent text.
    pub nsfw: NsfwConfig,
    /// The blacklist filter.
    pub blacklist: BlacklistConfig,
    /// The task validator filter.
    pub task_validator: TaskValidatorConfig,
    /// Behaviour of openvalidators 1.2.0 that was given up, for those who must compare with it.
    pub compat: Compat,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A name of no reward function.
    #[error("[rewards] {key} names `{name}`, which is no reward function; there are: {known}")]
    UnknownReward {
        /// Where.
        key: &'static str,
        /// The name found.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A negative or non-finite weight.
    #[error("[rewards.weights] gives `{name}` the weight {weight}; a weight is a share between 0 and 1")]
    BadWeight {
        /// Whose.
        name: String,
        /// What was found.
        weight: f64,
    },
    /// The shares are not shares of one whole.
    #[error("[rewards.weights] add up to {sum}; they must add up to 1")]
    WeightSum {
        /// What they add up to.
        sum: f64,
    },
    /// A number out of its range.
    #[error("[rewards] {key} is {found}; it must be {expected}")]
    OutOfRange {
        /// The key below `[rewards]`.
        key: &'static str,
        /// What was found.
        found: String,
        /// What may be.
        expected: &'static str,
    },
    /// A template of the prompt-scored reward.
    #[error("[rewards.prompt.templates] {0}")]
    Template(#[from] prompt::TemplateError),
}

// === impl Config ===

impl Config {
    /// Whether a reward function is computed: it has a share, or is a shadow.
    #[must_use]
    pub fn computes(&self, reward: &str) -> bool {
        self.weights.get(reward).is_some_and(|&weight| weight > 0.0) || self.shadows.contains(reward)
    }

    /// The rules by which a text is let in.
    #[must_use]
    pub fn admission(&self) -> Admission {
        Admission { limit_characters: self.completion_limit_characters, verbatim: self.compat.texts_verbatim }
    }

    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// For the first one that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let weighted = self.weights.keys().map(|name| ("weights", name));
        let mut named = weighted.chain(self.shadows.iter().map(|name| ("shadows", name)));
        if let Some((key, name)) = named.find(|(_, name)| !registry::reward_names().any(|known| known == *name)) {
            let known = registry::reward_names().collect::<Vec<_>>().join(", ");
            return Err(ConfigError::UnknownReward { key, name: name.clone(), known });
        }
        if let Some((name, &weight)) = self.weights.iter().find(|(_, weight)| !(0.0..=1.0).contains(*weight)) {
            return Err(ConfigError::BadWeight { name: name.clone(), weight });
        }
        let sum = self.weights.values().fold(0.0, |sum, weight| sum + weight);
        if (sum - 1.0).abs() > WEIGHT_SUM_TOLERANCE {
            return Err(ConfigError::WeightSum { sum });
        }
        in_range(
            "completion_limit_characters",
            self.completion_limit_characters,
            self.completion_limit_characters > 0,
            "at least 1",
        )?;
        in_range("score_timeout_seconds", self.score_timeout_seconds, self.score_timeout_seconds > 0, "at least 1")?;
        in_range("snapshot_every_steps", self.snapshot_every_steps, self.snapshot_every_steps > 0, "at least 1")?;
        let penalty = self.dpo.repetition_penalty;
        in_range(
            "dpo.repetition_penalty",
            penalty,
            penalty.is_finite() && penalty >= 1.0,
            "a finite number from 1 up",
        )?;
        prompt::Prompt::new(&self.prompt, self.compat)?;
        self.check_filters()
    }

    fn check_filters(&self) -> Result<(), ConfigError> {
        let RelevanceConfig { enabled, stages } = &self.relevance;
        in_range(
            "relevance.stages",
            "empty",
            !enabled || !stages.is_empty(),
            "one stage or more; or turn the filter off",
        )?;
        for RelevanceStage { measure, threshold, .. } in stages {
            let (holds, expected) = match measure {
                Measure::Cosine => ((-1.0..=1.0).contains(threshold), "a cosine, between -1 and 1"),
                Measure::NegativeRmse => ((-2.0..=0.0).contains(threshold), "a distance negated, between -2 and 0"),
            };
            in_range("relevance.stages threshold", threshold, holds, expected)?;
        }
        let midpoint = self.diversity.batch_midpoint;
        in_range(
            "diversity.batch_midpoint",
            midpoint,
            midpoint > 0.0 && midpoint <= 1.0,
            "a distance above 0, at most 1",
        )?;
        in_range("diversity.bottom_k", self.diversity.bottom_k, self.diversity.bottom_k > 0, "at least 1")?;
        in_range(
            "diversity.history_bottom_k",
            self.diversity.history_bottom_k,
            self.diversity.history_bottom_k > 0,
            "at least 1",
        )?;
        in_range("nsfw.boundary", self.nsfw.boundary, self.nsfw.boundary.is_finite(), "a finite number")
    }
}

fn in_range(key: &'static str, found: impl ToString, holds: bool, expected: &'static str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::OutOfRange { key, found: found.to_string(), expected }) }
}

impl Default for Config {
    /// The local network's: two small models.
    fn default() -> Self {
        let share = |name: &'static str| (name.to_owned(), if name == dpo::NAME { 1.0 } else { 0.0 });
        Self {
            weights: registry::reward_names().map(share).collect::<BTreeMap<_, _>>(),
            shadows: BTreeSet::new(),
            completion_limit_characters: 8_000,
            score_timeout_seconds: 300,
            snapshot_every_steps: 100,
            dpo: DpoConfig::default(),
            rlhf: RewardModelConfig::of("reward-model-deberta-v3-large-v2"),
            reciprocate: RewardModelConfig::of("gpt-j_rm_format-oa"),
            dahoas: RewardModelConfig::of("gptj-rm-static"),
            prompt: PromptConfig::default(),
            relevance: RelevanceConfig::default(),
            diversity: DiversityConfig::default(),
            nsfw: NsfwConfig::default(),
            blacklist: BlacklistConfig::default(),
            task_validator: TaskValidatorConfig::default(),
            compat: Compat::default(),
        }
    }
}

#[cfg(test)]
mod tests;
