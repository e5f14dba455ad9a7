//! Mean log-probability of completions after one prompt.
//!
//! What openvalidators 1.2.0 computes in `reward/dpo.py`: prompt and completion are tokenised together, the prompt's own
//! token count says where the completion begins, and each completion token is judged by the logits before it, in which
//! the completion's earlier tokens are penalised. The reference reads one token too few: the logits at position i,
//! which predict token i + 1, are penalised for the completion's tokens before i, not for token i itself. So does this.
//!
//! The reference runs the prompt again for each completion. Here the longest common prefix of all rows runs once, and
//! its keys and values serve every row; it is a prefix of token *ids*, because a merge may cross the boundary between
//! prompt and completion. Logits are taken where a completion token is judged and nowhere else.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use candle_core::{Result, Tensor};
use openvalidators_messages::inference::{InferenceError, LogProbability, Row};

use crate::{
    batching::{Distinct, compute_or_split, cut},
    device::{Asked, Device},
    models::{CausalLm, Packed, Past},
    ops::{self, Target},
};

/// Rows of logits computed at once. Every product reads all words of the head again, so it should have many rows; 256 rows
/// of 50,000 words are 50 MB.
const LOGIT_ROWS: usize = 256;

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

/// What all rows of a request have in common, computed once.
pub(crate) struct SharedPrefix {
    tokens: usize,
    /// States from position `kept_from` to the end of the prefix, those that judge a completion token; none where no
    /// position is left.
    states: Option<Tensor>,
    kept_from: usize,
    past: Past,
}

impl Device {
    /// Serves `asked` by `network`, which computes what all rows begin with once.
    pub(crate) fn log_probabilities(
        &self,
        network: &CausalLm,
        mut asked: Asked<LogProbWork, LogProbability>,
        closing: &AtomicBool,
    ) {
        let (model, penalty) = (asked.model.clone(), asked.work.penalty);
        let distinct = Distinct::of(std::mem::take(&mut asked.work.rows));
        self.count(&self.metrics.deduplicated, &model, distinct.repeated());
        let nothing = LogProbability { mean: None, tokens: 0 };
        let (places, judged): (Vec<usize>, Vec<ScoredRow>) =
            distinct.items.iter().cloned().enumerate().filter(|(_, row)| !row.targets().is_empty()).unzip();

        let mut scores: Vec<Row<LogProbability>> = vec![Ok(nothing); distinct.items.len()];
        if !judged.is_empty() {
            let prefix = match self.compute(&model, 0, || SharedPrefix::compute(network, &judged)) {
                Ok(prefix) => prefix,
                // No row can do without it.
                Err(failed) => {
                    return asked.refuse(InferenceError::Device { model, reason: failed.reason.to_string() });
                }
            };
            self.count(&self.metrics.tokens, &model, prefix.tokens());
            let lengths: Vec<usize> = judged.iter().map(|row| row.ids.len() - prefix.tokens()).collect();
            for batch in cut(&lengths, self.batch_tokens) {
                if asked.is_abandoned() {
                    return self.count(&self.metrics.abandoned, &model, 1);
                }
                if closing.load(Ordering::Acquire) {
                    return asked.refuse(InferenceError::Closed);
                }
                compute_or_split(
                    &batch,
                    &mut |batch: &[usize]| {
                        let tokens = batch.iter().map(|&row| lengths[row]).sum();
                        let batch: Vec<&ScoredRow> = batch.iter().map(|&row| &judged[row]).collect();
                        self.compute(&model, tokens, || prefix.score(network, &batch, penalty))
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

// === impl SharedPrefix ===

impl SharedPrefix {
    /// Runs the longest common prefix of `rows`, which share a prompt.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn compute(model: &CausalLm, rows: &[ScoredRow]) -> Result<Self> {
        let tokens = longest_common_prefix(rows);
        let ids = rows.first().map_or(&[][..], |row| &row.ids[..tokens]);
        // The state before the first target of any row; the prompt is the same for all.
        let kept_from = rows.iter().map(|row| row.targets().start - 1).min().unwrap_or(0).min(tokens);
        if tokens == 0 {
            return Ok(Self { tokens, states: None, kept_from, past: model.body.no_past()? });
        }
        let (states, past) = model.body.prefill(ids)?;
        let kept = tokens - kept_from;
        let states = if kept == 0 { None } else { Some(states.narrow(0, kept_from, kept)?.contiguous()?) };
        Ok(Self { tokens, states, kept_from, past })
    }

    /// How many tokens the rows share.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Scores `rows`, all of which begin with this prefix, in one batch.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn score(&self, model: &CausalLm, rows: &[&ScoredRow], penalty: f32) -> Result<Vec<LogProbability>> {
        let batch = Packed::new(rows.iter().map(|row| &row.ids[self.tokens..]));
        let own = if batch.ids().is_empty() { None } else { Some(model.body.forward(&batch, &self.past)?) };
        let states: Vec<&Tensor> = self.states.iter().chain(&own).collect();

        let prefix_states = self.tokens - self.kept_from;
        let (mut judges, mut targets) = (Vec::new(), Vec::new());
        let mut start = prefix_states;
        for row in rows {
            for position in row.targets() {
                let judge = position - 1;
                judges.push(match judge.checked_sub(self.tokens) {
                    None => judge - self.kept_from,
                    Some(own) => start + own,
                } as u32);
                targets.push(Target {
                    token: row.ids[position],
                    repeated: row.ids.get(row.prompt_tokens..judge).unwrap_or(&[]),
                });
            }
            start += row.ids.len() - self.tokens;
        }

        if targets.is_empty() {
            return Ok(vec![mean(&[]); rows.len()]);
        }
        let states = Tensor::cat(&states, 0)?;
        let mut log_probabilities = Vec::with_capacity(targets.len());
        // In equal parts: a last part of a few rows would cost nearly as much as a full one.
        let rows_at_once = targets.len().div_ceil(targets.len().div_ceil(LOGIT_ROWS));
        for (judges, targets) in judges.chunks(rows_at_once).zip(targets.chunks(rows_at_once)) {
            let judges = Tensor::new(judges, states.device())?;
            let logits = model.logits(&states.index_select(&judges, 0)?)?;
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
}

/// The mean; none of nothing, and none where the penalty has overflowed: the reference takes neither for a number.
fn mean(log_probabilities: &[f32]) -> LogProbability {
    let tokens = log_probabilities.len();
    let sum: f64 = log_probabilities.iter().copied().map(f64::from).sum();
    let mean = (sum / tokens as f64) as f32;
    LogProbability { mean: mean.is_finite().then_some(mean), tokens }
}

fn longest_common_prefix(rows: &[ScoredRow]) -> usize {
    let Some((first, others)) = rows.split_first() else { return 0 };
    others.iter().fold(first.ids.len(), |shared, row| {
        first.ids[..shared].iter().zip(&row.ids).take_while(|(a, b)| a == b).count()
    })
}

#[cfg(test)]
mod tests;
