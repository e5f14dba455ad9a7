//! What reward functions and filters see: the texts of one step, and the models they may ask.

use std::{collections::HashMap, sync::Arc};

use openvalidators_messages::{
    StepKind,
    inference::{Embed, InferenceError, LogProb, LogProbability, ModelName, Models, Pooling},
    rewards::Score,
};
use openvalidators_runtime::{CallError, Mailbox};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::admission::{TooLong, admit};

/// The ways into inference.
#[derive(Clone)]
pub struct Inference {
    /// Sentence embeddings.
    pub embed: Mailbox<Embed>,
    /// Log-probabilities of completions.
    pub log_prob: Mailbox<LogProb>,
    /// Which models are loaded, for the record of a step.
    pub models: Mailbox<Models>,
}

/// The texts of one step, admitted, and the models.
pub struct Step {
    /// What was asked for.
    pub kind: StepKind,
    /// The prompt as sent.
    pub prompt: Arc<str>,
    /// The text the prompt was made about.
    pub base_text: Arc<str>,
    /// Questions and answers used before in this forward.
    pub used: Arc<[String]>,
    /// The texts to score: of the completions that succeeded and were admitted.
    pub texts: Vec<Arc<str>>,
    /// For each text, the index of its completion.
    pub places: Vec<usize>,
    /// For each text, the seconds after which it was here, by our own clock.
    pub arrived: Vec<f64>,
    /// Completions in the step, failed ones included.
    pub completions: usize,
    /// Successful completions that were not admitted.
    pub refused: Vec<TooLong>,
    inference: Inference,
    embedded: Mutex<HashMap<ModelName, Arc<OnceCell<Arc<Embedded>>>>>,
}

/// The texts of a step as one encoder sees them: rows of length 1.
#[derive(Debug)]
pub struct Embedded {
    /// Length of a row.
    pub width: usize,
    /// The base text; `None` when its row had no direction.
    pub base_text: Option<Vec<f32>>,
    /// One for each text of the step; `None` where a row was not finite, or zero, or the device failed on it alone.
    pub texts: Vec<Option<Vec<f32>>>,
}

/// A model did not answer, or not what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// The request did not get through.
    #[error("asking model `{model}` for {asked}: {error}")]
    Call {
        /// Which.
        model: ModelName,
        /// The kind of request.
        asked: &'static str,
        /// What happened to the message.
        error: CallError,
    },
    /// Inference said no.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// The answer has the wrong shape.
    #[error("asking model `{model}` for {asked}: expected {expected}, found {found}")]
    WrongShape {
        /// Which.
        model: ModelName,
        /// The kind of request.
        asked: &'static str,
        /// The shape due.
        expected: String,
        /// The shape that came.
        found: String,
    },
}

// === impl Step ===

impl Step {
    /// Admits the texts of a step.
    #[must_use]
    pub fn new(score: &Score, completion_limit_characters: usize, inference: Inference) -> Self {
        let (mut texts, mut places, mut arrived, mut refused) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (place, completion) in score.completions.iter().enumerate().filter(|(_, c)| c.is_success()) {
            match admit(&completion.text, completion_limit_characters) {
                Ok(text) => {
                    texts.push(text.into());
                    places.push(place);
                    arrived.push(completion.elapsed_seconds);
                }
                Err(too_long) => refused.push(too_long),
            }
        }
        Self {
            kind: score.name.kind(),
            prompt: Arc::clone(&score.prompt),
            base_text: Arc::clone(&score.base_text),
            used: Arc::clone(&score.used),
            texts,
            places,
            arrived,
            completions: score.completions.len(),
            refused,
            inference,
            embedded: Mutex::default(),
        }
    }

    /// The base text and all texts through an encoder: asked for once, however many filters want them.
    ///
    /// # Errors
    /// When the model does not answer, fails on the base text, or answers with other than one row for each text.
    pub async fn embedded(&self, model: &ModelName) -> Result<Arc<Embedded>, AskError> {
        let cell = Arc::clone(self.embedded.lock().entry(model.clone()).or_default());
        cell.get_or_try_init(|| self.embed(model)).await.cloned()
    }

    async fn embed(&self, model: &ModelName) -> Result<Arc<Embedded>, AskError> {
        const ASKED: &str = "embeddings";
        let texts: Vec<_> = std::iter::once(&self.base_text).chain(&self.texts).cloned().collect();
        let due = texts.len();
        let ask = Embed { model: model.clone(), texts, pooling: Pooling::MeanNormalised };
        let call_failed = |error| AskError::Call { model: model.clone(), asked: ASKED, error };
        let rows = self.inference.embed.call(ask).await.map_err(call_failed)??;
        // Every text is compared with the base text: without its row there is nothing to say of any.
        if let Some(Err(failed)) = rows.first() {
            let reason = format!("the base text: {failed}");
            return Err(InferenceError::Device { model: model.clone(), reason }.into());
        }
        let mut found = rows.iter().flatten();
        let width = found.next().map_or(0, |row| row.len());
        if rows.len() != due || width == 0 || found.any(|row| row.len() != width) {
            return Err(AskError::WrongShape {
                model: model.clone(),
                asked: ASKED,
                expected: format!("{due} rows of one width"),
                found: format!("{} rows, the first {width} wide", rows.len()),
            });
        }
        let mut rows = rows.iter().map(|row| unit(row.as_ref().ok()?));
        Ok(Arc::new(Embedded { width, base_text: rows.next().flatten(), texts: rows.collect() }))
    }

    /// The mean log-probability of each of these completions after the prompt, through a causal model; `None` where the
    /// device failed on a completion alone.
    ///
    /// # Errors
    /// When the model does not answer, or not with one number for each completion.
    pub async fn log_probabilities(
        &self,
        model: &ModelName,
        completions: Vec<Arc<str>>,
        repetition_penalty: f32,
    ) -> Result<Vec<Option<LogProbability>>, AskError> {
        const ASKED: &str = "log-probabilities";
        let due = completions.len();
        if due == 0 {
            return Ok(Vec::new());
        }
        let ask = LogProb { model: model.clone(), prompt: Arc::clone(&self.prompt), completions, repetition_penalty };
        let call_failed = |error| AskError::Call { model: model.clone(), asked: ASKED, error };
        let answers = self.inference.log_prob.call(ask).await.map_err(call_failed)??;
        if answers.len() != due {
            return Err(AskError::WrongShape {
                model: model.clone(),
                asked: ASKED,
                expected: format!("{due} numbers"),
                found: format!("{}", answers.len()),
            });
        }
        Ok(answers.into_iter().map(Result::ok).collect())
    }

    /// Values of the texts, put at the places of their completions.
    #[must_use]
    pub fn scatter(&self, values: &[Option<f32>]) -> Vec<Option<f32>> {
        let mut scattered = vec![None; self.completions];
        for (&place, &value) in self.places.iter().zip(values) {
            scattered[place] = value.filter(|value| value.is_finite());
        }
        scattered
    }
}

/// The row scaled to length 1, unless it has no direction.
fn unit(row: &[f32]) -> Option<Vec<f32>> {
    let length = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    (length.is_finite() && length > 0.0).then(|| row.iter().map(|&value| (f64::from(value) / length) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_direction_has_no_unit() {
        assert_eq!(unit(&[3.0, 4.0]), Some(vec![0.6, 0.8]));
        assert_eq!(unit(&[0.0, 0.0]), None);
        assert_eq!(unit(&[f32::NAN, 1.0]), None);
        assert_eq!(unit(&[f32::INFINITY, 1.0]), None);
        assert!(unit(&[f32::MAX, f32::MAX]).is_some());
    }
}
