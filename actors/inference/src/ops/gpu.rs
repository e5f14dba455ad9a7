//! Our kernels for NVIDIA GPUs: what happens between two matrix products, in one pass over memory where candle's own
//! operations take many. A GPU does little arithmetic there; what it waits for is memory.
//!
//! They take contiguous tensors whose rows are whole packs of sixteen bytes ([`takes`]); everything else is computed by the
//! portable forms, which say what the kernels mean. `gpu/kernels.cu` has the kernels, `build.rs` compiles them.

mod attention;
mod device;
mod disentangled;
#[cfg(test)]
mod tests;
mod uploaded;

use candle_core::{
    CudaDevice, DType, Device, Result, Shape, Storage, Tensor,
    backend::BackendDevice,
    cuda_backend::{
        CudaStorageSlice,
        cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg},
    },
    op::BackpropOp,
};

pub(super) use attention::attention;
pub(crate) use device::open;
pub(super) use disentangled::disentangled;

use super::Then;

/// The kernels, in the language that a driver compiles for its GPU.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));
const MODULE: &str = "openvalidators";

/// What a thread reads at a time.
const PACK_BYTES: usize = 16;
/// Threads of a block, and of the warps it consists of.
const THREADS: usize = 256;
const WARP: usize = 32;
/// What a block may have of a multiprocessor's own memory without asking for more.
const SHARED_BYTES: usize = 48 * 1024;
/// The token of a place that pads.
const NOWHERE: u32 = u32::MAX;

/// A kernel's argument.
enum Arg {
    /// Where a tensor begins, 0 for none; or a 64-bit count.
    Wide(u64),
    Count(u32),
    Number(f32),
}

/// Whether the kernels take `x`.
pub(super) fn takes(x: &Tensor) -> bool {
    let Some(pack) = pack_of(x.dtype()) else { return false };
    let whole = x.dims().last().is_some_and(|columns| columns.is_multiple_of(pack));
    x.device().is_cuda()
        && whole
        && x.is_contiguous()
        && x.layout().start_offset().is_multiple_of(pack)
        && x.elem_count() > 0
}

/// Whether [`swiglu`] takes `x`: each half of its rows is whole packs.
pub(super) fn takes_halves(x: &Tensor) -> bool {
    let columns = x.dims().last().copied().unwrap_or(0);
    takes(x) && pack_of(x.dtype()).is_some_and(|pack| columns.is_multiple_of(2 * pack))
}

/// What follows a product, `[rows, width]`, in its own memory: a bias, and `then`.
pub(super) fn finish(x: Tensor, bias: Option<&Tensor>, then: Then<'_>) -> Result<Tensor> {
    let (activation, residual) = match then {
        Then::Nothing if bias.is_none() => return Ok(x),
        Then::Nothing => (0, None),
        Then::Gelu => (1, None),
        Then::GeluNew => (2, None),
        Then::Add(y) => (0, Some(y)),
    };
    // A tensor cut out of another may begin within a pack.
    let aligned = |y: &Tensor| if takes(y) { Ok(y.clone()) } else { y.force_contiguous() };
    let (bias, residual) = (bias.map(aligned).transpose()?, residual.map(aligned).transpose()?);
    let width = x.dims().last().copied().unwrap_or(0);
    let same = |y: &Tensor| y.dtype() == x.dtype() && y.elem_count() == x.elem_count() && takes(y);
    if bias.as_ref().is_some_and(|bias| bias.elem_count() != width || bias.dtype() != x.dtype() || !takes(bias))
        || residual.as_ref().is_some_and(|residual| !same(residual))
    {
        candle_core::bail!("cannot add {bias:?} and {residual:?} to {:?}", x.shape());
    }
    let pack = packed(&x)?;
    let packs = x.elem_count() / pack;
    launch(
        &x,
        "finish",
        packs.div_ceil(THREADS),
        THREADS,
        0,
        &[
            Arg::Wide(address(&x)?),
            Arg::Wide(optional(bias.as_ref())?),
            Arg::Wide(optional(residual.as_ref())?),
            Arg::Wide(packs as u64),
            count(width / pack)?,
            Arg::Count(activation),
        ],
    )?;
    Ok(x)
}

/// `[tokens, 2 · width]`, gate in the first half and up in the second, to `silu(gate) · up`: `[tokens, width]`; both halves
/// whole packs.
pub(super) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let (tokens, both) = gate_up.dims2()?;
    let (width, pack) = (both / 2, packed(gate_up)?);
    let out = uninitialised((tokens, width), gate_up)?;
    let packs = tokens * width / pack;
    launch(
        gate_up,
        "swiglu",
        packs.div_ceil(THREADS),
        THREADS,
        0,
        &[Arg::Wide(address(gate_up)?), Arg::Wide(address(&out)?), Arg::Wide(packs as u64), count(width / pack)?],
    )?;
    Ok(out)
}

/// Turns the first `heads` heads of `size` of each token in the memory of `x`, `[tokens, width]`. `cosines` and `sines` are
/// `[positions, pairs]` in f32; every position is below their number.
pub(super) fn rotate(
    x: Tensor,
    (cosines, sines): (&Tensor, &Tensor),
    positions: &[u32],
    (heads, size): (usize, usize),
    interleaved: bool,
) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (known, pairs) = cosines.dims2()?;
    if positions.len() != tokens || positions.iter().any(|&position| position as usize >= known) || heads * size > width
    {
        candle_core::bail!("cannot rotate {heads} heads of {tokens} tokens: {} positions of {known}", positions.len());
    }
    let positions = uploaded::integers(positions, x.device())?;
    launch(
        &x,
        "rotate",
        (tokens * heads * pairs).div_ceil(THREADS),
        THREADS,
        0,
        &[
            Arg::Wide(address(&x)?),
            Arg::Wide(address(cosines)?),
            Arg::Wide(address(sines)?),
            Arg::Wide(address(&positions)?),
            count(tokens)?,
            count(width)?,
            count(heads)?,
            count(size)?,
            count(pairs)?,
            Arg::Count(u32::from(interleaved)),
        ],
    )?;
    Ok(x)
}

/// `log softmax(penalised logits)` at `wanted`, one a row: `[rows]` in f32. In each row the logits of some `penalised`, no
/// token twice, are divided by their factor, or multiplied when negative. Every token is in the vocabulary.
pub(super) fn log_probabilities(logits: &Tensor, wanted: Vec<u32>, penalised: &[Vec<(u32, f32)>]) -> Result<Tensor> {
    let (rows, vocabulary) = logits.dims2()?;
    let (device, logits) = (logits.device(), logits.contiguous()?);
    let most = penalised.iter().map(Vec::len).max().unwrap_or(0);
    let filled = penalised.iter().flat_map(|row| row.iter().copied().chain(std::iter::repeat((0, 1.0))).take(most));
    let (ids, factors): (Vec<u32>, Vec<f32>) = filled.unzip();
    let counts: Vec<u32> = penalised.iter().map(|row| row.len() as u32).collect();
    let lists = match most {
        0 => None,
        _ => Some((Tensor::new(ids, device)?, Tensor::new(factors, device)?, Tensor::new(counts, device)?)),
    };
    let (ids, factors, counts) = match &lists {
        None => (0, 0, 0),
        Some((ids, factors, counts)) => (address(ids)?, address(factors)?, address(counts)?),
    };
    let wanted = Tensor::new(wanted, device)?;
    let out = Tensor::zeros(rows, DType::F32, device)?;
    let marks = vocabulary.div_ceil(32) * 4;
    launch(
        &logits,
        "log_probabilities",
        rows,
        THREADS,
        marks,
        &[
            Arg::Wide(address(&logits)?),
            Arg::Wide(ids),
            Arg::Wide(factors),
            Arg::Wide(counts),
            Arg::Wide(address(&wanted)?),
            Arg::Wide(address(&out)?),
            count(vocabulary)?,
            count(most)?,
        ],
    )?;
    Ok(out)
}

/// `[tokens, heads · size]` head by head, the tokens of a rectangle: `[heads, places, size]`. The first `scaled` heads are
/// multiplied by `scale`. `tokens` says which token stands at each place.
fn split(x: &Tensor, tokens: &Tensor, size: usize, scaled: usize, scale: f32) -> Result<Tensor> {
    let ((_, width), places, pack) = (x.dims2()?, tokens.elem_count(), packed(x)?);
    let heads = width / size;
    let out = uninitialised((heads, places, size), x)?;
    launch(
        x,
        "split",
        (places * width / pack).div_ceil(THREADS),
        THREADS,
        0,
        &[
            Arg::Wide(address(x)?),
            Arg::Wide(address(tokens)?),
            Arg::Wide(address(&out)?),
            count(places)?,
            count(heads)?,
            count(size / pack)?,
            count(scaled)?,
            Arg::Number(scale),
        ],
    )?;
    Ok(out)
}

/// The way back, into `out`, `[tokens, heads · size]`: `x` and `more`, added up, are `[heads, places, size]`. What stands at a
/// place of [`NOWHERE`] goes nowhere.
fn merge(x: &Tensor, more: Option<&Tensor>, tokens: &Tensor, size: usize, out: &Tensor) -> Result<()> {
    let (places, pack) = (tokens.elem_count(), packed(x)?);
    let heads = x.elem_count() / (places * size).max(1);
    launch(
        x,
        "merge",
        (x.elem_count() / pack).div_ceil(THREADS),
        THREADS,
        0,
        &[
            Arg::Wide(address(x)?),
            Arg::Wide(optional(more)?),
            Arg::Wide(address(tokens)?),
            Arg::Wide(address(out)?),
            count(places)?,
            count(heads)?,
            count(size / pack)?,
            Arg::Count(NOWHERE),
        ],
    )
}

/// Numbers in a pack; none of a dtype that no kernel computes.
fn pack_of(dtype: DType) -> Option<usize> {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16).then(|| PACK_BYTES / dtype.size_in_bytes())
}

fn packed(x: &Tensor) -> Result<usize> {
    match pack_of(x.dtype()) {
        Some(pack) if takes(x) => Ok(pack),
        _ => candle_core::bail!("a kernel was given {:?} of {:?}, laid out as {:?}", x.dtype(), x.shape(), x.layout()),
    }
}

fn count(of: usize) -> Result<Arg> {
    u32::try_from(of).map(Arg::Count).map_err(|_| candle_core::Error::msg(format!("{of} is more than a kernel counts")))
}

/// A tensor of `like`'s dtype on its device that holds nothing yet: every number of it must be written.
fn uninitialised(shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    let shape = shape.into();
    // SAFETY: plain numbers; the kernel that it is made for writes all of them before anything reads them.
    #[allow(unsafe_code)]
    let storage = unsafe { cuda(like.device())?.alloc_uninit(&shape, like.dtype())? };
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

fn cuda(device: &Device) -> Result<&CudaDevice> {
    match device {
        Device::Cuda(device) => Ok(device),
        other => candle_core::bail!("a kernel was asked to run on {other:?}"),
    }
}

/// Where a contiguous tensor begins in the device's memory. A device has one stream, which orders all that happens to it; so
/// nothing need be known of when.
fn address(x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        candle_core::bail!("a kernel was given a tensor that is not on a GPU")
    };
    if !x.is_contiguous() {
        candle_core::bail!("a kernel was given a tensor that is not contiguous: {layout:?}");
    }
    let stream = storage.device.cuda_stream();
    let start = match &storage.slice {
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        _ => candle_core::bail!("a kernel was given {:?}", x.dtype()),
    };
    Ok(start + (layout.start_offset() * x.dtype().size_in_bytes()) as u64)
}

fn optional(x: Option<&Tensor>) -> Result<u64> {
    x.map_or(Ok(0), address)
}

/// Runs the form of the kernel `name` for `x`'s dtype on its device.
fn launch(x: &Tensor, name: &str, blocks: usize, threads: usize, shared_bytes: usize, args: &[Arg]) -> Result<()> {
    let grid = u32::try_from(blocks).ok().filter(|&blocks| blocks <= i32::MAX as u32);
    let (Some(grid), true) = (grid, shared_bytes <= SHARED_BYTES) else {
        candle_core::bail!("{blocks} blocks of {shared_bytes} bytes are more than a GPU takes at once");
    };
    if grid == 0 {
        return Ok(());
    }
    let function = cuda(x.device())?.get_or_load_custom_func(&format!("{name}_{}", x.dtype().as_str()), MODULE, PTX)?;
    let mut builder = function.builder();
    for arg in args {
        match arg {
            Arg::Wide(value) => builder.arg(value),
            Arg::Count(value) => builder.arg(value),
            Arg::Number(value) => builder.arg(value),
        };
    }
    let config = LaunchConfig {
        grid_dim: (grid, 1, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: shared_bytes as u32,
    };
    // SAFETY: the callers above pass what kernels.cu declares, over tensors they have checked and hold until it is queued.
    #[allow(unsafe_code)]
    unsafe { builder.launch(config) }.map(drop).map_err(candle_core::Error::wrap)
}
