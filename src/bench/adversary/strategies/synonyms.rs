//! The prompt's text with common words exchanged: an echo that no comparison of letters finds.

use async_trait::async_trait;
use rand::Rng;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{Haste, Strategy, View},
};

/// Words and what may stand for them.
const SYNONYMS: [(&str, &str); 40] = [
    ("also", "too"),
    ("began", "started"),
    ("big", "large"),
    ("called", "named"),
    ("city", "town"),
    ("close", "near"),
    ("first", "initially"),
    ("found", "discovered"),
    ("gave", "handed"),
    ("great", "big"),
    ("had", "possessed"),
    ("help", "aid"),
    ("house", "building"),
    ("however", "still"),
    ("important", "significant"),
    ("kept", "retained"),
    ("large", "big"),
    ("later", "afterwards"),
    ("long", "lengthy"),
    ("made", "produced"),
    ("many", "numerous"),
    ("most", "nearly all"),
    ("new", "recent"),
    ("often", "frequently"),
    ("old", "aged"),
    ("only", "just"),
    ("part", "portion"),
    ("people", "persons"),
    ("places", "spots"),
    ("quickly", "fast"),
    ("said", "stated"),
    ("sent", "dispatched"),
    ("small", "little"),
    ("sometimes", "at times"),
    ("took", "seized"),
    ("used", "employed"),
    ("very", "quite"),
    ("water", "liquid"),
    ("work", "labour"),
    ("years", "seasons"),
];

/// Chance of a word without a synonym to be left out.
const LEFT_OUT: f64 = 0.04;

/// See the module.
pub struct Synonyms;

/// The text with its common words exchanged, and now and then one left out.
pub fn reworded(text: &str, rng: &mut impl Rng) -> String {
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        match SYNONYMS.iter().find(|(from, _)| *from == bare) {
            Some((from, to)) if rng.random_bool(0.8) => words.push(word.replacen(from, to, 1)),
            _ if rng.random_bool(LEFT_OUT) => {}
            _ => words.push(word.to_owned()),
        }
    }
    words.join(" ")
}

#[async_trait(?Send)]
impl Strategy for Synonyms {
    fn name(&self) -> &'static str {
        "synonym paraphrase"
    }

    fn idea(&self) -> &'static str {
        "the prompt's own text with common words exchanged"
    }

    fn variants(&self) -> usize {
        6
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        Ok(Some(reworded(view.prompt, &mut view.rng("synonyms"))))
    }
}
