//! Mean log-probability of completions after one prompt.
//!
//! What openvalidators 1.2.0 computes in `reward/dpo.py`: prompt and completion are tokenised together, the prompt's own
//! token count says where the completion begins, and each completion token is judged by the logits before it, in which
//! the completion's earlier tokens are penalised. The reference reads one token too few: the logits at position i,
//! which predict token i + 1, are penalised for the completion's tokens before i, not for token i itself. So does this.
//!
//! The reference runs the prompt again for each completion. Here what the rows begin with runs once ([`crate::prefix`]),
//! and logits are taken where a completion token is judged and nowhere else.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use candle_core::Result;
use openvalidators_messages::inference::{InferenceError, LogProbability, Row};

use crate::{
    batching::{Distinct, Rows, compute_or_split},
    device::{Asked, Device},
    models::CausalLm,
    ops::{self, Target},
    prefix::{SharedPrefix, TypedRow, longest_common_prefix},
};

/// Rows of logits computed at once. Every product reads all words of the head again, so it should have many rows; 256 rows
/// of 50,000 words are 50 MB in f32.
const LOGIT_ROWS: usize = 256;
/// The same on a GPU, which has the memory, and waits at the end of each part: 400 MB in bf16.
const LOGIT_ROWS_OF_A_GPU: usize = 4_096;

/// Completions of one prompt.
pub(crate) struct LogProbWork {
    pub(crate) rows: Vec<ScoredRow>,
    pub(crate) penalty: f32,
}

/// A prompt and one completion, tokenised together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ScoredRow {
    /// Both.
    pub(crate) ids: Vec<u32>,
    /// Tokens of the prompt when tokenised alone.
    pub(crate) prompt_tokens: usize,
}

impl Device {
    /// Serves `asked` by `network`, which computes what all rows begin with once; `meanwhile` is called between batches.
    pub(crate) fn log_probabilities(
        &self,
        network: &CausalLm,
        mut asked: Asked<LogProbWork, LogProbability>,
        closing: &AtomicBool,
        meanwhile: &mut dyn FnMut(),
    ) {
        let (model, penalty) = (asked.model.clone(), asked.work.penalty);
        let distinct = Distinct::of(std::mem::take(&mut asked.work.rows));
        self.count(&self.metrics.deduplicated, &model, distinct.repeated());
        let nothing = LogProbability { mean: None, tokens: 0 };
        let (places, judged): (Vec<usize>, Vec<ScoredRow>) =
            distinct.items.iter().cloned().enumerate().filter(|(_, row)| !row.targets().is_empty()).unzip();

        let mut scores: Vec<Row<LogProbability>> = vec![Ok(nothing); distinct.items.len()];
        if !judged.is_empty() {
            let tokens = common_tokens(&judged);
            let prefix = match self.compute(&model, (1, tokens), || shared(network, &judged, tokens)) {
                Ok(prefix) => prefix,
                // No row can do without it.
                Err(failed) => {
                    return asked.refuse(InferenceError::Device { model, reason: failed.reason.to_string() });
                }
            };
            let lengths: Vec<usize> = judged.iter().map(|row| row.ids.len() - tokens).collect();
            let mut waiting = Rows::new(&lengths);
            while let Some(batch) = waiting.next_batch(self.scored_at_once()) {
                meanwhile();
                if asked.is_abandoned() || closing.load(Ordering::Acquire) {
                    return self.leave(asked);
                }
                compute_or_split(
                    &batch,
                    &mut |batch: &[usize]| {
                        let tokens = batch.iter().map(|&row| lengths[row]).sum();
                        let batch: Vec<&ScoredRow> = batch.iter().map(|&row| &judged[row]).collect();
                        self.compute(&model, (batch.len(), tokens), || score(&prefix, network, &batch, penalty))
                    },
                    &mut |row, score| scores[places[row]] = score,
                );
            }
        }
        self.answer(asked, distinct.places.iter().map(|&place| scores[place].clone()).collect());
    }
}

// === impl ScoredRow ===

impl ScoredRow {
    /// Positions of the tokens to be judged. The first token of a text follows nothing and is judged by nothing.
    pub(crate) fn targets(&self) -> Range<usize> {
        let start = self.prompt_tokens.max(1);
        start..self.ids.len().max(start)
    }
}

/// How many tokens all of `rows` begin with.
pub(crate) fn common_tokens(rows: &[ScoredRow]) -> usize {
    longest_common_prefix(rows.iter().map(|row| row.ids.as_slice()))
}

/// Runs the first `tokens` of `rows`, which begin with the same and share a prompt.
pub(crate) fn shared(model: &CausalLm, rows: &[ScoredRow], tokens: usize) -> Result<SharedPrefix> {
    // The state before the first target of any row; the prompt is the same for all.
    let kept_from = rows.iter().map(|row| row.targets().start - 1).min().unwrap_or(0);
    SharedPrefix::compute(&*model.body, (rows.first().map_or(&[], |row| row.ids.as_slice()), &[]), tokens, kept_from)
}

/// Scores `rows`, all of which begin with `prefix`, in one batch.
pub(crate) fn score(
    prefix: &SharedPrefix,
    model: &CausalLm,
    rows: &[&ScoredRow],
    penalty: f32,
) -> Result<Vec<LogProbability>> {
    let ids: Vec<TypedRow<'_>> = rows.iter().map(|row| (row.ids.as_slice(), &[][..])).collect();
    let Some(states) = prefix.run(&*model.body, &ids)? else { return Ok(vec![mean(&[]); rows.len()]) };
    let (mut judges, mut targets) = (Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        for position in row.targets() {
            let judge = position - 1;
            judges.push(states.place(index, judge));
            targets.push(Target {
                token: row.ids[position],
                repeated: row.ids.get(row.prompt_tokens..judge).unwrap_or(&[]),
            });
        }
    }
    if targets.is_empty() {
        return Ok(vec![mean(&[]); rows.len()]);
    }
    let mut log_probabilities = Vec::with_capacity(targets.len());
    // In equal parts: a last part of a few rows would cost nearly as much as a full one.
    let most = if states.is_on_gpu() { LOGIT_ROWS_OF_A_GPU } else { LOGIT_ROWS };
    let rows_at_once = targets.len().div_ceil(targets.len().div_ceil(most));
    for (judges, targets) in judges.chunks(rows_at_once).zip(targets.chunks(rows_at_once)) {
        let logits = model.logits(&states.at(judges)?)?;
        log_probabilities.extend(ops::log_probabilities(&logits, targets, penalty)?);
    }
    let mut rest = log_probabilities.as_slice();
    Ok(rows
        .iter()
        .map(|row| {
            let (own, after) = rest.split_at(row.targets().len());
            rest = after;
            mean(own)
        })
        .collect())
}

/// The mean; none of nothing, and none where the penalty has overflowed: the reference takes neither for a number.
pub(crate) fn mean(log_probabilities: &[f32]) -> LogProbability {
    let tokens = log_probabilities.len();
    let sum: f64 = log_probabilities.iter().copied().map(f64::from).sum();
    let mean = (sum / tokens as f64) as f32;
    LogProbability { mean: mean.is_finite().then_some(mean), tokens }
}

#[cfg(test)]
mod tests;
