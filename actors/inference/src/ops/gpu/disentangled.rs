//! [`Disentangled`] on a GPU: the portable form's products, and one pass that adds up the parts of the scores and takes their
//! softmax.

use candle_core::{Result, Tensor};

use super::{
    Arg, NOWHERE, SHARED_BYTES, THREADS, address, count, launch, merge, optional, pack_of, split, takes, uninitialised,
    uploaded,
};
use crate::ops::{
    disentangled::Disentangled,
    padded::{self, Rectangle},
};

/// Queries of a block at most, `MOST` in the kernels. Each reads what a key says of one place, all of them of neighbours.
const QUERIES: usize = 8;
/// What a block has of its multiprocessor's memory beside its scores: those neighbours.
const NEARBY_BYTES: usize = 14 * 1024;

/// The relative places on the device.
struct Places {
    /// `[heads, size, places]`, none where the network does not ask for them.
    keys: Option<Tensor>,
    queries: Option<Tensor>,
    /// [`Disentangled::places`].
    of_distances: Tensor,
}

/// As [`Disentangled::forward`]; none where the kernels do not take it.
pub(in crate::ops) fn disentangled(
    attention: &Disentangled<'_>,
    qkv: &Tensor,
    keys: &Tensor,
    queries: &Tensor,
) -> Result<Option<Tensor>> {
    let (heads, size) = (attention.heads.query, attention.heads.size);
    let Some(pack) = pack_of(qkv.dtype()) else { return Ok(None) };
    let rectangles = padded::rectangles(attention.lengths, pack);
    // What the kernel counts on: whole packs of places, of which neighbouring distances have neighbours.
    let smooth = attention.places.windows(2).all(|pair| pair[0] == pair[1] || pair[0] == pair[1] + 1);
    if !smooth || [keys, queries].iter().any(|t| !t.dims()[0].is_multiple_of(pack)) {
        return Ok(None);
    }
    if !takes(qkv) || !size.is_multiple_of(pack) || rectangles.iter().any(|rectangle| tile(rectangle.length()) == 0) {
        return Ok(None);
    }
    let of_places = |t: &Tensor| match t.dim(0)? {
        0 => Ok::<_, candle_core::Error>(None),
        places => t.reshape((places, heads, size))?.permute((1, 2, 0))?.contiguous().map(Some),
    };
    let places = Places {
        keys: of_places(keys)?,
        // Queries are scaled when they are taken apart, keys are not.
        queries: of_places(queries)?.map(|queries| queries * f64::from(attention.scale)).transpose()?,
        of_distances: uploaded::integers(attention.places, qkv.device())?,
    };
    let out = uninitialised((qkv.dim(0)?, attention.heads.query_width()), qkv)?;
    for rectangle in &rectangles {
        one(attention, rectangle, qkv, &places, &out)?;
    }
    Ok(Some(out))
}

/// Queries of a block whose scores, each over `length` keys, fit.
fn tile(length: usize) -> usize {
    let most = (SHARED_BYTES - NEARBY_BYTES) / (length * size_of::<f32>()).max(1);
    if most == 0 { 0 } else { QUERIES.min(1 << most.ilog2()) }
}

/// One rectangle, into its tokens' rows of `out`.
fn one(attention: &Disentangled<'_>, rectangle: &Rectangle, qkv: &Tensor, places: &Places, out: &Tensor) -> Result<()> {
    let (heads, size) = (attention.heads.query, attention.heads.size);
    let (rows, length, device) = (rectangle.rows(), rectangle.length(), qkv.device());
    let all = split(qkv, &uploaded::integers(rectangle.tokens(), device)?, size, heads, attention.scale)?;
    let (q, k) = (all.narrow(0, 0, heads)?, all.narrow(0, heads, heads)?);
    let each = (heads * rows, length, size);
    let v = all.narrow(0, 2 * heads, heads)?.reshape(each)?;

    let scores = q.reshape(each)?.matmul(&k.reshape(each)?.t()?)?;
    let by_queries = places.keys.as_ref().map(|keys| q.matmul(keys)).transpose()?;
    let by_keys = places.queries.as_ref().map(|queries| k.matmul(queries)).transpose()?;
    let said = by_queries.as_ref().or(by_keys.as_ref()).map_or(Ok(0), |said| said.dim(2))?;
    let (lengths, tile) = (uploaded::integers(&rectangle.lengths(), device)?, tile(length));
    let shared_bytes = tile * length * size_of::<f32>();
    launch(
        &scores,
        "disentangled",
        heads * rows * length.div_ceil(tile),
        THREADS,
        shared_bytes,
        &[
            Arg::Wide(address(&scores)?),
            Arg::Wide(optional(by_queries.as_ref())?),
            Arg::Wide(optional(by_keys.as_ref())?),
            Arg::Wide(address(&lengths)?),
            Arg::Wide(address(&places.of_distances)?),
            count(rows)?,
            count(length)?,
            count(said)?,
            count(tile)?,
            count(attention.places.len() / 2)?,
        ],
    )?;
    let answer = scores.matmul(&v)?;
    merge(&answer, None, &uploaded::integers(&rectangle.own(NOWHERE), device)?, size, out)
}
