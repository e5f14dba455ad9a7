//! Sentences that every language model expects: nothing in them surprises, so their mean log-probability is high.

use async_trait::async_trait;

use crate::{
    bench::adversary::{
        lab::Lab,
        strategy::{Haste, Strategy, View},
    },
    localnet::text,
};

/// Around the one sentence that is taken from the prompt.
const FRAMES: [[&str; 2]; 4] = [
    ["The text says that", "In conclusion, this is one of the most important things in the world."],
    ["In other words,", "It is important to note that this is not the only way to do it."],
    ["The first thing to know is that", "On the other hand, there is a lot of work to be done."],
    ["According to the text,", "At the end of the day, that is what it is all about."],
];

/// See the module.
pub struct Boilerplate;

#[async_trait(?Send)]
impl Strategy for Boilerplate {
    fn name(&self) -> &'static str {
        "predictable boilerplate"
    }

    fn idea(&self) -> &'static str {
        "the prompt's first sentence between phrases every model expects"
    }

    fn variants(&self) -> usize {
        FRAMES.len()
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let [before, after] = FRAMES[view.variant % FRAMES.len()];
        let first = text::sentences(view.prompt).first().copied().unwrap_or_default();
        Ok(Some(format!("{before} {first} {after}")))
    }
}
