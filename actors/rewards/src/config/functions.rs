//! Settings of the reward functions.

use std::path::PathBuf;

use openvalidators_messages::inference::ModelName;
use serde::{Deserialize, Serialize};

/// The log-probability reward, `dpo_reward_model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// A causal model. The reference uses `btlm-3b-8k-base`.
    pub model: ModelName,
    /// 1 is no penalty; above 1, repeated tokens cost (<https://arxiv.org/abs/1909.05858>).
    pub repetition_penalty: f32,
}

/// A reward function that is one reward model: `rlhf_reward_model`, `reciprocate_reward_model`, `dahoas_reward_model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardModelConfig {
    /// A network whose head gives one logit.
    pub model: ModelName,
}

/// The prompt-scored reward, `prompt_reward_model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptConfig {
    /// A causal model that follows instructions. The reference uses `open-llama-7b-open-instruct`.
    pub model: ModelName,
    /// What it is asked.
    pub templates: PromptTemplates,
}

/// Files that replace the wording of `actors/rewards/templates`. Each holds `{prompt}` and `{completion}` once, and ends
/// where the score is to begin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptTemplates {
    /// For summaries.
    pub augment: Option<PathBuf>,
    /// For questions.
    pub followup: Option<PathBuf>,
    /// For answers.
    pub answer: Option<PathBuf>,
}

/// Miners as judges of each other, `network_reward_model`: they are asked what the prompt-scored reward asks its model, in
/// the wording of `rewards.prompt.templates`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Miners asked for a grade of one completion; its author is never among them.
    pub judges: usize,
    /// Completions of a step that are judged, drawn at random. With `judges` it bounds the queries of a step.
    pub completions_per_step: usize,
    /// Queries between two epochs of the chain; when they are spent nothing more is judged.
    pub queries_per_epoch: u64,
    /// What a judge has for its grade.
    pub timeout_seconds: f64,
}

// === defaults ===

impl Default for DpoConfig {
    fn default() -> Self {
        Self { model: ModelName::new("SmolLM2-135M-Instruct"), repetition_penalty: 1.2 }
    }
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self { model: ModelName::new("open-llama-7b-open-instruct"), templates: PromptTemplates::default() }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { judges: 3, completions_per_step: 4, queries_per_epoch: 1_000, timeout_seconds: 8.0 }
    }
}

impl RewardModelConfig {
    /// The reward model of this name.
    pub(super) fn of(model: &str) -> Self {
        Self { model: ModelName::new(model) }
    }
}
