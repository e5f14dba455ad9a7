//! What the networks share and candle does slowly, or not at all, on the processor.

mod attention;
mod disentangled;
mod elementwise;
mod log_prob;
mod matmul;
mod rotary;
mod vector;

pub(crate) use attention::{Attention, Bias, Heads};
pub(crate) use disentangled::Disentangled;
pub(crate) use elementwise::{add, gelu, gelu_new, linear, swiglu};
pub(crate) use log_prob::{Target, log_probabilities};
pub(crate) use rotary::{Pairing, Rotary};

use candle_core::{CpuStorage, Layout, Result};

/// The values of a contiguous f32 tensor.
fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("wants contiguous values") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}
