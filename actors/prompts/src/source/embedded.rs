//! The passages that are part of the program: 150 short essays in ten files, one file for each field.

use openvalidators_messages::prompts::{Context, SourceError};
use rand::{Rng, RngCore};

use super::{Source, titled};

/// The files, in alphabetical order: the place of a passage is counted through all of them.
const CORPUS: [&str; 10] = [
    include_str!("../../corpus/arts-and-literature.txt"),
    include_str!("../../corpus/astronomy-and-physics.txt"),
    include_str!("../../corpus/biology-and-medicine.txt"),
    include_str!("../../corpus/chemistry-and-materials.txt"),
    include_str!("../../corpus/earth-and-climate.txt"),
    include_str!("../../corpus/geography-and-places.txt"),
    include_str!("../../corpus/history-and-archaeology.txt"),
    include_str!("../../corpus/mathematics-and-computing.txt"),
    include_str!("../../corpus/society-economy-and-food.txt"),
    include_str!("../../corpus/technology-and-engineering.txt"),
];

/// The built-in source.
pub struct Embedded {
    passages: Vec<&'static str>,
}

// === impl Embedded ===

impl Embedded {
    /// Parts the files into passages.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "parsing is an act, not a default")]
    pub fn new() -> Self {
        Self { passages: CORPUS.iter().flat_map(|file| titled::passages(file)).collect() }
    }
}

impl Source for Embedded {
    fn name(&self) -> String {
        "embedded".to_owned()
    }

    fn draw(&self, rng: &mut dyn RngCore) -> Result<Context, SourceError> {
        let place = rng.random_range(0..self.passages.len());
        Ok(Context { source: format!("embedded:{place}"), text: self.passages[place].into() })
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
        for passage in source.passages {
            let sentences = sentences::count(passage);
            assert!((15..=40).contains(&sentences), "{sentences} sentences in {passage}");
        }
    }

    #[test]
    fn every_passage_has_a_title_of_its_own() {
        let titles: Vec<_> = CORPUS.iter().flat_map(|file| file.lines()).filter(|l| l.starts_with("# ")).collect();
        assert_eq!(titles.len(), 150);
        assert_eq!(titles.iter().collect::<HashSet<_>>().len(), 150);
        assert!(CORPUS.iter().all(|file| file.starts_with("# ")));
    }
}
