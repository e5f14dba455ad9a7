//! The body that decoder-only networks share: embeddings, blocks of causal attention and feed-forward, a last norm. A
//! network's own file says which parts a block has, where its numbers come from, and where its tensors lie.
//!
//! ```text
//! sequential   x += attention(norm(x));  x += feed_forward(feed_forward_norm(x))
//! parallel     n = norm(x);  x += attention(n) + feed_forward(n)
//! ```

use std::num::NonZeroUsize;

use candle_core::{Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module, RmsNorm, VarBuilder};
use serde::Deserialize;

use super::{CausalBody, Packed, Past, side_by_side};
use crate::ops::{self, Attention, Bias, Heads, Rotary, Then};

/// Numbers of sixteen bits that a GPU reads at once.
const WHOLE: usize = 8;

/// A causal network up to its head.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) words: Embedding,
    /// Whether a token's type counts, when a batch has types: the GPTs add the embedding of the word with the type's
    /// number.
    pub(crate) typed: bool,
    /// What embeddings are multiplied by; mostly 1.
    pub(crate) embedding_scale: f64,
    pub(crate) place: Place,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Norm,
    /// What the last norm's answer is multiplied by before any head; mostly 1.
    pub(crate) output_scale: f64,
    pub(crate) heads: Heads,
    /// The longest row, in tokens.
    pub(crate) context: usize,
}

/// How a token knows its place.
#[derive(Debug)]
pub(crate) enum Place {
    /// By a learned row for each position, added to its embedding.
    Learned(Embedding),
    /// By the angle of its queries and keys.
    Rotary(Rotary),
    /// By a penalty on scores for distance, its slope for each head.
    Alibi(Vec<f32>),
}

/// Attention and feed-forward.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) norm: Norm,
    /// Query, key and value in one product.
    pub(crate) qkv: Linear,
    pub(crate) attention_output: Linear,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
    /// How far back attention looks; to the beginning when there is none.
    pub(crate) window: Option<NonZeroUsize>,
    /// None where attention and feed-forward read the same norm, side by side.
    pub(crate) feed_forward_norm: Option<Norm>,
    pub(crate) feed_forward: FeedForward,
}

/// What each token goes through by itself.
#[derive(Debug)]
pub(crate) enum FeedForward {
    /// `output(gelu_new(input(x)))`.
    Gelu { input: Linear, output: Linear },
    /// `output(silu(gate(x)) · up(x))`, gate and up in one product.
    Gated { gate_up: Linear, output: Linear },
}

/// A norm of either kind.
#[derive(Debug)]
pub(crate) enum Norm {
    Layer(LayerNorm),
    RootMeanSquare(RmsNorm),
}

/// The activation of the GPT family. Another is an error, never a silent likeness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    /// Gelu by its hyperbolic approximation.
    GeluNew,
}

// === impl Norm ===

impl Norm {
    /// A layer norm with weight and bias.
    pub(crate) fn layer(size: usize, epsilon: f64, vb: VarBuilder<'_>) -> Result<Self> {
        candle_nn::layer_norm(size, epsilon, vb).map(Self::Layer)
    }

    /// A root-mean-square norm.
    pub(crate) fn root_mean_square(size: usize, epsilon: f64, vb: VarBuilder<'_>) -> Result<Self> {
        candle_nn::rms_norm(size, epsilon, vb).map(Self::RootMeanSquare)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::RootMeanSquare(norm) => norm.forward(x),
        }
    }
}

// === impl FeedForward ===

impl FeedForward {
    /// `[gate, up]` and the output. What lies between them is made a whole number of packs wide ([`WHOLE`]) by zeros, which
    /// add nothing: the 6,826 of BTLM would cost a GPU's products a good part of their speed.
    pub(crate) fn gated(gate_up: [Linear; 2], output: Linear) -> Result<Self> {
        let wide = output.weight().dim(1)?;
        let missing = wide.next_multiple_of(WHOLE) - wide;
        if missing == 0 {
            return Ok(Self::Gated { gate_up: side_by_side(&gate_up)?, output });
        }
        let wider = |part: &Linear| {
            let weight = part.weight().t()?.pad_with_zeros(1, 0, missing)?;
            let bias = part.bias().map(|bias| bias.pad_with_zeros(0, 0, missing)).transpose()?;
            Ok::<_, candle_core::Error>(Linear::new(weight.t()?, bias))
        };
        let [gate, up] = &gate_up;
        let weight = output.weight().t()?.pad_with_zeros(0, 0, missing)?;
        Ok(Self::Gated {
            gate_up: side_by_side(&[wider(gate)?, wider(up)?])?,
            output: Linear::new(weight.t()?, output.bias().cloned()),
        })
    }

    /// What it makes of `x`, added to `residual`.
    fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (output, wide) = match self {
            Self::Gelu { input, output } => (output, ops::linear_then(input, x, Then::GeluNew)?),
            Self::Gated { gate_up, output } => (output, ops::swiglu(&ops::linear(gate_up, x)?)?),
        };
        ops::linear_then(output, &wide, Then::Add(residual))
    }
}

// === impl Block ===

impl Block {
    /// The states after this block, and its queries, keys and values.
    fn forward(&self, x: &Tensor, rows: &Rows<'_>, past: &Tensor) -> Result<(Tensor, Tensor)> {
        let Decoder { heads, place, .. } = rows.decoder;
        let normed = self.norm.forward(x)?;
        let qkv = ops::linear(&self.qkv, &normed)?;
        let qkv = match place {
            Place::Rotary(rotary) => rotary.rotate(qkv, heads.query + heads.key, rows.positions)?,
            Place::Learned(_) | Place::Alibi(_) => qkv,
        };
        let attention = Attention {
            heads: *heads,
            causal: true,
            scale: self.scale,
            bias: match place {
                Place::Alibi(slopes) => Bias::Alibi { slopes },
                Place::Learned(_) | Place::Rotary(_) => Bias::None,
            },
            window: self.window,
            lengths: rows.lengths,
        };
        let x = ops::linear_then(&self.attention_output, &attention.forward(&qkv, past)?, Then::Add(x))?;
        let read = match &self.feed_forward_norm {
            Some(norm) => norm.forward(&x)?,
            None => normed,
        };
        Ok((self.feed_forward.forward(&read, &x)?, qkv))
    }
}

/// What every block needs to know of a batch.
struct Rows<'a> {
    decoder: &'a Decoder,
    lengths: &'a [usize],
    positions: &'a [u32],
}

// === impl Decoder ===

impl Decoder {
    /// Runs `batch` after `past`, handing each block's queries, keys and values to `keep`.
    fn run(&self, batch: &Packed, past: &Past, mut keep: impl FnMut(Tensor) -> Result<()>) -> Result<Tensor> {
        let device = self.words.embeddings().device();
        let positions = batch.positions(past.tokens, self.context)?;
        let mut x = scaled(self.words.forward(&Tensor::new(batch.ids(), device)?)?, self.embedding_scale)?;
        if let Place::Learned(rows) = &self.place {
            x = ops::add(rows.forward(&Tensor::new(positions.as_slice(), device)?)?, &x)?;
        }
        if let (true, Some(types)) = (self.typed, batch.token_types()) {
            x = ops::add(self.words.forward(&Tensor::new(types, device)?)?, &x)?;
        }
        let rows = Rows { decoder: self, lengths: batch.lengths(), positions: &positions };
        for (block, past) in self.blocks.iter().zip(&past.layers) {
            let qkv;
            (x, qkv) = block.forward(&x, &rows, past)?;
            keep(qkv)?;
        }
        Ok(x)
    }
}

impl CausalBody for Decoder {
    fn context_tokens(&self) -> usize {
        self.context
    }

    fn no_past(&self) -> Result<Past> {
        let words = self.words.embeddings();
        let layer = ops::no_rows(self.heads.kv_width(), words.dtype(), words.device())?;
        Ok(Past { tokens: 0, layers: vec![layer; self.blocks.len()] })
    }

    fn forward(&self, batch: &Packed, past: &Past) -> Result<Tensor> {
        self.run(batch, past, |_| Ok(()))
    }

    fn extend(&self, row: &Packed, past: &Past) -> Result<(Tensor, Past)> {
        let &[tokens] = row.lengths() else {
            candle_core::bail!("a past goes on with one row, not {}", row.lengths().len());
        };
        let mut own = Vec::with_capacity(self.blocks.len());
        let states = self.run(row, past, |qkv| {
            own.push(qkv.narrow(1, self.heads.query_width(), self.heads.kv_width())?.contiguous()?);
            Ok(())
        })?;
        Ok((states, past.followed_by(tokens, own)?))
    }

    fn normalised(&self, states: &Tensor) -> Result<Tensor> {
        scaled(self.norm.forward(states)?, self.output_scale)
    }
}

fn scaled(x: Tensor, by: f64) -> Result<Tensor> {
    if by == 1.0 { Ok(x) } else { x * by }
}

/// The body's part of a checkpoint of the GPT family: all of it where it was saved without a head, else what stands under
/// `transformer.`.
pub(crate) fn body<'a>(tensors: &VarBuilder<'a>) -> VarBuilder<'a> {
    if tensors.contains_tensor("ln_f.weight") { tensors.clone() } else { tensors.pp("transformer") }
}

/// A projection with a bias, as most checkpoints store it: the weight is `[output, input]`.
pub(crate) fn linear(input: usize, output: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    let weight = vb.get((output, input), "weight")?;
    by_input(&weight, Some(vb.get(output, "bias")?))
}

/// [`linear`] without a bias.
pub(crate) fn linear_no_bias(input: usize, output: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    by_input(&vb.get((output, input), "weight")?, None)
}

/// A projection as GPT-2 and its relatives store it: the weight is `[input, output]`.
pub(crate) fn conv1d(input: usize, output: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    let weight = vb.get((input, output), "weight")?;
    Ok(Linear::new(weight.t()?, Some(vb.get(output, "bias")?)))
}

/// The head that says which token comes next: the embeddings again where the checkpoint ties them, whatever copy of them
/// lies beside, else `lm_head`.
pub(crate) fn head(words: &Embedding, tied: bool, tensors: &VarBuilder<'_>) -> Result<Linear> {
    if tied {
        return Ok(Linear::new(words.embeddings().clone(), None));
    }
    let (vocabulary, hidden) = words.embeddings().dims2()?;
    linear_no_bias(hidden, vocabulary, tensors.pp("lm_head"))
}

/// What `config.json` means where it does not say no.
pub(crate) fn yes() -> bool {
    true
}

/// A projection whose weight, `[output, input]`, lies in memory input by input, as [`conv1d`] finds it: the products of
/// `gemm` read it some five per cent faster so.
pub(crate) fn by_input(weight: &Tensor, bias: Option<Tensor>) -> Result<Linear> {
    Ok(Linear::new(weight.t()?.contiguous()?.t()?, bias))
}

#[cfg(test)]
pub(crate) mod tests;
