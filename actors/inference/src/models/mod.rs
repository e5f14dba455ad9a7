//! The networks. One file each, all of one silhouette: link to the reference, `Config`, blocks, `load`, `forward`, tests.
//! A network becomes known to the program by its line in [`crate::catalogue`].
//!
//! | what it is | implements | becomes |
//! |---|---|---|
//! | bidirectional body | [`Encoder`] | [`Network::Encoder`] |
//! | bidirectional body and classification head | [`Classifier`] | [`Network::Classifier`] |
//! | causal body | [`CausalBody`] | [`Network::CausalLm`] with [`CausalLm`], [`Network::CausalClassifier`] with [`RewardHead`] |

pub(crate) mod bert;
pub(crate) mod btlm;
pub(crate) mod deberta;
mod decoder;
mod encoder;
pub(crate) mod gpt2;
pub(crate) mod gpt_neo;
pub(crate) mod gptj;
pub(crate) mod llama;
pub(crate) mod llama_gguf;
pub(crate) mod mpnet;
#[cfg(test)]
pub(crate) mod parity;
pub(crate) mod roberta;

use candle_core::{Result, Tensor};
use candle_nn::Linear;
use serde::de::DeserializeOwned;

use crate::ops;

/// Token ids of several rows, one row after another, without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    ids: Vec<u32>,
    /// One for each id; empty where no tokenizer said.
    token_types: Vec<u32>,
    lengths: Vec<usize>,
}

/// Keys and values of tokens that every row of a batch follows.
#[derive(Clone, Debug)]
pub struct Past {
    /// How many tokens.
    tokens: usize,
    /// For each layer `[tokens, key | value]`.
    layers: Vec<Tensor>,
}

/// A bidirectional network: states of tokens that have seen their whole row.
pub trait Encoder: Send + Sync {
    /// The longest row it takes, special tokens included.
    fn max_tokens(&self) -> usize;

    /// States of all tokens, `[tokens, hidden]`, in the order of the batch.
    ///
    /// # Errors
    /// When the device fails or runs out of memory, or a row does not suit the model.
    fn forward(&self, batch: &Packed) -> Result<Tensor>;
}

/// A bidirectional network with a head that judges whole rows.
pub trait Classifier: Send + Sync {
    /// The longest row it takes, special tokens included; `usize::MAX` where positions are relative.
    fn max_tokens(&self) -> usize;

    /// How many numbers it says of a row.
    fn labels(&self) -> usize;

    /// `[rows, labels]`, in the order of the batch, before any softmax. A row has at least one token. Token types are
    /// [`Packed::token_types`]; a model without types leaves them aside.
    ///
    /// # Errors
    /// When the device fails or runs out of memory, or a row does not suit the model.
    fn logits(&self, batch: &Packed) -> Result<Tensor>;
}

/// The body of a network in which a token sees only what precedes it. What is computed for tokens that many rows begin
/// with is computed once and handed to the rest as their [`Past`].
pub trait CausalBody: Send + Sync {
    /// The longest row it takes, the past included; `usize::MAX` where positions have no end.
    fn context_tokens(&self) -> usize;

    /// The past of no tokens.
    ///
    /// # Errors
    /// When the device fails.
    fn no_past(&self) -> Result<Past>;

    /// States of all tokens, `[tokens, hidden]`, in the order of the batch, each row following `past`. The network's last
    /// norm is left to [`CausalBody::normalised`]. A model without token types leaves [`Packed::token_types`] aside.
    ///
    /// # Errors
    /// When the device fails or runs out of memory, or a row does not suit the model.
    fn forward(&self, batch: &Packed, past: &Past) -> Result<Tensor>;

    /// As [`CausalBody::forward`] for a single row, with the keys and values of `past` and this row for rows that follow it
    /// ([`Past::followed_by`]).
    ///
    /// # Errors
    /// As [`CausalBody::forward`].
    fn extend(&self, row: &Packed, past: &Past) -> Result<(Tensor, Past)>;

    /// [`CausalBody::extend`] of no past: the beginning of a row.
    ///
    /// # Errors
    /// As [`CausalBody::forward`].
    fn prefill(&self, ids: &[u32]) -> Result<(Tensor, Past)> {
        self.extend(&Packed::new([ids]), &self.no_past()?)
    }

    /// What heads read: the last norm of some states, and what else the network does before a head. `[rows, hidden]` to
    /// `[rows, hidden]`; apart from the rest so that only rows whose logits are wanted pay for it.
    ///
    /// # Errors
    /// When the device fails or runs out of memory.
    fn normalised(&self, states: &Tensor) -> Result<Tensor>;
}

/// A causal network that says which token comes next.
pub struct CausalLm {
    /// The network.
    pub body: Box<dyn CausalBody>,
    /// `[vocabulary, hidden]`; tied to the embeddings where the checkpoint ties them.
    pub head: Linear,
}

/// A causal network that judges whole rows. The rows of a request share what they begin with.
pub struct CausalClassifier {
    /// The network.
    pub body: Box<dyn CausalBody>,
    /// What judges.
    pub head: RewardHead,
}

/// Judges a row by the state of one of its tokens.
#[derive(Clone, Debug)]
pub struct RewardHead {
    /// `[labels, hidden]`.
    pub linear: Linear,
    /// Which token.
    pub reads: Reads,
}

/// The token whose state says what a row is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The last one.
    Last,
    /// The one at the place (count of ids that differ from this one) - 1, as sequence classification of transformers 4.28
    /// has it: a padding id in the middle of a row moves the place.
    CountWithout(u32),
    /// The one before the first of this id, as the reward model of Dahoas has it (`reward/dahoas.py`).
    BeforeFirst(u32),
}

/// A network, by what can be asked of it.
pub enum Network {
    /// Serves `Embed`.
    Encoder(Box<dyn Encoder>),
    /// Serves `Classify`.
    Classifier(Box<dyn Classifier>),
    /// Serves `LogProb` and `Generate`.
    CausalLm(CausalLm),
    /// Serves `Classify`.
    CausalClassifier(CausalClassifier),
}

// === impl Network ===

impl Network {
    /// The longest row it takes.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Encoder(network) => network.max_tokens(),
            Self::Classifier(network) => network.max_tokens(),
            Self::CausalLm(network) => network.body.context_tokens(),
            Self::CausalClassifier(network) => network.body.context_tokens(),
        }
    }
}

// === impl CausalLm ===

impl CausalLm {
    /// A body and its language-model head.
    #[must_use]
    pub fn new(body: impl CausalBody + 'static, head: Linear) -> Self {
        Self { body: Box::new(body), head }
    }

    /// States of the body, `[rows, hidden]`, to logits of the next token, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// When the device fails or runs out of memory.
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        ops::linear(&self.head, &self.body.normalised(states)?)
    }
}

// === impl CausalClassifier ===

impl CausalClassifier {
    /// A body and what judges its rows.
    #[must_use]
    pub fn new(body: impl CausalBody + 'static, head: RewardHead) -> Self {
        Self { body: Box::new(body), head }
    }

    /// States of the body, one for each judged row, `[rows, hidden]`, to what they are worth, `[rows, labels]`.
    ///
    /// # Errors
    /// When the device fails or runs out of memory.
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        ops::linear(&self.head.linear, &self.body.normalised(states)?)
    }
}

// === impl Reads ===

impl Reads {
    /// The place in a row of `ids`, which is not empty. Where the rule finds none, that is the last, as in the reference:
    /// there an index of -1 counts from the end.
    #[must_use]
    pub fn place(self, ids: &[u32]) -> usize {
        let last = ids.len().saturating_sub(1);
        match self {
            Self::Last => last,
            Self::CountWithout(pad) => ids.iter().filter(|&&id| id != pad).count().checked_sub(1).unwrap_or(last),
            Self::BeforeFirst(end) => {
                ids.iter().position(|&id| id == end).and_then(|first| first.checked_sub(1)).unwrap_or(last)
            }
        }
    }
}

// === impl Packed ===

impl Packed {
    /// Packs `rows` in their order.
    pub fn new<'a>(rows: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut packed = Self::default();
        for row in rows {
            packed.ids.extend_from_slice(row);
            packed.lengths.push(row.len());
        }
        packed
    }

    /// Packs rows of ids and their types. A row without types is of type 0 beside those that have some.
    pub fn typed<'a>(rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>) -> Self {
        let mut packed = Self::default();
        for (ids, types) in rows {
            let start = packed.ids.len();
            packed.ids.extend_from_slice(ids);
            packed.lengths.push(ids.len());
            if !types.is_empty() {
                packed.token_types.resize(start, 0);
                packed.token_types.extend_from_slice(types);
            }
            if !packed.token_types.is_empty() {
                packed.token_types.resize(packed.ids.len(), 0);
            }
        }
        packed
    }

    /// All ids, row after row.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The type of each id: 1 in the second text of a pair, for models that tell them apart. None where no tokenizer said.
    #[must_use]
    pub fn token_types(&self) -> Option<&[u32]> {
        (!self.token_types.is_empty()).then_some(self.token_types.as_slice())
    }

    /// Tokens of each row.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The place of each token in the sequence when each row follows `past` tokens; an error where one reaches `limit`.
    fn positions(&self, past: usize, limit: usize) -> Result<Vec<u32>> {
        if let Some(length) = self.lengths.iter().find(|&&length| past + length > limit) {
            candle_core::bail!("a row of {} tokens in a model of {limit}", past + length);
        }
        Ok(self.lengths.iter().flat_map(|&length| past..past + length).map(|position| position as u32).collect())
    }
}

// === impl Past ===

impl Past {
    /// How many tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// This past and `tokens` more, whose keys and values are `own`: for each layer `[tokens, key | value]`.
    fn followed_by(&self, tokens: usize, own: Vec<Tensor>) -> Result<Self> {
        if own.len() != self.layers.len() {
            candle_core::bail!("{} layers follow a past of {}", own.len(), self.layers.len());
        }
        let joined =
            |(past, own): (&Tensor, Tensor)| if self.tokens == 0 { Ok(own) } else { Tensor::cat(&[past, &own], 0) };
        let layers = self.layers.iter().zip(own).map(joined).collect::<Result<_>>()?;
        Ok(Self { tokens: self.tokens + tokens, layers })
    }
}

/// What `config.json` says of a network.
fn parse<C: DeserializeOwned>(config: &[u8]) -> Result<C> {
    serde_json::from_slice(config).map_err(|error| candle_core::Error::msg(format!("config.json: {error}")))
}

/// Projections of the same input as one product, their outputs side by side. All have a bias, or none has. The weight
/// lies in memory input by input, as the products of `gemm` like it.
fn side_by_side(parts: &[Linear]) -> Result<Linear> {
    let weights = parts.iter().map(|part| part.weight().t()).collect::<Result<Vec<_>>>()?;
    let biases: Vec<&Tensor> = parts.iter().filter_map(Linear::bias).collect();
    let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
    Ok(Linear::new(Tensor::cat(&weights, 1)?.t()?, bias))
}

/// What went wrong, without the backtrace that candle prints with it where `RUST_BACKTRACE` is set.
pub(crate) fn reason(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => reason(inner),
        candle_core::Error::WithPath { inner, path } => format!("{}: {}", path.display(), reason(inner)),
        candle_core::Error::Context { inner, context } => format!("{context}: {}", reason(inner)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_types_are_of_type_0_beside_those_that_have_some() {
        let rows: [(&[u32], &[u32]); 3] = [(&[7, 8], &[]), (&[9, 5], &[1, 1]), (&[3], &[])];
        let packed = Packed::typed(rows);
        assert_eq!((packed.ids(), packed.lengths()), (&[7, 8, 9, 5, 3][..], &[2, 2, 1][..]));
        assert_eq!(packed.token_types(), Some(&[0, 0, 1, 1, 0][..]));
        assert_eq!(Packed::typed([rows[0], rows[2]]).token_types(), None);
    }

    #[test]
    fn the_judged_token_is_where_the_reference_looks() {
        const PAD: u32 = 9;
        let places =
            |ids: &[u32]| [Reads::Last, Reads::CountWithout(PAD), Reads::BeforeFirst(PAD)].map(|r| r.place(ids));
        assert_eq!(places(&[1, 2, 3]), [2, 2, 2]);
        assert_eq!(places(&[1, 2, 3, PAD]), [3, 2, 2]);
        assert_eq!(places(&[1, PAD, 2, 3]), [3, 2, 0]);
        assert_eq!(places(&[PAD, PAD]), [1, 1, 1]);
        assert_eq!(places(&[PAD, 1]), [1, 0, 1]);
        assert_eq!(places(&[5]), [0, 0, 0]);
    }
}
