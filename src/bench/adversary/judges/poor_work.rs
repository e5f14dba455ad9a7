//! The work of a poor honest miner. By itself no attack: it is what colluding judges do besides.

use async_trait::async_trait;

use crate::{
    bench::adversary::{
        lab::Lab,
        pool::{Prompt, Said},
        strategy::{Strategy, View},
    },
    localnet::{Tier, answers::Author},
};

/// See the module.
pub struct PoorWork;

impl PoorWork {
    /// What it says: the texts of the pool's poor authors, those first that honest miners come to last.
    #[must_use]
    pub fn said(prompts: &[Prompt]) -> Said {
        let poor = |prompt: &Prompt| prompt.honest[2].iter().rev().cloned().map(Some).collect();
        prompts.iter().map(poor).collect()
    }
}

#[async_trait(?Send)]
impl Strategy for PoorWork {
    fn name(&self) -> &'static str {
        "colluding judges"
    }

    fn idea(&self) -> &'static str {
        "poor work, 10 for each other and 0 for the others"
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let index = u16::try_from(view.variant).unwrap_or(u16::MAX);
        Ok(Some(Author { seed: view.seed, index, tier: Tier::Poor }.complete(view.prompt)))
    }
}
