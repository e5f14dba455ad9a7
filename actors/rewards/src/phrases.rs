//! Phrases that are overused from step to step: stock phrases that nobody has to list by hand.
//!
//! Rows of words are counted over the completions of all steps by lossy counting (Manku and Motwani 2002, "Approximate
//! frequency counts over data streams"): what is rare is forgotten at the end of each bucket, and a count is too low by
//! [`ERROR`] of all completions at most. What the prompt says itself is not counted: quoting it is no stock phrase.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::comparison::{shingles, words};

/// Words in a row that make a phrase.
const PHRASE_WORDS: usize = 4;
/// The share of completions in which a phrase is overused.
const OVERUSED: f64 = 0.008;
/// What a count may lack, as a share of completions.
const ERROR: f64 = 0.002;
/// Completions in a bucket: 1 / [`ERROR`]. Before the first is full nothing is known.
const BUCKET_COMPLETIONS: u64 = 500;
/// When so many were counted all counts are halved, so that what went out of use is forgotten.
const HALVED_AT_COMPLETIONS: u64 = 20_000;
/// Phrases of one completion that are counted; the text of a thorough answer has some 300.
const COUNTED_PER_COMPLETION: usize = 512;
/// Fewer overused phrases than these are an opening, or the way a question is put, as people have them.
const FEWEST: usize = 16;
/// A text of which overused phrases are this share of all it says is blocked. In the benchmark's population honest questions,
/// built from few patterns, stay below one of the two bounds.
const BLOCKED_SHARE: f64 = 0.5;

/// How often which phrase was said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phrases {
    /// Completions counted.
    completions: u64,
    /// For each phrase its count, and what the count may lack.
    counts: BTreeMap<u64, (u32, u32)>,
}

// === impl Phrases ===

impl Phrases {
    /// How many phrases are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether each of these texts, all said to `prompt`, may pass; then counts their phrases.
    pub fn judge(&mut self, prompt: &str, texts: &[&str]) -> Vec<bool> {
        let known: HashSet<u64> = shingles(&words(prompt), PHRASE_WORDS).collect();
        let phrases: Vec<Vec<u64>> = texts.iter().map(|text| shingles(&words(text), PHRASE_WORDS).collect()).collect();
        let passes = phrases.iter().map(|phrases| self.passes(phrases, &known)).collect();
        for phrases in &phrases {
            self.count(phrases, &known);
        }
        passes
    }

    fn passes(&self, phrases: &[u64], known: &HashSet<u64>) -> bool {
        let overused = phrases.iter().filter(|phrase| !known.contains(phrase) && self.is_overused(**phrase)).count();
        overused < FEWEST || (overused as f64) < BLOCKED_SHARE * phrases.len() as f64
    }

    fn is_overused(&self, phrase: u64) -> bool {
        let count = self.counts.get(&phrase).map_or(0, |(count, _)| *count);
        self.completions >= BUCKET_COMPLETIONS && f64::from(count) >= (OVERUSED - ERROR) * self.completions as f64
    }

    fn count(&mut self, phrases: &[u64], known: &HashSet<u64>) {
        let bucket = u32::try_from(self.completions / BUCKET_COMPLETIONS).unwrap_or(u32::MAX);
        let distinct: HashSet<u64> =
            phrases.iter().filter(|phrase| !known.contains(phrase)).take(COUNTED_PER_COMPLETION).copied().collect();
        for phrase in distinct {
            self.counts.entry(phrase).or_insert((0, bucket)).0 += 1;
        }
        self.completions += 1;
        if self.completions.is_multiple_of(BUCKET_COMPLETIONS) {
            self.counts.retain(|_, (count, lacks)| *count + *lacks > bucket + 1);
        }
        if self.completions >= HALVED_AT_COMPLETIONS {
            self.completions /= 2;
            self.counts.values_mut().for_each(|(count, lacks)| (*count, *lacks) = (*count / 2, *lacks / 2));
            self.counts.retain(|_, (count, _)| *count > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "The keeper of the old lighthouse counts every ship that passes by night and by day.";
    const FRAME: &str = "In conclusion this is one of the most important things in the whole wide world and it should be \
                         kept in mind by everybody who wants to understand what was said here.";

    /// A text of which no four words in a row come again.
    fn fresh(number: usize) -> String {
        (0..30).map(|place| format!("w{number}x{place}")).collect::<Vec<_>>().join(" ")
    }

    /// One text in twenty ends in the frame.
    fn taught(completions: usize) -> Phrases {
        let mut phrases = Phrases::default();
        for number in 0..completions {
            let text = if number % 20 == 0 { format!("{} {FRAME}", fresh(number)) } else { fresh(number) };
            phrases.judge(PROMPT, &[&text]);
        }
        phrases
    }

    #[test]
    fn a_frame_is_found_out_and_what_is_said_once_is_not() {
        let mut phrases = taught(600);
        let framed = format!("Something quite new. {FRAME}");
        let opening = format!("In conclusion this is one {}", fresh(7_777));
        assert_eq!(phrases.judge(PROMPT, &[&framed, &fresh(9_999), &opening]), [false, true, true]);
        assert_eq!(taught(400).judge(PROMPT, &[&framed]), [true], "too early to say");
    }

    #[test]
    fn quoting_the_prompt_is_no_stock_phrase() {
        let mut phrases = Phrases::default();
        for _ in 0..1_000 {
            assert_eq!(phrases.judge(PROMPT, &[PROMPT]), [true]);
        }
        assert!(phrases.is_empty());
    }

    #[test]
    fn what_is_rare_is_forgotten_and_the_memory_stays_small() {
        assert!(taught(5_000).len() < 30 * 500, "one bucket at most: {}", taught(5_000).len());
        let phrases = taught(1_000);
        let counts = phrases.counts.values().map(|(count, _)| *count).max();
        assert_eq!((phrases.completions, counts), (1_000, Some(50)));
    }

    #[test]
    fn what_went_out_of_use_passes_again() {
        let mut phrases = taught(1_000);
        let framed = format!("Something quite new. {FRAME}");
        assert_eq!(phrases.judge(PROMPT, &[&framed]), [false]);
        for number in 0..30_000 {
            phrases.judge(PROMPT, &[&format!("a b c d{number}")]);
        }
        assert!(phrases.completions < HALVED_AT_COMPLETIONS);
        assert_eq!(phrases.judge(PROMPT, &[&framed]), [true]);
    }
}
