//! The operator's settings of rewards and filters.

mod compat;
mod defences;
mod filters;
mod functions;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

pub use compat::Compat;
pub use defences::Defences;
pub use filters::{
    BlacklistConfig, DiversityConfig, FirewallConfig, Measure, NsfwConfig, RelevanceConfig, RelevanceStage,
    TaskValidatorConfig,
};
pub use functions::{DpoConfig, NetworkConfig, PromptConfig, PromptTemplates, RewardModelConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    admission::Admission,
    blacklist,
    combination::Weights,
    diversity, dpo, firewall, nsfw, prompt, registry, relevance,
    shadow::{
        self,
        benchmark::{Benchmark, BenchmarkError},
    },
    task_validator,
};

/// How far the sum of the weights may be from 1.
const WEIGHT_SUM_TOLERANCE: f64 = 1e-6;

/// Most judges of one completion, and most completions of a step that are judged.
const MOST_JUDGES: usize = 25;
const MOST_JUDGED: usize = 256;

/// Everything an operator can say about rewards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The share of each reward function, by column name; they must add up to 1. One that is left out, or 0, is not
    /// computed, unless it is among `shadows`.
    pub weights: Weights,
    /// Candidates: reward functions, filters and normalisers that are computed and recorded beside what is in force, and
    /// count for nothing.
    pub shadows: BTreeSet<String>,
    /// A shadow that takes longer says nothing of that step, which waits no longer for it.
    pub shadow_timeout_seconds: u64,
    /// The share of a step's completions that shadows see, drawn at random: what a second opinion may cost.
    pub shadow_share: f64,
    /// What attackers would earn with each candidate in force, as `bench adversary --candidates` wrote it: shown beside what
    /// candidates do.
    pub shadow_benchmark: Option<PathBuf>,
    /// A reward function among the shadows that bounds rewards: where it saw a completion, the lesser of its normalised score
    /// and the weighted sum counts. A miner that found out how to please the one model would have to please the other too.
    pub bounded_by: Option<String>,
    /// A normaliser that was promoted, by the name it had among the shadows; without it the usual one.
    pub normaliser: Option<String>,
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
    /// Miners as judges of each other.
    pub network: NetworkConfig,
    /// The relevance filter.
    pub relevance: RelevanceConfig,
    /// The diversity filter.
    pub diversity: DiversityConfig,
    /// The filter of hateful and indecent text.
    pub nsfw: NsfwConfig,
    /// The filter of texts that give orders.
    pub firewall: FirewallConfig,
    /// The blacklist filter.
    pub blacklist: BlacklistConfig,
    /// The task validator filter.
    pub task_validator: TaskValidatorConfig,
    /// Defences that openvalidators 1.2.0 did not have.
    pub defences: Defences,
    /// Behaviour of openvalidators 1.2.0 that was given up, for those who must compare with it.
    pub compat: Compat,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A name of nothing that may stand there.
    #[error("[rewards] {key} names `{name}`, which is none of those there are: {known}")]
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
    /// A template of the prompt-scored reward, or of the firewall filter.
    #[error("[rewards.prompt.templates] or [rewards.firewall] template: {0}")]
    Template(#[from] prompt::TemplateError),
    /// The file of `shadow_benchmark`.
    #[error("[rewards] shadow_benchmark: {0}")]
    Benchmark(#[from] BenchmarkError),
}

// === impl Config ===

impl Config {
    /// Whether a reward function counts.
    #[must_use]
    pub fn has_share(&self, reward: &str) -> bool {
        self.weights.get(reward).is_some_and(|&weight| weight > 0.0)
    }

    /// Whether a reward function is computed: it has a share, or is a shadow.
    #[must_use]
    pub fn computes(&self, reward: &str) -> bool {
        self.has_share(reward) || self.shadows.contains(reward)
    }

    /// Whether the filter `name` is computed: it is `enabled`, or a shadow.
    #[must_use]
    pub fn filters_by(&self, name: &str, enabled: bool) -> bool {
        enabled || self.shadows.contains(name)
    }

    /// The benchmark of candidates, where there is one.
    ///
    /// # Errors
    /// When its file is of no use.
    pub fn benchmark(&self) -> Result<Option<Benchmark>, BenchmarkError> {
        self.shadow_benchmark.as_deref().map(Benchmark::read).transpose()
    }

    /// These settings with a candidate in the place of what it would replace: a reward function with the whole weight, a
    /// filter turned on, a normaliser in force.
    #[must_use]
    pub fn promoting(&self, candidate: &str) -> Self {
        let mut promoted = self.clone();
        if registry::reward_names().any(|name| name == candidate) {
            promoted.weights = [(candidate.to_owned(), 1.0)].into();
        }
        if shadow::normaliser(candidate).is_some() {
            promoted.normaliser = Some(candidate.to_owned());
        }
        for (name, enabled) in [
            (blacklist::NAME, &mut promoted.blacklist.enabled),
            (task_validator::NAME, &mut promoted.task_validator.enabled),
            (relevance::NAME, &mut promoted.relevance.enabled),
            (diversity::NAME, &mut promoted.diversity.enabled),
            (nsfw::NAME, &mut promoted.nsfw.enabled),
            (firewall::NAME, &mut promoted.firewall.enabled),
        ] {
            *enabled |= name == candidate;
        }
        promoted
    }

    /// sha256 of what is in force, in hexadecimal: settings of one digest judge alike, whatever their candidates.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut in_force = self.clone();
        in_force.shadows.retain(|name| self.bounded_by.as_ref() == Some(name));
        if self.bounded_by.is_none() {
            in_force.shadow_share = 1.0;
        }
        in_force.shadow_benchmark = None;
        (in_force.shadow_timeout_seconds, in_force.score_timeout_seconds, in_force.snapshot_every_steps) = (0, 0, 0);
        let written = serde_json::to_vec(&in_force).unwrap_or_default();
        Sha256::digest(written).iter().map(|byte| format!("{byte:02x}")).collect()
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
        known("weights", self.weights.keys(), registry::reward_names().collect())?;
        known("normaliser", self.normaliser.iter(), shadow::NORMALISERS.map(|(name, _)| name).to_vec())?;
        known("shadows", self.shadows.iter(), registry::candidate_names().collect())?;
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
        let (shadow, score) = (self.shadow_timeout_seconds, self.score_timeout_seconds);
        in_range(
            "shadow_timeout_seconds",
            shadow,
            shadow > 0 && (self.shadows.is_empty() || shadow < score),
            "at least 1 and, where there are shadows, below score_timeout_seconds",
        )?;
        let share = self.shadow_share;
        in_range("shadow_share", share, share > 0.0 && share <= 1.0, "a share above 0, at most 1")?;
        if let Some(second) = &self.bounded_by {
            let is_second = self.shadows.contains(second) && registry::reward_names().any(|name| name == second);
            in_range("bounded_by", second, is_second, "a reward function that is named in shadows too")?;
        }
        prompt::Prompt::new(&self.prompt, self.compat)?;
        firewall::Firewall::new(&self.firewall)?;
        self.benchmark()?;
        self.check_network()?;
        self.check_filters()
    }

    fn check_network(&self) -> Result<(), ConfigError> {
        let NetworkConfig { judges, completions_per_step, queries_per_epoch, timeout_seconds } = self.network;
        in_range("network.judges", judges, (1..=MOST_JUDGES).contains(&judges), "from 1 to 25")?;
        in_range(
            "network.completions_per_step",
            completions_per_step,
            (1..=MOST_JUDGED).contains(&completions_per_step),
            "from 1 to 256",
        )?;
        let case = judges as u64;
        in_range("network.queries_per_epoch", queries_per_epoch, queries_per_epoch >= case, "at least network.judges")?;
        let holds = (0.1..=600.0).contains(&timeout_seconds);
        in_range("network.timeout_seconds", timeout_seconds, holds, "a time from 0.1 to 600 seconds")
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

/// Refuses a name that is not among those known.
fn known<'a>(
    key: &'static str,
    mut names: impl Iterator<Item = &'a String>,
    known: Vec<&str>,
) -> Result<(), ConfigError> {
    match names.find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(ConfigError::UnknownReward { key, name: name.clone(), known: known.join(", ") }),
        None => Ok(()),
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
            shadow_timeout_seconds: 60,
            shadow_share: 1.0,
            shadow_benchmark: None,
            bounded_by: None,
            normaliser: None,
            completion_limit_characters: 8_000,
            score_timeout_seconds: 300,
            snapshot_every_steps: 100,
            dpo: DpoConfig::default(),
            rlhf: RewardModelConfig::of("reward-model-deberta-v3-large-v2"),
            reciprocate: RewardModelConfig::of("gpt-j_rm_format-oa"),
            dahoas: RewardModelConfig::of("gptj-rm-static"),
            prompt: PromptConfig::default(),
            network: NetworkConfig::default(),
            relevance: RelevanceConfig::default(),
            diversity: DiversityConfig::default(),
            nsfw: NsfwConfig::default(),
            firewall: FirewallConfig::default(),
            blacklist: BlacklistConfig::default(),
            task_validator: TaskValidatorConfig::default(),
            defences: Defences::default(),
            compat: Compat::default(),
        }
    }
}

#[cfg(test)]
mod tests;
