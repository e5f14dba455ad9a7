//! Disentangled attention over packed rows: beside what two tokens say, a score counts what the query says of the place
//! the key has relative to it, and what the key says of its own. He et al., <https://arxiv.org/abs/2006.03654>, as
//! `DisentangledSelfAttention` of transformers 4.28 computes it.
//!
//! On the processor a task is one head of one row: what its keys say of all relative places is computed once, and the
//! scores of a block of queries stay in the cache of the core that made them. On any other device, in any other dtype, and as
//! the yardstick of the tests, candle's own operations compute the same.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use candle_nn::ops::softmax_last_dim;
use rayon::prelude::*;

use super::{
    attention::Heads,
    contiguous, is_fused,
    matmul::{Matrix, multiply},
    padded::{self, Rectangle},
    product, vector,
};

/// Queries whose scores are in hand at once.
const BLOCK_TOKENS: usize = 64;

/// One disentangled attention over the rows of a batch.
#[derive(Debug)]
pub(crate) struct Disentangled<'a> {
    /// As many key heads as query heads.
    pub(crate) heads: Heads,
    /// What a score is multiplied by when its parts are added up.
    pub(crate) scale: f32,
    /// For each `key - query` from `-(n - 1)` to `n - 1` the row of the relative place, `2 n - 1` of them, never rising;
    /// `n` is at least the longest row. Every row of the batch and every layer use the same.
    pub(crate) places: &'a [u32],
    /// Tokens of each row, in order.
    pub(crate) lengths: &'a [usize],
}

// === impl Disentangled ===

impl Disentangled<'_> {
    /// `qkv` is `[tokens, query | key | value]`; `keys` and `queries` are the relative places as keys and as queries, each
    /// `[places, heads · size]`, or without rows where the network does not ask for that part. The answer is
    /// `[tokens, heads · size]`.
    pub(crate) fn forward(&self, qkv: &Tensor, keys: &Tensor, queries: &Tensor) -> Result<Tensor> {
        let (tokens, width) = qkv.dims2()?;
        if tokens != self.lengths.iter().sum::<usize>()
            || width != self.heads.qkv_width()
            || self.heads.query != self.heads.key
        {
            candle_core::bail!("disentangled attention over {:?} of {tokens} tokens by {width}", self.heads);
        }
        for places in [keys, queries] {
            let (rows, columns) = places.dims2()?;
            if columns != self.heads.query_width() {
                candle_core::bail!("relative places of width {columns} do not suit {:?}", self.heads);
            }
            if rows > 0 && self.places.iter().any(|&place| place as usize >= rows) {
                candle_core::bail!("a relative place is not among the {rows} there are");
            }
        }
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        if self.places.len() % 2 != 1 || self.places.len() + 1 < 2 * longest {
            candle_core::bail!("{} relative places for a row of {longest} tokens", self.places.len());
        }
        #[cfg(feature = "cuda")]
        if let Some(answer) = super::gpu::disentangled(self, qkv, keys, queries)? {
            return Ok(answer);
        }
        if is_fused(qkv) { qkv.apply_op3_no_bwd(keys, queries, self) } else { self.portable(qkv, keys, queries) }
    }

    /// For keys `0..length` the relative place seen from `query`.
    fn seen_from(&self, query: usize, length: usize) -> &[u32] {
        let own = self.places.len() / 2;
        &self.places[own - query..own - query + length]
    }

    /// The definition, in candle's own operations; rows of nearly one length at once.
    pub(super) fn portable(&self, qkv: &Tensor, keys: &Tensor, queries: &Tensor) -> Result<Tensor> {
        let Heads { query: heads, size, .. } = self.heads;
        let rectangles = padded::rectangles(self.lengths, 1);
        if rectangles.is_empty() {
            return padded::no_rows(heads * size, qkv.dtype(), qkv.device());
        }
        // [heads, size, places]
        let of_places = |t: &Tensor| match t.dim(0)? {
            0 => Ok::<_, candle_core::Error>(None),
            places => t.reshape((places, heads, size))?.permute((1, 2, 0))?.contiguous().map(Some),
        };
        let (keys, queries) = (of_places(keys)?, of_places(queries)?);
        let places = Tensor::new(self.places, qkv.device())?;
        let computed = rectangles
            .iter()
            .map(|rectangle| self.rectangle(rectangle, &rectangle.take(qkv)?, keys.as_ref(), queries.as_ref(), &places))
            .collect::<Result<Vec<_>>>()?;
        padded::packed(&rectangles, &computed)
    }

    /// `[rows · length, query | key | value]` to `[rows · length, heads · size]`; `places` are [`Disentangled::places`] on the
    /// device.
    fn rectangle(
        &self,
        rectangle: &Rectangle,
        qkv: &Tensor,
        keys: Option<&Tensor>,
        queries: Option<&Tensor>,
        places: &Tensor,
    ) -> Result<Tensor> {
        let Heads { query: heads, size, .. } = self.heads;
        let (rows, length) = (rectangle.rows(), rectangle.length());
        let whole = qkv.reshape((rows, length, 3 * heads, size))?;
        // [heads, rows, length, size]
        let part = |column: usize| whole.narrow(2, column * heads, heads)?.permute((2, 0, 1, 3))?.contiguous();
        let scale = f64::from(self.scale);
        let (q, k, v) = ((part(0)? * scale)?, part(1)?, part(2)?.reshape((heads * rows, length, size))?);
        let shape = (heads, rows, length, length);

        let (below, each) = ((heads, rows * length, size), (heads * rows, length, size));
        let scores = product(&q.reshape(each)?, &k.reshape(each)?.t()?)?;
        let mut scores = scores.to_dtype(DType::F32)?.reshape(shape)?;
        // The row of the relative place of each key, the other axis, as seen from each query.
        let seen = {
            let tokens = Tensor::arange(0.0, length as f32, qkv.device())?;
            let (of_queries, of_keys) = (tokens.reshape((length, 1))?, tokens.reshape((1, length))?);
            let own = (self.places.len() / 2) as f64;
            let distances = (of_keys.broadcast_sub(&of_queries)? + own)?.to_dtype(DType::U32)?;
            places.index_select(&distances.flatten_all()?, 0)?.reshape((length, length))?
        };
        let picked = |said: Tensor, seen: Tensor| {
            let said = said.reshape((heads, rows, length, said.dim(2)?))?;
            said.gather(&seen.broadcast_as(shape)?.contiguous()?, 3)?.to_dtype(DType::F32)
        };
        if let Some(keys) = keys {
            scores = (scores + picked(product(&q.reshape(below)?, keys)?, seen.clone())?)?;
        }
        if let Some(queries) = queries {
            let scaled = (k * scale)?.reshape(below)?;
            scores = (scores + picked(product(&scaled, queries)?, seen.t()?)?.transpose(2, 3)?)?;
        }
        if let Some(hidden) = rectangle.hidden(0, qkv.device())? {
            scores = scores.broadcast_add(&hidden)?;
        }
        let weights = softmax_last_dim(&scores)?.to_dtype(v.dtype())?.reshape((heads * rows, length, length))?;
        let answer = product(&weights, &v)?.reshape((heads, rows, length, size))?.permute((1, 2, 0, 3))?;
        answer.contiguous()?.reshape((rows * length, heads * size))
    }
}

impl CustomOp3 for Disentangled<'_> {
    fn name(&self) -> &'static str {
        "disentangled-attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        l1: &Layout,
        keys: &CpuStorage,
        l2: &Layout,
        queries: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (qkv, keys, queries) = (contiguous(qkv, l1)?, contiguous(keys, l2)?, contiguous(queries, l3)?);
        let (width, size) = (self.heads.query_width(), self.heads.size);
        let tokens: usize = self.lengths.iter().sum();

        // One task for each head of each row, which writes its answer in one piece: head after head within a row.
        let mut by_head = vec![0.0_f32; tokens * width];
        let mut tasks = Vec::with_capacity(self.lengths.len() * self.heads.query);
        let (mut rest, mut start) = (by_head.as_mut_slice(), 0);
        for &length in self.lengths.iter().filter(|&&length| length > 0) {
            let row = &qkv[start * 3 * width..(start + length) * 3 * width];
            start += length;
            for head in 0..self.heads.query {
                let (answer, after) = rest.split_at_mut(length * size);
                rest = after;
                tasks.push((row, head, answer));
            }
        }
        tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (row, head, answer)| {
            self.attend(row, head, keys, queries, answer, scratch);
        });

        let mut out = vec![0.0_f32; tokens * width];
        let (mut from, mut to) = (by_head.as_slice(), out.as_mut_slice());
        let mut rows = Vec::with_capacity(self.lengths.len());
        for &length in self.lengths.iter().filter(|&&length| length > 0) {
            let (source, sources) = from.split_at(length * width);
            let (target, targets) = to.split_at_mut(length * width);
            (from, to) = (sources, targets);
            rows.push((source, target));
        }
        rows.into_par_iter().for_each(|(source, target)| {
            for (head, answer) in source.chunks_exact(target.len() / width * size).enumerate() {
                for (token, values) in target.chunks_exact_mut(width).zip(answer.chunks_exact(size)) {
                    token[head * size..(head + 1) * size].copy_from_slice(values);
                }
            }
        });
        Ok((CpuStorage::F32(out), (tokens, width).into()))
    }
}

/// Memory that one thread uses again for each of its tasks.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    /// What the queries of a block say of the relative places, and what all keys of the row say of them.
    by_queries: Vec<f32>,
    by_keys: Vec<f32>,
    /// One over the sum of each query's weights.
    shares: Vec<f32>,
}

impl Disentangled<'_> {
    /// One head of one row: `row` is its `[tokens, query | key | value]`, the answer `[tokens, size]`.
    fn attend(
        &self,
        row: &[f32],
        head: usize,
        keys: &[f32],
        queries: &[f32],
        answer: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (width, size) = (self.heads.query_width(), self.heads.size);
        let length = answer.len() / size;
        let own_keys = Matrix::rows(&row[width + head * size..], length, size, 3 * width);
        let own_values = Matrix::rows(&row[2 * width + head * size..], length, size, 3 * width);

        // Places never rise with the key. A short row sees only those in the middle; the others cost it nothing.
        let most = self.seen_from(length - 1, length)[0] as usize;
        let least = self.seen_from(0, length)[length - 1] as usize;
        let count = most - least + 1;
        let nearby = |places: &'_ [f32]| least * width + head * size..places.len();

        if !queries.is_empty() {
            let queries = Matrix::rows(&queries[nearby(queries)], count, size, width);
            scratch.by_keys.resize(length * count, 0.0);
            multiply(&mut scratch.by_keys, count, false, own_keys, queries.transposed());
        }
        for (block, answer) in answer.chunks_mut(BLOCK_TOKENS * size).enumerate() {
            let (first, tokens) = (block * BLOCK_TOKENS, answer.len() / size);
            scratch.queries.resize(tokens * size, 0.0);
            for (i, scaled) in scratch.queries.chunks_exact_mut(size).enumerate() {
                let at = (first + i) * 3 * width + head * size;
                for (scaled, value) in scaled.iter_mut().zip(&row[at..at + size]) {
                    *scaled = value * self.scale;
                }
            }
            let own_queries = Matrix::rows(&scratch.queries, tokens, size, size);
            scratch.scores.resize(tokens * length, 0.0);
            multiply(&mut scratch.scores, length, false, own_queries, own_keys.transposed());
            if !keys.is_empty() {
                let keys = Matrix::rows(&keys[nearby(keys)], count, size, width);
                scratch.by_queries.resize(tokens * count, 0.0);
                multiply(&mut scratch.by_queries, count, false, own_queries, keys.transposed());
            }

            scratch.shares.clear();
            for (i, scores) in scratch.scores.chunks_exact_mut(length).enumerate() {
                let seen = self.seen_from(first + i, length);
                if !keys.is_empty() {
                    let said = &scratch.by_queries[i * count..(i + 1) * count];
                    for (score, &place) in scores.iter_mut().zip(seen) {
                        *score += said[place as usize - least];
                    }
                }
                if !queries.is_empty() {
                    for ((score, &place), said) in scores.iter_mut().zip(seen).zip(scratch.by_keys.chunks_exact(count))
                    {
                        *score += self.scale * said[place as usize - least];
                    }
                }
                let greatest = vector::max(scores);
                scratch.shares.push(1.0 / vector::exp_minus_in_place(scores, greatest));
            }

            multiply(answer, size, false, Matrix::rows(&scratch.scores, tokens, length, length), own_values);
            // Divided here: `size` divisions instead of one for each key.
            for (answer, share) in answer.chunks_exact_mut(size).zip(&scratch.shares) {
                answer.iter_mut().for_each(|value| *value *= share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    fn random(rows: usize, columns: usize) -> Tensor {
        if rows == 0 {
            return Tensor::zeros((0, columns), DType::F32, &Device::Cpu).unwrap();
        }
        Tensor::randn(0_f32, 0.7, (rows, columns), &Device::Cpu).unwrap()
    }

    /// Every second distance has a place of its own, up to `span`.
    fn places(longest: usize, span: usize) -> Vec<u32> {
        let longest = longest.max(1) as i64;
        let span = span as i64;
        (1 - longest..longest).map(|distance| (span - distance.div_euclid(2)).clamp(0, 2 * span - 1) as u32).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_fused_form_equals_the_definition(
            lengths in prop::collection::vec(0_usize..150, 1..5),
            heads in 1_usize..4, span in 1_usize..40, longer in 0_usize..3, with_keys: bool, with_queries: bool,
        ) {
            let heads = Heads { query: heads, key: heads, size: 8 };
            let tokens: usize = lengths.iter().sum();
            let places = places(lengths.iter().max().unwrap() + longer, span);
            let attention = Disentangled { heads, scale: 0.2, places: &places, lengths: &lengths };
            let qkv = random(tokens, heads.qkv_width());
            let keys = random(if with_keys { 2 * span } else { 0 }, heads.query_width());
            let queries = random(if with_queries { 2 * span } else { 0 }, heads.query_width());
            let fused = attention.forward(&qkv, &keys, &queries).unwrap();
            prop_assert_eq!(fused.dims2().unwrap(), (tokens, heads.query_width()));
            if tokens > 0 {
                let expected = attention.portable(&qkv, &keys, &queries).unwrap();
                let difference = (fused - expected).unwrap().abs().unwrap().max_all().unwrap();
                prop_assert!(difference.to_scalar::<f32>().unwrap() < 1e-5);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let heads = Heads { query: 2, key: 2, size: 4 };
        let places = places(3, 2);
        let attention = Disentangled { heads, scale: 1.0, places: &places, lengths: &[3] };
        let refusal = |attention: &Disentangled<'_>, tokens, rows, columns| {
            let error = attention.forward(&random(tokens, 24), &random(rows, columns), &random(4, 8)).unwrap_err();
            error.to_string()
        };
        assert!(attention.forward(&random(3, 24), &random(4, 8), &random(4, 8)).is_ok());
        assert!(refusal(&attention, 4, 4, 8).contains("of 4 tokens"));
        assert!(refusal(&attention, 3, 4, 7).contains("width 7"));
        assert!(refusal(&attention, 3, 3, 8).contains("not among the 3"));
        let longer = Disentangled { lengths: &[4], ..attention };
        assert!(refusal(&longer, 4, 4, 8).contains("a row of 4 tokens"));
    }
}
