//! Elementwise operations over tensors: ours for f32 on the processor, candle's own for anything else.
//!
//! candle adds on a pool of its own whose threads spin for each other at every operation; these use the threads that the
//! products use.

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, InplaceOp2, Layout, Result, Shape, Storage, StorageRef, Tensor};
use candle_nn::Linear;
use rayon::prelude::*;

use super::{contiguous, is_fused, product, vector};

/// Values one thread takes at a time: 64 KiB, well inside a core's cache.
const CHUNK_VALUES: usize = 16 * 1024;

/// `[tokens, 2 · width]`, gate in the first half and up in the second, to `silu(gate) · up`: `[tokens, width]`.
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    if is_fused(gate_up) {
        return gate_up.apply_op1_no_bwd(&SwiGlu);
    }
    #[cfg(feature = "cuda")]
    if super::gpu::takes_halves(gate_up) {
        return super::gpu::swiglu(gate_up);
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

/// What a projection's answer goes on to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then<'a> {
    Nothing,
    /// Exact gelu.
    Gelu,
    /// The hyperbolic approximation of gelu.
    GeluNew,
    /// Another of its shape is added.
    Add(&'a Tensor),
}

/// `x · weightᵀ + bias`, `[tokens, in]` to `[tokens, out]`.
pub(crate) fn linear(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    linear_then(layer, x, Then::Nothing)
}

/// [`linear`], and what follows it.
pub(crate) fn linear_then(layer: &Linear, x: &Tensor, then: Then<'_>) -> Result<Tensor> {
    let product = product(x, &layer.weight().t()?)?;
    #[cfg(feature = "cuda")]
    if super::gpu::takes(&product) {
        return super::gpu::finish(product, layer.bias(), then);
    }
    if is_fused(&product) {
        product.inplace_op1(&Finish { bias: layer.bias(), then })?;
        return Ok(product);
    }
    let projected = match layer.bias() {
        Some(bias) => add(product, bias)?,
        None => product,
    };
    match then {
        Then::Nothing => Ok(projected),
        Then::Gelu => projected.gelu_erf(),
        Then::GeluNew => projected.gelu(),
        Then::Add(y) => add(projected, y),
    }
}

/// What follows a product, a few rows at a time, so that they are still in the cache for the next part of it.
struct Finish<'a> {
    bias: Option<&'a Tensor>,
    then: Then<'a>,
}

impl InplaceOp1 for Finish<'_> {
    fn name(&self) -> &'static str {
        "finish"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let width = layout.dims().last().copied().unwrap_or(0);
        let CpuStorage::F32(x) = storage else { candle_core::bail!("a projection goes on in f32") };
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("a projection is contiguous") };
        let x = &mut x[start..end];
        if width == 0 {
            return Ok(());
        }
        let at_once = (CHUNK_VALUES / width).max(1) * width;
        let bias = self.bias.map(read).transpose()?;
        let bias = bias.as_ref().map(Read::values).transpose()?;
        let residual = match self.then {
            Then::Add(y) => Some(read(y)?),
            _ => None,
        };
        let residual = residual.as_ref().map(Read::values).transpose()?;
        if bias.is_some_and(|bias| bias.len() != width) || residual.is_some_and(|residual| residual.len() != x.len()) {
            candle_core::bail!("cannot add {:?} and {:?} to {:?}", self.bias, self.then, layout.shape());
        }
        x.par_chunks_mut(at_once).enumerate().for_each(|(place, rows)| {
            if let Some(bias) = bias {
                for row in rows.chunks_exact_mut(width) {
                    row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
                }
            }
            match self.then {
                Then::Gelu => vector::gelu_in_place(rows),
                Then::GeluNew => vector::gelu_new_in_place(rows),
                Then::Nothing | Then::Add(_) => {}
            }
            if let Some(residual) = residual {
                rows.iter_mut().zip(&residual[place * at_once..]).for_each(|(x, y)| *x += y);
            }
        });
        Ok(())
    }
}

/// A tensor's storage while its values are read.
struct Read<'a>(StorageRef<'a>, &'a Layout);

fn read(x: &Tensor) -> Result<Read<'_>> {
    let (storage, layout) = x.storage_and_layout();
    Ok(Read(storage, layout))
}

impl Read<'_> {
    fn values(&self) -> Result<&[f32]> {
        match &*self.0 {
            Storage::Cpu(storage) => contiguous(storage, self.1),
            _ => candle_core::bail!("values are not on the processor"),
        }
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
    fn what_follows_a_projection_equals_candles() {
        let random = |shape: &[usize]| Tensor::randn(0_f32, 1.0, shape, &Device::Cpu).unwrap();
        // More rows than are computed at once, and a last part that is shorter.
        let (x, weight, bias, residual) = (random(&[701, 8]), random(&[50, 8]), random(&[50]), random(&[701, 50]));
        let plain = x.matmul(&weight.t().unwrap()).unwrap();
        let biased = plain.broadcast_add(&bias).unwrap();
        for (product, bias) in [(plain, None), (biased, Some(bias))] {
            let layer = Linear::new(weight.clone(), bias);
            for (then, expected) in [
                (Then::Nothing, product.clone()),
                (Then::Gelu, product.gelu_erf().unwrap()),
                (Then::GeluNew, product.gelu().unwrap()),
                (Then::Add(&residual), (&product + &residual).unwrap()),
            ] {
                let difference = (linear_then(&layer, &x, then).unwrap() - expected).unwrap().abs().unwrap();
                assert!(difference.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-5, "{then:?}");
            }
        }
        let layer = Linear::new(weight, None);
        assert!(
            linear_then(&layer, &x, Then::Add(&random(&[700, 50]))).unwrap_err().to_string().contains("cannot add")
        );
    }

    #[test]
    fn an_odd_width_is_refused() {
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(swiglu(&x).unwrap_err().to_string().contains("even width"));
    }
}
