//! Inbox of `actors/inference`: a closed vocabulary of what may be asked of a model. Requests name a model and texts;
//! replies are numbers.

use std::{fmt, sync::Arc};

use actix::Message;
use serde::{Deserialize, Serialize};

/// The catalogue name of a model, e.g. `all-MiniLM-L6-v2`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelName(pub Arc<str>);

/// Sentence embeddings: one row for each text, in order. Identical texts are computed once.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Row<Arc<[f32]>>>, InferenceError>")]
pub struct Embed {
    /// An encoder.
    pub model: ModelName,
    /// Any text, the empty one included; cut at the model's maximum length, special tokens kept.
    pub texts: Vec<Arc<str>>,
    /// How token states become one row.
    pub pooling: Pooling,
}

/// How token states become one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Mean over the attention mask.
    Mean,
    /// Mean over the attention mask, then scaled to length 1.
    MeanNormalised,
    /// A text longer than the model runs on in further windows, each with the model's special tokens; the mean of their
    /// [`Pooling::MeanNormalised`] rows, which is shorter than 1 where they differ. Nothing of a text is left out.
    MeanOfWindows,
    /// The state of the last token after the network's last norm, of a causal model (`gating.py:GatingModel`).
    LastToken,
}

/// How probable a causal model finds each completion after the prompt: the mean log-probability of the completion's
/// tokens, in the order of the completions. The shared prefix is computed once.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Row<LogProbability>>, InferenceError>")]
pub struct LogProb {
    /// A causal model.
    pub model: ModelName,
    /// What the completions follow.
    pub prompt: Arc<str>,
    /// Any text; prompt and completion are tokenised together.
    pub completions: Vec<Arc<str>>,
    /// Divides (or multiplies, when negative) a logit by this to the power of the token's earlier count in the
    /// completion; 1 is no penalty, the reference uses 1.2 (`reward/dpo.py`).
    pub repetition_penalty: f32,
}

/// The answer for one completion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogProbability {
    /// Mean over the completion's tokens; `None` when it has no token of its own, or their mean is not finite.
    pub mean: Option<f32>,
    /// How many tokens that mean is over.
    pub tokens: usize,
}

/// What classifiers and reward models say of each input: the logits of their head, in the order of the inputs.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Row<Logits>>, InferenceError>")]
pub struct Classify {
    /// A network with a classification or reward head.
    pub model: ModelName,
    /// What to judge.
    pub inputs: Vec<Input>,
    /// What becomes of inputs longer than the model takes.
    pub overflow: Overflow,
}

/// Logits of one input: one row for each of its windows; a single one unless windows were asked for.
pub type Logits = Vec<Arc<[f32]>>;

/// What a classifier judges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// One text.
    Text(Composed),
    /// Two texts, with the model's separator between them; an empty second one is none.
    Pair(Composed, Composed),
}

/// What becomes of an input longer than the model takes. Whatever is asked, an input is at most as long as the network
/// takes and the operator allows (`inference.max_sequence_tokens`); one without any token, or of more than 64 windows,
/// fails by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// It is cut on the right where the authors of the model cut (`model_max_length`), special tokens kept.
    Cut,
    /// It is not cut there: only where the network or the operator ends it.
    Whole,
    /// It runs on in further windows of the model's limit, without overlap, each with the model's special tokens.
    Windows,
    /// It is tokenised once, special tokens at its two ends, and the tokens are cut into windows as they are: the first
    /// alone begins as the network expects (`reward/nsfw.py` of openvalidators 1.2.0).
    BareWindows,
}

/// Continues each prompt greedily, by the most probable token every time. A prompt that leaves no room for the new tokens
/// fails by itself: cut, it would be another.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Row<Generated>>, InferenceError>")]
pub struct Generate {
    /// A causal model.
    pub model: ModelName,
    /// What to continue.
    pub prompts: Vec<Composed>,
    /// Tokens at most; fewer where the model ends its text.
    pub max_new_tokens: usize,
}

/// How a causal model went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, the one that ends the text included.
    pub ids: Vec<u32>,
    /// Prompt and new tokens, decoded as one text, without special tokens.
    pub whole: Arc<str>,
}

/// A text of several parts, tokenised as one. Special tokens are read in our parts and nowhere else: what a miner
/// writes is letters, whatever it spells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Composed(pub Vec<Part>);

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Of a template: `</s>` is a token.
    Ours(Arc<str>),
    /// Of a miner, or of a text that others wrote: `</s>` is four letters.
    Theirs(Arc<str>),
}

/// The answer for one row of a request. A row on which the device fails by itself costs no other row its answer; a
/// request all of whose rows fail fails with [`InferenceError::Device`].
pub type Row<T> = Result<T, RowFailed>;

/// The device failed on this row alone, or its text cannot be computed, while others were served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct RowFailed {
    /// What was said of it.
    pub reason: Arc<str>,
}

/// Asks which models are loaded, for the record of a step.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<LoadedModel>")]
pub struct Models;

/// A model on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// Its catalogue name.
    pub model: ModelName,
    /// sha256 of each file, by file name; of a model that servers elsewhere compute, where they are and what they say of
    /// themselves.
    pub digests: Vec<(String, String)>,
}

/// Cloneable on purpose: one failed batch is told to every caller in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// The model is not loaded, or cannot do what was asked of it.
    #[error("model `{model}` cannot serve {asked}: {reason}")]
    WrongModel {
        /// Which.
        model: ModelName,
        /// The kind of request.
        asked: &'static str,
        /// Why not.
        reason: String,
    },
    /// The prompt alone fills the model, which leaves nothing to judge any completion by.
    #[error(
        "model `{model}` takes {limit} tokens and the prompt alone has {tokens}; shorten prompts or raise the limit"
    )]
    PromptTooLong {
        /// Which.
        model: ModelName,
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens the model takes, prompt and completion together.
        limit: usize,
    },
    /// The device failed on every row.
    #[error("model `{model}` failed on the device: {reason}")]
    Device {
        /// Which.
        model: ModelName,
        /// The device's words.
        reason: String,
    },
    /// The engine is closing.
    #[error("the inference engine is closed")]
    Closed,
}

// === impl Composed ===

impl Composed {
    /// Whether it has no letter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(Part::Ours(text) | Part::Theirs(text))| text.is_empty())
    }
}

impl From<Arc<str>> for Composed {
    /// A text of others, without a template.
    fn from(text: Arc<str>) -> Self {
        Self(vec![Part::Theirs(text)])
    }
}

// === impl ModelName ===

impl ModelName {
    /// Names a model.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
