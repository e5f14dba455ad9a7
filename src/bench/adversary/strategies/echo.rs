//! The prompt given back: nothing is more relevant to a text than the text.

use async_trait::async_trait;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{Haste, Strategy, View},
};

/// See the module.
pub struct Echo;

#[async_trait(?Send)]
impl Strategy for Echo {
    fn name(&self) -> &'static str {
        "prompt echo"
    }

    fn idea(&self) -> &'static str {
        "the prompt, or a part of it, given back"
    }

    fn variants(&self) -> usize {
        4
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    /// The first variant gives all of it, the others leave out more and more at the end.
    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let words: Vec<&str> = view.prompt.split_whitespace().collect();
        let kept = words.len() * (4 - view.variant % 4) / 4;
        Ok(Some(if view.variant == 0 { view.prompt.to_owned() } else { words[..kept].join(" ") }))
    }
}
