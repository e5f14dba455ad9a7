//! The operator's settings of rewards and filters.

use std::collections::BTreeMap;

use openvalidators_messages::inference::ModelName;
use serde::{Deserialize, Serialize};

use crate::{combination::Weights, registry};

/// How far the sum of the weights may be from 1.
const WEIGHT_SUM_TOLERANCE: f64 = 1e-6;

/// Everything an operator can say about rewards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The share of each reward function, by column name; they must add up to 1. One that is left out, or 0, is not
    /// computed.
    pub weights: Weights,
    /// A completion longer than this earns nothing and reaches no model. Honest ones stay below 2,000.
    pub completion_limit_characters: usize,
    /// A step whose raw scores take longer is unscored.
    pub score_timeout_seconds: u64,
    /// The normalisers and the diversity history are kept in the ledger after so many steps, and on stopping.
    pub snapshot_every_steps: u64,
    /// The log-probability reward.
    pub dpo: DpoConfig,
    /// The relevance filter.
    pub relevance: RelevanceConfig,
    /// The diversity filter.
    pub diversity: DiversityConfig,
    /// The blacklist filter.
    pub blacklist: BlacklistConfig,
    /// The task validator filter.
    pub task_validator: TaskValidatorConfig,
    /// Behaviour of openvalidators 1.2.0 that was given up, for those who must compare with it.
    pub compat: Compat,
}

/// The log-probability reward, `dpo_reward_model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// A causal model. The reference uses `btlm-3b-8k-base`.
    pub model: ModelName,
    /// 1 is no penalty; above 1, repeated tokens cost (<https://arxiv.org/abs/1909.05858>).
    pub repetition_penalty: f32,
}

/// The relevance filter, `relevance_filter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelevanceConfig {
    /// Off, every completion passes.
    pub enabled: bool,
    /// A sentence encoder. The reference uses `all-mpnet-base-v2` (and `bert-base-uncased` before it).
    pub model: ModelName,
    /// The least cosine of completion and base text that passes. 0.3, the reference's bound for its encoder, makes the
    /// fewest errors with MiniLM too (`benches/README.md`, "Relevance threshold").
    pub threshold: f32,
}

/// The diversity filter, `diversity_reward_model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiversityConfig {
    /// Off, every completion passes and nothing is remembered.
    pub enabled: bool,
    /// A sentence encoder. The reference uses `all-mpnet-base-v2`.
    pub model: ModelName,
    /// Within a step, the distance to the k-th nearest completion counts, the completion itself being the first.
    pub bottom_k: usize,
    /// The distance (1 − cosine) within a step at which a completion earns half. The reference's is 0.1 for its encoder;
    /// at that distance MiniLM puts honest completions of one prompt (`benches/README.md`, "Diversity within a step").
    pub batch_midpoint: f32,
    /// Against the history, the distance to the k-th nearest embedding counts.
    pub history_bottom_k: usize,
    /// Embeddings remembered; one of width 384 takes 1.5 KB.
    pub history_rows: usize,
}

/// The blacklist filter, `blacklist_filter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlacklistConfig {
    /// Off, every completion passes.
    pub enabled: bool,
    /// Stock phrases that earn nothing.
    pub phrases: Vec<String>,
}

/// The task validator filter, `task_validator_filter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskValidatorConfig {
    /// Off, every completion passes.
    pub enabled: bool,
}

/// Behaviour of openvalidators 1.2.0 that was given up. Everything is off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compat {
    /// Log-probability rewards may fall below −11: repetitions then reach −100 and flatten everybody else's scores.
    pub dpo_unclamped: bool,
    /// A strongly negative cosine passes the relevance filter like a positive one.
    pub relevance_absolute: bool,
    /// The blacklist compares texts letter by letter: another full stop, and a phrase passes.
    pub blacklist_exact: bool,
    /// The task validator finds its keywords inside words: "data:" contains "a:".
    pub task_validator_substring: bool,
    /// The diversity filter compares with the history from 502 embeddings on, leaves out the oldest 500 (of 500 more
    /// that it remembers), treats empty texts as texts, and blocks the copied with the copy.
    pub diversity_reference: bool,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A weight for a reward function that does not exist.
    #[error("[rewards.weights] names `{name}`, which is no reward function; there are: {known}")]
    UnknownReward {
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
}

// === impl Config ===

impl Config {
    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// For the first one that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (name, &weight) in &self.weights {
            if !registry::reward_names().any(|known| known == name) {
                let known = registry::reward_names().collect::<Vec<_>>().join(", ");
                return Err(ConfigError::UnknownReward { name: name.clone(), known });
            }
            if !(0.0..=1.0).contains(&weight) {
                return Err(ConfigError::BadWeight { name: name.clone(), weight });
            }
        }
        let sum = self.weights.values().fold(0.0, |sum, weight| sum + weight);
        if (sum - 1.0).abs() > WEIGHT_SUM_TOLERANCE {
            return Err(ConfigError::WeightSum { sum });
        }
        let penalty = self.dpo.repetition_penalty;
        let threshold = self.relevance.threshold;
        in_range(
            "completion_limit_characters",
            self.completion_limit_characters,
            self.completion_limit_characters > 0,
            "at least 1",
        )?;
        in_range("score_timeout_seconds", self.score_timeout_seconds, self.score_timeout_seconds > 0, "at least 1")?;
        in_range("snapshot_every_steps", self.snapshot_every_steps, self.snapshot_every_steps > 0, "at least 1")?;
        in_range(
            "dpo.repetition_penalty",
            penalty,
            penalty.is_finite() && penalty >= 1.0,
            "a finite number from 1 up",
        )?;
        in_range("relevance.threshold", threshold, (-1.0..=1.0).contains(&threshold), "a cosine, between -1 and 1")?;
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
        )
    }
}

fn in_range(key: &'static str, found: impl ToString, holds: bool, expected: &'static str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::OutOfRange { key, found: found.to_string(), expected }) }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            weights: BTreeMap::from([("dpo_reward_model".to_owned(), 1.0)]),
            completion_limit_characters: 8_000,
            score_timeout_seconds: 300,
            snapshot_every_steps: 100,
            dpo: DpoConfig::default(),
            relevance: RelevanceConfig::default(),
            diversity: DiversityConfig::default(),
            blacklist: BlacklistConfig::default(),
            task_validator: TaskValidatorConfig::default(),
            compat: Compat::default(),
        }
    }
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self { model: ModelName::new("SmolLM2-135M-Instruct"), repetition_penalty: 1.2 }
    }
}

impl Default for RelevanceConfig {
    fn default() -> Self {
        Self { enabled: true, model: ModelName::new("all-MiniLM-L6-v2"), threshold: 0.3 }
    }
}

impl Default for DiversityConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            model: ModelName::new("all-MiniLM-L6-v2"),
            bottom_k: 2,
            batch_midpoint: 0.01,
            history_bottom_k: 2,
            history_rows: 15_000,
        }
    }
}

impl Default for BlacklistConfig {
    fn default() -> Self {
        Self { enabled: true, phrases: vec!["That is an excellent question.".to_owned()] }
    }
}

impl Default for TaskValidatorConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        let message = refused(|config| _ = config.weights.insert("rlhf".into(), 0.0));
        assert!(message.contains("`rlhf`") && message.contains("dpo_reward_model"), "{message}");
        assert!(refused(|config| _ = config.weights.insert("dpo_reward_model".into(), 0.9)).contains("add up to 0.9"));
        assert!(refused(|config| _ = config.weights.insert("dpo_reward_model".into(), f64::NAN)).contains("NaN"));
        assert!(refused(|config| config.weights.clear()).contains("add up to 0"));
        assert!(refused(|config| config.relevance.threshold = 1.5).contains("relevance.threshold is 1.5"));
        assert!(refused(|config| config.dpo.repetition_penalty = f32::INFINITY).contains("repetition_penalty"));
        assert!(refused(|config| config.diversity.batch_midpoint = 0.0).contains("batch_midpoint is 0"));
        assert!(refused(|config| config.diversity.bottom_k = 0).contains("bottom_k"));
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let error = serde_json::from_str::<Config>(r#"{"relevance": {"treshold": 0.1}}"#).unwrap_err().to_string();
        assert!(error.contains("treshold"), "{error}");
    }
}
