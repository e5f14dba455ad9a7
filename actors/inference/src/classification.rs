//! What classifiers and reward models say of texts.
//!
//! Rows of a bidirectional network see only themselves, so all that wait for it are computed together. Rows of a causal
//! one share what they begin with ([`crate::prefix`]); so each request is computed by itself, whose rows are of one
//! prompt.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use candle_core::{DType, Result, Tensor};
use openvalidators_messages::inference::{InferenceError, Logits, ModelName, Row};

use crate::{
    batching::{Distinct, Rows, compute_or_split},
    device::{Asked, Device},
    models::{CausalClassifier, Classifier, Packed},
    prefix::{SharedPrefix, TypedRow, longest_common_prefix},
    tokenizer::Tokens,
};

/// Inputs to judge: the windows of each. No window is empty.
pub(crate) struct ClassifyWork {
    pub(crate) inputs: Vec<Vec<Tokens>>,
}

type Found = Vec<Option<Row<Arc<[f32]>>>>;

impl Device {
    /// Serves all of `asked` by a bidirectional network; `meanwhile` is called between batches.
    pub(crate) fn classify(
        &self,
        network: &dyn Classifier,
        model: &ModelName,
        mut asked: Vec<Asked<ClassifyWork, Logits>>,
        closing: &AtomicBool,
        meanwhile: &mut dyn FnMut(),
    ) {
        let inputs: Vec<Vec<Vec<Tokens>>> =
            asked.iter_mut().map(|asked| std::mem::take(&mut asked.work.inputs)).collect();
        let counts: Vec<Vec<usize>> = inputs.iter().map(|inputs| inputs.iter().map(Vec::len).collect()).collect();
        let distinct = Distinct::of(inputs.into_iter().flatten().flatten());
        self.count(&self.metrics.deduplicated, model, distinct.repeated());
        let lengths: Vec<usize> = distinct.items.iter().map(|tokens| tokens.ids.len()).collect();
        let mut found: Found = vec![None; lengths.len()];
        let mut waiting = Rows::new(&lengths);
        while let Some(batch) = waiting.next_batch(self.scored_at_once()) {
            meanwhile();
            if closing.load(Ordering::Acquire) || asked.iter().all(Asked::is_abandoned) {
                break;
            }
            compute_or_split(
                &batch,
                &mut |rows: &[usize]| {
                    let packed = Packed::typed(rows.iter().map(|&row| distinct.items[row].typed()));
                    self.compute(model, (rows.len(), packed.ids().len()), || rows_of(&network.logits(&packed)?))
                },
                &mut |row, logits| found[row] = Some(logits),
            );
        }
        let mut places = distinct.places.as_slice();
        for (asked, counts) in asked.into_iter().zip(counts) {
            let (own, rest) = places.split_at(counts.iter().sum());
            places = rest;
            self.answer_windows(asked, &counts, own, &found);
        }
    }

    /// Serves `asked` by a causal network; `meanwhile` is called between batches.
    pub(crate) fn classify_causal(
        &self,
        network: &CausalClassifier,
        mut asked: Asked<ClassifyWork, Logits>,
        closing: &AtomicBool,
        meanwhile: &mut dyn FnMut(),
    ) {
        let model = asked.model.clone();
        let inputs = std::mem::take(&mut asked.work.inputs);
        let counts: Vec<usize> = inputs.iter().map(Vec::len).collect();
        let distinct = Distinct::of(inputs.into_iter().flatten());
        self.count(&self.metrics.deduplicated, &model, distinct.repeated());
        let (rows, mut found): (_, Found) = (&distinct.items, vec![None; distinct.items.len()]);
        if let Some(first) = rows.first() {
            let mut tokens = longest_common_prefix(rows.iter().map(|row| row.ids.as_slice()));
            if rows.iter().any(|row| !row.types.is_empty()) {
                tokens = tokens.min(longest_common_prefix(rows.iter().map(|row| row.types.as_slice())));
            }
            let kept_from = rows.iter().map(|row| network.head.reads.place(&row.ids)).min().unwrap_or(0);
            let computed = self.compute(&model, (1, tokens), || {
                SharedPrefix::compute(&*network.body, first.typed(), tokens, kept_from)
            });
            let prefix = match computed {
                Ok(prefix) => prefix,
                // No row can do without it.
                Err(failed) => {
                    return asked.refuse(InferenceError::Device { model, reason: failed.reason.to_string() });
                }
            };
            let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len() - tokens).collect();
            let mut waiting = Rows::new(&lengths);
            while let Some(batch) = waiting.next_batch(self.scored_at_once()) {
                meanwhile();
                if asked.is_abandoned() || closing.load(Ordering::Acquire) {
                    break;
                }
                compute_or_split(
                    &batch,
                    &mut |batch: &[usize]| {
                        let tokens = batch.iter().map(|&row| lengths[row]).sum();
                        let batch: Vec<TypedRow<'_>> = batch.iter().map(|&row| rows[row].typed()).collect();
                        self.compute(&model, (batch.len(), tokens), || judge(&prefix, network, &batch))
                    },
                    &mut |row, logits| found[row] = Some(logits),
                );
            }
        }
        self.answer_windows(asked, &counts, &distinct.places, &found);
    }

    /// Puts the windows of each input together again, from what was found at their places.
    fn answer_windows(
        &self,
        asked: Asked<ClassifyWork, Logits>,
        counts: &[usize],
        mut places: &[usize],
        found: &Found,
    ) {
        let mut answers: Vec<Row<Logits>> = Vec::with_capacity(counts.len());
        for &count in counts {
            let (own, rest) = places.split_at(count);
            places = rest;
            let windows: Option<Row<Logits>> = own.iter().map(|&place| found[place].clone()).collect();
            match windows {
                Some(windows) => answers.push(windows),
                None => return self.leave(asked),
            }
        }
        self.answer(asked, answers);
    }
}

/// The logits of `rows`, all of which begin with `prefix`, in one batch.
fn judge(prefix: &SharedPrefix, network: &CausalClassifier, rows: &[TypedRow<'_>]) -> Result<Vec<Arc<[f32]>>> {
    let Some(states) = prefix.run(&*network.body, rows)? else { candle_core::bail!("rows without tokens") };
    let places: Vec<u32> =
        rows.iter().enumerate().map(|(index, (ids, _))| states.place(index, network.head.reads.place(ids))).collect();
    rows_of(&network.logits(&states.at(&places)?)?)
}

fn rows_of(logits: &Tensor) -> Result<Vec<Arc<[f32]>>> {
    let rows: Vec<Vec<f32>> = logits.to_dtype(DType::F32)?.to_vec2()?;
    Ok(rows.into_iter().map(Into::into).collect())
}

#[cfg(test)]
mod tests;
