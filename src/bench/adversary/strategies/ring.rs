//! One bought completion, reworded by each member of a ring.

use async_trait::async_trait;
use rand::seq::SliceRandom;

use super::synonyms::reworded;
use crate::{
    bench::adversary::{
        lab::Lab,
        strategy::{Haste, Strategy, View},
    },
    localnet::text,
};

/// See the module.
pub struct Ring;

#[async_trait(?Send)]
impl Strategy for Ring {
    fn name(&self) -> &'static str {
        "paraphrase ring"
    }

    fn idea(&self) -> &'static str {
        "one bought completion, its sentences moved and reworded by each member"
    }

    fn variants(&self) -> usize {
        8
    }

    fn haste(&self) -> Haste {
        Haste::AfterOthers
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let Some(bought) = view.overheard.first() else { return Ok(None) };
        let mut rng = view.rng("ring");
        let mut sentences = text::sentences(bought);
        sentences.shuffle(&mut rng);
        Ok(Some(reworded(&sentences.join(" "), &mut rng)))
    }
}
