//! What the networks share and candle does slowly, or not at all, on the processor. Every operation has a fused form
//! for f32 on the processor and a portable one of candle's own operations for anything else; some have a third, for GPUs.

mod attention;
mod disentangled;
mod elementwise;
#[cfg(feature = "cuda")]
mod gpu;
mod log_prob;
mod matmul;
mod padded;
mod rotary;
mod vector;

pub(crate) use attention::{Attention, Bias, Heads};
pub(crate) use disentangled::Disentangled;
pub(crate) use elementwise::{Then, add, linear, linear_then, swiglu};
#[cfg(feature = "cuda")]
pub(crate) use gpu::open as open_gpu;
pub(crate) use log_prob::{Target, log_probabilities};
pub(crate) use padded::no_rows;
pub(crate) use rotary::{Pairing, Rotary};

use candle_core::{CpuStorage, DType, Layout, Result, Tensor};

/// The values of a contiguous f32 tensor.
fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("wants contiguous values") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Whether `x` is computed by the fused forms.
fn is_fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The matrix product. candle has none of bf16 on the processor: there it is computed in f32, as a GPU adds it up.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() && a.dtype() == DType::BF16 {
        return a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}
