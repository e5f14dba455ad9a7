//! From states of tokens to one row for each text.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use candle_core::{Device as CandleDevice, Result};
use openvalidators_messages::inference::{InferenceError, ModelName, Pooling, Row};

use crate::{
    batching::{Distinct, compute_or_split, cut},
    device::{Asked, Device},
    models::{Encoder, Packed},
};

/// Texts to embed.
pub(crate) struct EmbedWork {
    /// The ids of each.
    pub(crate) rows: Vec<Arc<[u32]>>,
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
        let distinct = Distinct::of(asked.iter().flat_map(|asked| asked.work.rows.iter().cloned()));
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
        let mut places = distinct.places.as_slice();
        for asked in asked {
            let (own, rest) = places.split_at(asked.work.rows.len());
            places = rest;
            let row =
                |&place: &usize| found[place].clone().map(|row| row.map(|mean| pooled(&mean, asked.work.pooling)));
            match own.iter().map(row).collect() {
                Some(rows) => self.answer(asked, rows),
                None => asked.refuse(InferenceError::Closed),
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

/// The row that a caller asked for, from the mean of its token states.
fn pooled(mean: &Arc<[f32]>, pooling: Pooling) -> Arc<[f32]> {
    match pooling {
        Pooling::Mean => mean.clone(),
        Pooling::MeanNormalised => {
            let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt().max(LEAST_LENGTH);
            mean.iter().map(|value| value / length).collect()
        }
    }
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
        let scaled = pooled(&means[0], Pooling::MeanNormalised);
        assert!((scaled[0] - 1.0 / 5.0_f32.sqrt()).abs() < 1e-6);
        assert_eq!(pooled(&means[1], Pooling::MeanNormalised).to_vec(), [0.0, 0.0]);
    }
}
