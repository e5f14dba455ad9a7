//! Log-probabilities of given tokens under rows of logits, with the repetition penalty of the reference.

use candle_core::{D, DType, Result, Storage, Tensor};
use rayon::prelude::*;

use super::{contiguous, is_fused, vector};

/// What is asked of one row of logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// The token whose log-probability is wanted.
    pub(crate) token: u32,
    /// Tokens to be penalised, as often as they stand here.
    pub(crate) repeated: &'a [u32],
}

/// `log softmax(penalised logits)` at each row's target; `logits` is `[targets, vocabulary]`.
///
/// The logit of a token that stands `count` times among the repeated ones is divided by `penalty^count`, or multiplied
/// when negative (Keskar et al., <https://arxiv.org/abs/1909.05858>, per count as in openvalidators `reward/dpo.py`).
/// Only the logits of repeated tokens are touched, and one number a row leaves the device. The penalty may overflow to a log-probability of -inf.
pub(crate) fn log_probabilities(logits: &Tensor, targets: &[Target<'_>], penalty: f32) -> Result<Vec<f32>> {
    let (rows, vocabulary) = logits.dims2()?;
    if rows != targets.len() {
        candle_core::bail!("{} targets for {rows} rows of logits", targets.len());
    }
    let outside = |target: &Target<'_>| {
        target.token as usize >= vocabulary || target.repeated.iter().any(|&id| id as usize >= vocabulary)
    };
    if targets.iter().any(outside) {
        candle_core::bail!("a token lies outside the vocabulary of {vocabulary}");
    }
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        let penalised = if penalty == 1.0 { Vec::new() } else { penalties(targets, vocabulary, penalty) };
        let wanted = targets.iter().map(|target| target.token).collect();
        return super::gpu::log_probabilities(logits, wanted, &penalised)?.to_vec1();
    }
    if !is_fused(logits) {
        return portable(logits, targets, penalty);
    }
    let logits = logits.contiguous()?;
    let (storage, layout) = logits.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("logits are not on the processor") };
    let logits = contiguous(storage, layout)?;
    Ok(logits
        .par_chunks_exact(vocabulary)
        .zip(targets)
        .map_init(
            || Penalised { logits: vec![0.0; vocabulary], counts: vec![0; vocabulary] },
            |penalised, (row, target)| penalised.log_probability(row, target, penalty),
        )
        .collect())
}

/// The same in candle's own operations, in f32.
fn portable(logits: &Tensor, targets: &[Target<'_>], penalty: f32) -> Result<Vec<f32>> {
    let (rows, vocabulary) = logits.dims2()?;
    let device = logits.device();
    let mut logits = logits.to_dtype(DType::F32)?;
    let penalised = penalties(targets, vocabulary, penalty);
    let most = penalised.iter().map(Vec::len).max().unwrap_or(0);
    if most > 0 && penalty != 1.0 {
        // Rows with fewer of them repeat their first, to the same effect; those with none leave the first logit as it is.
        let filled = penalised.iter().flat_map(|row| {
            let filling = row.first().copied().unwrap_or((0, 1.0));
            row.iter().copied().chain(std::iter::repeat(filling)).take(most)
        });
        let (ids, factors): (Vec<u32>, Vec<f32>) = filled.unzip();
        let (ids, factors) =
            (Tensor::from_vec(ids, (rows, most), device)?, Tensor::from_vec(factors, (rows, most), device)?);
        let found = logits.gather(&ids, 1)?;
        let penalised = found.lt(0_f32)?.where_cond(&(&found * &factors)?, &(&found / &factors)?)?;
        logits = logits.scatter(&ids, &penalised, 1)?;
    }
    let wanted: Vec<u32> = targets.iter().map(|target| target.token).collect();
    let wanted = logits.gather(&Tensor::from_vec(wanted, (rows, 1), device)?, 1)?.squeeze(1)?;
    (wanted - logits.log_sum_exp(D::Minus1)?)?.to_vec1()
}

/// For each target the tokens to be penalised, each once, and what divides their logits.
fn penalties(targets: &[Target<'_>], vocabulary: usize, penalty: f32) -> Vec<Vec<(u32, f32)>> {
    let most = targets.iter().map(|target| target.repeated.len()).max().unwrap_or(0);
    let powers: Vec<f32> = (0..=most).map(|count| penalty.powf(count as f32)).collect();
    let of_one = |counts: &mut Vec<u32>, target: &Target<'_>| {
        target.repeated.iter().for_each(|&id| counts[id as usize] += 1);
        let counted = target.repeated.iter().map(|&id| (id, std::mem::take(&mut counts[id as usize])));
        counted.filter(|(_, count)| *count > 0).map(|(id, count)| (id, powers[count as usize])).collect()
    };
    targets.par_iter().map_init(|| vec![0_u32; vocabulary], of_one).collect()
}

/// Memory that one thread uses again for each of its rows.
struct Penalised {
    logits: Vec<f32>,
    /// Counts by token; all zero between rows.
    counts: Vec<u32>,
}

impl Penalised {
    fn log_probability(&mut self, row: &[f32], target: &Target<'_>, penalty: f32) -> f32 {
        let token = target.token as usize;
        if target.repeated.is_empty() || penalty == 1.0 {
            return row[token] - vector::log_sum_exp(row);
        }
        self.logits.copy_from_slice(row);
        for &id in target.repeated {
            self.counts[id as usize] += 1;
        }
        for &id in target.repeated {
            let count = std::mem::take(&mut self.counts[id as usize]);
            if count > 0 {
                let logit = &mut self.logits[id as usize];
                let factor = penalty.powf(count as f32);
                *logit = if *logit < 0.0 { *logit * factor } else { *logit / factor };
            }
        }
        self.logits[token] - vector::log_sum_exp(&self.logits)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    /// The reference's order of work, without any of its savings: a fresh copy for each row, every count by search.
    fn naive(row: &[f32], target: &Target<'_>, penalty: f32) -> f64 {
        let mut logits: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        for (id, logit) in logits.iter_mut().enumerate() {
            let count = target.repeated.iter().filter(|&&x| x as usize == id).count();
            let factor = f64::from(penalty).powi(count as i32);
            *logit = if *logit < 0.0 { *logit * factor } else { *logit / factor };
        }
        logits[target.token as usize] - logits.iter().map(|x| x.exp()).sum::<f64>().ln()
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            rows in prop::collection::vec(prop::collection::vec(-8.0_f32..8.0, 19), 1..6),
            repeated in prop::collection::vec(0_u32..19, 0..12),
            token in 0_u32..19,
            penalty in prop_oneof![Just(1.0_f32), 1.0_f32..1.5],
        ) {
            // As in a completion: each row repeats one token more than the one before it.
            let targets: Vec<_> = (0..rows.len())
                .map(|row| Target { token, repeated: &repeated[..(row * 3).min(repeated.len())] })
                .collect();
            let logits = Tensor::new(rows.clone(), &Device::Cpu).unwrap();
            for ours in [log_probabilities(&logits, &targets, penalty), portable(&logits, &targets, penalty)] {
                for ((ours, row), target) in ours.unwrap().iter().zip(&rows).zip(&targets) {
                    let expected = naive(row, target, penalty);
                    prop_assert!((f64::from(*ours) - expected).abs() < 1e-5 + 1e-5 * expected.abs());
                }
            }
        }
    }

    #[test]
    fn a_penalty_without_bound_overflows_to_minus_infinity() {
        let logits = Tensor::new(&[[-1.0_f32, 2.0, 0.0]], &Device::Cpu).unwrap();
        let repeated = vec![0; 2_000];
        let target = [Target { token: 0, repeated: &repeated }];
        for ours in [log_probabilities(&logits, &target, 1.2), portable(&logits, &target, 1.2)] {
            assert_eq!(ours.unwrap(), [f32::NEG_INFINITY]);
        }
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_an_error() {
        let logits = Tensor::new(&[[0.0_f32, 0.0]], &Device::Cpu).unwrap();
        assert!(log_probabilities(&logits, &[Target { token: 2, repeated: &[] }], 1.2).is_err());
        assert!(log_probabilities(&logits, &[Target { token: 1, repeated: &[5] }], 1.2).is_err());
    }
}
