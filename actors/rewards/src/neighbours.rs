//! Inference for tests: mailboxes that answer from closures and record what they were asked.

use std::sync::Arc;

use openvalidators_messages::inference::{
    Classify, Composed, Embed, Generate, Generated, InferenceError, Input, LoadedModel, LogProb, LogProbability,
    Logits, ModelName, Models, Part, Row, RowFailed,
};
use openvalidators_runtime::testing::{Recording, recording_mailbox};

use crate::step::Inference;

/// Inference, and what it was asked.
pub struct Neighbours {
    pub inference: Inference,
    pub embeds: Recording<Embed>,
    pub log_probs: Recording<LogProb>,
    pub classifies: Recording<Classify>,
    pub generates: Recording<Generate>,
}

/// The answer for one row.
type Of<I, T> = Box<dyn Fn(&I) -> T>;

/// What inference says of one text.
pub struct Answers {
    pub embed: Of<str, Vec<f32>>,
    pub log_prob: Of<str, Option<f32>>,
    pub classify: Of<Input, Row<Logits>>,
    pub generate: Of<Composed, Row<Generated>>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            embed: Box::new(any_row),
            log_prob: Box::new(|_| Some(-2.0)),
            classify: Box::new(|_| Ok(vec![[0.5].into()])),
            generate: Box::new(|prompt| Ok(Generated { ids: Vec::new(), whole: written(prompt).into() })),
        }
    }
}

/// An encoder and a causal model.
pub fn neighbours(
    embed: impl Fn(&str) -> Vec<f32> + 'static,
    log_prob: impl Fn(&str) -> Option<f32> + 'static,
) -> Neighbours {
    Answers { embed: Box::new(embed), log_prob: Box::new(log_prob), ..Answers::default() }.neighbours()
}

impl Answers {
    pub fn neighbours(self) -> Neighbours {
        let Self { embed, log_prob, classify, generate } = self;
        let (embed, embeds) =
            recording_mailbox(move |ask: &Embed| Ok(ask.texts.iter().map(|text| Ok(embed(text).into())).collect()));
        let (log_prob, log_probs) = recording_mailbox(move |ask: &LogProb| {
            let answer = |text: &Arc<str>| Ok(LogProbability { mean: log_prob(text), tokens: 1 });
            Ok(ask.completions.iter().map(answer).collect())
        });
        let (classify, classifies) =
            recording_mailbox(move |ask: &Classify| Ok(ask.inputs.iter().map(&classify).collect()));
        let (generate, generates) =
            recording_mailbox(move |ask: &Generate| Ok(ask.prompts.iter().map(&generate).collect()));
        let names = ["SmolLM2-135M-Instruct", "all-MiniLM-L6-v2", "judge", "bert", "mpnet"];
        let (models, _) = recording_mailbox(move |_: &Models| names.map(loaded).to_vec());
        let inference = Inference { embed, log_prob, classify, generate, models };
        Neighbours { inference, embeds, log_probs, classifies, generates }
    }
}

pub fn loaded(model: &str) -> LoadedModel {
    LoadedModel { model: ModelName::new(model), digests: vec![("weights".into(), format!("sha of {model}"))] }
}

/// Texts point apart, each by its bytes.
pub fn any_row(text: &str) -> Vec<f32> {
    let mut row = vec![1.0; 8];
    text.bytes().enumerate().for_each(|(place, byte)| row[place % 8] += f32::from(byte));
    row
}

/// The device fails on this text alone.
pub fn failed() -> RowFailed {
    RowFailed { reason: "out of memory".into() }
}

/// A composed text, without whose words they are.
pub fn written(text: &Composed) -> String {
    let piece = |part: &Part| match part {
        Part::Ours(text) | Part::Theirs(text) => text.to_string(),
    };
    text.0.iter().map(piece).collect()
}

/// A composed text with the words of others in brackets.
pub fn marked(text: &Composed) -> String {
    let piece = |part: &Part| match part {
        Part::Ours(text) => text.to_string(),
        Part::Theirs(text) => format!("⟦{text}⟧"),
    };
    text.0.iter().map(piece).collect()
}

/// The device fails on the request.
pub fn device_failed(model: &str) -> InferenceError {
    InferenceError::Device { model: ModelName::new(model), reason: "out of memory".into() }
}
