//! The answer to exact blacklists: the same sentences with other punctuation, spacing and letter case each time.

use async_trait::async_trait;
use rand::Rng;

use super::stock_phrase::PHRASES;
use crate::bench::adversary::{
    lab::Lab,
    strategy::{Haste, Strategy, View},
};

/// See the module.
pub struct NoisyPhrase;

#[async_trait(?Send)]
impl Strategy for NoisyPhrase {
    fn name(&self) -> &'static str {
        "noisy stock phrase"
    }

    fn idea(&self) -> &'static str {
        "the same, with other punctuation each time"
    }

    fn variants(&self) -> usize {
        8
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let mut rng = view.rng("noise");
        let phrase = PHRASES[view.variant % PHRASES.len()];
        let mut text = String::new();
        for word in phrase.split(' ') {
            text.push_str(word);
            text.push_str([" ", " ", " ", "  ", ", ", " - "][rng.random_range(0..6)]);
        }
        text.truncate(text.trim_end().len());
        text.push_str(["!", "!!", " ...", ".", "?"][rng.random_range(0..5)]);
        Ok(Some(text))
    }
}
