//! Greedy continuation: by the most probable token every time.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Result, Tensor};
use openvalidators_messages::inference::{InferenceError, ModelName, Row};

use crate::{
    batching::Distinct,
    device::{Asked, Device},
    models::{CausalLm, Packed},
    prefix::{SharedPrefix, longest_common_prefix},
};

/// Prompts to continue.
pub(crate) struct GenerateWork {
    /// The ids of each; none is empty.
    pub(crate) prompts: Vec<Vec<u32>>,
    /// Tokens at most.
    pub(crate) max_new_tokens: usize,
    /// A text ends with any of these.
    pub(crate) ends: Vec<u32>,
}

impl Device {
    /// Serves `asked` by `network`, which computes what all prompts begin with once. Answers with the new tokens of each
    /// prompt, the one that ends it included; `meanwhile` is called between tokens.
    pub(crate) fn generate(
        &self,
        network: &CausalLm,
        mut asked: Asked<GenerateWork, Vec<u32>>,
        closing: &AtomicBool,
        meanwhile: &mut dyn FnMut(),
    ) {
        let model = asked.model.clone();
        let distinct = Distinct::of(std::mem::take(&mut asked.work.prompts));
        self.count(&self.metrics.deduplicated, &model, distinct.repeated());
        let prompts = &distinct.items;
        let Some(first) = prompts.first() else { return self.answer(asked, Vec::new()) };
        // Each prompt keeps a last token of its own, whose state says what comes next.
        let least = prompts.iter().map(Vec::len).min().unwrap_or(0);
        let tokens = longest_common_prefix(prompts.iter().map(Vec::as_slice)).min(least.saturating_sub(1));
        let prefix =
            self.compute(&model, (1, tokens), || SharedPrefix::compute(&*network.body, (first, &[]), tokens, tokens));
        let prefix = match prefix {
            Ok(prefix) => prefix,
            // No row can do without it.
            Err(failed) => return asked.refuse(InferenceError::Device { model, reason: failed.reason.to_string() }),
        };
        let mut continued: Vec<Row<Vec<u32>>> = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let mut stop = || {
                meanwhile();
                asked.is_abandoned() || closing.load(Ordering::Acquire)
            };
            match self.continue_one(network, &model, &prefix, prompt, &asked.work, &mut stop) {
                Some(row) => continued.push(row),
                None => return self.leave(asked),
            }
        }
        self.answer(asked, distinct.places.iter().map(|&place| continued[place].clone()).collect());
    }

    /// The tokens that follow `prompt`; none when told to stop.
    fn continue_one(
        &self,
        network: &CausalLm,
        model: &ModelName,
        prefix: &SharedPrefix,
        prompt: &[u32],
        work: &GenerateWork,
        stop: &mut dyn FnMut() -> bool,
    ) -> Option<Row<Vec<u32>>> {
        let (mut new, mut past) = (Vec::new(), prefix.past().clone());
        let mut ids = prompt[prefix.tokens()..].to_vec();
        while new.len() < work.max_new_tokens {
            if stop() {
                return None;
            }
            let next = self.compute(model, (1, ids.len()), || {
                let (states, extended) = network.body.extend(&Packed::new([ids.as_slice()]), &past)?;
                let last = states.narrow(0, ids.len() - 1, 1)?;
                Ok((most_probable(&network.logits(&last)?)?, extended))
            });
            let token;
            (token, past) = match next {
                Ok(next) => next,
                Err(failed) => return Some(Err(failed)),
            };
            new.push(token);
            if work.ends.contains(&token) {
                break;
            }
            ids = vec![token];
        }
        Some(Ok(new))
    }
}

/// The token of the greatest logit, the first of equals.
fn most_probable(logits: &Tensor) -> Result<u32> {
    let logits: Vec<f32> = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut best: Option<(u32, f32)> = None;
    for (token, &logit) in (0_u32..).zip(&logits) {
        if best.map_or(!logit.is_nan(), |(_, greatest)| logit > greatest) {
            best = Some((token, logit));
        }
    }
    match best {
        Some((token, _)) => Ok(token),
        None => candle_core::bail!("no logit is a number"),
    }
}

#[cfg(test)]
mod tests;
