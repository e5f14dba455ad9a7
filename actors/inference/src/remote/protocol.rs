//! What [`RemoteModel`](super::model::RemoteModel) needs of a wire: [`Tei`](super::tei::Tei) and
//! [`OpenAi`](super::openai::OpenAi) are the two there are.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use openvalidators_messages::inference::{Overflow, Pooling};

use super::server::{Fault, Server};
use crate::engine::Kind;

/// What will be asked of a model. A server that would answer one with another number than this program computes is
/// refused at the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Demand {
    /// [`Embed`](openvalidators_messages::inference::Embed) with this pooling.
    Embed(Pooling),
    /// [`LogProb`](openvalidators_messages::inference::LogProb) with this repetition penalty.
    LogProb {
        /// 1 is no penalty.
        repetition_penalty: f32,
    },
    /// [`Classify`](openvalidators_messages::inference::Classify).
    Classify {
        /// What becomes of long inputs.
        overflow: Overflow,
        /// Whether inputs are pairs of texts.
        pairs: bool,
    },
    /// [`Generate`](openvalidators_messages::inference::Generate).
    Generate,
}

/// A row as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sent {
    /// Tokenised here.
    Ids(Vec<u32>),
    /// To be tokenised there.
    Text(String),
    /// Two texts, to be tokenised there.
    Pair(String, String),
}

/// What is asked of rows, where each answer is a row of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The mean of the token states; its length is of no account.
    Embedding,
    /// What the head says, before any softmax or sigmoid.
    Logits,
    /// The log-probability of each token but the first, given those before it.
    TokenLogProbabilities,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// How it calls the model.
    pub(super) served_name: String,
    /// The longest row it takes, special tokens included.
    pub(super) max_tokens: usize,
    /// Rows it takes together, where it says.
    pub(super) max_rows: Option<usize>,
    /// What the model is, where it says: a word for people.
    pub(super) nature: Option<String>,
    /// The names of its logits in their order, where it says.
    pub(super) labels: Vec<String>,
    /// How many numbers make a row; its first answer says.
    pub(super) width: Option<usize>,
    /// For records: its model, its version, …
    pub(super) facts: Vec<(String, String)>,
}

/// A row of numbers, or none where the server said none that can be believed.
pub(super) type Numbers = Option<Arc<[f32]>>;

/// How one kind of server is asked.
#[async_trait]
pub(super) trait Protocol: Send + Sync {
    /// Whether rows are sent as token ids; else as text.
    fn takes_ids(&self) -> bool;

    /// Asks a server what it is.
    async fn introduce(&self, server: &Server) -> Result<Identity, Fault>;

    /// Why a server of this identity cannot serve `demand`, whatever the texts.
    fn objection(&self, identity: &Identity, demand: Demand) -> Option<String>;

    /// One row of numbers for each of `rows`. Counts are checked by the caller.
    async fn numbers(
        &self,
        server: &Server,
        identity: &Identity,
        question: Question,
        rows: &[Sent],
    ) -> Result<Vec<Numbers>, Fault>;

    /// Asks about one row: whether the server serves this question at all, and as it should.
    async fn probe(
        &self,
        server: &Server,
        identity: &Identity,
        question: Question,
        row: Sent,
    ) -> Result<Arc<[f32]>, Fault> {
        the_one(self.numbers(server, identity, question, &[row]).await?)
    }

    /// The greedy continuation of each of `rows`, of at most `most` tokens.
    async fn continuations(
        &self,
        server: &Server,
        identity: &Identity,
        most: usize,
        rows: &[Sent],
    ) -> Result<Vec<Option<Vec<u32>>>, Fault>;
}

// === impl Demand ===

impl Demand {
    /// What a model must be to be asked this.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Embed(_) => Kind::Encoder,
            Self::LogProb { .. } | Self::Generate => Kind::CausalLm,
            Self::Classify { .. } => Kind::Classifier,
        }
    }

    /// What is asked of rows; nothing where texts are wanted.
    pub(super) fn question(self) -> Option<Question> {
        match self {
            Self::Embed(_) => Some(Question::Embedding),
            Self::LogProb { .. } => Some(Question::TokenLogProbabilities),
            Self::Classify { .. } => Some(Question::Logits),
            Self::Generate => None,
        }
    }

    /// In the words of [`InferenceError::WrongModel`](openvalidators_messages::inference::InferenceError::WrongModel).
    pub(super) fn asked(self) -> &'static str {
        match self {
            Self::Embed(_) => "embeddings",
            Self::LogProb { .. } => "log-probabilities",
            Self::Classify { .. } => "classification",
            Self::Generate => "generation",
        }
    }
}

// === impl Sent ===

impl Sent {
    /// Of a protocol that takes ids.
    pub(super) fn ids(&self) -> &[u32] {
        if let Self::Ids(ids) = self { ids } else { &[] }
    }

    /// Of a protocol that takes texts: one, or two.
    pub(super) fn texts(&self) -> Vec<&str> {
        match self {
            Self::Ids(_) => Vec::new(),
            Self::Text(text) => vec![text],
            Self::Pair(first, second) => vec![first, second],
        }
    }
}

// === impl Identity ===

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.facts {
            write!(f, "{name} {value}, ")?;
        }
        write!(f, "rows of {} tokens", self.max_tokens)
    }
}

/// Numbers in their order, if every one of them is finite and of a size that a network says.
pub(super) fn believed(numbers: impl IntoIterator<Item = Option<f64>>) -> Numbers {
    /// Nothing that a network says is greater; far more than f16 holds.
    const GREATEST: f64 = 1e6;
    let believe = |number: Option<f64>| number.filter(|number| number.abs() <= GREATEST).map(|number| number as f32);
    numbers.into_iter().map(believe).collect()
}

/// The numbers of the only row.
pub(super) fn the_one(rows: Vec<Numbers>) -> Result<Arc<[f32]>, Fault> {
    match <[Numbers; 1]>::try_from(rows) {
        Ok([Some(numbers)]) => Ok(numbers),
        Ok([None]) => Err(Fault::server(": no number that can be believed")),
        Err(rows) => Err(Fault::server(format!(": {} answers for a row", rows.len()))),
    }
}
