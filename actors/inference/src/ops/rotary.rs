//! Rotary position embedding: Su et al., <https://arxiv.org/abs/2104.09864>.

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor};
use candle_nn::rotary_emb::{rope, rope_i};
use rayon::prelude::*;

use super::is_fused;

/// Which values of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// Neighbours, 2i and 2i + 1: GPT-J, and Llama as llama.cpp stores its weights.
    Interleaved,
    /// i and i + half of what is turned: Llama as transformers stores its weights.
    Halves,
}

/// Sines and cosines of every position a model can have.
#[derive(Debug)]
pub(crate) struct Rotary {
    /// `[positions, pairs]`.
    cos: Tensor,
    sin: Tensor,
    cos_values: Vec<f32>,
    sin_values: Vec<f32>,
    /// Values in a head, and pairs of them that are turned; the rest of the head stays as it is.
    size: usize,
    pairs: usize,
    pairing: Pairing,
}

impl Rotary {
    /// Angles for the first `rotated` values of heads of `size`, at positions below `positions`.
    ///
    /// # Errors
    /// When a head has no such values, or the device fails.
    pub(crate) fn new(
        base: f32,
        size: usize,
        rotated: usize,
        pairing: Pairing,
        positions: usize,
        device: &Device,
    ) -> Result<Self> {
        if rotated > size || !rotated.is_multiple_of(2) {
            candle_core::bail!("cannot rotate {rotated} values of heads of {size}: wants pairs within a head");
        }
        let pairs = rotated / 2;
        let angles: Vec<f64> = (0..positions)
            .flat_map(|position| {
                (0..pairs).map(move |i| position as f64 / f64::from(base).powf(2.0 * i as f64 / rotated as f64))
            })
            .collect();
        let cos_values: Vec<f32> = angles.iter().map(|angle| angle.cos() as f32).collect();
        let sin_values: Vec<f32> = angles.iter().map(|angle| angle.sin() as f32).collect();
        let cos = Tensor::from_slice(&cos_values, (positions, pairs), device)?;
        let sin = Tensor::from_slice(&sin_values, (positions, pairs), device)?;
        Ok(Self { cos, sin, cos_values, sin_values, size, pairs, pairing })
    }

    /// Rotates the first `heads` heads of each token of `x` (`[tokens, width]`) to its position. Consumes `x`: on the
    /// processor its memory becomes the answer.
    pub(crate) fn rotate(&self, x: Tensor, heads: usize, positions: &[u32]) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        if tokens != positions.len() || heads * self.size > width {
            candle_core::bail!("cannot rotate {heads} heads of {tokens} tokens, {} positions", positions.len());
        }
        let known = self.cos.dim(0)?;
        if let Some(beyond) = positions.iter().find(|&&position| position as usize >= known) {
            candle_core::bail!("position {beyond} is beyond the {known} the model was loaded for");
        }
        if is_fused(&x) {
            x.inplace_op1(&Rotate { angles: self, heads, positions })?;
            return Ok(x);
        }
        #[cfg(feature = "cuda")]
        if super::gpu::takes(&x) {
            let interleaved = self.pairing == Pairing::Interleaved;
            return super::gpu::rotate(x, (&self.cos, &self.sin), positions, (heads, self.size), interleaved);
        }
        self.portable(&x, heads, positions)
    }

    /// The same in candle's own operations.
    fn portable(&self, x: &Tensor, heads: usize, positions: &[u32]) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let positions = Tensor::new(positions, x.device())?;
        let of_tokens = |table: &Tensor| table.index_select(&positions, 0)?.to_dtype(x.dtype())?.unsqueeze(1);
        let (cos, sin) = (of_tokens(&self.cos)?, of_tokens(&self.sin)?);
        let all = x.narrow(1, 0, heads * self.size)?.reshape((tokens, heads, 1, self.size))?;
        // Each token as a batch of one place, which has sines and cosines of its own.
        let turned = all.narrow(3, 0, 2 * self.pairs)?.contiguous()?;
        let turned = match self.pairing {
            Pairing::Interleaved => rope_i(&turned, &cos, &sin)?,
            Pairing::Halves => rope(&turned, &cos, &sin)?,
        };
        let still = all.narrow(3, 2 * self.pairs, self.size - 2 * self.pairs)?;
        let turned = if still.elem_count() == 0 { turned } else { Tensor::cat(&[turned, still], 3)? };
        let rest = x.narrow(1, heads * self.size, width - heads * self.size)?;
        Tensor::cat(&[turned.reshape((tokens, heads * self.size))?, rest], 1)
    }
}

struct Rotate<'a> {
    angles: &'a Rotary,
    heads: usize,
    positions: &'a [u32],
}

impl InplaceOp1 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(values) = storage else { candle_core::bail!("rotary embedding wants f32") };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("rotary embedding wants contiguous values")
        };
        let (_, width) = layout.shape().dims2()?;
        let Rotary { size, pairs, pairing, .. } = *self.angles;
        values[start..end].par_chunks_mut(width).zip(self.positions).for_each(|(token, &position)| {
            let at = position as usize * pairs;
            let (cos, sin) = (&self.angles.cos_values[at..at + pairs], &self.angles.sin_values[at..at + pairs]);
            let turn = |a: &mut f32, b: &mut f32, cos: f32, sin: f32| {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            };
            for head in token.chunks_exact_mut(size).take(self.heads) {
                let turned = &mut head[..2 * pairs];
                match pairing {
                    Pairing::Interleaved => {
                        for (([a, b], cos), sin) in turned.as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
                            turn(a, b, *cos, *sin);
                        }
                    }
                    Pairing::Halves => {
                        let (first, second) = turned.split_at_mut(pairs);
                        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                            turn(a, b, *cos, *sin);
                        }
                    }
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn equals_candles_rotary_and_the_portable_form() {
        let (tokens, heads, size) = (5, 3, 8);
        let x = Tensor::randn(0_f32, 1.0, (tokens, (heads + 1) * size), &Device::Cpu).unwrap();
        let positions = [3_u32, 4, 5, 0, 15];
        let index = Tensor::new(&positions, &Device::Cpu).unwrap();
        for (pairing, rotated) in [Pairing::Interleaved, Pairing::Halves].into_iter().flat_map(|p| [(p, 8), (p, 4)]) {
            let rotary = Rotary::new(10_000.0, size, rotated, pairing, 16, &Device::Cpu).unwrap();
            let ours = rotary.rotate(x.copy().unwrap(), heads, &positions).unwrap();
            assert!(difference(&ours, &rotary.portable(&x, heads, &positions).unwrap()) < 1e-6);

            let (cos, sin) = (rotary.cos.index_select(&index, 0).unwrap(), rotary.sin.index_select(&index, 0).unwrap());
            let part = |t: &Tensor, from: usize, width: usize| {
                let t = t.narrow(1, 0, heads * size).unwrap().reshape((1, tokens, heads, size)).unwrap();
                t.transpose(1, 2).unwrap().narrow(3, from, width).unwrap().contiguous().unwrap()
            };
            let turned = part(&x, 0, rotated);
            let expected = match pairing {
                Pairing::Interleaved => candle_nn::rotary_emb::rope_i(&turned, &cos, &sin).unwrap(),
                Pairing::Halves => candle_nn::rotary_emb::rope(&turned, &cos, &sin).unwrap(),
            };
            assert!(difference(&part(&ours, 0, rotated), &expected) < 1e-6, "{pairing:?} {rotated}");
            if rotated < size {
                assert_eq!(difference(&part(&ours, rotated, size - rotated), &part(&x, rotated, size - rotated)), 0.0);
            }
            let untouched = |t: &Tensor| t.narrow(1, heads * size, size).unwrap();
            assert_eq!(difference(&untouched(&ours), &untouched(&x)), 0.0);
        }
    }

    #[test]
    fn what_cannot_be_rotated_is_an_error() {
        let rotary = |rotated| Rotary::new(10_000.0, 4, rotated, Pairing::Interleaved, 8, &Device::Cpu);
        let x = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(rotary(4).unwrap().rotate(x, 1, &[8]).unwrap_err().to_string().contains("position 8"));
        for rotated in [3, 6] {
            assert!(rotary(rotated).unwrap_err().to_string().contains("wants pairs within a head"));
        }
    }
}
