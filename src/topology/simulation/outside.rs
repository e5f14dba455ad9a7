//! What is not simulated but made up: miners and models, both functions of the seed and the texts.

use std::{sync::Arc, time::Duration};

use actix::{Actor, Handler, ResponseFuture};
use async_trait::async_trait;
use openvalidators_inference::{Engine, Kind};
use openvalidators_messages::{
    Completion, QueryOutcome,
    dendrite::Query,
    gating::Routed,
    inference::{
        Classify, Embed, Generate, Generated, InferenceError, LoadedModel, LogProb, LogProbability, Logits, ModelName,
        Row,
    },
};
use openvalidators_runtime::{Envelope, Seed, SharedClock};
use rand::Rng;

/// What miners say, and when: by seed, hotkey and step.
pub(super) struct Miners {
    pub seed: Seed,
    pub clock: SharedClock,
    /// What a query takes on average.
    pub query_seconds: f64,
}

impl Actor for Miners {
    type Context = actix::Context<Self>;
}

impl Handler<Envelope<Query>> for Miners {
    type Result = ResponseFuture<Vec<Completion>>;

    fn handle(&mut self, envelope: Envelope<Query>, _: &mut Self::Context) -> Self::Result {
        let (query, place) = envelope.open();
        let completions: Vec<_> = query.miners.iter().map(|miner| self.completion(&query, miner)).collect();
        let longest = completions.iter().map(|completion| completion.elapsed_seconds).fold(0.0, f64::max);
        let waiting = self.clock.sleep(Duration::from_secs_f64(longest));
        Box::pin(async move {
            waiting.await;
            drop(place);
            completions
        })
    }
}

impl Miners {
    fn completion(&self, query: &Query, miner: &Routed) -> Completion {
        let key = u64::from_le_bytes(miner.hotkey.0[..8].try_into().unwrap_or_default());
        let mut random = self.seed.rng("miner", &[key, query.step.forward.0, query.step.index.into()]);
        // A miner's character is its own, whatever the step.
        let mut character = self.seed.rng("character", &[key]);
        let (fails, words) = (character.random_range(0.0..0.6), character.random_range(2..12));
        let is_answered = !random.random_bool(fails);
        let outcome = match random.random_range(0..4) {
            _ if is_answered => QueryOutcome::Answered,
            0 => QueryOutcome::Unreachable,
            1 => QueryOutcome::BadBody,
            2 => QueryOutcome::Refused,
            _ => QueryOutcome::TimedOut,
        };
        let text: Vec<String> = (0..words).map(|_| format!("word{}", random.random_range(0..500))).collect();
        let elapsed = match outcome {
            QueryOutcome::TimedOut => query.timeout.as_secs_f64(),
            _ => self.query_seconds * random.random_range(0.5..1.5),
        };
        Completion {
            uid: miner.uid,
            hotkey: miner.hotkey,
            text: if is_answered { text.join(" ") } else { String::new() },
            outcome,
            status_code: if is_answered { 200 } else { 500 },
            status_message: String::new(),
            elapsed_seconds: elapsed,
        }
    }
}

/// Numbers that are functions of the texts.
pub(super) struct Models;

fn number(text: &str, purpose: u64) -> f32 {
    let sum = text.bytes().fold(purpose, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    (sum >> 40) as f32 / (1_u64 << 24) as f32
}

#[async_trait]
impl Engine for Models {
    async fn embed(&self, request: Embed) -> Result<Vec<Row<Arc<[f32]>>>, InferenceError> {
        let row = |text: &Arc<str>| -> Arc<[f32]> {
            let row: Vec<f32> = (0..8).map(|place| number(text, place) - 0.5).collect();
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.into_iter().map(|value| value / length).collect()
        };
        Ok(request.texts.iter().map(|text| Ok(row(text))).collect())
    }

    async fn log_prob(&self, request: LogProb) -> Result<Vec<Row<LogProbability>>, InferenceError> {
        let said = |text: &Arc<str>| LogProbability { mean: Some(-4.0 * number(text, 99)), tokens: 3 };
        Ok(request.completions.iter().map(|text| Ok(said(text))).collect())
    }

    async fn classify(&self, _: Classify) -> Result<Vec<Row<Logits>>, InferenceError> {
        Err(InferenceError::Closed)
    }

    async fn generate(&self, _: Generate) -> Result<Vec<Row<Generated>>, InferenceError> {
        Err(InferenceError::Closed)
    }

    async fn models(&self) -> Vec<LoadedModel> {
        let loaded = |model: &str| LoadedModel { model: ModelName::new(model), digests: Vec::new() };
        vec![loaded("SmolLM2-135M-Instruct"), loaded("all-MiniLM-L6-v2")]
    }

    async fn kind(&self, _: &ModelName) -> Option<Kind> {
        None
    }
}
