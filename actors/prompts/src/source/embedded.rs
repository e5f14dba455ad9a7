//! The passages that are part of the program: 150 short essays in ten files, one file for each field.

use openvalidators_messages::prompts::{Context, SourceError};
use rand::{Rng, RngCore};

use super::{Source, titled};

/// The files, in alphabetical order, and what each is about.
const CORPUS: [(&str, &str); 10] = [
    ("arts-and-literature", include_str!("../../corpus/arts-and-literature.txt")),
    ("astronomy-and-physics", include_str!("../../corpus/astronomy-and-physics.txt")),
    ("biology-and-medicine", include_str!("../../corpus/biology-and-medicine.txt")),
    ("chemistry-and-materials", include_str!("../../corpus/chemistry-and-materials.txt")),
    ("earth-and-climate", include_str!("../../corpus/earth-and-climate.txt")),
    ("geography-and-places", include_str!("../../corpus/geography-and-places.txt")),
    ("history-and-archaeology", include_str!("../../corpus/history-and-archaeology.txt")),
    ("mathematics-and-computing", include_str!("../../corpus/mathematics-and-computing.txt")),
    ("society-economy-and-food", include_str!("../../corpus/society-economy-and-food.txt")),
    ("technology-and-engineering", include_str!("../../corpus/technology-and-engineering.txt")),
];

/// The built-in source.
pub struct Embedded {
    passages: Vec<Passage>,
}

/// One of its essays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The field it belongs to, e.g. `earth-and-climate`.
    pub topic: &'static str,
    /// Its place in that field, from 0.
    pub place: usize,
    /// The essay without its title.
    pub text: &'static str,
}

// === impl Embedded ===

impl Embedded {
    /// Parts the files into passages.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "parsing is an act, not a default")]
    pub fn new() -> Self {
        let of_file = |(topic, file): (&'static str, &'static str)| {
            titled::passages(file).enumerate().map(move |(place, text)| Passage { topic, place, text })
        };
        Self { passages: CORPUS.into_iter().flat_map(of_file).collect() }
    }

    /// All of them, field by field.
    #[must_use]
    pub fn passages(&self) -> &[Passage] {
        &self.passages
    }
}

impl Source for Embedded {
    fn name(&self) -> String {
        "embedded".to_owned()
    }

    fn draw(&self, rng: &mut dyn RngCore) -> Result<Context, SourceError> {
        let Passage { topic, place, text } = self.passages[rng.random_range(0..self.passages.len())];
        Ok(Context { source: format!("embedded:{topic}/{place}"), text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::sentences;

    #[test]
    fn there_are_150_passages_of_15_to_40_sentences() {
        let source = Embedded::new();
        assert_eq!(source.passages.len(), 150);
        for Passage { text: passage, .. } in source.passages {
            let sentences = sentences::count(passage);
            assert!((15..=40).contains(&sentences), "{sentences} sentences in {passage}");
        }
    }

    #[test]
    fn every_passage_has_a_title_of_its_own() {
        let titles: Vec<_> = CORPUS.iter().flat_map(|(_, file)| file.lines()).filter(|l| l.starts_with("# ")).collect();
        assert_eq!(titles.len(), 150);
        assert_eq!(titles.iter().collect::<HashSet<_>>().len(), 150);
        assert!(CORPUS.iter().all(|(_, file)| file.starts_with("# ")));
    }
}
