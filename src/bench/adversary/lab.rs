//! An attacker's laboratory: reward models are public, so it may ask them as often as it likes, offline.

use std::sync::Arc;

use openvalidators_messages::inference::{Embed, LogProb, ModelName, Pooling};
use openvalidators_rewards::{Config, Inference};

/// The models a validator judges by, in the hands of a miner.
pub struct Lab {
    inference: Inference,
    encoder: ModelName,
    judge: ModelName,
    repetition_penalty: f32,
}

// === impl Lab ===

impl Lab {
    /// With the models of these settings.
    #[must_use]
    pub fn new(config: &Config, inference: Inference) -> Self {
        let (encoder, judge) = (config.diversity.model.clone(), config.dpo.model.clone());
        Self { inference, encoder, judge, repetition_penalty: config.dpo.repetition_penalty }
    }

    /// The cosine of each text with `target`; −1 where the model gives no row.
    ///
    /// # Errors
    /// When the model does not answer.
    pub async fn similarities(&self, target: &str, texts: &[String]) -> anyhow::Result<Vec<f32>> {
        let asked: Vec<Arc<str>> =
            std::iter::once(target).chain(texts.iter().map(String::as_str)).map(Arc::from).collect();
        let request = Embed { model: self.encoder.clone(), texts: asked, pooling: Pooling::MeanNormalised };
        let rows = self.inference.embed.call(request).await??;
        let Some((Ok(target), rows)) = rows.split_first() else { return Ok(vec![-1.0; texts.len()]) };
        let cosine = |row: &[f32]| row.iter().zip(target.iter()).map(|(a, b)| a * b).sum();
        Ok(rows.iter().map(|row| row.as_ref().map_or(-1.0, |row| cosine(row))).collect())
    }

    /// The mean log-probability of each text after `prompt`, as the log-probability reward has it; the lowest number
    /// where there is none.
    ///
    /// # Errors
    /// When the model does not answer.
    pub async fn log_probabilities(&self, prompt: &str, texts: &[String]) -> anyhow::Result<Vec<f32>> {
        let request = LogProb {
            model: self.judge.clone(),
            prompt: prompt.into(),
            completions: texts.iter().map(|text| text.as_str().into()).collect(),
            repetition_penalty: self.repetition_penalty,
        };
        let rows = self.inference.log_prob.call(request).await??;
        Ok(rows.iter().map(|row| row.as_ref().ok().and_then(|row| row.mean).unwrap_or(f32::MIN)).collect())
    }
}

/// The place of the highest.
#[must_use]
pub fn highest(values: &[f32]) -> Option<usize> {
    (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]))
}
