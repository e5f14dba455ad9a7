//! [`Attention`] on a GPU: the portable form's products, and one pass over the scores between them.

use candle_core::{Result, Tensor};

use super::{
    Arg, NOWHERE, PACK_BYTES, SHARED_BYTES, WARP, address, count, launch, merge, optional, pack_of, split, takes,
    uninitialised, uploaded,
};
use crate::ops::{
    attention::{Attention, Bias, Heads},
    padded::{self, Rectangle},
};

/// Queries whose softmax a block computes, one a warp; fewer where their scores do not fit.
const QUERIES: usize = 4;

/// Keys and values of the past, each `[key heads, width, size]`; the places from `tokens` to `width` pad.
struct Shared {
    tokens: usize,
    width: usize,
    keys: Tensor,
    values: Tensor,
}

/// As [`Attention::forward`]; none where the kernels do not take it.
pub(in crate::ops) fn attention(attention: &Attention<'_>, qkv: &Tensor, past: &Tensor) -> Result<Option<Tensor>> {
    let Heads { key, size, .. } = attention.heads;
    let Some(pack) = pack_of(qkv.dtype()) else { return Ok(None) };
    let tokens = past.dim(0)?;
    let width = tokens.next_multiple_of(pack);
    if !takes(qkv) || !size.is_multiple_of(pack) || (tokens > 0 && !takes(past)) {
        return Ok(None);
    }
    let rectangles = padded::rectangles(attention.lengths, pack);
    if rectangles.iter().any(|rectangle| queries_of_a_block(width + rectangle.length()) == 0) {
        return Ok(None);
    }
    let shared = match tokens {
        0 => None,
        _ => {
            let places: Vec<u32> = (0..width).map(|place| if place < tokens { place as u32 } else { 0 }).collect();
            let heads = split(past, &uploaded::integers(&places, qkv.device())?, size, 0, 1.0)?;
            Some(Shared { tokens, width, keys: heads.narrow(0, 0, key)?, values: heads.narrow(0, key, key)? })
        }
    };
    let out = uninitialised((qkv.dim(0)?, attention.heads.query_width()), qkv)?;
    for rectangle in &rectangles {
        one(attention, rectangle, qkv, shared.as_ref(), &out)?;
    }
    Ok(Some(out))
}

fn queries_of_a_block(keys: usize) -> usize {
    QUERIES.min(SHARED_BYTES / (keys * size_of::<f32>()).max(1))
}

/// One rectangle, into its tokens' rows of `out`.
fn one(
    attention: &Attention<'_>,
    rectangle: &Rectangle,
    qkv: &Tensor,
    shared: Option<&Shared>,
    out: &Tensor,
) -> Result<()> {
    let Heads { query, key, size } = attention.heads;
    let (rows, length, device) = (rectangle.rows(), rectangle.length(), qkv.device());
    let (places, group) = (rows * length, query / key);
    let all = split(qkv, &uploaded::integers(rectangle.tokens(), device)?, size, query, attention.scale)?;
    let (q, each) = (all.narrow(0, 0, query)?, (query * rows, length, size));
    // Each key head once for every query head that it serves.
    let grouped = |first: usize| {
        let heads = all.narrow(0, first, key)?;
        match group {
            1 => heads.reshape(each),
            _ => heads.unsqueeze(1)?.expand((key, group, places, size))?.contiguous()?.reshape(each),
        }
    };
    let (k, v) = (grouped(query)?, grouped(query + key)?);

    let own = q.reshape(each)?.matmul(&k.t()?)?;
    let below = (key, group * places, size);
    let before = shared.map(|shared| q.reshape(below)?.matmul(&shared.keys.t()?)).transpose()?;
    let width = shared.map_or(0, |shared| shared.width);
    let weights = weights(attention, rectangle, shared, before.as_ref(), &own)?;
    drop((own, before));

    let from_past = query * places * width;
    let own = weights.narrow(0, from_past, query * places * length)?.reshape((query * rows, length, length))?;
    let own = own.matmul(&v)?;
    let before = match shared {
        None => None,
        Some(shared) => {
            let weights = weights.narrow(0, 0, from_past)?.reshape((key, group * places, width))?;
            Some(weights.matmul(&shared.values)?)
        }
    };
    merge(&own, before.as_ref(), &uploaded::integers(&rectangle.own(NOWHERE), device)?, size, out)
}

/// Softmax over scores of the past and of the rows, both at once: the weights of the past, then those of the rows, each in the
/// order of its scores.
fn weights(
    attention: &Attention<'_>,
    rectangle: &Rectangle,
    shared: Option<&Shared>,
    before: Option<&Tensor>,
    own: &Tensor,
) -> Result<Tensor> {
    let (length, device) = (rectangle.length(), own.device());
    let queries = attention.heads.query * rectangle.rows() * length;
    let (past, width) = shared.map_or((0, 0), |shared| (shared.tokens, shared.width));
    let at_once = queries_of_a_block(width + length);
    let lengths = uploaded::integers(&rectangle.lengths(), device)?;
    let (bias, kind, reach) = match attention.bias {
        Bias::None => (None, 0, 0),
        Bias::Alibi { slopes } => (Some(uploaded::numbers(slopes, device)?), 1, 0),
        Bias::Table { values, reach } => (Some(uploaded::numbers(values, device)?), 2, reach),
    };
    let out = uninitialised(queries * (width + length), own)?;
    let shared_bytes = at_once * (width + length) * size_of::<f32>();
    launch(
        own,
        "weights",
        queries.div_ceil(at_once),
        at_once * WARP,
        shared_bytes.next_multiple_of(PACK_BYTES),
        &[
            Arg::Wide(optional(before)?),
            Arg::Wide(address(own)?),
            Arg::Wide(address(&out)?),
            Arg::Wide(address(&lengths)?),
            Arg::Wide(optional(bias.as_ref())?),
            count(queries)?,
            count(rectangle.rows())?,
            count(length)?,
            count(past)?,
            count(width)?,
            Arg::Count(u32::from(attention.causal)),
            count(attention.window.map_or(0, std::num::NonZeroUsize::get))?,
            Arg::Count(kind),
            count(reach)?,
        ],
    )?;
    Ok(out)
}
