//! A step to score, and what scoring it asks of each model, in one order of work or another.

use std::{fmt, sync::Arc};

use anyhow::Context;
use openvalidators_inference::{Engine, synthetic::word};
use openvalidators_messages::inference::{
    Classify, Composed, Embed, Input, LogProb, ModelName, Overflow, Part as Piece, Pooling, Row,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::cost::Load;

/// A prompt and its completions, of words that are one token each.
#[derive(Clone, Debug)]
pub struct Step {
    /// The prompt.
    pub prompt: Arc<str>,
    /// What the miners say; no two say the same.
    pub completions: Vec<Arc<str>>,
    prompt_tokens: usize,
    completion_tokens: usize,
}

/// A reward or filters that share a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The log-probability of completions.
    Dpo,
    /// The reward model that reads pairs.
    Rlhf,
    /// The reward model that reads conversations.
    Reciprocate,
    /// The two filters that compare embeddings.
    Relevance,
    /// The filter of hateful text.
    Nsfw,
}

/// An order of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As openvalidators 1.2.0 works: completion by completion, the prompt again for each, logits at every position; only
    /// the embeddings of the diversity filter in one batch.
    OneByOne,
    /// The same rows in batches, as a server that shares nothing between rows computes them.
    Batched,
    /// What the validator asks: prompts and embeddings shared.
    Shared,
    /// As [`Order::Shared`], text by text: the same numbers, to compare.
    Alone,
}

/// A request.
pub enum Ask {
    /// For log-probabilities.
    LogProb(LogProb),
    /// For logits.
    Classify(Classify),
    /// For embeddings.
    Embed(Embed),
}

/// The tokens that the reward of conversations puts around prompt and completion.
const MARKERS: [&str; 3] = ["<|prompter|>", "</s><|assistant|>", "</s><|endoftext|>"];

// === impl Step ===

impl Step {
    /// `completions` texts of `completion_tokens` behind a prompt of `prompt_tokens`, out of `words` different words.
    #[must_use]
    pub fn random(words: usize, prompt_tokens: usize, completions: usize, completion_tokens: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let mut text = |tokens: usize| -> Arc<str> {
            let words: Vec<String> = (0..tokens).map(|_| word(rng.random_range(0..words.max(1)))).collect();
            words.join(" ").into()
        };
        // The line's end keeps the last word of the prompt apart from the first of a completion.
        let prompt = format!("{}\n", text(prompt_tokens)).into();
        let completions = (0..completions).map(|_| text(completion_tokens)).collect();
        Self { prompt, completions, prompt_tokens, completion_tokens }
    }

    /// The same with the first `count` completions.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        let completions = self.completions.iter().take(count).cloned().collect();
        Self { prompt: self.prompt.clone(), completions, ..*self }
    }

    /// The prompt with its words moved round, by another count for each completion: rows behind it share nothing, nor do
    /// their windows.
    fn own_prompt(&self, completion: usize) -> Arc<str> {
        let mut words: Vec<&str> = self.prompt.split_whitespace().collect();
        let count = words.len().max(1);
        words.rotate_left((completion + 1) % count);
        format!("{}\n", words.join(" ")).into()
    }
}

// === impl Part ===

impl Part {
    /// All, in the order of the reference.
    pub const ALL: [Self; 5] = [Self::Dpo, Self::Rlhf, Self::Reciprocate, Self::Relevance, Self::Nsfw];

    /// The roles of its models.
    #[must_use]
    pub fn roles(self) -> &'static [&'static str] {
        match self {
            Self::Dpo => &["dpo"],
            Self::Rlhf => &["rlhf"],
            Self::Reciprocate => &["reciprocate"],
            Self::Relevance => &["relevance_bert", "relevance_mpnet"],
            Self::Nsfw => &["nsfw"],
        }
    }

    /// What is asked about `step`, request after request.
    #[must_use]
    pub fn asks(self, step: &Step, order: Order) -> Vec<Ask> {
        match self {
            Self::Dpo => log_probs(step, order),
            Self::Relevance => embeddings(step, order),
            Self::Rlhf => classifications(step, order, "rlhf", Overflow::Whole, |prompt, completion| {
                Input::Pair(prompt.into(), completion.into())
            }),
            Self::Nsfw => {
                classifications(step, order, "nsfw", Overflow::Windows, |_, completion| Input::Text(completion.into()))
            }
            Self::Reciprocate => classifications(step, order, "reciprocate", Overflow::Cut, |prompt, completion| {
                let [opening, turn, closing] = MARKERS.map(|marker| Piece::Ours(marker.into()));
                let [prompt, completion] = [prompt, completion].map(Piece::Theirs);
                Input::Text(Composed(vec![opening, prompt, turn, completion, closing]))
            }),
        }
    }

    /// What each of [`Self::roles`] computes for it, where a role's texts are cut or run on in windows at `limits`.
    #[must_use]
    pub fn loads(self, step: &Step, order: Order, limits: &[usize]) -> Vec<Load> {
        let (prompt, own, count) = (step.prompt_tokens, step.completion_tokens, step.completions.len());
        let repeats = !matches!(order, Order::Shared);
        match self {
            Self::Dpo if repeats => vec![Load::after(0, prompt + own, prompt + own - 1).times(count)],
            Self::Dpo => vec![Load::after(0, prompt, 0).and(Load::after(prompt, own, own).times(count))],
            Self::Reciprocate => {
                // Of five markers one stands before the prompt: even prompts that differ share it in a batch.
                let shared = match order {
                    Order::OneByOne | Order::Alone => return vec![Load::after(0, prompt + own + 5, 0).times(count)],
                    Order::Batched => 1,
                    Order::Shared => prompt + 3,
                };
                vec![Load::after(0, shared, 0).and(Load::after(shared, prompt + own + 5 - shared, 0).times(count))]
            }
            Self::Rlhf => vec![Load::row(prompt + own + 3).times(count)],
            Self::Nsfw => vec![windows(own, limits[0]).times(count)],
            Self::Relevance => {
                let prompts = if repeats { count } else { 1 };
                let bert = windows(prompt, limits[0]).times(prompts).and(windows(own, limits[0]).times(count));
                let completions = if repeats { 2 * count } else { count };
                let cut = |tokens: usize| Load::row((tokens + 2).min(limits[1]));
                vec![bert, cut(prompt).times(prompts).and(cut(own).times(completions))]
            }
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dpo => "dpo",
            Self::Rlhf => "rlhf",
            Self::Reciprocate => "reciprocate",
            Self::Relevance => "relevance + diversity",
            Self::Nsfw => "nsfw",
        })
    }
}

/// A text in windows of at most `limit` tokens, two of them special.
fn windows(tokens: usize, limit: usize) -> Load {
    let room = limit.saturating_sub(2).max(1);
    let (full, rest) = (tokens / room, tokens % room);
    let last = if rest > 0 || full == 0 { Load::row(rest + 2) } else { Load::default() };
    Load::row(room + 2).times(full).and(last)
}

fn log_probs(step: &Step, order: Order) -> Vec<Ask> {
    let ask = |prompt: Arc<str>, completions: Vec<Arc<str>>| {
        let model = ModelName::new("dpo");
        Ask::LogProb(LogProb { model, prompt, completions, repetition_penalty: 1.2 })
    };
    // Without a prompt every position is judged, as in the reference.
    let whole =
        |(i, completion): (usize, &Arc<str>)| -> Arc<str> { format!("{}{completion}", step.own_prompt(i)).into() };
    let whole = step.completions.iter().enumerate().map(whole);
    match order {
        Order::Shared => vec![ask(step.prompt.clone(), step.completions.clone())],
        Order::Alone => step.completions.iter().map(|text| ask(step.prompt.clone(), vec![text.clone()])).collect(),
        Order::Batched => vec![ask("".into(), whole.collect())],
        Order::OneByOne => whole.map(|text| ask("".into(), vec![text])).collect(),
    }
}

fn classifications(
    step: &Step,
    order: Order,
    role: &str,
    overflow: Overflow,
    input: impl Fn(Arc<str>, Arc<str>) -> Input,
) -> Vec<Ask> {
    let ask = |inputs| Ask::Classify(Classify { model: ModelName::new(role), inputs, overflow });
    let shared = step.completions.iter().map(|completion| input(step.prompt.clone(), completion.clone()));
    let own = |(i, completion): (usize, &Arc<str>)| input(step.own_prompt(i), completion.clone());
    match order {
        Order::Shared => vec![ask(shared.collect())],
        Order::Batched => vec![ask(step.completions.iter().enumerate().map(own).collect())],
        Order::Alone | Order::OneByOne => shared.map(|input| ask(vec![input])).collect(),
    }
}

fn embeddings(step: &Step, order: Order) -> Vec<Ask> {
    let ask = |role: &str, texts: Vec<Arc<str>>| {
        // BERT's texts run on in windows, MPNet's are cut.
        let pooling = if role == "relevance_bert" { Pooling::MeanOfWindows } else { Pooling::MeanNormalised };
        Ask::Embed(Embed { model: ModelName::new(role), texts, pooling })
    };
    let roles = Part::Relevance.roles().iter();
    let texts: Vec<Arc<str>> = [&step.prompt].into_iter().chain(&step.completions).cloned().collect();
    let diversity = || ask("relevance_mpnet", step.completions.clone());
    match order {
        Order::Shared => roles.map(|role| ask(role, texts.clone())).collect(),
        Order::Alone => roles.flat_map(|role| texts.iter().map(|text| ask(role, vec![text.clone()]))).collect(),
        Order::Batched => {
            let prompts = (0..step.completions.len()).map(|i| step.own_prompt(i));
            let texts: Vec<Arc<str>> = prompts.chain(step.completions.iter().cloned()).collect();
            roles.map(|role| ask(role, texts.clone())).chain([diversity()]).collect()
        }
        Order::OneByOne => {
            let texts = step.completions.iter().flat_map(|completion| [&step.prompt, completion]);
            let texts: Vec<Arc<str>> = texts.cloned().collect();
            let asks = roles.flat_map(|role| texts.iter().map(|text| ask(role, vec![text.clone()])));
            asks.chain([diversity()]).collect()
        }
    }
}

// === impl Ask ===

impl Ask {
    /// The numbers that come back, a row for each text, window after window.
    ///
    /// # Errors
    /// When the engine fails, on the whole or on a row.
    pub async fn numbers(self, engine: &dyn Engine) -> anyhow::Result<Vec<Vec<f32>>> {
        fn all<T>(rows: Vec<Row<T>>, row: impl Fn(T) -> Vec<f32>) -> anyhow::Result<Vec<Vec<f32>>> {
            rows.into_iter().map(|found| Ok(row(found?))).collect()
        }
        match self {
            Self::Embed(ask) => all(engine.embed(ask).await?, |row| row.to_vec()),
            Self::Classify(ask) => {
                all(engine.classify(ask).await?, |windows| windows.iter().flat_map(|logits| logits.to_vec()).collect())
            }
            Self::LogProb(ask) => {
                let said = engine.log_prob(ask).await?;
                let rows = said.into_iter().map(|row| Ok(vec![row?.mean.context("a log-probability is not finite")?]));
                rows.collect()
            }
        }
    }
}
