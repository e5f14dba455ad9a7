//! As long as is let in, to make scoring dear. What is longer is refused before it reaches a model.

use async_trait::async_trait;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{Haste, Strategy, View},
};

/// Just below what `rewards.completion_limit_characters` lets in.
const CHARACTERS: usize = 7_900;

/// See the module.
pub struct LengthBomb;

#[async_trait(?Send)]
impl Strategy for LengthBomb {
    fn name(&self) -> &'static str {
        "length bomb"
    }

    fn idea(&self) -> &'static str {
        "the longest text that is let in"
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let endless = view.prompt.chars().chain([' ']).cycle();
        Ok(Some(endless.take(CHARACTERS).collect()))
    }
}
