//! Completions without miners, for trying out the rest of a validator: `dendrite.transport = "mock"`, which openvalidators
//! 1.2.0 called `--neuron.mock_dendrite_pool`.

use openvalidators_messages::{Completion, QueryOutcome, gating::Routed};

/// Words of a completion.
const WORDS: usize = 16;

/// Words of the prompt, others for each uid and always the same; at once.
pub(crate) fn completion(miner: &Routed, prompt: &str) -> Completion {
    let words: Vec<&str> = prompt.split_whitespace().collect();
    let first = usize::from(miner.uid.0) * WORDS % words.len().max(1);
    let text = words.iter().cycle().skip(first).take(WORDS.min(words.len())).copied().collect::<Vec<_>>().join(" ");
    Completion {
        uid: miner.uid,
        hotkey: miner.hotkey,
        text,
        outcome: QueryOutcome::Answered,
        status_code: 200,
        status_message: "Success".to_owned(),
        elapsed_seconds: 0.0,
    }
}
