//! Attention over packed rows: rows of different lengths lie one after another, without padding, and each sees only
//! itself and the keys and values of a past that all rows share.
//!
//! On the processor the scores of a block of queries stay in the cache of the core that made them, after Dao et al.,
//! <https://arxiv.org/abs/2205.14135>; the rows of a head are short enough that no running softmax is needed. On any
//! other device, in any other dtype, and as the yardstick of the tests, candle's own operations compute the same
//! ([`portable`]).

mod portable;

use std::{num::NonZeroUsize, ops::Range};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    contiguous, is_fused,
    matmul::{Matrix, multiply},
    vector,
};

/// Rows of scores, one for each query of each head of a group, that one task computes at a time, or about so many. Fewer
/// pay for the keys and values, which every product arranges anew; more leave the core's cache and, where attention is
/// causal, compute more that is hidden.
const BLOCK_ROWS: usize = 128;

/// How the columns of a token divide into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) query: usize,
    /// Key heads, and as many value heads; each serves `query / key` query heads (grouped-query attention,
    /// <https://arxiv.org/abs/2305.13245>).
    pub(crate) key: usize,
    /// Values in a head.
    pub(crate) size: usize,
}

/// What is added to a score for how far its key lies from its query. Places count from the beginning of the past.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bias<'a> {
    /// Nothing.
    None,
    /// `-slope · |key - query|`. Press et al., <https://arxiv.org/abs/2108.12409>.
    Alibi {
        /// One for each query head.
        slopes: &'a [f32],
    },
    /// A learned number for each head and each `key - query`, which is clamped to `-reach ..= reach`: any bucketing of
    /// distances that ends somewhere. Raffel et al., <https://arxiv.org/abs/1910.10683>.
    Table {
        /// `[query heads, 2 · reach + 1]`, row after row.
        values: &'a [f32],
        reach: usize,
    },
}

/// One attention over the rows of a batch.
#[derive(Debug)]
pub(crate) struct Attention<'a> {
    pub(crate) heads: Heads,
    /// A token sees the past, itself and what precedes it in its row; otherwise the past and its whole row.
    pub(crate) causal: bool,
    /// What a product of query and key is multiplied by; mostly [`Heads::inverse_root`].
    pub(crate) scale: f32,
    pub(crate) bias: Bias<'a>,
    /// A token sees no key that lies this many places before it, or more: `key > query - window`.
    pub(crate) window: Option<NonZeroUsize>,
    /// Tokens of each row, in order.
    pub(crate) lengths: &'a [usize],
}

// === impl Heads ===

impl Heads {
    /// As many key heads as query heads, over a width that divides into them evenly.
    pub(crate) fn over(width: usize, heads: usize) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            candle_core::bail!("a width of {width} does not divide into {heads} heads");
        }
        Ok(Self { query: heads, key: heads, size: width / heads })
    }

    /// Columns of queries, keys and values side by side.
    pub(crate) fn qkv_width(self) -> usize {
        (self.query + 2 * self.key) * self.size
    }

    /// Columns of keys and values side by side.
    pub(crate) fn kv_width(self) -> usize {
        2 * self.key * self.size
    }

    /// Columns of queries, and of the answer.
    pub(crate) fn query_width(self) -> usize {
        self.query * self.size
    }

    /// Queries in one block of a row of `length`, which divides into blocks as equal as can be.
    fn block_tokens(self, length: usize) -> usize {
        let usual = (BLOCK_ROWS * self.key / self.query).max(1);
        let blocks = ((length + usual / 2) / usual).max(1);
        length.div_ceil(blocks).max(1)
    }

    /// The usual scale of scores, `1 / sqrt(size)`.
    pub(crate) fn inverse_root(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }
}

// === impl Bias ===

impl Bias<'_> {
    /// Adds the bias of `head` to the scores of the query at place `query` under keys `0..scores.len()`.
    fn add_to(self, scores: &mut [f32], head: usize, query: usize) {
        match self {
            Self::None => (),
            Self::Alibi { slopes } => {
                let (slope, query) = (slopes[head], query as i32);
                for (score, key) in scores.iter_mut().zip(0_i32..) {
                    *score -= slope * (key - query).abs() as f32;
                }
            }
            Self::Table { values, reach } => {
                let width = 2 * reach + 1;
                let values = &values[head * width..(head + 1) * width];
                // Up to `near` and from `far` on the distance is clamped; between them the table lies as the keys do.
                let (near, far) = (query.saturating_sub(reach), scores.len().min(query + reach + 1));
                let (before, rest) = scores.split_at_mut(near);
                let (within, after) = rest.split_at_mut(far - near);
                before.iter_mut().for_each(|score| *score += values[0]);
                for (score, value) in within.iter_mut().zip(&values[near + reach - query..]) {
                    *score += value;
                }
                after.iter_mut().for_each(|score| *score += values[width - 1]);
            }
        }
    }

    fn suits(self, heads: usize) -> bool {
        match self {
            Self::None => true,
            Self::Alibi { slopes } => slopes.len() == heads,
            Self::Table { values, reach } => values.len() == heads * (2 * reach + 1),
        }
    }
}

// === impl Attention ===

impl Attention<'_> {
    /// `qkv` is `[tokens, query | key | value]`, `past` is `[past tokens, key | value]` (none: no rows); the answer is
    /// `[tokens, query]`.
    pub(crate) fn forward(&self, qkv: &Tensor, past: &Tensor) -> Result<Tensor> {
        let (tokens, width) = qkv.dims2()?;
        if tokens != self.lengths.iter().sum::<usize>() || width != self.heads.qkv_width() {
            candle_core::bail!("attention over {:?} of {tokens} tokens by {width}", self.heads);
        }
        if past.dim(1)? != self.heads.kv_width() {
            candle_core::bail!("a past of width {} does not suit {:?}", past.dim(1)?, self.heads);
        }
        if !self.bias.suits(self.heads.query) {
            candle_core::bail!("the bias of scores is not one for {} heads: {:?}", self.heads.query, self.bias);
        }
        #[cfg(feature = "cuda")]
        if let Some(answer) = super::gpu::attention(self, qkv, past)? {
            return Ok(answer);
        }
        if is_fused(qkv) { qkv.apply_op2_no_bwd(past, self) } else { self.portable(qkv, past) }
    }

    /// The keys that the query at place `query` sees of `seen`.
    fn visible(&self, query: usize, seen: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (query + 1).saturating_sub(window.get()));
        first..if self.causal { query + 1 } else { seen }
    }
}

impl CustomOp2 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, l1: &Layout, past: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (qkv, past) = (contiguous(qkv, l1)?, contiguous(past, l2)?);
        let tokens: usize = self.lengths.iter().sum();
        let width = self.heads.query_width();
        let mut out = vec![0.0_f32; tokens * width];

        // One task for each block of queries of each row; a task owns the rows of the answer it writes.
        let mut tasks = Vec::new();
        let (mut rest, mut start) = (out.as_mut_slice(), 0);
        for &length in self.lengths {
            let step = self.heads.block_tokens(length);
            for first in (0..length).step_by(step) {
                let block = Block { start, length, first, count: step.min(length - first) };
                let (answer, after) = rest.split_at_mut(block.count * width);
                rest = after;
                tasks.push((block, answer));
            }
            start += length;
        }
        tasks
            .into_par_iter()
            .for_each_init(Scratch::default, |scratch, (block, answer)| self.attend(block, qkv, past, answer, scratch));
        Ok((CpuStorage::F32(out), (tokens, width).into()))
    }
}

/// Some queries of one row.
#[derive(Clone, Copy)]
struct Block {
    /// Where the row begins in the batch, and its tokens.
    start: usize,
    length: usize,
    /// The first query of the block within the row, and how many.
    first: usize,
    count: usize,
}

/// Memory that one thread uses again for each of its tasks.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    answers: Vec<f32>,
}

impl Attention<'_> {
    fn attend(&self, block: Block, qkv: &[f32], past: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        let Heads { query, key, size } = self.heads;
        let (width, past_width) = (self.heads.qkv_width(), self.heads.kv_width());
        let past_tokens = past.len() / past_width;
        let row = &qkv[block.start * width..(block.start + block.length) * width];
        let own = if self.causal { block.first + block.count } else { block.length };
        let seen = past_tokens + own;
        let group = query / key;
        let rows = group * block.count;
        scratch.queries.resize(rows * size, 0.0);
        scratch.scores.resize(rows * seen, 0.0);
        scratch.answers.resize(rows * size, 0.0);

        for head in 0..key {
            // The queries of the group, head by head, scaled once here rather than in every score.
            for (i, scaled) in scratch.queries.chunks_exact_mut(size).enumerate() {
                let (member, token) = (i / block.count, block.first + i % block.count);
                let at = token * width + (head * group + member) * size;
                for (scaled, value) in scaled.iter_mut().zip(&row[at..at + size]) {
                    *scaled = value * self.scale;
                }
            }
            let queries = Matrix::rows(&scratch.queries, rows, size, size);
            let column = (query + head) * size;
            let keys = Matrix::rows(&row[column..], own, size, width);
            multiply(&mut scratch.scores[past_tokens..], seen, false, queries, keys.transposed());
            if past_tokens > 0 {
                let past_keys = Matrix::rows(&past[head * size..], past_tokens, size, past_width);
                multiply(&mut scratch.scores, seen, false, queries, past_keys.transposed());
            }

            for (i, scores) in scratch.scores.chunks_exact_mut(seen).enumerate() {
                let place = past_tokens + block.first + i % block.count;
                let visible = self.visible(place, seen);
                self.bias.add_to(&mut scores[..visible.end], head * group + i / block.count, place);
                scores[..visible.start].fill(0.0);
                scores[visible.end..].fill(0.0);
                let scores = &mut scores[visible];
                let greatest = vector::max(scores);
                let sum = vector::exp_minus_in_place(scores, greatest);
                // The answer is divided by the sum below: `size` divisions instead of one for each key.
                scratch.queries[i * size] = 1.0 / sum;
            }

            let column = (query + key + head) * size;
            let values = Matrix::rows(&row[column..], own, size, width);
            let weights = Matrix::rows(&scratch.scores[past_tokens..], rows, own, seen);
            multiply(&mut scratch.answers, size, false, weights, values);
            if past_tokens > 0 {
                let past_values = Matrix::rows(&past[(key + head) * size..], past_tokens, size, past_width);
                let weights = Matrix::rows(&scratch.scores, rows, past_tokens, seen);
                multiply(&mut scratch.answers, size, true, weights, past_values);
            }

            for (i, answer) in scratch.answers.chunks_exact(size).enumerate() {
                let (member, token) = (i / block.count, i % block.count);
                let at = token * query * size + (head * group + member) * size;
                let share = scratch.queries[i * size];
                for (out, value) in out[at..at + size].iter_mut().zip(answer) {
                    *out = value * share;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::*;

    fn random(rows: usize, columns: usize) -> Tensor {
        if rows == 0 {
            return Tensor::zeros((0, columns), DType::F32, &Device::Cpu).unwrap();
        }
        Tensor::randn(0_f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
    }

    fn plain(heads: Heads, lengths: &[usize]) -> Attention<'_> {
        Attention { heads, causal: true, scale: heads.inverse_root(), bias: Bias::None, window: None, lengths }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_fused_form_equals_the_definition(
            lengths in prop::collection::vec(prop_oneof![0_usize..70, 190_usize..300], 1..5),
            past in prop_oneof![Just(0_usize), 1_usize..50],
            key in 1_usize..4, group in 1_usize..4, causal: bool,
            scale in 0.1_f32..1.0,
            bias in 0..3, reach in 0_usize..40,
            window in prop::option::of(1_usize..60),
        ) {
            let heads = Heads { query: key * group, key, size: 8 };
            let numbers: Vec<f32> =
                (0..heads.query * (2 * reach + 1)).map(|i| ((i * 7_919) % 1_000) as f32 / 400.0 - 1.0).collect();
            let slopes: Vec<f32> = (1..=heads.query).map(|i| 0.5_f32.powi(i as i32)).collect();
            let bias = match bias {
                0 => Bias::None,
                1 => Bias::Alibi { slopes: &slopes },
                _ => Bias::Table { values: &numbers, reach },
            };
            let window = window.and_then(NonZeroUsize::new);
            let attention = Attention { heads, causal, scale, bias, window, lengths: &lengths };
            let tokens: usize = lengths.iter().sum();
            let qkv = random(tokens, heads.qkv_width());
            let past = random(past, heads.kv_width());
            let fused = attention.forward(&qkv, &past).unwrap();
            prop_assert_eq!(fused.dims2().unwrap(), (tokens, heads.query_width()));
            if tokens > 0 {
                let expected = attention.portable(&qkv, &past).unwrap();
                let difference = (fused - expected).unwrap().abs().unwrap().max_all().unwrap();
                prop_assert!(difference.to_scalar::<f32>().unwrap() < 1e-5);
            }
        }
    }

    #[test]
    fn bias_and_window_are_what_they_say() {
        let slopes = [0.5, 0.25];
        let table: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let mut alibi = [0.0; 4];
        Bias::Alibi { slopes: &slopes }.add_to(&mut alibi, 1, 2);
        assert_eq!(alibi, [-0.5, -0.25, 0.0, -0.25]);
        let mut looked_up = [0.0; 7];
        Bias::Table { values: &table, reach: 2 }.add_to(&mut looked_up, 1, 3);
        assert_eq!(looked_up, [5.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0]);

        let heads = Heads { query: 2, key: 2, size: 4 };
        let windowed = Attention { window: NonZeroUsize::new(3), ..plain(heads, &[]) };
        assert_eq!(windowed.visible(1, 9), 0..2);
        assert_eq!(windowed.visible(5, 9), 3..6);
        assert_eq!(Attention { causal: false, ..windowed }.visible(5, 9), 3..9);
    }

    #[test]
    fn a_batch_that_does_not_add_up_is_refused() {
        let heads = Heads { query: 2, key: 1, size: 4 };
        let attention = plain(heads, &[3]);
        assert!(attention.forward(&random(4, heads.qkv_width()), &random(0, heads.kv_width())).is_err());
        assert!(attention.forward(&random(3, heads.qkv_width()), &random(2, 3)).is_err());
        let attention = Attention { bias: Bias::Alibi { slopes: &[1.0] }, ..attention };
        let error = attention.forward(&random(3, heads.qkv_width()), &random(0, heads.kv_width())).unwrap_err();
        assert!(error.to_string().contains("for 2 heads"), "{error}");
    }
}
