//! One sentence of the prompt again and again: what a language model expects after three repetitions is a fourth.

use async_trait::async_trait;
use rand::Rng;

use crate::{
    bench::adversary::{
        lab::Lab,
        strategy::{Haste, Strategy, View},
    },
    localnet::text,
};

/// How often it is said.
const TIMES: usize = 8;

/// See the module.
pub struct Repetition;

#[async_trait(?Send)]
impl Strategy for Repetition {
    fn name(&self) -> &'static str {
        "repetition loop"
    }

    fn idea(&self) -> &'static str {
        "one sentence of the prompt again and again"
    }

    fn variants(&self) -> usize {
        3
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let sentences = text::sentences(view.prompt);
        let Some(last) = sentences.len().checked_sub(1) else { return Ok(None) };
        let chosen = sentences[view.rng("repetition").random_range(0..=last)];
        Ok(Some([chosen; TIMES].join(" ")))
    }
}
