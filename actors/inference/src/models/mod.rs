//! The networks. One file each, all of one silhouette: link to the reference, `Config`, blocks, `load`, `forward`, tests.
//! A network becomes known to the program by its line in [`crate::catalogue`].

pub(crate) mod bert;
pub(crate) mod llama_gguf;

use candle_core::{DType, Result, Tensor};

/// Token ids of several rows, one row after another, without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    ids: Vec<u32>,
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

/// A network in which a token sees only what precedes it.
pub trait CausalLm: Send + Sync {
    /// The longest row it takes, the past included.
    fn context_tokens(&self) -> usize;

    /// The past of no tokens.
    ///
    /// # Errors
    /// When the device fails.
    fn no_past(&self) -> Result<Past>;

    /// States of all tokens, `[tokens, hidden]`, in the order of the batch, each row following `past`.
    ///
    /// # Errors
    /// When the device fails or runs out of memory, or a row does not suit the model.
    fn forward(&self, batch: &Packed, past: &Past) -> Result<Tensor>;

    /// States of one row of tokens, `[tokens, hidden]`, and its keys and values for rows that follow it.
    ///
    /// # Errors
    /// As [`CausalLm::forward`].
    fn prefill(&self, ids: &[u32]) -> Result<(Tensor, Past)>;

    /// `[rows, hidden]` states to `[rows, vocabulary]` logits.
    ///
    /// # Errors
    /// When the device fails or runs out of memory.
    fn logits(&self, states: &Tensor) -> Result<Tensor>;
}

/// A network, by what can be asked of it.
pub enum Network {
    /// Serves `Embed`.
    Encoder(Box<dyn Encoder>),
    /// Serves `LogProb`.
    CausalLm(Box<dyn CausalLm>),
}

// === impl Network ===

impl Network {
    /// The longest row it takes.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Encoder(network) => network.max_tokens(),
            Self::CausalLm(network) => network.context_tokens(),
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

    /// All ids, row after row.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
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
}

/// An empty tensor stands for what is not there.
fn nothing(width: usize, device: &candle_core::Device) -> Result<Tensor> {
    Tensor::zeros((0, width), DType::F32, device)
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
