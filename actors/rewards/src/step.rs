//! What reward functions and filters see: the texts of one step, and the models they may ask.

use std::{collections::HashMap, sync::Arc};

use actix::Message;
use openvalidators_messages::{
    Hotkey, Judgement, StepId, StepKind,
    inference::{
        Classify, Composed, Embed, Generate, InferenceError, Input, LogProb, LogProbability, Logits, ModelName, Models,
        Overflow, Pooling, Row,
    },
    rewards::Score,
};
use openvalidators_runtime::{CallError, Mailbox, Seed};
use parking_lot::Mutex;
use rand::seq::index;
use tokio::sync::OnceCell;

use crate::{
    admission::{Admission, TooLong},
    function::Values,
    network::Network,
};

/// The ways into inference.
#[derive(Clone)]
pub struct Inference {
    /// Sentence embeddings.
    pub embed: Mailbox<Embed>,
    /// Log-probabilities of completions.
    pub log_prob: Mailbox<LogProb>,
    /// What classifiers and reward models say.
    pub classify: Mailbox<Classify>,
    /// Texts continued.
    pub generate: Mailbox<Generate>,
    /// Which models are loaded, for the record of a step.
    pub models: Mailbox<Models>,
}

/// The texts of one step, admitted, and the models.
pub struct Step {
    /// Which step: random choices are drawn from it.
    pub id: StepId,
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
    /// For each text, who wrote it.
    pub authors: Vec<Hotkey>,
    /// For each text, the seconds after which it was here, by our own clock.
    pub arrived: Vec<f64>,
    /// Completions in the step, failed ones included.
    pub completions: usize,
    /// Successful completions that were not admitted.
    pub refused: Vec<TooLong>,
    inference: Inference,
    network: Option<Network>,
    embedded: Mutex<HashMap<(ModelName, Pooling), Once<Embedded>>>,
    judgements: Mutex<Vec<Judgement>>,
}

/// Made by whoever comes first, for all who come.
type Once<T> = Arc<OnceCell<Arc<T>>>;

/// The texts of a step as one encoder sees them: rows of length 1, where [`Pooling::MeanNormalised`] was asked for.
#[derive(Debug)]
pub struct Embedded {
    /// Length of a row.
    pub width: usize,
    /// The base text; `None` when its row had no direction.
    pub base_text: Option<Vec<f32>>,
    /// One for each text of the step; `None` where a row was not finite, or zero, or the device failed on it alone.
    pub texts: Vec<Option<Vec<f32>>>,
}

/// What is asked of a model, for the words of an error.
struct Asked<'a> {
    model: &'a ModelName,
    what: &'static str,
    answers: usize,
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
    /// Miners could not be asked to judge.
    #[error("asking miners for grades: {0}")]
    Judges(&'static str),
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
    pub fn new(score: &Score, admission: Admission, inference: Inference) -> Self {
        let (mut texts, mut places, mut arrived, mut refused) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut authors = Vec::new();
        for (place, completion) in score.completions.iter().enumerate().filter(|(_, c)| c.is_success()) {
            match admission.admit(&completion.text) {
                Ok(text) => {
                    texts.push(text.into());
                    places.push(place);
                    authors.push(completion.hotkey);
                    arrived.push(completion.elapsed_seconds);
                }
                Err(too_long) => refused.push(too_long),
            }
        }
        Self {
            id: score.step,
            kind: score.name.kind(),
            prompt: Arc::clone(&score.prompt),
            base_text: Arc::clone(&score.base_text),
            used: Arc::clone(&score.used),
            texts,
            places,
            authors,
            arrived,
            completions: score.completions.len(),
            refused,
            inference,
            network: None,
            embedded: Mutex::default(),
            judgements: Mutex::default(),
        }
    }

    /// A step of this share of its texts, one at least, drawn from the step; what is said of it has the places of the whole.
    #[must_use]
    pub fn sample(&self, share: f64) -> Self {
        let count =
            ((share * self.texts.len() as f64).round() as usize).clamp(1.min(self.texts.len()), self.texts.len());
        let seed = self.network.as_ref().map_or(Seed(0), Network::seed);
        let mut rng = seed.rng("rewards/shadows", &[self.id.forward.0, u64::from(self.id.index)]);
        let mut chosen = index::sample(&mut rng, self.texts.len(), count).into_vec();
        chosen.sort_unstable();
        Self {
            id: self.id,
            kind: self.kind,
            prompt: Arc::clone(&self.prompt),
            base_text: Arc::clone(&self.base_text),
            used: Arc::clone(&self.used),
            texts: chosen.iter().map(|&at| Arc::clone(&self.texts[at])).collect(),
            places: chosen.iter().map(|&at| self.places[at]).collect(),
            authors: chosen.iter().map(|&at| self.authors[at]).collect(),
            arrived: chosen.iter().map(|&at| self.arrived[at]).collect(),
            completions: self.completions,
            refused: Vec::new(),
            inference: self.inference.clone(),
            network: self.network.clone(),
            embedded: Mutex::default(),
            judgements: Mutex::default(),
        }
    }

    /// With a way to miners who judge.
    #[must_use]
    pub fn asking(self, network: Option<Network>) -> Self {
        Self { network, ..self }
    }

    /// The way to miners who judge, in a validator that runs.
    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Keeps grades of miners for the record.
    pub fn note_judgements(&self, judgements: Vec<Judgement>) {
        self.judgements.lock().extend(judgements);
    }

    /// The grades kept so far, for the record.
    #[must_use]
    pub fn take_judgements(&self) -> Vec<Judgement> {
        std::mem::take(&mut self.judgements.lock())
    }

    /// The base text and all texts through an encoder: asked for once, however many filters want them.
    ///
    /// # Errors
    /// When the model does not answer, fails on the base text, or answers with other than one row for each text.
    pub async fn embedded(&self, model: &ModelName, pooling: Pooling) -> Result<Arc<Embedded>, AskError> {
        let cell = Arc::clone(self.embedded.lock().entry((model.clone(), pooling)).or_default());
        cell.get_or_try_init(|| self.embed(model, pooling)).await.cloned()
    }

    async fn embed(&self, model: &ModelName, pooling: Pooling) -> Result<Arc<Embedded>, AskError> {
        let texts: Vec<_> = std::iter::once(&self.base_text).chain(&self.texts).cloned().collect();
        let asked = Asked { model, what: "embeddings", answers: texts.len() };
        let rows = asked.rows(&self.inference.embed, Embed { model: model.clone(), texts, pooling }).await?;
        // Every text is compared with the base text: without its row there is nothing to say of any.
        if let Some(Err(failed)) = rows.first() {
            let reason = format!("the base text: {failed}");
            return Err(InferenceError::Device { model: model.clone(), reason }.into());
        }
        let mut found = rows.iter().flatten();
        let width = found.next().map_or(0, |row| row.len());
        if width == 0 || found.any(|row| row.len() != width) {
            return Err(asked.wrong_shape("rows of one width", format!("rows, the first {width} wide")));
        }
        let usable = match pooling {
            Pooling::MeanNormalised => unit,
            Pooling::Mean | Pooling::MeanOfWindows | Pooling::LastToken => finite,
        };
        let mut rows = rows.iter().map(|row| usable(row.as_ref().ok()?));
        Ok(Arc::new(Embedded { width, base_text: rows.next().flatten(), texts: rows.collect() }))
    }

    /// Rows of length 1 of texts that are no completions; `None` where a row has no direction or the device failed on it.
    ///
    /// # Errors
    /// When the model does not answer, or not with one row for each text.
    pub async fn embed_others(
        &self,
        model: &ModelName,
        texts: Vec<Arc<str>>,
    ) -> Result<Vec<Option<Vec<f32>>>, AskError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let asked = Asked { model, what: "embeddings", answers: texts.len() };
        let ask = Embed { model: model.clone(), texts, pooling: Pooling::MeanNormalised };
        let rows = asked.rows(&self.inference.embed, ask).await?;
        Ok(rows.into_iter().map(|row| unit(&row.ok()?)).collect())
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
        let asked = Asked { model, what: "log-probabilities", answers: completions.len() };
        if completions.is_empty() {
            return Ok(Vec::new());
        }
        let prompt = Arc::clone(&self.prompt);
        let ask = LogProb { model: model.clone(), prompt, completions, repetition_penalty };
        Ok(asked.rows(&self.inference.log_prob, ask).await?.into_iter().map(Result::ok).collect())
    }

    /// The logits of a classifier of `labels` labels for each of these inputs; `None` where the device failed on it.
    ///
    /// # Errors
    /// When the model does not answer, or not with so many logits for each window of each input.
    pub async fn classify(
        &self,
        model: &ModelName,
        inputs: Vec<Input>,
        overflow: Overflow,
        labels: usize,
    ) -> Result<Vec<Option<Logits>>, AskError> {
        let asked = Asked { model, what: "logits", answers: inputs.len() };
        let ask = Classify { model: model.clone(), inputs, overflow };
        let rows = asked.rows(&self.inference.classify, ask).await?;
        let windows = rows.iter().flatten().flatten();
        if let Some(window) = windows.map(|window| window.len()).find(|&logits| logits != labels) {
            return Err(asked.wrong_shape(format!("{labels} logits for each input"), format!("{window}")));
        }
        Ok(rows.into_iter().map(Result::ok).collect())
    }

    /// The single logit of a reward model for each of these inputs; `None` where the device failed on it.
    ///
    /// # Errors
    /// When the model does not answer, or not with one logit for each input.
    pub async fn judge(&self, model: &ModelName, inputs: Vec<Input>, overflow: Overflow) -> Result<Values, AskError> {
        let rows = self.classify(model, inputs, overflow, 1).await?;
        Ok(rows.iter().map(|windows| windows.as_ref()?.first()?.first().copied()).collect())
    }

    /// How a causal model goes on after each of these prompts: prompt and new tokens as one text; `None` where the device
    /// failed on it.
    ///
    /// # Errors
    /// When the model does not answer, or not for each prompt.
    pub async fn generate(
        &self,
        model: &ModelName,
        prompts: Vec<Composed>,
        max_new_tokens: usize,
    ) -> Result<Vec<Option<Arc<str>>>, AskError> {
        let asked = Asked { model, what: "a text", answers: prompts.len() };
        let ask = Generate { model: model.clone(), prompts, max_new_tokens };
        let rows = asked.rows(&self.inference.generate, ask).await?;
        Ok(rows.into_iter().map(|row| row.map(|generated| generated.whole).ok()).collect())
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

// === impl Asked ===

impl Asked<'_> {
    /// Sends a request and waits for as many answers as are due; one may be missing by itself.
    async fn rows<M, T>(&self, mailbox: &Mailbox<M>, request: M) -> Result<Vec<Row<T>>, AskError>
    where
        M: Message<Result = Result<Vec<Row<T>>, InferenceError>> + Send + 'static,
        T: Send + 'static,
    {
        let call_failed = |error| AskError::Call { model: self.model.clone(), asked: self.what, error };
        let rows = mailbox.call(request).await.map_err(call_failed)??;
        if rows.len() != self.answers {
            return Err(self.wrong_shape(format!("{} answers", self.answers), format!("{}", rows.len())));
        }
        Ok(rows)
    }

    fn wrong_shape(&self, expected: impl Into<String>, found: impl Into<String>) -> AskError {
        let (model, asked) = (self.model.clone(), self.what);
        AskError::WrongShape { model, asked, expected: expected.into(), found: found.into() }
    }
}

/// The row as it is, unless it is not finite.
fn finite(row: &[f32]) -> Option<Vec<f32>> {
    row.iter().all(|value| value.is_finite()).then(|| row.to_vec())
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
