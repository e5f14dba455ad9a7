//! Attention over packed rows: rows of different lengths lie one after another, without padding, and each sees only
//! itself and the keys and values of a past that all rows share.
//!
//! On the processor the scores of a block of queries stay in the cache of the core that made them, after Dao et al.,
//! <https://arxiv.org/abs/2205.14135>; the rows of a head are short enough that no running softmax is needed. On any
//! other device, and as the yardstick of the tests, candle's own operations compute the same row by row.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    contiguous,
    matmul::{Matrix, multiply},
    vector,
};

/// Queries that one task takes. With three query heads to a key head this is 96 rows of scores.
const BLOCK_TOKENS: usize = 32;

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

/// One attention over the rows of a batch.
#[derive(Debug)]
pub(crate) struct Attention<'a> {
    pub(crate) heads: Heads,
    /// A token sees the past, itself and what precedes it in its row; otherwise the past and its whole row.
    pub(crate) causal: bool,
    /// Tokens of each row, in order.
    pub(crate) lengths: &'a [usize],
}

// === impl Heads ===

impl Heads {
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

    fn scale(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
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
        if qkv.device().is_cpu() { qkv.apply_op2_no_bwd(past, self) } else { self.portable(qkv, past) }
    }

    /// The definition, in candle's own operations.
    fn portable(&self, qkv: &Tensor, past: &Tensor) -> Result<Tensor> {
        let Heads { query, key, size } = self.heads;
        let past_tokens = past.dim(0)?;
        let mut answers = Vec::with_capacity(self.lengths.len());
        let mut start = 0;
        for &length in self.lengths.iter().filter(|&&length| length > 0) {
            let row = qkv.narrow(0, start, length)?;
            start += length;
            let kv = row.narrow(1, query * size, self.heads.kv_width())?;
            let kv = if past_tokens == 0 { kv } else { Tensor::cat(&[past, &kv], 0)? };
            let seen = past_tokens + length;
            // [heads, tokens, size], each key head repeated for its group of query heads
            let heads_first = |t: Tensor, heads: usize, tokens: usize| {
                t.reshape((tokens, heads, size))?.transpose(0, 1)?.contiguous()
            };
            let grouped = |t: Tensor| -> Result<Tensor> {
                let t = heads_first(t.contiguous()?, key, seen)?.unsqueeze(1)?;
                t.expand((key, query / key, seen, size))?.contiguous()?.reshape((query, seen, size))
            };
            let q = heads_first(row.narrow(1, 0, query * size)?.contiguous()?, query, length)?;
            let k = grouped(kv.narrow(1, 0, key * size)?)?;
            let v = grouped(kv.narrow(1, key * size, key * size)?)?;
            let mut scores = (q.matmul(&k.transpose(1, 2)?)? * f64::from(self.heads.scale()))?;
            if self.causal {
                let hidden: Vec<f32> = (0..length)
                    .flat_map(|q| (0..seen).map(move |k| if k > past_tokens + q { f32::NEG_INFINITY } else { 0.0 }))
                    .collect();
                scores = scores.broadcast_add(&Tensor::from_vec(hidden, (length, seen), qkv.device())?)?;
            }
            let answer = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
            answers.push(answer.transpose(0, 1)?.reshape((length, query * size))?);
        }
        if answers.is_empty() {
            return Tensor::zeros((0, query * size), qkv.dtype(), qkv.device());
        }
        Tensor::cat(&answers, 0)
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
            for first in (0..length).step_by(BLOCK_TOKENS) {
                let block = Block { start, length, first, count: BLOCK_TOKENS.min(length - first) };
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
                    *scaled = value * self.heads.scale();
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
                let visible = if self.causal { past_tokens + block.first + i % block.count + 1 } else { seen };
                let (scores, hidden) = scores.split_at_mut(visible);
                let greatest = vector::max(scores);
                let sum = vector::exp_minus_in_place(scores, greatest);
                // The answer is divided by the sum below: `size` divisions instead of one for each key.
                scratch.queries[i * size] = 1.0 / sum;
                hidden.fill(0.0);
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_fused_form_equals_the_definition(
            lengths in prop::collection::vec(0_usize..70, 1..5),
            past in prop_oneof![Just(0_usize), 1_usize..50],
            key in 1_usize..4, group in 1_usize..4, causal: bool,
        ) {
            let heads = Heads { query: key * group, key, size: 8 };
            let attention = Attention { heads, causal, lengths: &lengths };
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
    fn a_batch_that_does_not_add_up_is_refused() {
        let heads = Heads { query: 2, key: 1, size: 4 };
        let attention = Attention { heads, causal: true, lengths: &[3] };
        assert!(attention.forward(&random(4, heads.qkv_width()), &random(0, heads.kv_width())).is_err());
        assert!(attention.forward(&random(3, heads.qkv_width()), &random(2, 3)).is_err());
    }
}
