//! What lesser miners make of a good completion. Each tier harms what a reader cares for: whole sentences, their order,
//! whole words, and keeping to the subject.

use rand::{Rng, seq::IndexedRandom, seq::SliceRandom};

use crate::localnet::{kinds::Tier, text};

/// Share of its words a fair miner loses.
const FAIR_WORD_LOSS: f64 = 0.10;
/// The same, where there is one sentence only and nothing else to harm.
const FAIR_LONE_WORD_LOSS: f64 = 0.20;
/// Share of its words a poor miner loses.
const POOR_WORD_LOSS: f64 = 0.30;
/// Share of its runs of words a poor miner scrambles.
const POOR_SCRAMBLE: f64 = 0.5;
/// Words in such a run.
const SCRAMBLED_WORDS: usize = 5;

/// `sentences` as a miner of this tier would have written them.
pub fn degrade(tier: Tier, sentences: Vec<String>, rng: &mut impl Rng) -> Vec<String> {
    match tier {
        Tier::Good => sentences,
        Tier::Fair => fair(sentences, rng),
        Tier::Poor => poor(sentences, rng),
    }
}

/// One sentence of three or more is missing, two have changed places, some words are gone, one sentence is beside the
/// point. A lone sentence only loses words: beside it, one off the subject would be half of what is said.
fn fair(mut sentences: Vec<String>, rng: &mut impl Rng) -> Vec<String> {
    if sentences.len() >= 3 {
        let lost = rng.random_range(0..sentences.len());
        sentences.remove(lost);
    }
    if sentences.len() >= 2 {
        let moved = rng.random_range(1..sentences.len());
        sentences.swap(moved - 1, moved);
    }
    let loss = if sentences.len() == 1 { FAIR_LONE_WORD_LOSS } else { FAIR_WORD_LOSS };
    for sentence in &mut sentences {
        *sentence = rewrite(sentence, rng, |words, rng| lose_words(words, loss, rng));
    }
    if sentences.len() == 1 {
        return sentences;
    }
    let place = rng.random_range(0..=sentences.len());
    sentences.insert(place, off_topic(rng));
    sentences
}

/// A third of the sentences is left, and of those a part of the words, half of them in disorder.
fn poor(mut sentences: Vec<String>, rng: &mut impl Rng) -> Vec<String> {
    let left = sentences.len().div_ceil(3);
    while sentences.len() > left {
        let lost = rng.random_range(0..sentences.len());
        sentences.remove(lost);
    }
    let harm = |sentence: &String| {
        rewrite(sentence, rng, |words, rng| {
            lose_words(words, POOR_WORD_LOSS, rng);
            for run in words.chunks_mut(SCRAMBLED_WORDS) {
                if rng.random_bool(POOR_SCRAMBLE) {
                    run.shuffle(rng);
                }
            }
        })
    };
    sentences.iter().map(harm).collect()
}

/// Changes the words of a sentence and leaves its closing punctuation.
fn rewrite<R: Rng>(sentence: &str, rng: &mut R, change: impl FnOnce(&mut Vec<&str>, &mut R)) -> String {
    let (open, close) = text::split_close(sentence);
    let mut words = open.split_whitespace().collect();
    change(&mut words, rng);
    words.join(" ").trim_end_matches([',', ';']).to_owned() + close
}

fn lose_words(words: &mut Vec<&str>, share: f64, rng: &mut impl Rng) {
    let Some(first) = words.first().copied() else { return };
    words.retain(|_| !rng.random_bool(share));
    if words.is_empty() {
        words.push(first);
    }
}

/// A sentence about nothing that was asked.
fn off_topic(rng: &mut impl Rng) -> String {
    const WHO: [&str; 10] = [
        "My neighbour",
        "The postman",
        "Her cousin",
        "Our plumber",
        "The lady upstairs",
        "A friend of mine",
        "The baker",
        "His uncle",
        "The new tenant",
        "Somebody at the office",
    ];
    const DID: [&str; 10] =
        ["bought", "lost", "repaired", "borrowed", "painted", "sold", "found", "returned", "wrapped", "forgot"];
    const HOW_MANY: [&str; 5] = ["two", "three", "a dozen", "several", "four"];
    const WHAT: [&str; 12] = [
        "umbrellas",
        "bicycles",
        "kitchen chairs",
        "birthday cards",
        "garden gnomes",
        "winter coats",
        "coffee mugs",
        "skateboards",
        "board games",
        "sandwiches",
        "curtains",
        "lottery tickets",
    ];
    const WHEN: [&str; 8] = [
        "last Tuesday",
        "before lunch",
        "on the way home",
        "during the holidays",
        "after the party",
        "over the weekend",
        "yesterday evening",
        "at the supermarket",
    ];
    let mut pick = |list: &[&'static str]| list.choose(rng).copied().unwrap_or_default();
    format!("{} {} {} {} {}.", pick(&WHO), pick(&DID), pick(&HOW_MANY), pick(&WHAT), pick(&WHEN))
}

#[cfg(test)]
mod tests {
    use openvalidators_runtime::Seed;

    use super::*;

    fn good() -> Vec<String> {
        let sentence = |n: u8| format!("Sentence number {n} tells of an important thing that happened long ago.");
        (1..=6).map(sentence).collect()
    }

    #[test]
    fn each_tier_loses_what_it_should() {
        for seed in 0..50 {
            let rng = || Seed(seed).rng("test", &[]);
            assert_eq!(degrade(Tier::Good, good(), &mut rng()), good());
            let fair = degrade(Tier::Fair, good(), &mut rng());
            assert_eq!(fair.len(), 6, "one lost, one beside the point: {fair:?}");
            assert_eq!(fair.iter().filter(|s| kept(s) < 2).count(), 1, "{fair:?}");
            let poor = degrade(Tier::Poor, good(), &mut rng());
            assert_eq!(poor.len(), 2);
            let words = |sentences: &[String]| sentences.iter().map(|s| s.split(' ').count()).sum::<usize>();
            assert!(words(&poor) < words(&good()) / 3, "{poor:?}");
            assert!(poor.iter().all(|s| s.ends_with('.')), "{poor:?}");
        }
    }

    /// How many of a sentence's words are of the good ones.
    fn kept(sentence: &str) -> usize {
        let source = text::stem_set(&good().join(" "));
        text::stems(sentence).filter(|stem| source.contains(stem)).count()
    }

    #[test]
    fn a_single_word_survives() {
        for tier in [Tier::Good, Tier::Fair, Tier::Poor] {
            let left = degrade(tier, vec!["Why?".to_owned()], &mut Seed(1).rng("test", &[]));
            assert!(left.contains(&"Why?".to_owned()), "{tier:?} {left:?}");
            assert!(degrade(tier, Vec::new(), &mut Seed(1).rng("test", &[])).len() <= 1);
        }
    }
}
