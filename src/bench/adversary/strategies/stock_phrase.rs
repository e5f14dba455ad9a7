//! The oldest: one polite sentence, whatever is asked. It won the first weeks of the reference (pull request 52).

use async_trait::async_trait;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{About, Haste, Strategy, View},
};

/// Sentences that fit everywhere.
pub const PHRASES: [&str; 6] = [
    "That is a very interesting topic, and there is much to be said about it.",
    "There are many ways to look at this, and each of them has its merits.",
    "I am glad that you ask, because this is an important question.",
    "As always, it depends on the circumstances and on the point of view.",
    "This is a fascinating subject that deserves a closer look.",
    "Thank you for the question; I hope that this helps you.",
];

/// See the module.
pub struct StockPhrase;

#[async_trait(?Send)]
impl Strategy for StockPhrase {
    fn name(&self) -> &'static str {
        "stock phrase"
    }

    fn idea(&self) -> &'static str {
        "one polite sentence, whatever is asked"
    }

    fn variants(&self) -> usize {
        PHRASES.len()
    }

    fn about(&self) -> About {
        About::Nothing
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        Ok(Some(PHRASES[view.variant % PHRASES.len()].to_owned()))
    }
}
