//! Reading English prose: sentences, words, and which words carry the content.

use std::collections::HashSet;

/// Sentences a text is cut into at most; what follows is not read. Far above any prompt, it bounds a miner's work.
pub const MAX_SENTENCES: usize = 400;

/// Words before a full stop that do not end a sentence.
const ABBREVIATIONS: [&str; 18] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "etc", "e.g", "i.e", "c", "ca", "no", "fig", "vol",
    "approx",
];

/// Words that carry grammar rather than content.
const STOP_WORDS: &[&str] = &[
    "a",
    "about",
    "above",
    "after",
    "again",
    "against",
    "all",
    "also",
    "although",
    "am",
    "among",
    "an",
    "and",
    "another",
    "any",
    "are",
    "around",
    "as",
    "at",
    "away",
    "be",
    "because",
    "been",
    "before",
    "being",
    "below",
    "between",
    "both",
    "but",
    "by",
    "can",
    "cannot",
    "could",
    "did",
    "do",
    "does",
    "down",
    "during",
    "each",
    "either",
    "else",
    "ever",
    "every",
    "few",
    "first",
    "for",
    "from",
    "further",
    "had",
    "has",
    "have",
    "he",
    "her",
    "here",
    "hers",
    "him",
    "his",
    "how",
    "however",
    "i",
    "if",
    "in",
    "instead",
    "into",
    "is",
    "it",
    "its",
    "itself",
    "just",
    "last",
    "least",
    "less",
    "many",
    "may",
    "me",
    "might",
    "more",
    "most",
    "much",
    "must",
    "my",
    "near",
    "neither",
    "never",
    "no",
    "nor",
    "not",
    "now",
    "of",
    "off",
    "often",
    "on",
    "once",
    "one",
    "only",
    "or",
    "other",
    "others",
    "our",
    "out",
    "over",
    "own",
    "per",
    "perhaps",
    "quite",
    "rather",
    "same",
    "seem",
    "seems",
    "several",
    "shall",
    "she",
    "should",
    "since",
    "so",
    "some",
    "still",
    "such",
    "than",
    "that",
    "the",
    "their",
    "them",
    "themselves",
    "then",
    "there",
    "these",
    "they",
    "this",
    "those",
    "though",
    "through",
    "thus",
    "to",
    "together",
    "too",
    "toward",
    "towards",
    "two",
    "under",
    "until",
    "up",
    "upon",
    "us",
    "very",
    "was",
    "we",
    "were",
    "what",
    "when",
    "where",
    "whether",
    "which",
    "while",
    "who",
    "whom",
    "whose",
    "why",
    "will",
    "with",
    "within",
    "without",
    "would",
    "yet",
    "you",
    "your",
];

/// The sentences of `text`, trimmed, in order. A line break ends a sentence too: headings and list items stay apart.
#[must_use]
pub fn sentences(text: &str) -> Vec<&str> {
    text.lines().flat_map(sentences_of_line).filter(|s| words(s).next().is_some()).take(MAX_SENTENCES).collect()
}

/// The words of `text` as they are written: letters and digits, with inner apostrophes, hyphens and points.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
        .map(|token| token.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|token| !token.is_empty())
}

/// Whether a word carries grammar only. Upper and lower case are the same.
#[must_use]
pub fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.binary_search(&word.to_lowercase().as_str()).is_ok()
}

/// The content words of `text` in one common form (lower case, singular), in order, with repetitions.
pub fn stems(text: &str) -> impl Iterator<Item = String> {
    words(text).filter(|word| !is_stop_word(word)).map(stem)
}

/// [`stems`] without repetitions.
#[must_use]
pub fn stem_set(text: &str) -> HashSet<String> {
    stems(text).collect()
}

/// A sentence's words and its closing punctuation.
#[must_use]
pub fn split_close(sentence: &str) -> (&str, &str) {
    let open = sentence.trim_end_matches(|c: char| is_stop(c) || is_closing(c));
    let open = if open.is_empty() { sentence } else { open };
    (open, &sentence[open.len()..])
}

/// One common form of a word: lower case, with the plural and the possessive folded into the singular; no more, so that
/// the form stays readable.
#[must_use]
pub fn stem(word: &str) -> String {
    let lower = word.to_lowercase();
    let base = lower.strip_suffix("'s").or_else(|| lower.strip_suffix("’s")).unwrap_or(&lower);
    match base.strip_suffix("ies") {
        Some(root) if root.len() > 1 => format!("{root}y"),
        _ => match base.strip_suffix('s') {
            Some(root) if root.len() > 2 && !root.ends_with(['s', 'u', 'i']) => root.to_owned(),
            _ => base.to_owned(),
        },
    }
}

fn sentences_of_line(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut characters = line.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if !is_stop(character) {
            continue;
        }
        let mut end = at + character.len_utf8();
        while let Some((next, _)) = characters.next_if(|(_, c)| is_stop(*c) || is_closing(*c)) {
            end = next + line[next..].chars().next().map_or(0, char::len_utf8);
        }
        if ends_sentence(&line[start..at], character, &line[end..]) {
            found.push(line[start..end].trim());
            start = end;
        }
    }
    found.push(line[start..].trim());
    found
}

fn ends_sentence(before: &str, stop: char, after: &str) -> bool {
    let next = after.trim_start();
    if next.is_empty() {
        return true;
    }
    if next.len() == after.len() || next.starts_with(char::is_lowercase) {
        return false;
    }
    let last = before.rsplit(char::is_whitespace).next().unwrap_or(before);
    let last = last.trim_start_matches(|c: char| !c.is_alphanumeric());
    let initial = last.chars().count() == 1 && last.starts_with(char::is_uppercase);
    stop != '.' || !(initial || ABBREVIATIONS.contains(&last.to_lowercase().as_str()))
}

fn is_stop(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…')
}

fn is_closing(c: char) -> bool {
    matches!(c, '"' | '\'' | '”' | '’' | ')' | ']' | '»')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_a_reader_ends_them() {
        let text = "Dr. J. S. Bach paid 3.5 thalers. \"Was it much?\" It was, e.g. for bread!\nA heading\nThe end…";
        let expected = [
            "Dr. J. S. Bach paid 3.5 thalers.",
            "\"Was it much?\"",
            "It was, e.g. for bread!",
            "A heading",
            "The end…",
        ];
        assert_eq!(sentences(text), expected);
        assert!(sentences(" \n ... \n").is_empty());
    }

    #[test]
    fn no_sentence_loses_a_character_of_any_script() {
        let text = "Ünïcode – «ça va?» Да. 你好。 Emoji 🙂. Endé";
        let squeezed = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        assert_eq!(squeezed(&sentences(text).concat()), squeezed(text));
    }

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
        assert!(is_stop_word("The") && is_stop_word("your") && !is_stop_word("sonnet"));
    }

    #[test]
    fn stems_fold_the_plural_and_the_possessive() {
        let found: Vec<_> = stems("The cities of Berlin's rivers; glass, virus, analysis.").collect();
        assert_eq!(found, ["city", "berlin", "river", "glass", "virus", "analysis"]);
    }

    #[test]
    fn the_close_of_a_sentence_is_its_punctuation() {
        assert_eq!(split_close("Was it much?\""), ("Was it much", "?\""));
        assert_eq!(split_close("no close"), ("no close", ""));
        assert_eq!(split_close("..."), ("...", ""));
    }
}
