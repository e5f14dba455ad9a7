//! The prompt given back: nothing is more relevant to a text than the text, and nothing in it surprises a language model.
//!
//! Quoting is honest work: a summary is made of its source, and an answer quotes what it relies on. Neither gives back most of
//! the prompt, nor its very words for longer than a few sentences. So two things are measured, on words
//! ([`crate::comparison`]): which share of the prompt's rows of words the completion has too (containment: Broder 1997), and
//! the longest run of words that both have, which an echo of a part has and a selection of sentences has not.

use std::collections::HashMap;

use crate::comparison::{contained, words};

/// Words in a row that are looked for: short, so that a row is left whole between two exchanged words.
const ROW_WORDS: usize = 2;
/// A completion that contains this share of the rows of a short prompt is an echo: where five sentences are asked of a text of
/// five, honest summaries were seen to contain 0.84.
const MOST_CONTAINED_OF_SHORT: f64 = 0.87;
/// The same for a long prompt, where they were seen to contain 0.55.
const MOST_CONTAINED_OF_LONG: f64 = 0.65;
/// A prompt of so many words is short, and of so many long; between the two, the bound goes from one to the other.
const SHORT_WORDS: f64 = 120.0;
const LONG_WORDS: f64 = 200.0;
/// Of a prompt shorter than this nothing is said: to repeat a question in the answer is polite.
const FEWEST_PROMPT_WORDS: usize = 40;
/// A run of this share of a long prompt is a part of it, given back: honest ones were seen to reach 0.39.
const LONGEST_RUN: f64 = 0.45;

/// A prompt, as completions are compared with it.
pub struct Prompt {
    words: Vec<u64>,
    /// Where each row of [`ROW_WORDS`] begins.
    places: HashMap<[u64; ROW_WORDS], Vec<usize>>,
}

// === impl Prompt ===

impl Prompt {
    /// Takes a prompt apart.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let words = words(text);
        let mut places: HashMap<[u64; ROW_WORDS], Vec<usize>> = HashMap::new();
        for (place, row) in words.array_windows::<ROW_WORDS>().enumerate() {
            places.entry(*row).or_default().push(place);
        }
        Self { words, places }
    }

    /// Whether a completion gives the prompt back.
    #[must_use]
    pub fn is_given_back(&self, completion: &str) -> bool {
        if self.words.len() < FEWEST_PROMPT_WORDS {
            return false;
        }
        let said = words(completion);
        let asked = self.words.len() as f64;
        let length = ((asked - SHORT_WORDS) / (LONG_WORDS - SHORT_WORDS)).clamp(0.0, 1.0);
        let most = MOST_CONTAINED_OF_SHORT + length * (MOST_CONTAINED_OF_LONG - MOST_CONTAINED_OF_SHORT);
        contained(&self.words, &said, ROW_WORDS) >= most
            || (asked >= LONG_WORDS && self.longest_run(&said) as f64 >= LONGEST_RUN * asked)
    }

    /// The most words in a row that both have.
    fn longest_run(&self, said: &[u64]) -> usize {
        let mut longest = 0;
        // The place in the prompt after each run that ends at the word before, and its length.
        let mut running: HashMap<usize, usize> = HashMap::new();
        for row in said.array_windows::<ROW_WORDS>() {
            let found = self.places.get(row).map_or(&[][..], Vec::as_slice);
            running = found
                .iter()
                .map(|place| (place + 1, running.get(place).map_or(ROW_WORDS, |length| length + 1)))
                .collect();
            longest = running.values().copied().max().unwrap_or(0).max(longest);
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve sentences of twenty words and what is asked of them; no two words in a row come twice.
    fn prompt() -> (Vec<String>, String) {
        let sentence = |number: usize| {
            let words: Vec<String> = (0..20).map(|place| format!("w{number}x{place}")).collect();
            format!("{}.", words.join(" "))
        };
        let sentences: Vec<String> = (0..12).map(sentence).collect();
        let whole = format!("{}\n\nSummarize the preceding context in five sentences.", sentences.join(" "));
        (sentences, whole)
    }

    #[test]
    fn the_prompt_or_most_of_it_is_an_echo() {
        let (sentences, whole) = prompt();
        let prompt = Prompt::new(&whole);
        assert!(prompt.is_given_back(&whole));
        assert!(prompt.is_given_back(&whole.to_uppercase().replace('.', " -- ")), "in other clothes");
        assert!(prompt.is_given_back(&sentences[..6].join(" ")), "its first half");
        let reworded: Vec<String> = whole
            .split_whitespace()
            .enumerate()
            .map(|(place, word)| if place % 12 == 0 { format!("other{place}") } else { word.to_owned() })
            .collect();
        assert!(prompt.is_given_back(&reworded.join(" ")), "every twelfth word exchanged");
        let mut shuffled = sentences.clone();
        shuffled.rotate_left(5);
        shuffled.swap(0, 7);
        assert!(prompt.is_given_back(&shuffled.join(" ")), "its sentences in another order");
    }

    #[test]
    fn what_is_made_of_the_prompt_passes() {
        let (sentences, whole) = prompt();
        let prompt = Prompt::new(&whole);
        let chosen: Vec<&str> = [0, 3, 4, 8, 11].map(|place: usize| sentences[place].as_str()).to_vec();
        assert!(!prompt.is_given_back(&format!("In short, {}", chosen.join(" "))), "five sentences of twelve");
        assert!(!prompt.is_given_back(&sentences[4..8].join(" ")), "four in a row, as an answer quotes");
        assert!(!prompt.is_given_back(""));
        let question = "Who counts every ship that passes by night?";
        assert!(!Prompt::new(question).is_given_back(question), "too short to say anything");
        let asked = "Summarize the preceding context in five sentences. Do not try to create questions or answers for \
                     your summarization.";
        let short = format!("{} {asked}", sentences[..5].join(" "));
        assert!(!Prompt::new(&short).is_given_back(&sentences[..5].join(" ")), "five sentences of five");
    }

    #[test]
    fn the_longest_run_is_found_wherever_it_is() {
        let prompt = Prompt::new("a b c a b d e f a b c d");
        let longest = |said: &str| prompt.longest_run(&words(said));
        assert_eq!(longest("x a b d e f y"), 5);
        assert_eq!(longest("a b c d"), 4);
        assert_eq!(longest("f e d"), 0);
        assert_eq!(longest(""), 0);
    }
}
