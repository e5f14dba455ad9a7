//! How probable a causal model finds the completion after the prompt: `reward/dpo.py` of the reference (the reward of
//! direct preference optimisation, <https://arxiv.org/abs/2305.18290>, with a reference model alone).
//!
//! The reference asks BTLM-3B; the model here is the operator's choice.

use async_trait::async_trait;
use openvalidators_messages::inference::{InferenceError, LogProbability, ModelName};

use crate::{
    config::{Compat, DpoConfig},
    function::{RewardFunction, Values},
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "dpo_reward_model";

/// What a completion gets that is too short, adds no token of its own, or has no finite score. That the *prompt* fills
/// the model is no completion's fault: it is an error, and the step is unscored. e^−11 is less than one
/// part in 50,257: worse than a token drawn blindly from the vocabulary.
const FLOOR: f32 = -11.0;

/// A completion of so many characters or fewer is too short to be judged by its tokens.
const TOO_SHORT_CHARACTERS: usize = 5;

/// The log-probability reward.
pub struct Dpo {
    model: ModelName,
    repetition_penalty: f32,
    compat: Compat,
}

impl Dpo {
    /// As configured.
    #[must_use]
    pub fn new(config: &DpoConfig, compat: Compat) -> Self {
        let DpoConfig { model, repetition_penalty } = config.clone();
        Self { model, repetition_penalty, compat }
    }

    fn reward(&self, answer: LogProbability) -> f32 {
        match answer.mean.filter(|mean| mean.is_finite()) {
            None => FLOOR,
            Some(mean) if self.compat.dpo_unclamped => mean,
            Some(mean) => mean.max(FLOOR),
        }
    }
}

#[async_trait(?Send)]
impl RewardFunction for Dpo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        vec![self.model.clone()]
    }

    async fn score(&self, step: &Step) -> Result<Values, AskError> {
        let judged = |text: &str| text.chars().nth(TOO_SHORT_CHARACTERS).is_some();
        let asked = step.texts.iter().filter(|text| judged(text)).cloned().collect();
        let mut answers = match step.log_probabilities(&self.model, asked, self.repetition_penalty).await {
            Err(AskError::Inference(InferenceError::PromptTooLong { .. })) if self.compat.dpo_long_prompt_floor => {
                return Ok(vec![Some(FLOOR); step.texts.len()]);
            }
            answers => answers?.into_iter(),
        };
        let mut reward = |text: &str| match judged(text) {
            true => answers.next().flatten().map(|answer| self.reward(answer)),
            false => Some(FLOOR),
        };
        Ok(step.texts.iter().map(|text| reward(text)).collect())
    }
}
