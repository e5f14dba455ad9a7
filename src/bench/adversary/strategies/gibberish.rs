//! Words of the prompt in an order without sense, chosen so that the encoder finds them as near to the text as can be.

use async_trait::async_trait;
use rand::seq::SliceRandom;

use crate::{
    bench::adversary::{
        lab::{Lab, highest},
        strategy::{Strategy, View},
    },
    localnet::text,
};

/// Words it says.
const LENGTH: usize = 10;
/// Words it tries for each place.
const TRIED: usize = 8;

/// See the module.
pub struct Gibberish;

#[async_trait(?Send)]
impl Strategy for Gibberish {
    fn name(&self) -> &'static str {
        "embedding gibberish"
    }

    fn idea(&self) -> &'static str {
        "words chosen one by one for their embedding's nearness to the prompt"
    }

    fn variants(&self) -> usize {
        2
    }

    async fn complete(&self, view: &View<'_>, lab: &Lab) -> anyhow::Result<Option<String>> {
        let mut words: Vec<&str> = text::words(view.prompt).filter(|word| !text::is_stop_word(word)).collect();
        words.sort_unstable();
        words.dedup();
        words.shuffle(&mut view.rng("gibberish"));
        let mut found = String::new();
        for place in 0..LENGTH {
            let tried = words.iter().cycle().skip(place * TRIED).take(TRIED.min(words.len()));
            let candidates: Vec<String> = tried.map(|word| format!("{found} {word}").trim().to_owned()).collect();
            let near = lab.similarities(view.prompt, &candidates).await?;
            let Some(best) = highest(&near) else { break };
            found.clone_from(&candidates[best]);
        }
        Ok(Some(found))
    }
}
