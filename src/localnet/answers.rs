//! What an honest miner completes: a pure function of (seed, index of the miner, prompt).
//!
//! Everything is extracted from the prompt, so a good completion is faithful by construction. Miners of one tier differ
//! as people do: each weighs the sentences a little differently and begins in its own way.

use std::collections::HashMap;

use openvalidators_runtime::Seed;
use rand::Rng;

use crate::localnet::{
    grade, judge,
    kinds::Tier,
    question,
    task::{self, Task},
    text,
};

/// Sentences of a good summary when the prompt does not say how many.
const SUMMARY_SENTENCES: usize = 5;
/// Fewest and most sentences of a good summary, whatever the prompt says.
const SUMMARY_BOUNDS: (usize, usize) = (4, 8);
/// Fewest and most sentences of a good answer.
const ANSWER_BOUNDS: (usize, usize) = (2, 4);
/// How much one miner's weight of a sentence differs from another's.
const TASTE: f64 = 0.3;

/// What is completed when there is no text to work on.
const NOTHING_TO_READ: &str = "There is no text here to work on.";

/// Begins a summary; each fits before any statement.
const SUMMARY_OPENINGS: [&str; 17] = [
    "In short,",
    "Briefly,",
    "In essence,",
    "Put simply,",
    "On the whole,",
    "Above all,",
    "To sum up,",
    "In outline,",
    "In a few words,",
    "As the text tells,",
    "According to the text,",
    "As the passage explains,",
    "Taken together,",
    "The text tells that",
    "The passage explains that",
    "It is told here that",
    "The account begins by saying that",
];
/// Begins an answer; each fits before any statement.
const ANSWER_OPENINGS: [&str; 17] = [
    "According to the text,",
    "As described,",
    "From what is told,",
    "The text says that",
    "As the passage explains,",
    "It is said that",
    "The passage tells us that",
    "As far as the text goes,",
    "We learn that",
    "As stated,",
    "The account says that",
    "Judging by the text,",
    "The author writes that",
    "By this account,",
    "We read that",
    "It is explained that",
    "As the author puts it,",
];

/// Inserted before one later sentence; says nothing by itself.
const CONNECTIVES: [&str; 6] = ["Also,", "Besides,", "In addition,", "Moreover,", "Further,", "As well as that,"];

/// One author: the source of its taste.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// Of the whole local network.
    pub seed: Seed,
    /// Of the miner.
    pub index: u16,
    /// How well it writes.
    pub tier: Tier,
}

// === impl Author ===

impl Author {
    /// The completion of this author to this prompt: always the same.
    #[must_use]
    pub fn complete(&self, prompt: &str) -> String {
        let mut rng = self.seed.rng(&format!("localnet/complete/{prompt}"), &[u64::from(self.index)]);
        if let Some(case) = judge::read(prompt) {
            return judge::grade(self.tier, &case, &mut rng);
        }
        let reading = task::read(prompt);
        if reading.context.is_empty() {
            return NOTHING_TO_READ.to_owned();
        }
        let unframed: Vec<String> = reading.context.iter().map(|sentence| unframed(sentence)).collect();
        let context: Vec<&str> = unframed.iter().map(String::as_str).collect();
        let opening = |openings: &[&'static str]| openings[self.turn(prompt, openings.len())];
        let sentences = match reading.task {
            Task::Summarise { sentences } => {
                let chosen = summary(&context, sentences, &mut rng);
                compose(opening(&SUMMARY_OPENINGS), &chosen, &context, &mut rng)
            }
            Task::Answer { question } => {
                let chosen = retrieve(&context, &question, &mut rng);
                compose(opening(&ANSWER_OPENINGS), &chosen, &context, &mut rng)
            }
            Task::Ask => {
                let salient = summary(&context, Some(SUMMARY_BOUNDS.1), &mut rng);
                vec![question::ask(&context, &salient, |count| self.turn(prompt, count), &mut rng)]
            }
        };
        grade::degrade(self.tier, sentences, &mut rng).join(" ")
    }

    /// One of `count` possibilities. Authors with neighbouring indices never take the same one for one prompt.
    fn turn(&self, prompt: &str, count: usize) -> usize {
        let first: usize = self.seed.rng(&format!("localnet/turn/{prompt}"), &[]).random_range(0..count.max(1));
        (first + usize::from(self.index)) % count.max(1)
    }
}

/// The sentences that say most, in their order: SumBasic (Nenkova and Vanderwende 2005, "The impact of frequency on
/// summarization"), with a preference for the beginning, and against sentences that lean on the one before them.
fn summary<'a>(context: &[&'a str], asked: Option<usize>, rng: &mut impl Rng) -> Vec<&'a str> {
    let wanted = asked.unwrap_or(SUMMARY_SENTENCES).clamp(SUMMARY_BOUNDS.0, SUMMARY_BOUNDS.1);
    let stems: Vec<_> = context.iter().map(|sentence| text::stem_set(sentence)).collect();
    let mut frequency: HashMap<&str, f64> = HashMap::new();
    for stem in stems.iter().flatten() {
        *frequency.entry(stem).or_default() += 1.0 / context.len() as f64;
    }
    let standing: Vec<f64> = context
        .iter()
        .enumerate()
        .map(|(place, sentence)| {
            let early = 1.0 / (1.0 + 0.5 * place as f64 / context.len() as f64);
            let leans = if leans_on_the_one_before(sentence) { 0.7 } else { 1.0 };
            early * leans * rng.random_range(1.0 - TASTE..1.0 + TASTE)
        })
        .collect();
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < wanted.min(context.len()) {
        let score = |place: &usize| {
            let sum: f64 = stems[*place].iter().map(|stem| frequency[stem.as_str()]).sum();
            // The mean alone would favour the shortest sentences.
            standing[*place] * sum / (stems[*place].len() as f64 + 4.0)
        };
        let left = (0..context.len()).filter(|place| !chosen.contains(place));
        let Some(best) = left.max_by(|a, b| score(a).total_cmp(&score(b))) else { break };
        chosen.push(best);
        for stem in &stems[best] {
            // What has been said need not be said again.
            frequency.entry(stem).and_modify(|f| *f *= f.min(1.0));
        }
    }
    in_order(context, chosen)
}

/// The sentence that shares most with the question, rare words counting more (inverse document frequency), and some of
/// those that share something with it or stand beside one that does: the more, the likelier. In order.
fn retrieve<'a>(context: &[&'a str], question: &str, rng: &mut impl Rng) -> Vec<&'a str> {
    let asked = text::stem_set(question);
    let stems: Vec<_> = context.iter().map(|sentence| text::stem_set(sentence)).collect();
    let shared: Vec<f64> =
        stems.iter().map(|sentence| sentence.intersection(&asked).map(|stem| rarity(stem, &stems)).sum()).collect();
    let mut tasted = |score: &f64| score * rng.random_range(1.0 - TASTE..1.0 + TASTE);
    let best = shared.iter().map(&mut tasted).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    let Some((best, _)) = best.filter(|(_, score)| *score > 0.0) else {
        return summary(context, Some(ANSWER_BOUNDS.1), rng).into_iter().take(ANSWER_BOUNDS.0).collect();
    };
    let beside = |place: usize| {
        let before = place.checked_sub(1).map_or(0.0, |before| shared[before]);
        shared.get(place + 1).map_or(before, |after| before.max(*after))
    };
    // Weighted sampling without replacement (Efraimidis and Spirakis 2006): the largest u^(1/w) win.
    let mut others: Vec<(f64, usize)> = (0..context.len())
        .filter(|place| *place != best)
        .map(|place| (shared[place] + 0.5 * beside(place), place))
        .filter(|(weight, _)| *weight > 0.0)
        .map(|(weight, place)| (rng.random::<f64>().powf(1.0 / weight), place))
        .collect();
    others.sort_by(|a, b| b.0.total_cmp(&a.0));
    others.truncate(rng.random_range(ANSWER_BOUNDS.0..=ANSWER_BOUNDS.1) - 1);
    in_order(context, others.into_iter().map(|(_, place)| place).chain([best]).collect())
}

fn rarity(stem: &str, sentences: &[std::collections::HashSet<String>]) -> f64 {
    let holding = sentences.iter().filter(|sentence| sentence.contains(stem)).count();
    (1.0 + sentences.len() as f64 / holding.max(1) as f64).ln()
}

fn in_order<'a>(context: &[&'a str], mut places: Vec<usize>) -> Vec<&'a str> {
    places.sort_unstable();
    places.into_iter().map(|place| context[place]).collect()
}

/// A sentence without the opening that a miner of this network put before it: the best completion of a step is the text
/// of the next, and frames would pile up.
fn unframed(sentence: &str) -> String {
    let framings = SUMMARY_OPENINGS.iter().chain(&ANSWER_OPENINGS).chain(&CONNECTIVES);
    let bare = framings.filter_map(|framing| sentence.strip_prefix(framing)?.strip_prefix(' ')).next();
    let Some(bare) = bare else { return sentence.to_owned() };
    let mut characters = bare.chars();
    characters.next().into_iter().flat_map(char::to_uppercase).chain(characters).collect()
}

/// Whether a sentence begins with a word that points back.
pub fn leans_on_the_one_before(sentence: &str) -> bool {
    text::words(sentence).next().is_some_and(|first| {
        matches!(
            first.to_lowercase().as_str(),
            "he" | "she"
                | "it"
                | "they"
                | "his"
                | "her"
                | "their"
                | "its"
                | "this"
                | "these"
                | "those"
                | "but"
                | "yet"
                | "and"
                | "so"
                | "both"
                | "such"
                | "here"
                | "there"
                | "neither"
                | "each"
        )
    })
}

/// Puts the opening before the first sentence and a connective before one of the others.
fn compose(opening: &str, chosen: &[&str], context: &[&str], rng: &mut impl Rng) -> Vec<String> {
    let mut sentences: Vec<String> = chosen.iter().map(|sentence| closed(sentence)).collect();
    if let Some(first) = sentences.first_mut() {
        *first = format!("{opening} {}", continued(first, context));
    }
    if sentences.len() > 1 && rng.random_bool(0.5) {
        let place = rng.random_range(1..sentences.len());
        let connective = CONNECTIVES[rng.random_range(0..CONNECTIVES.len())];
        let starts_plainly = sentences[place].starts_with("The ") || sentences[place].starts_with("A ");
        if starts_plainly {
            sentences[place] = format!("{connective} {}", continued(&sentences[place], context));
        }
    }
    sentences
}

/// A sentence with a full stop where the source had none.
fn closed(sentence: &str) -> String {
    let (open, close) = text::split_close(sentence);
    if close.contains(['.', '!', '?', '…']) { sentence.to_owned() } else { format!("{open}.{close}") }
}

/// A sentence that no longer stands at the beginning: its capital goes, unless the word may be a name.
pub fn continued(sentence: &str, context: &[&str]) -> String {
    let Some(first) = text::words(sentence).next() else { return sentence.to_owned() };
    let at_start = sentence.starts_with(char::is_uppercase) && sentence.starts_with(first);
    if !at_start || first == "I" || !(text::is_stop_word(first) || is_common(first, context)) {
        return sentence.to_owned();
    }
    let mut characters = sentence.chars();
    characters.next().into_iter().flat_map(char::to_lowercase).chain(characters).collect()
}

/// Whether a capitalised word is no name: it stands in small letters elsewhere, or is formed as names are not.
fn is_common(word: &str, context: &[&str]) -> bool {
    const ENDINGS: [&str; 8] = ["ing", "ings", "ness", "ment", "tion", "ity", "thing", "ers"];
    let small = word.to_lowercase();
    let stem = text::stem(word);
    let seen_small =
        |other: &str| other == small || (other.starts_with(char::is_lowercase) && text::stem(other) == stem);
    ENDINGS.iter().any(|ending| small.ends_with(ending)) || context.iter().any(|s| text::words(s).any(seen_small))
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
