//! One honest model behind many hotkeys: its one completion, with another beginning from each.

use async_trait::async_trait;

use crate::{
    bench::adversary::{
        lab::Lab,
        strategy::{Strategy, View},
    },
    localnet::{Tier, answers::Author},
};

/// Before the one text.
const OPENINGS: [&str; 8] = ["", "Well, ", "So, ", "Now, ", "Indeed, ", "Certainly: ", "Here it is: ", "Yes, "];

/// See the module.
pub struct Sybils;

#[async_trait(?Send)]
impl Strategy for Sybils {
    fn name(&self) -> &'static str {
        "sybil split"
    }

    fn idea(&self) -> &'static str {
        "one good model behind many hotkeys, with another first word from each"
    }

    fn variants(&self) -> usize {
        OPENINGS.len()
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let one = Author { seed: view.seed, index: u16::MAX, tier: Tier::Good };
        Ok(Some(format!("{}{}", OPENINGS[view.variant % OPENINGS.len()], one.complete(view.prompt))))
    }
}
