//! The prompt's key words piled up with words of praise.

use async_trait::async_trait;
use rand::seq::SliceRandom;

use crate::{
    bench::adversary::{
        lab::Lab,
        strategy::{Haste, Strategy, View},
    },
    localnet::text,
};

/// Words that spammers believe to be valued.
const PRAISE: [&str; 6] = ["important", "insightful", "comprehensive", "relevant", "helpful", "accurate"];
/// Key words taken from the prompt.
const KEYWORDS: usize = 14;
/// Words in all.
const LENGTH: usize = 50;

/// See the module.
pub struct Keywords;

#[async_trait(?Send)]
impl Strategy for Keywords {
    fn name(&self) -> &'static str {
        "keyword stuffing"
    }

    fn idea(&self) -> &'static str {
        "the prompt's key words and praise, over and over"
    }

    fn variants(&self) -> usize {
        4
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let mut keys: Vec<String> = text::stem_set(view.prompt).into_iter().collect();
        keys.sort();
        let mut rng = view.rng("keywords");
        keys.shuffle(&mut rng);
        let chosen = keys.iter().take(KEYWORDS).map(String::as_str).chain(PRAISE);
        let mut pile: Vec<&str> = chosen.cycle().take(LENGTH).collect();
        pile.shuffle(&mut rng);
        Ok(Some(pile.join(" ")))
    }
}
