//! A settled step: the input that is appended to the ledger, and the outcome folded from it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Block, Completion, Hotkey, Origin, StepId, StepName, Uid};

/// The version written into every [`StepRecord`]; raised when a reader of the old shape would misread the new one.
pub const STEP_RECORD_VERSION: u16 = 1;

/// Everything that went into a step and cannot be computed again: what the ledger appends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// [`STEP_RECORD_VERSION`] of the writer.
    pub version: u16,
    /// Which step of which forward.
    pub step: StepId,
    /// What was asked for.
    pub name: StepName,
    /// The block known when the step began.
    pub block: Block,
    /// Wall clock when the step began, seconds since 1970.
    pub started_at: f64,
    /// From the choice of miners until the raw scores were there.
    pub length_seconds: f64,
    /// The root seed of the run: with the step id it gives every random choice again.
    pub seed: u64,
    /// `openvalidators` version that wrote this.
    pub code_version: String,
    /// Where the context of the forward came from.
    pub source: String,
    /// The prompt as sent to the miners.
    pub prompt: String,
    /// The prompt as the router read it: with it the router's state can be folded again without a model. `None` when the
    /// router read no prompts, or no model gave it an embedding in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<PromptEmbedding>,
    /// What relevance compares with: the text the prompt was made about, before the template; for augment, as in the
    /// reference, the prompt itself.
    pub base_text: String,
    /// The miners asked, with the odds of each having been chosen.
    pub asked: Vec<Asked>,
    /// One for each miner asked, in the same order.
    pub completions: Vec<Completion>,
    /// Raw scores, or why there are none.
    pub scoring: Scoring,
    /// sha256 of each model and tokenizer file that took part, by name.
    pub digests: BTreeMap<String, String>,
}

/// A miner that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Its place.
    pub uid: Uid,
    /// Who held it.
    pub hotkey: Hotkey,
    /// The probability with which the router chose it for this step, in 0..=1.
    pub propensity: f64,
    /// The probability with which uniform routing would have chosen it for this step; `None` in records of uniform routing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uniform_propensity: Option<f64>,
    /// Where it came from then: rewards go by it.
    #[serde(default, skip_serializing_if = "Origin::is_unknown")]
    pub origin: Origin,
}

/// A prompt as a row of numbers, stored as little-endian f32 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptEmbedding {
    /// The model and pooling that made it: rows of different ones are not comparable.
    pub encoder: String,
    /// The row.
    #[serde(with = "f32_hex_shared")]
    pub row: Arc<[f32]>,
}

/// Whether a step could be scored at all. A step that could not is never scored zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// Raw scores of every reward and filter.
    Scored(RawScores),
    /// No scores: a model was unreachable, out of memory, shut down.
    Unscored {
        /// For people and logs.
        reason: String,
    },
}

/// What the models said, before any state touches it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RawScores {
    /// One column for each reward function, by the reference's name.
    pub rewards: Vec<Column>,
    /// One column for each filter: 1 passes, 0 blocks, or a factor between.
    pub filters: Vec<Column>,
    /// New embeddings that the diversity filter will remember.
    pub embeddings: Option<Embeddings>,
    /// What candidates that count for nothing said of the step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<Shadow>,
    /// Grades that miners gave each other's completions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judgements: Vec<Judgement>,
}

/// What a candidate reward function or filter made of a step, beside what counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// The column it has, or would have.
    pub name: String,
    /// How long it took, seconds.
    pub seconds: f64,
    /// The factors of a filter, one for each completion. Empty for a reward function: its raw scores are a column of
    /// [`RawScores::rewards`] that has no share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub factors: Vec<Option<f32>>,
    /// Why it said nothing; then there are no numbers of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What one miner said when it was asked to grade another's completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The completion's place in the step.
    pub completion: usize,
    /// Who judged.
    pub judge: Hotkey,
    /// From 0 to 10; `None` when the call failed, or its answer is no grade.
    pub grade: Option<u8>,
}

/// One number for each completion of a step, in their order; `None` where the completion failed or had no finite score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The reward's or filter's name.
    pub name: String,
    /// Aligned with the completions.
    pub values: Vec<Option<f32>>,
}

/// Sentence embeddings of the successful completions, row after row, stored as little-endian f32 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embeddings {
    /// The model that made them: rows of different models are not comparable.
    pub model: String,
    /// Length of a row.
    pub width: usize,
    /// Index into the completions, one for each row.
    pub completions: Vec<usize>,
    /// `completions.len() * width` numbers.
    #[serde(with = "f32_hex")]
    pub rows: Vec<f32>,
}

/// What the folds made of a [`StepRecord`]: rebuildable, hence a derived row of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// The step counts.
    Scored(Scored),
    /// The step counts for nobody.
    Unscored {
        /// As in [`Scoring::Unscored`], or why the fold refused it.
        reason: String,
    },
}

/// Final numbers of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Each reward column after the running normaliser.
    pub normalised: Vec<Column>,
    /// Each filter column as applied (state-dependent ones differ from the raw column).
    pub filters: Vec<Column>,
    /// Weighted sum of rewards × product of filters, one for each completion; 0 for a failed one.
    pub rewards: Vec<Reward>,
    /// Index of the completion that becomes the next prompt; `None` when no completion earned more than 0.
    pub best: Option<usize>,
    /// Loss of the gating head on this step, before it learned from it; `None` where it did not, or nobody knows any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gating_loss: Option<f32>,
    /// How candidates that count for nothing stand beside what counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<ShadowStanding>,
}

/// How a candidate stands in one step beside what it would take the place of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShadowStanding {
    /// The candidate.
    pub name: String,
    /// Spearman's rank correlation, in -1..=1, over the completions that both have a number for: a reward function's scores
    /// with the weighted sum of the rewards, a filter's factors with the product of the filters, a normaliser's weighted sum
    /// with that in force. `None` where fewer than three completions can be compared, or one side does not vary.
    pub correlation: Option<f32>,
    /// The share of the completions it has a factor for that a filter would leave less than half of; `None` of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<f32>,
    /// How long a normaliser took, seconds, where the step was folded as it was made: what reward functions and filters
    /// took is in [`Shadow::seconds`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// A final reward: finite by construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct Reward(f32);

/// A NaN or infinity where a score was due.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a reward must be finite, found {0}")]
pub struct NotFinite(pub f32);

// === impl Asked ===

impl Asked {
    /// How much this miner's reward stands for where uniform routing is what averages should be of: the probability of
    /// uniform routing over the router's (Horvitz & Thompson 1952). Below 1 for a miner sought out for this prompt, above
    /// 1 for one asked against the odds; 1 under uniform routing, and where a record says nothing usable.
    #[must_use]
    pub fn importance(&self) -> f64 {
        let uniform = self.uniform_propensity.unwrap_or(self.propensity);
        let ratio = uniform / self.propensity;
        if ratio.is_finite() && ratio > 0.0 { ratio } else { 1.0 }
    }
}

// === impl StepOutcome ===

impl StepOutcome {
    /// The final numbers, if the step counts.
    #[must_use]
    pub fn scored(&self) -> Option<&Scored> {
        match self {
            Self::Scored(scored) => Some(scored),
            Self::Unscored { .. } => None,
        }
    }

    /// The same outcome, with this as the loss of the gating head. What rewards make of a step is without one.
    #[must_use]
    pub fn with_gating_loss(mut self, loss: Option<f32>) -> Self {
        if let Self::Scored(scored) = &mut self {
            scored.gating_loss = loss;
        }
        self
    }

    /// Whether rewards made the same of the step, whatever gating made of it, and whichever candidates stood beside it: those
    /// of a configuration come and go, and count for nothing.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        let counted = |outcome: &Self| {
            let mut counted = outcome.clone().with_gating_loss(None);
            if let Self::Scored(scored) = &mut counted {
                scored.shadows.clear();
            }
            counted
        };
        counted(self) == counted(other)
    }
}

// === impl Reward ===

impl Reward {
    /// No reward.
    pub const ZERO: Self = Self(0.0);

    /// # Errors
    /// When the value is NaN or infinite.
    pub fn new(value: f32) -> Result<Self, NotFinite> {
        if value.is_finite() { Ok(Self(value)) } else { Err(NotFinite(value)) }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

impl TryFrom<f32> for Reward {
    type Error = NotFinite;

    fn try_from(value: f32) -> Result<Self, Self::Error> {
        Self::new(value)
    }
}

impl From<Reward> for f32 {
    fn from(reward: Reward) -> Self {
        reward.0
    }
}

// === Embeddings on disk ===

/// Exact and half the size of decimal digits; JSON has no bytes.
mod f32_hex {
    use std::{borrow::Cow, fmt::Write};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(rows: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(rows.len() * 8);
        for byte in rows.iter().flat_map(|value| value.to_le_bytes()) {
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        if text.len() % 8 != 0 || !text.is_ascii() {
            return Err(D::Error::custom("embeddings must be groups of 8 hexadecimal digits"));
        }
        (0..text.len() / 8)
            .map(|i| {
                u32::from_str_radix(&text[i * 8..i * 8 + 8], 16)
                    .map(|bits| f32::from_bits(bits.swap_bytes()))
                    .map_err(D::Error::custom)
            })
            .collect()
    }
}

/// [`f32_hex`] of a row that is shared.
mod f32_hex_shared {
    use std::sync::Arc;

    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(row: &Arc<[f32]>, serializer: S) -> Result<S::Ok, S::Error> {
        super::f32_hex::serialize(row, serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[f32]>, D::Error> {
        super::f32_hex::deserialize(deserializer).map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_is_the_ratio_of_the_odds_and_1_where_nothing_is_known() {
        let asked = |propensity, uniform_propensity| {
            let asked = Asked {
                uid: Uid(1),
                hotkey: Hotkey([1; 32]),
                propensity,
                uniform_propensity,
                origin: Origin::default(),
            };
            asked.importance()
        };
        assert_eq!(asked(0.1, Some(0.4)), 4.0);
        assert_eq!(asked(1.0, Some(0.25)), 0.25);
        for (propensity, uniform) in
            [(0.3, None), (0.0, Some(0.5)), (f64::NAN, Some(0.5)), (0.5, Some(0.0)), (0.5, Some(f64::NAN))]
        {
            assert_eq!(asked(propensity, uniform), 1.0);
        }
    }

    /// Ledgers of earlier versions hold records without these fields. What is there comes back.
    #[test]
    fn a_record_without_routing_is_read() {
        let asked: Asked = serde_json::from_str(&format!(
            r#"{{"uid": 3, "hotkey": {}, "propensity": 0.5}}"#,
            serde_json::to_string(&Hotkey([1; 32])).unwrap()
        ))
        .unwrap();
        assert_eq!((asked.uniform_propensity, asked.importance(), asked.origin), (None, 1.0, Origin::default()));
        let owned = Asked { origin: Origin::new(Some(Hotkey([2; 32])), [203, 0, 113, 7].into()), ..asked };
        assert_eq!(serde_json::from_str::<Asked>(&serde_json::to_string(&owned).unwrap()).unwrap(), owned);
        let kept = PromptEmbedding { encoder: "m, mean".into(), row: [0.1, -2.5].into() };
        assert_eq!(serde_json::from_str::<PromptEmbedding>(&serde_json::to_string(&kept).unwrap()).unwrap(), kept);
    }

    #[test]
    fn a_reward_refuses_what_is_not_finite() {
        assert!(Reward::new(f32::NAN).is_err());
        assert!(Reward::new(f32::INFINITY).is_err());
        assert!(Reward::new(0.25).is_ok());
        assert!(serde_json::from_str::<Reward>("1e999").is_err());
    }

    #[test]
    fn embeddings_survive_json_bit_for_bit() {
        let rows = vec![0.1, -3.25e-38, f32::MAX, -0.0];
        let kept = Embeddings { model: "m".into(), width: 2, completions: vec![0, 3], rows };
        let json = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Embeddings>(&json).unwrap(), kept);
        assert!(serde_json::from_str::<Embeddings>(&json.replace("cdcc", "zzzz")).is_err());
    }
}
