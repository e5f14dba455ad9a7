//! [`Attention`] in candle's own operations: for devices other than the processor, and for numbers below f32.
//!
//! Rows of nearly one length are computed as one rectangle ([`crate::ops::padded`]), all heads at once. The past, which all
//! rows share, is never repeated for them: their queries stand one below another before it, and its scores and their own are
//! joined before the softmax. Scores are f32 from there to the weights.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::{Attention, Bias, Heads};
use crate::ops::{
    padded::{self, Rectangle},
    product,
};

/// Keys and values of the past, each `[key heads, tokens, size]`.
struct Shared {
    tokens: usize,
    keys: Tensor,
    values: Tensor,
}

impl Attention<'_> {
    /// As [`Attention::forward`].
    pub(in crate::ops) fn portable(&self, qkv: &Tensor, past: &Tensor) -> Result<Tensor> {
        let Heads { key, size, .. } = self.heads;
        let rectangles = padded::rectangles(self.lengths, 1);
        if rectangles.is_empty() {
            return padded::no_rows(self.heads.query_width(), qkv.dtype(), qkv.device());
        }
        let shared = match past.dim(0)? {
            0 => None,
            tokens => {
                let heads = past.reshape((tokens, 2 * key, size))?.transpose(0, 1)?.contiguous()?;
                Some(Shared { tokens, keys: heads.narrow(0, 0, key)?, values: heads.narrow(0, key, key)? })
            }
        };
        let computed = rectangles
            .iter()
            .map(|rectangle| self.rectangle(rectangle, &rectangle.take(qkv)?, shared.as_ref()))
            .collect::<Result<Vec<_>>>()?;
        padded::packed(&rectangles, &computed)
    }

    /// `[rows · length, query | key | value]` to `[rows · length, query]`.
    fn rectangle(&self, rectangle: &Rectangle, qkv: &Tensor, shared: Option<&Shared>) -> Result<Tensor> {
        let Heads { query, key, size } = self.heads;
        let (rows, length) = (rectangle.rows(), rectangle.length());
        let group = query / key;
        let past = shared.map_or(0, |shared| shared.tokens);

        let whole = qkv.reshape((rows, length, query + 2 * key, size))?;
        // [heads, rows, length, size]
        let heads_first =
            |first: usize, count: usize| whole.narrow(2, first, count)?.permute((2, 0, 1, 3))?.contiguous();
        // [query heads · rows, length, size], each key head repeated for its group
        let grouped = |t: Tensor| match group {
            1 => t.reshape((query * rows, length, size)),
            _ => t
                .reshape((key, 1, rows, length, size))?
                .expand((key, group, rows, length, size))?
                .contiguous()?
                .reshape((query * rows, length, size)),
        };
        let q = (heads_first(0, query)? * f64::from(self.scale))?;
        let (own_q, below) = (q.reshape((query * rows, length, size))?, (key, group * rows * length, size));
        let (k, v) = (grouped(heads_first(query, key)?)?, grouped(heads_first(query + key, key)?)?);

        let of = |scores: Tensor, keys: usize| scores.to_dtype(DType::F32)?.reshape((query, rows, length, keys));
        let mut scores = of(product(&own_q, &k.t()?)?, length)?;
        if let Some(shared) = shared {
            let before = of(product(&q.reshape(below)?, &shared.keys.t()?)?, past)?;
            scores = Tensor::cat(&[before, scores], 3)?;
        }
        // What pads stands behind every token of its row, where a causal row does not look.
        let padding = if self.causal { None } else { rectangle.hidden(past, qkv.device())? };
        for added in [self.added(past, length, qkv.device())?, padding].into_iter().flatten() {
            scores = scores.broadcast_add(&added)?;
        }
        let weights = softmax_last_dim(&scores)?.to_dtype(v.dtype())?;

        let own = weights.narrow(3, past, length)?.contiguous()?.reshape((query * rows, length, length))?;
        let mut answer = product(&own, &v)?;
        if let Some(shared) = shared {
            let before = weights.narrow(3, 0, past)?.contiguous()?.reshape((key, group * rows * length, past))?;
            answer = (answer + product(&before, &shared.values)?.reshape((query * rows, length, size))?)?;
        }
        let answer = answer.reshape((query, rows, length, size))?.permute((1, 2, 0, 3))?;
        answer.contiguous()?.reshape((rows * length, query * size))
    }

    /// What is added to the scores of `length` queries behind `past` tokens: the bias, and what hides keys that a query does
    /// not see. `[heads or 1, 1, length, past + length]`; none where it would be nothing.
    fn added(&self, past: usize, length: usize, device: &Device) -> Result<Option<Tensor>> {
        if matches!(self.bias, Bias::None) && !self.causal && self.window.is_none() {
            return Ok(None);
        }
        let seen = past + length;
        let queries = Tensor::arange(past as f32, seen as f32, device)?.reshape((length, 1))?;
        let keys = Tensor::arange(0.0, seen as f32, device)?.reshape((1, seen))?;
        // key - query, exact in f32
        let distances = keys.broadcast_sub(&queries)?.reshape((1, 1, length, seen))?;
        let never = Tensor::full(f32::NEG_INFINITY, (1, 1, length, seen), device)?;
        let mut added = distances.zeros_like()?;
        if self.causal {
            added = distances.gt(0_f32)?.where_cond(&never, &added)?;
        }
        if let Some(window) = self.window {
            added = distances.le(-(window.get() as f32))?.where_cond(&never, &added)?;
        }
        match self.bias {
            Bias::None => Ok(Some(added)),
            Bias::Alibi { slopes } => {
                let slopes = Tensor::from_slice(slopes, (slopes.len(), 1, 1, 1), device)?;
                distances.abs()?.neg()?.broadcast_mul(&slopes)?.broadcast_add(&added).map(Some)
            }
            Bias::Table { values, reach } => {
                let (width, reach) = (2 * reach + 1, reach as f64);
                let heads = values.len() / width;
                let columns = (distances.clamp(-reach, reach)? + reach)?.to_dtype(DType::U32)?.flatten_all()?;
                let table = Tensor::from_slice(values, (heads, width), device)?;
                let bias = table.index_select(&columns, D::Minus1)?.reshape((heads, 1, length, seen))?;
                bias.broadcast_add(&added).map(Some)
            }
        }
    }
}
