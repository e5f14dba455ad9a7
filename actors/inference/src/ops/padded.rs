//! Packed rows as rectangles, for devices on which one product over many rows of nearly one length is fast and hundreds of
//! products over one row each are not. A rectangle holds rows whose lengths fall into one bucket, padded to the longest of
//! them; what is computed for a place that pads is thrown away, and no row sees it.

use candle_core::{DType, Device, Result, Tensor};

/// Buckets are an eighth of a length wide, so that about a sixteenth of what is computed pads, and at least so wide: below it
/// rows cost little, and rectangles more.
const LEAST_BUCKET: usize = 16;

/// Rows of nearly one length.
#[derive(Debug)]
pub(crate) struct Rectangle {
    /// Tokens of each row; none is 0.
    lengths: Vec<usize>,
    /// For each place, row after row, the token of the batch that stands there. Where a row has ended its first stands again.
    tokens: Vec<u32>,
}

/// The rows of a batch by their lengths, each padded to a multiple of `whole` places; rows without tokens are in none.
pub(crate) fn rectangles(lengths: &[usize], whole: usize) -> Vec<Rectangle> {
    let mut start = 0;
    let mut rows = Vec::with_capacity(lengths.len());
    for &length in lengths.iter().filter(|&&length| length > 0) {
        rows.push((bucket(length), start, length));
        start += length;
    }
    // The sort is stable: equal rows stay in the order of the batch.
    rows.sort_by_key(|&(bucket, ..)| bucket);
    rows.chunk_by(|(a, ..), (b, ..)| a == b).map(|rows| Rectangle::of(rows, whole)).collect()
}

/// The longest length that is computed together with `length`.
fn bucket(length: usize) -> usize {
    length.next_multiple_of((length.next_power_of_two() / 8).max(LEAST_BUCKET))
}

// === impl Rectangle ===

impl Rectangle {
    fn of(rows: &[(usize, usize, usize)], whole: usize) -> Self {
        let lengths: Vec<usize> = rows.iter().map(|&(_, _, length)| length).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0).next_multiple_of(whole);
        let places = |&(_, start, length): &(usize, usize, usize)| {
            (0..longest).map(move |place| (start + if place < length { place } else { 0 }) as u32)
        };
        Self { tokens: rows.iter().flat_map(places).collect(), lengths }
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Places of each row.
    pub(crate) fn length(&self) -> usize {
        self.tokens.len() / self.lengths.len().max(1)
    }

    /// Tokens of each row.
    #[cfg(feature = "cuda")]
    pub(crate) fn lengths(&self) -> Vec<u32> {
        self.lengths.iter().map(|&length| length as u32).collect()
    }

    /// For each place the token of the batch that stands there, itself or to pad.
    #[cfg(feature = "cuda")]
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The same, with `padding` at the places that pad.
    #[cfg(feature = "cuda")]
    pub(crate) fn own(&self, padding: u32) -> Vec<u32> {
        let length = self.length();
        let of_row = |(own, tokens): (&usize, &[u32])| {
            let padded = length - own;
            tokens[..*own].iter().copied().chain(std::iter::repeat_n(padding, padded)).collect::<Vec<_>>()
        };
        self.lengths.iter().zip(self.tokens.chunks(length)).flat_map(of_row).collect()
    }

    /// `[tokens, width]` of the batch to `[rows · length, width]`.
    pub(crate) fn take(&self, packed: &Tensor) -> Result<Tensor> {
        select(packed, &self.tokens)
    }

    /// What hides the places that pad from the others when it is added to scores: `[1, rows, 1, past + length]`. None where
    /// no row is shorter than the others.
    pub(crate) fn hidden(&self, past: usize, device: &Device) -> Result<Option<Tensor>> {
        let length = self.length();
        if self.lengths.iter().all(|&own| own == length) {
            return Ok(None);
        }
        let seen =
            |&own: &usize| (0..past + length).map(move |key| if key < past + own { 0.0 } else { f32::NEG_INFINITY });
        let hidden: Vec<f32> = self.lengths.iter().flat_map(seen).collect();
        Tensor::from_vec(hidden, (1, self.rows(), 1, past + length), device).map(Some)
    }
}

/// What was computed of each rectangle, `[rows · length, width]`, in the order of the batch: `[tokens, width]`.
pub(crate) fn packed(rectangles: &[Rectangle], computed: &[Tensor]) -> Result<Tensor> {
    let tokens = rectangles.iter().flat_map(|rectangle| &rectangle.lengths).sum();
    let mut places = vec![0_u32; tokens];
    let mut start = 0;
    for rectangle in rectangles {
        let length = rectangle.length();
        for (row, &own) in rectangle.lengths.iter().enumerate() {
            for place in row * length..row * length + own {
                places[rectangle.tokens[place] as usize] = start + place as u32;
            }
        }
        start += rectangle.tokens.len() as u32;
    }
    match computed {
        [only] => select(only, &places),
        several => select(&Tensor::cat(several, 0)?, &places),
    }
}

/// These rows of `x`, which are often all of them as they lie.
fn select(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let Some(&first) = rows.first() else { return x.narrow(0, 0, 0) };
    if rows.iter().zip(first..).all(|(&row, next)| row == next) {
        return x.narrow(0, first as usize, rows.len())?.contiguous();
    }
    x.index_select(&Tensor::new(rows, x.device())?, 0)
}

/// A tensor without rows. It is a view of one row: a GPU gives no memory of size 0.
pub(crate) fn no_rows(width: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::zeros((1, width), dtype, device)?.narrow(0, 0, 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_where_they_were_and_little_pads(lengths in prop::collection::vec(0_usize..400, 0..20)) {
            let tokens: usize = lengths.iter().sum();
            let rectangles = rectangles(&lengths, 1);
            prop_assert_eq!(rectangles.iter().flat_map(|r| &r.lengths).sum::<usize>(), tokens);
            for rectangle in &rectangles {
                let full = rectangle.length();
                let shortest = *rectangle.lengths.iter().min().unwrap();
                prop_assert!(full - shortest < LEAST_BUCKET.max(full.next_power_of_two() / 8), "{} {}", shortest, full);
            }
            if tokens > 0 {
                let numbers: Vec<f32> = (0..2 * tokens).map(|i| i as f32).collect();
                let x = Tensor::new(numbers, &Device::Cpu).unwrap().reshape((tokens, 2)).unwrap();
                let taken: Vec<Tensor> = rectangles.iter().map(|r| r.take(&x).unwrap()).collect();
                let back = packed(&rectangles, &taken).unwrap();
                prop_assert_eq!(back.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
            }
        }
    }

    #[test]
    fn rows_of_one_bucket_stand_together_and_only_what_pads_is_hidden() {
        let all = rectangles(&[30, 0, 3, 20, 500], 1);
        assert_eq!(all.iter().map(|r| r.lengths.clone()).collect::<Vec<_>>(), [vec![3], vec![30, 20], vec![500]]);
        assert_eq!(all[1].tokens[30..52], (33..53).chain([33, 33]).collect::<Vec<u32>>());
        assert!(all[0].hidden(4, &Device::Cpu).unwrap().is_none());
        let hidden = all[1].hidden(2, &Device::Cpu).unwrap().unwrap();
        assert_eq!(hidden.dims(), [1, 2, 1, 32]);
        let hidden = hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(hidden[..32 + 22].iter().all(|&x| x == 0.0));
        assert!(hidden[32 + 22..].iter().all(|&x| x == f32::NEG_INFINITY));
    }
}
