//! Small steps for tests.

use std::sync::Arc;

use openvalidators_messages::{
    Asked, Block, Column, Completion, Embeddings, ForwardId, Hotkey, QueryOutcome, RawScores, STEP_RECORD_VERSION,
    Scoring, StepId, StepName, StepRecord, Uid, rewards::Score,
};

use crate::{
    admission::Admission,
    step::{Inference, Step},
};

pub fn completion(text: &str, answered: bool) -> Completion {
    Completion {
        uid: Uid(0),
        hotkey: Hotkey([0; 32]),
        text: text.to_owned(),
        outcome: if answered { QueryOutcome::Answered } else { QueryOutcome::TimedOut },
        status_code: if answered { 200 } else { 408 },
        status_message: String::new(),
        elapsed_seconds: 1.0,
    }
}

/// Completions that all answered.
pub fn answered(texts: &[String]) -> Vec<Completion> {
    texts.iter().map(|text| completion(text, true)).collect()
}

pub fn column(name: &str, values: Vec<Option<f32>>) -> Column {
    Column { name: name.to_owned(), values }
}

/// A step whose completions answered where `answered`.
pub fn record(answered: &[bool], raw: RawScores) -> StepRecord {
    StepRecord {
        version: STEP_RECORD_VERSION,
        step: StepId { forward: ForwardId(1), index: 0 },
        name: StepName::Augment,
        block: Block(1),
        started_at: 0.0,
        length_seconds: 1.0,
        seed: 0,
        code_version: String::new(),
        source: String::new(),
        prompt: String::new(),
        embedding: None,
        base_text: String::new(),
        asked: answered
            .iter()
            .map(|_| Asked {
                uid: Uid(0),
                hotkey: Hotkey([0; 32]),
                propensity: 1.0,
                uniform_propensity: None,
                origin: Default::default(),
            })
            .collect(),
        completions: answered.iter().map(|&answered| completion("text", answered)).collect(),
        scoring: Scoring::Scored(raw),
        digests: Default::default(),
    }
}

/// Raw scores of the default settings: log-probabilities, and a diversity factor of 1 with these embeddings.
pub fn raw(dpo: &[Option<f32>], embeddings: Option<Embeddings>) -> RawScores {
    RawScores {
        rewards: vec![column("dpo_reward_model", dpo.to_vec())],
        filters: vec![column("diversity_reward_model", dpo.iter().map(|value| value.map(|_| 1.0)).collect())],
        embeddings,
        ..RawScores::default()
    }
}

pub fn embeddings(places: &[usize], rows: &[[f32; 2]]) -> Embeddings {
    Embeddings { model: "encoder".into(), width: 2, completions: places.to_vec(), rows: rows.concat() }
}

/// A step that everybody answered with these texts.
pub fn step(name: &str, prompt: &str, texts: &[String], admission: Admission, inference: &Inference) -> Step {
    Step::new(&score(name, prompt, prompt, &[], answered(texts)), admission, inference.clone())
}

pub fn score(name: &str, prompt: &str, base_text: &str, used: &[String], completions: Vec<Completion>) -> Score {
    Score {
        step: StepId { forward: ForwardId(1), index: 0 },
        name: name.parse().unwrap(),
        prompt: prompt.into(),
        base_text: base_text.into(),
        used: used.into(),
        completions: Arc::from(completions),
    }
}
