//! Rotary position embedding on interleaved pairs, as llama.cpp stores its weights.
//! Su et al., <https://arxiv.org/abs/2104.09864>.

use candle_core::{CpuStorage, D, Device, InplaceOp1, Layout, Result, Tensor};
use rayon::prelude::*;

/// Sines and cosines of every position a model can have.
#[derive(Debug)]
pub(crate) struct Rotary {
    /// `[positions, size / 2]`.
    cos: Tensor,
    sin: Tensor,
    cos_values: Vec<f32>,
    sin_values: Vec<f32>,
    half: usize,
}

impl Rotary {
    /// Angles for heads of `size` values, rotated over their whole width, at positions below `positions`.
    pub(crate) fn new(base: f32, size: usize, positions: usize, device: &Device) -> Result<Self> {
        let half = size / 2;
        let angles: Vec<f64> = (0..positions)
            .flat_map(|position| {
                (0..half).map(move |i| position as f64 / f64::from(base).powf(2.0 * i as f64 / size as f64))
            })
            .collect();
        let cos_values: Vec<f32> = angles.iter().map(|angle| angle.cos() as f32).collect();
        let sin_values: Vec<f32> = angles.iter().map(|angle| angle.sin() as f32).collect();
        let cos = Tensor::from_slice(&cos_values, (positions, half), device)?;
        let sin = Tensor::from_slice(&sin_values, (positions, half), device)?;
        Ok(Self { cos, sin, cos_values, sin_values, half })
    }

    /// Rotates the first `heads` heads of each token of `x` (`[tokens, width]`) to its position. Consumes `x`: on the
    /// processor its memory becomes the answer.
    pub(crate) fn rotate(&self, x: Tensor, heads: usize, positions: &[u32]) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        if tokens != positions.len() || heads * self.half * 2 > width {
            candle_core::bail!("cannot rotate {heads} heads of {tokens} tokens, {} positions", positions.len());
        }
        let known = self.cos.dim(0)?;
        if let Some(beyond) = positions.iter().find(|&&position| position as usize >= known) {
            candle_core::bail!("position {beyond} is beyond the {known} the model was loaded for");
        }
        if x.device().is_cpu() {
            x.inplace_op1(&Rotate { angles: self, heads, positions })?;
            return Ok(x);
        }
        let positions = Tensor::new(positions, x.device())?;
        let cos = self.cos.index_select(&positions, 0)?.unsqueeze(1)?;
        let sin = self.sin.index_select(&positions, 0)?.unsqueeze(1)?;
        let rotated = heads * self.half * 2;
        let pairs = x.narrow(1, 0, rotated)?.reshape((tokens, heads, self.half, 2))?;
        let (even, odd) = (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?);
        let first = (even.broadcast_mul(&cos)? - odd.broadcast_mul(&sin)?)?;
        let second = (even.broadcast_mul(&sin)? + odd.broadcast_mul(&cos)?)?;
        let turned = Tensor::stack(&[first, second], D::Minus1)?.reshape((tokens, rotated))?;
        Tensor::cat(&[turned, x.narrow(1, rotated, width - rotated)?], 1)
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
        let half = self.angles.half;
        values[start..end].par_chunks_mut(width).zip(self.positions).for_each(|(token, &position)| {
            let at = position as usize * half;
            let (cos, sin) = (&self.angles.cos_values[at..at + half], &self.angles.sin_values[at..at + half]);
            for head in token.chunks_exact_mut(2 * half).take(self.heads) {
                for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                    let (even, odd) = (pair[0], pair[1]);
                    pair[0] = even * cos - odd * sin;
                    pair[1] = even * sin + odd * cos;
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_candles_interleaved_rotary_and_leaves_the_values_alone() {
        let (tokens, heads, size) = (5, 3, 8);
        let rotary = Rotary::new(10_000.0, size, 16, &Device::Cpu).unwrap();
        let x = Tensor::randn(0_f32, 1.0, (tokens, (heads + 1) * size), &Device::Cpu).unwrap();
        let positions = [3_u32, 4, 5, 0, 15];
        let ours = rotary.rotate(x.copy().unwrap(), heads, &positions).unwrap();

        let index = Tensor::new(&positions, &Device::Cpu).unwrap();
        let (cos, sin) = (rotary.cos.index_select(&index, 0).unwrap(), rotary.sin.index_select(&index, 0).unwrap());
        let per_head = |t: &Tensor| {
            let t = t.narrow(1, 0, heads * size).unwrap().reshape((1, tokens, heads, size)).unwrap();
            t.transpose(1, 2).unwrap().contiguous().unwrap()
        };
        let expected = candle_nn::rotary_emb::rope_i(&per_head(&x), &cos, &sin).unwrap();
        let difference = (per_head(&ours) - expected).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
        let untouched = |t: &Tensor| t.narrow(1, heads * size, size).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(untouched(&ours), untouched(&x));
    }

    #[test]
    fn a_position_beyond_the_model_is_an_error() {
        let rotary = Rotary::new(10_000.0, 4, 8, &Device::Cpu).unwrap();
        let x = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(rotary.rotate(x, 1, &[8]).unwrap_err().to_string().contains("position 8"));
    }
}
