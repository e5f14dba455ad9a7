//! Settings of the filters.

use std::path::PathBuf;

use openvalidators_messages::inference::ModelName;
use serde::{Deserialize, Serialize};

/// The relevance filter, `relevance_filter`: a completion passes when it passes every stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelevanceConfig {
    /// Off, every completion passes.
    pub enabled: bool,
    /// The reference has two: `bert-base-uncased` by distance with −0.0246, then `all-mpnet-base-v2` by cosine with 0.3.
    pub stages: Vec<RelevanceStage>,
}

/// One comparison of completion and base text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelevanceStage {
    /// An encoder.
    pub model: ModelName,
    /// What is compared.
    pub measure: Measure,
    /// The least value that passes; what is a good one depends on the model. 0.3, the reference's bound for its sentence
    /// encoder, makes the fewest errors with MiniLM too (`benches/README.md`, "Relevance threshold").
    pub threshold: f32,
}

/// How near a completion is to the base text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The cosine of their embeddings, each cut at the model's limit: −1 to 1.
    Cosine,
    /// The root of the mean squared difference of their embeddings, negated: 0 for the same text. Long texts count whole,
    /// as the mean of their windows.
    NegativeRmse,
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
    /// at that distance MiniLM puts honest completions of one prompt (`benches/README.md`, "Diversity within a step"), and
    /// at 0.01 it blocked one in eight of good miners in the benchmark of attackers, at 0.005 none. Copies are at 0.
    pub batch_midpoint: f32,
    /// Against the history, the distance to the k-th nearest embedding counts.
    pub history_bottom_k: usize,
    /// Embeddings remembered; one of width 384 takes 1.5 KB.
    pub history_rows: usize,
}

/// The filter of hateful and indecent text, `nsfw_filter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NsfwConfig {
    /// Off, every completion passes.
    pub enabled: bool,
    /// A classifier of two labels, harmless first. The reference uses `roberta-hate-speech-dynabench-r4-target`.
    pub model: ModelName,
    /// A window is harmful when the logit of harmful, or that of harmless negated, is above this.
    pub boundary: f32,
}

/// The filter of texts that give orders to whoever reads them, `firewall_filter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirewallConfig {
    /// Off, there is no such filter.
    pub enabled: bool,
    /// A causal model that follows instructions.
    pub model: ModelName,
    /// A file that replaces the wording of `actors/rewards/templates/firewall.txt`: it holds `{prompt}` and `{completion}`
    /// once, and ends where Yes or No is to begin.
    pub template: Option<PathBuf>,
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

// === defaults ===

impl Default for RelevanceConfig {
    fn default() -> Self {
        let model = ModelName::new("all-MiniLM-L6-v2");
        Self { enabled: true, stages: vec![RelevanceStage { model, measure: Measure::Cosine, threshold: 0.3 }] }
    }
}

impl Default for DiversityConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            model: ModelName::new("all-MiniLM-L6-v2"),
            bottom_k: 2,
            batch_midpoint: 0.005,
            history_bottom_k: 2,
            history_rows: 15_000,
        }
    }
}

impl Default for NsfwConfig {
    /// Off: none of the models that are fetched by default is such a classifier.
    fn default() -> Self {
        Self { enabled: false, model: ModelName::new("roberta-hate-speech-dynabench-r4-target"), boundary: -0.5 }
    }
}

impl Default for FirewallConfig {
    /// Off: the model that follows instructions well enough is not fetched by default.
    fn default() -> Self {
        Self { enabled: false, model: ModelName::new("open-llama-7b-open-instruct"), template: None }
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
