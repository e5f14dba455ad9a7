//! Texts as they are compared with each other, never as a model judges them: look-alike letters unified, words hashed, and
//! words in a row counted (shingles: Broder 1997, "On the resemblance and containment of documents").

use std::{borrow::Cow, collections::HashSet};

use unicode_normalization::UnicodeNormalization;
use unicode_security::skeleton;

/// The text with what only looks different made the same: compatibility forms unified (NFKC), characters that nobody sees left
/// out, and letters that look like ASCII ones made those (Unicode Technical Standard 39, "Confusable Detection"), if most
/// letters of the text are ASCII: Cyrillic prose stays what it is.
#[must_use]
pub fn unconfused(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let text: String = text.nfkc().filter(|c| !is_unseen(*c)).collect();
    let (mut ascii, mut letters) = (0_usize, 0_usize);
    for letter in text.chars().filter(|c| c.is_alphabetic()) {
        letters += 1;
        ascii += usize::from(letter.is_ascii());
    }
    if ascii * 2 <= letters {
        return Cow::Owned(text);
    }
    Cow::Owned(text.chars().map(|c| if c.is_ascii() { c } else { ascii_double(c).unwrap_or(c) }).collect())
}

/// The ASCII letter or digit it looks like.
fn ascii_double(c: char) -> Option<char> {
    let mut buffer = [0; 4];
    let mut double = skeleton(c.encode_utf8(&mut buffer));
    match (double.next(), double.next()) {
        (Some(double), None) => Some(double).filter(char::is_ascii_alphanumeric),
        _ => None,
    }
}

/// Default-ignorable code points: no reader sees that they are there.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// The words of a text in their order, each as a number: lower case, letters and digits only.
#[must_use]
pub fn words(text: &str) -> Vec<u64> {
    let text = unconfused(text);
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’').filter(|word| !word.is_empty());
    words.map(|word| hash(word.chars().flat_map(char::to_lowercase).filter(|c| c.is_alphanumeric()))).collect()
}

/// As many words in a row, each row as one number.
pub fn shingles(words: &[u64], length: usize) -> impl Iterator<Item = u64> {
    words.windows(length).map(|row| row.iter().fold(FNV_OFFSET, |hash, word| fnv(hash, &word.to_le_bytes())))
}

/// The share of `whole`'s rows of words that `part` has too; 0 where `whole` is shorter than one row.
#[must_use]
pub fn contained(whole: &[u64], part: &[u64], length: usize) -> f64 {
    let rows: HashSet<u64> = shingles(whole, length).collect();
    let found: HashSet<u64> = shingles(part, length).filter(|row| rows.contains(row)).collect();
    found.len() as f64 / rows.len().max(1) as f64
}

/// FNV-1a of 64 bits (Fowler, Noll and Vo): the same in every version and on every machine, for it is in snapshots.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn hash(characters: impl Iterator<Item = char>) -> u64 {
    characters.fold(FNV_OFFSET, |hash, c| fnv(hash, &u32::from(c).to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_disguise_is_taken_off_and_other_scripts_stay() {
        let plain = "The old lighthouse keeper counts ships at dawn.";
        let disguised = "The оld lighthоuse k\u{200b}eeper cоunts shiрs аt dawn\u{feff}.";
        assert_ne!(disguised, plain);
        assert_eq!(unconfused(disguised), plain);
        assert_eq!(unconfused("ｆｕｌｌ width and ﬁne"), "full width and fine");
        for kept in ["Смотритель маяка считает корабли.", "日本語の文章", "naïve façade, Łódź", "plain"]
        {
            assert_eq!(unconfused(kept), kept);
        }
        assert_eq!(words(disguised), words(&plain.to_uppercase()));
    }

    #[test]
    fn words_do_not_depend_on_case_and_punctuation_and_apostrophes_part_nothing() {
        assert_eq!(words("It's one — TWO, three!"), words("its one two three"));
        assert!(words("?! …").is_empty());
        assert_ne!(words("one two"), words("two one"));
    }

    #[test]
    fn containment_is_the_share_of_rows() {
        let whole = words("a b c d e f");
        assert_eq!(contained(&whole, &whole, 3), 1.0);
        assert_eq!(contained(&whole, &words("x a b c y"), 3), 0.25);
        assert_eq!(contained(&words("a b"), &words("a b"), 3), 0.0, "too short to say anything");
        assert_eq!(shingles(&words("a b"), 3).count(), 0);
    }

    proptest! {
        #[test]
        fn comparing_is_idempotent(text in "\\PC{0,40}|[\u{200b}аеоa-e ]{0,40}") {
            let once = unconfused(&text).into_owned();
            prop_assert_eq!(words(&once), words(&text));
        }
    }
}
