//! Elementwise operations over tensors: ours for f32 on the processor, candle's own for anything else.
//!
//! candle adds on a pool of its own whose threads spin for each other at every operation; these use the threads that the
//! products use.

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, InplaceOp2, Layout, Result, Shape, Tensor};
use candle_nn::Linear;
use rayon::prelude::*;

use super::{contiguous, is_fused, product, vector};

/// Values one thread takes at a time: 64 KiB, well inside a core's cache.
const CHUNK_VALUES: usize = 16 * 1024;

/// Exact gelu. Consumes `x`: on the processor its memory becomes the answer.
pub(crate) fn gelu(x: Tensor) -> Result<Tensor> {
    if !is_fused(&x) {
        return x.gelu_erf();
    }
    x.inplace_op1(&Each(vector::gelu_in_place))?;
    Ok(x)
}

/// The hyperbolic approximation of gelu. Consumes `x`, as [`gelu`] does.
pub(crate) fn gelu_new(x: Tensor) -> Result<Tensor> {
    if !is_fused(&x) {
        return x.gelu();
    }
    x.inplace_op1(&Each(vector::gelu_new_in_place))?;
    Ok(x)
}

/// `[tokens, 2 · width]`, gate in the first half and up in the second, to `silu(gate) · up`: `[tokens, width]`.
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    if is_fused(gate_up) {
        return gate_up.apply_op1_no_bwd(&SwiGlu);
    }
    let halves = gate_up.chunk(2, 1)?;
    halves[0].silu()?.mul(&halves[1])
}

/// `x + y`, where `y` is of `x`'s shape or one row for all of its rows. Consumes `x`: on the processor its memory becomes
/// the answer.
pub(crate) fn add(x: Tensor, y: &Tensor) -> Result<Tensor> {
    if !is_fused(&x) {
        return x.broadcast_add(y);
    }
    x.inplace_op2(y, &Add)?;
    Ok(x)
}

/// `x · weightᵀ + bias`, `[tokens, in]` to `[tokens, out]`.
pub(crate) fn linear(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    let product = product(x, &layer.weight().t()?)?;
    match layer.bias() {
        Some(bias) => add(product, bias),
        None => Ok(product),
    }
}

struct Add;

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout, y: &CpuStorage, y_layout: &Layout) -> Result<()> {
        let CpuStorage::F32(x) = x else { candle_core::bail!("add wants f32") };
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("add wants contiguous values") };
        let (x, y) = (&mut x[start..end], contiguous(y, y_layout)?);
        let add = |(x, y): (&mut [f32], &[f32])| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        if x.len() == y.len() {
            x.par_chunks_mut(CHUNK_VALUES).zip(y.par_chunks(CHUNK_VALUES)).for_each(add);
        } else if layout.dims().last() == Some(&y.len()) {
            x.par_chunks_mut(y.len()).for_each(|row| add((row, y)));
        } else {
            candle_core::bail!("cannot add {:?} to {:?}", y_layout.shape(), layout.shape());
        }
        Ok(())
    }
}

/// A function of single values, over all values of a tensor.
struct Each(fn(&mut [f32]));

impl InplaceOp1 for Each {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(values) = storage else { candle_core::bail!("an activation wants f32") };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("an activation wants contiguous values")
        };
        values[start..end].par_chunks_mut(CHUNK_VALUES).for_each(self.0);
        Ok(())
    }
}

struct SwiGlu;

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        if width % 2 != 0 {
            candle_core::bail!("swiglu wants an even width, found {width}");
        }
        let half = width / 2;
        let values = contiguous(storage, layout)?;
        let mut out = vec![0.0_f32; tokens * half];
        out.par_chunks_mut(half).zip(values.par_chunks(width)).for_each(|(out, row)| {
            let (gate, up) = row.split_at(half);
            vector::swiglu(out, gate, up);
        });
        Ok((CpuStorage::F32(out), (tokens, half).into()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn swiglu_equals_candles() {
        let x = Tensor::randn(0_f32, 2.0, (7, 24), &Device::Cpu).unwrap();
        let halves = x.chunk(2, 1).unwrap();
        let expected = halves[0].silu().unwrap().mul(&halves[1]).unwrap();
        let difference = (swiglu(&x).unwrap() - expected).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn add_takes_a_tensor_or_a_row_and_nothing_else() {
        let random = |rows, columns| Tensor::randn(0_f32, 1.0, (rows, columns), &Device::Cpu).unwrap();
        let (x, same, row) = (random(9, 30), random(9, 30), random(1, 30).squeeze(0).unwrap());
        for y in [&same, &row] {
            let expected = x.broadcast_add(y).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(add(x.copy().unwrap(), y).unwrap().to_vec2::<f32>().unwrap(), expected);
        }
        assert!(add(x, &random(9, 29)).unwrap_err().to_string().contains("cannot add"));
    }

    #[test]
    fn an_odd_width_is_refused() {
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(swiglu(&x).unwrap_err().to_string().contains("even width"));
    }
}
