//! From states of tokens to one row for each text.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use candle_core::{DType, Device as CandleDevice, Result, Tensor};
use openvalidators_messages::inference::{ModelName, Pooling, Row};

use crate::{
    batching::{Distinct, Rows, compute_or_split},
    device::{Asked, Device},
    models::{CausalLm, Encoder, Packed},
};

/// Texts to embed.
pub(crate) struct EmbedWork {
    /// The ids of each: one row, or the rows of its windows.
    pub(crate) texts: Vec<Vec<Arc<[u32]>>>,
    pub(crate) pooling: Pooling,
}

/// One row for each row of a batch.
type RowsOf<'a> = dyn Fn(&Packed) -> Result<Vec<Arc<[f32]>>> + Sync + 'a;

/// A length below this counts as this, as in `torch.nn.functional.normalize`.
const LEAST_LENGTH: f32 = 1e-12;

impl Device {
    /// Serves all of `asked` by `rows_of`, [`means`] or [`last_states`]: what they have in common is computed once.
    pub(crate) fn embed(
        &self,
        rows_of: &RowsOf<'_>,
        model: &ModelName,
        asked: Vec<Asked<EmbedWork, Arc<[f32]>>>,
        closing: &AtomicBool,
    ) {
        let distinct = Distinct::of(asked.iter().flat_map(|asked| asked.work.texts.iter().flatten().cloned()));
        self.count(&self.metrics.deduplicated, model, distinct.repeated());
        let lengths: Vec<usize> = distinct.items.iter().map(|row| row.len()).collect();
        let mut found: Vec<Option<Row<Arc<[f32]>>>> = vec![None; lengths.len()];
        let mut waiting = Rows::new(&lengths);
        while let Some(batch) = waiting.next_batch(self.budget.tokens()) {
            if closing.load(Ordering::Acquire) || asked.iter().all(Asked::is_abandoned) {
                break;
            }
            compute_or_split(
                &batch,
                &mut |rows: &[usize]| {
                    let packed = Packed::new(rows.iter().map(|&row| &*distinct.items[row]));
                    self.compute(model, (rows.len(), packed.ids().len()), || rows_of(&packed))
                },
                &mut |row, mean| found[row] = Some(mean),
            );
        }
        let mut places = distinct.places.iter();
        for asked in asked {
            let mut text = |windows: &Vec<Arc<[u32]>>| -> Option<Row<Arc<[f32]>>> {
                let means: Vec<_> = places.by_ref().take(windows.len()).map(|&place| found[place].clone()).collect();
                let means: Option<Row<Vec<_>>> = means.into_iter().collect();
                means.map(|means| means.map(|means| pooled(&means, asked.work.pooling)))
            };
            match asked.work.texts.iter().map(&mut text).collect::<Vec<_>>().into_iter().collect() {
                Some(rows) => self.answer(asked, rows),
                None => self.leave(asked),
            }
        }
    }
}

/// The mean of each row's token states.
///
/// # Errors
/// When the device fails.
pub(crate) fn means(encoder: &dyn Encoder, rows: &Packed) -> Result<Vec<Arc<[f32]>>> {
    let states = encoder.forward(rows)?;
    let hidden = states.dim(1)?;
    let sums = if states.device().is_cpu() {
        sums(&states.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?, rows.lengths(), hidden)
    } else {
        sums_on_device(&states, rows.lengths())?
    };
    let of_row = |(sum, &length): (&[f32], &usize)| sum.iter().map(|sum| sum / length.max(1) as f32).collect();
    Ok(sums.chunks_exact(hidden).zip(rows.lengths()).map(of_row).collect())
}

/// The sums of rows of states of these `lengths`, row after row.
fn sums(states: &[f32], lengths: &[usize], hidden: usize) -> Vec<f32> {
    let mut rest = states;
    let mut sums = vec![0.0_f32; lengths.len() * hidden];
    for (sum, &length) in sums.chunks_exact_mut(hidden).zip(lengths) {
        let (row, after) = rest.split_at(length * hidden);
        rest = after;
        for token in row.chunks_exact(hidden) {
            sum.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
        }
    }
    sums
}

/// The same where the states are, which are many times as large as what leaves the device: a product with a matrix that has
/// a 1 for each token in the row of its text.
fn sums_on_device(states: &Tensor, lengths: &[usize]) -> Result<Vec<f32>> {
    let tokens = states.dim(0)?;
    let mut belongs = vec![0.0_f32; lengths.len() * tokens];
    let mut start = 0;
    for (row, &length) in lengths.iter().enumerate() {
        belongs[row * tokens + start..row * tokens + start + length].fill(1.0);
        start += length;
    }
    let belongs = Tensor::from_vec(belongs, (lengths.len(), tokens), states.device())?;
    belongs.matmul(&states.to_dtype(DType::F32)?)?.flatten_all()?.to_vec1()
}

/// The state of each row's last token, as a head would read it. No row is empty.
///
/// # Errors
/// When the device fails.
pub(crate) fn last_states(network: &CausalLm, rows: &Packed) -> Result<Vec<Arc<[f32]>>> {
    let states = network.body.forward(rows, &network.body.no_past()?)?;
    let ends = rows.lengths().iter().scan(0_usize, |end, length| {
        *end += length;
        Some(end.saturating_sub(1) as u32)
    });
    let ends = Tensor::from_iter(ends, states.device())?;
    let last = network.body.normalised(&states.index_select(&ends, 0)?)?;
    let last: Vec<Vec<f32>> = last.to_device(&CandleDevice::Cpu)?.to_dtype(DType::F32)?.to_vec2()?;
    Ok(last.into_iter().map(Arc::from).collect())
}

/// The row that a caller asked for, from the means of the token states of its windows.
pub(crate) fn pooled(windows: &[Arc<[f32]>], pooling: Pooling) -> Arc<[f32]> {
    let Some(first) = windows.first() else { return Arc::default() };
    match pooling {
        Pooling::Mean | Pooling::LastToken => first.clone(),
        Pooling::MeanNormalised => normalised(first),
        Pooling::MeanOfWindows => {
            let mut sum = vec![0.0_f32; first.len()];
            for window in windows {
                sum.iter_mut().zip(&*normalised(window)).for_each(|(sum, value)| *sum += value);
            }
            sum.iter().map(|sum| sum / windows.len() as f32).collect()
        }
    }
}

/// The row scaled to length 1.
fn normalised(row: &[f32]) -> Arc<[f32]> {
    let length = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(LEAST_LENGTH);
    row.iter().map(|value| value / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state of a token is its id and twice its id.
    struct Doubling;

    impl Encoder for Doubling {
        fn max_tokens(&self) -> usize {
            9
        }

        fn forward(&self, batch: &Packed) -> Result<Tensor> {
            let states: Vec<f32> = batch.ids().iter().flat_map(|&id| [id as f32, 2.0 * id as f32]).collect();
            Tensor::from_vec(states, (batch.ids().len(), 2), &CandleDevice::Cpu)
        }
    }

    #[test]
    fn a_row_is_the_mean_of_its_own_tokens() {
        let rows = Packed::new([[1_u32, 3].as_slice(), &[], &[5]]);
        let means = means(&Doubling, &rows).unwrap();
        assert_eq!(means.iter().map(|mean| mean.to_vec()).collect::<Vec<_>>(), [[2.0, 4.0], [0.0, 0.0], [5.0, 10.0]]);
        let states = Doubling.forward(&rows).unwrap();
        assert_eq!(sums_on_device(&states, rows.lengths()).unwrap(), [4.0, 8.0, 0.0, 0.0, 5.0, 10.0]);
        let scaled = pooled(&means[..1], Pooling::MeanNormalised);
        assert!((scaled[0] - 1.0 / 5.0_f32.sqrt()).abs() < 1e-6);
        assert_eq!(pooled(&means[1..2], Pooling::MeanNormalised).to_vec(), [0.0, 0.0]);
        // Windows that agree make a row of length 1; an empty one, of length 0, makes it shorter.
        let agreeing = pooled(&[means[0].clone(), means[2].clone()], Pooling::MeanOfWindows);
        assert!((agreeing[0] - scaled[0]).abs() < 1e-6 && (agreeing[1] - scaled[1]).abs() < 1e-6);
        assert!((pooled(&means[..2], Pooling::MeanOfWindows)[0] - scaled[0] / 2.0).abs() < 1e-6);
    }
}
