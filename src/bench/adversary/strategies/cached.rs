//! Good completions of yesterday, for other prompts.

use async_trait::async_trait;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{About, Haste, Strategy, View},
};

/// See the module.
pub struct Cached;

#[async_trait(?Send)]
impl Strategy for Cached {
    fn name(&self) -> &'static str {
        "time-shifted cache"
    }

    fn idea(&self) -> &'static str {
        "what others said to the prompt before"
    }

    fn variants(&self) -> usize {
        6
    }

    fn about(&self) -> About {
        About::EarlierPrompt
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        Ok(view.stored.get(view.variant % view.stored.len().max(1)).map(|text| text.to_string()))
    }
}
