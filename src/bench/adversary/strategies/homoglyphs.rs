//! A copy that looks the same to people and different to machines: Cyrillic letters and zero-width spaces.

use async_trait::async_trait;
use rand::Rng;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{Haste, Strategy, View},
};

/// Letters and their doubles.
const DOUBLES: [(char, char); 6] = [('a', 'а'), ('c', 'с'), ('e', 'е'), ('o', 'о'), ('p', 'р'), ('x', 'х')];
/// Share of letters that are exchanged.
const EXCHANGED: f64 = 0.08;

/// See the module.
pub struct Homoglyphs;

#[async_trait(?Send)]
impl Strategy for Homoglyphs {
    fn name(&self) -> &'static str {
        "disguised copycat"
    }

    fn idea(&self) -> &'static str {
        "a copy with look-alike letters and zero-width spaces"
    }

    fn variants(&self) -> usize {
        6
    }

    fn haste(&self) -> Haste {
        Haste::AfterOthers
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        let Some(copied) = view.somebody_elses() else { return Ok(None) };
        let mut rng = view.rng("homoglyphs");
        let mut text = String::new();
        for letter in copied.chars() {
            let double = DOUBLES.iter().find(|(from, _)| *from == letter).map(|(_, to)| *to);
            text.push(double.filter(|_| rng.random_bool(EXCHANGED)).unwrap_or(letter));
            if letter == ' ' && rng.random_bool(EXCHANGED) {
                text.push('\u{200b}');
            }
        }
        Ok(Some(text))
    }
}
