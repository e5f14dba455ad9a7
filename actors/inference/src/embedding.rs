//! From states of tokens to one row for each text.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use candle_core::{Device as CandleDevice, Result};
use openvalidators_messages::inference::{ModelName, Pooling, Row};

use crate::{
    batching::{Distinct, compute_or_split, cut},
    device::{Asked, Device},
    models::{Encoder, Packed},
};

/// Texts to embed.
pub(crate) struct EmbedWork {
    /// The ids of each: one row, or the rows of its windows.
    pub(crate) texts: Vec<Vec<Arc<[u32]>>>,
    pub(crate) pooling: Pooling,
}

/// A length below this counts as this, as in `torch.nn.functional.normalize`.
const LEAST_LENGTH: f32 = 1e-12;

impl Device {
    /// Serves all of `asked` by `network`: what they have in common is computed once.
    pub(crate) fn embed(
        &self,
        network: &dyn Encoder,
        model: &ModelName,
        asked: Vec<Asked<EmbedWork, Arc<[f32]>>>,
        closing: &AtomicBool,
    ) {
        let distinct = Distinct::of(asked.iter().flat_map(|asked| asked.work.texts.iter().flatten().cloned()));
        self.count(&self.metrics.deduplicated, model, distinct.repeated());
        let lengths: Vec<usize> = distinct.items.iter().map(|row| row.len()).collect();
        let mut found: Vec<Option<Row<Arc<[f32]>>>> = vec![None; lengths.len()];
        for batch in cut(&lengths, self.batch_tokens) {
            if closing.load(Ordering::Acquire) || asked.iter().all(Asked::is_abandoned) {
                break;
            }
            compute_or_split(
                &batch,
                &mut |rows: &[usize]| {
                    let packed = Packed::new(rows.iter().map(|&row| &*distinct.items[row]));
                    self.compute(model, packed.ids().len(), || means(network, &packed))
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
fn means(encoder: &dyn Encoder, rows: &Packed) -> Result<Vec<Arc<[f32]>>> {
    let states = encoder.forward(rows)?;
    let hidden = states.dim(1)?;
    let states: Vec<f32> = states.to_device(&CandleDevice::Cpu)?.flatten_all()?.to_vec1()?;
    let mut rest = states.as_slice();
    let mut means = Vec::with_capacity(rows.lengths().len());
    for &length in rows.lengths() {
        let (row, after) = rest.split_at(length * hidden);
        rest = after;
        let mut sum = vec![0.0_f32; hidden];
        for token in row.chunks_exact(hidden) {
            sum.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
        }
        means.push(sum.iter().map(|sum| sum / length.max(1) as f32).collect());
    }
    Ok(means)
}

/// The row that a caller asked for, from the means of the token states of its windows.
pub(crate) fn pooled(windows: &[Arc<[f32]>], pooling: Pooling) -> Arc<[f32]> {
    let Some(first) = windows.first() else { return Arc::default() };
    match pooling {
        Pooling::Mean => first.clone(),
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
    use candle_core::Tensor;

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
        let scaled = pooled(&means[..1], Pooling::MeanNormalised);
        assert!((scaled[0] - 1.0 / 5.0_f32.sqrt()).abs() < 1e-6);
        assert_eq!(pooled(&means[1..2], Pooling::MeanNormalised).to_vec(), [0.0, 0.0]);
        // Windows that agree make a row of length 1; an empty one, of length 0, makes it shorter.
        let agreeing = pooled(&[means[0].clone(), means[2].clone()], Pooling::MeanOfWindows);
        assert!((agreeing[0] - scaled[0]).abs() < 1e-6 && (agreeing[1] - scaled[1]).abs() < 1e-6);
        assert!((pooled(&means[..2], Pooling::MeanOfWindows)[0] - scaled[0] / 2.0).abs() < 1e-6);
    }
}
