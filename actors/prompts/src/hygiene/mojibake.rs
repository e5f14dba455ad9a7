//! Encoding that was read wrongly: UTF-8 taken for Latin-1 or Windows-1252, so that `é` became `Ã©`.
//!
//! Repaired by signature, not by statistics: a text without one of the sequences that UTF-8's accented letters, quotation
//! marks, dashes and emoji turn into stays as it is, however odd it looks. Scripts other than Latin are not repaired. (The
//! crate `plsfix`, a port of ftfy, covers more; it rewrites quotation marks and widths that nobody asked it to.)

use std::borrow::Cow;

/// Texts that were damaged twice exist.
const ROUNDS: usize = 2;
/// The characters of Windows-1252 that stand for the bytes 0x80 to 0x9F; five bytes stand for none.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
];

/// The text as it was before; the same where nothing shows that it was another.
pub fn repair(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..ROUNDS {
        if !is_damaged(&text) {
            break;
        }
        text = Cow::Owned(decoded(&text));
    }
    text
}

/// Whether a sequence occurs that nobody writes.
fn is_damaged(text: &str) -> bool {
    text.char_indices().any(|(at, lead)| {
        matches!(lead, 'Â' | 'Ã' | 'â' | 'ï' | 'ð')
            && sequence(&text[at..]).is_some_and(|(_, bytes)| is_telling(&bytes))
    })
}

/// `Ã` and `Â` may stand before a closing quotation mark; the others have no such excuse.
fn is_telling(bytes: &[u8]) -> bool {
    match bytes {
        [0xC2 | 0xC3, second] => !matches!(second, 0x82 | 0x84 | 0x85 | 0x8B | 0x91..=0x97 | 0x9B | 0xA0 | 0xAB | 0xBB),
        [0xE2, 0x80 | 0x84, _] | [0xEF, 0xBB, 0xBF] | [0xF0, 0x9F, ..] => true,
        _ => false,
    }
}

fn decoded(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let found = sequence(rest).filter(|(_, bytes)| matches!(bytes[0], 0xC2..=0xC5 | 0xE2 | 0xEF | 0xF0));
        match found.and_then(|(length, bytes)| Some((length, std::str::from_utf8(&bytes).ok()?.to_owned()))) {
            Some((length, char)) => {
                decoded.push_str(&char);
                rest = &rest[length..];
            }
            None => {
                decoded.push(char);
                rest = &rest[char.len_utf8()..];
            }
        }
    }
    decoded
}

/// The characters that a text begins with, if they are the bytes of one character of UTF-8: how many bytes they take in
/// the text, and what bytes they stand for.
fn sequence(text: &str) -> Option<(usize, Vec<u8>)> {
    let mut chars = text.chars();
    let first = byte(chars.next()?)?;
    let more = match first {
        0xC2..=0xDF => 1,
        0xE0..=0xEF => 2,
        0xF0..=0xF4 => 3,
        _ => return None,
    };
    let rest = chars.by_ref().take(more).map(byte).collect::<Option<Vec<u8>>>()?;
    let bytes: Vec<u8> = std::iter::once(first).chain(rest).collect();
    (bytes.len() == more + 1 && std::str::from_utf8(&bytes).is_ok()).then(|| (text.len() - chars.as_str().len(), bytes))
}

/// The byte that a character stands for in Latin-1 or Windows-1252, if it is not ASCII.
fn byte(char: char) -> Option<u8> {
    match u32::from(char) {
        code @ 0x80..=0xFF => u8::try_from(code).ok(),
        _ => WINDOWS_1252.iter().position(|&known| known == char).and_then(|at| u8::try_from(0x80 + at).ok()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// UTF-8 read byte for byte.
    fn damage(text: &str, high: impl Fn(u8) -> char) -> String {
        text.bytes().map(|byte| if byte < 0x80 { char::from(byte) } else { high(byte) }).collect()
    }

    fn windows_1252(byte: u8) -> char {
        if byte < 0xA0 { WINDOWS_1252[usize::from(byte - 0x80)] } else { char::from(byte) }
    }

    #[test]
    fn what_was_read_wrongly_is_read_again() {
        for text in ["A café, a naïve façade.", "“Quoted” – it’s fine…", "Ängström, œuvre, Łódź’s", "Nice 👍 day"]
        {
            for damaged in [damage(text, windows_1252), damage(text, char::from)] {
                assert_ne!(damaged, text);
                assert_eq!(repair(&damaged), text, "of {damaged:?}");
                assert_eq!(repair(&damage(&damaged, windows_1252)), text, "twice");
            }
        }
    }

    #[test]
    fn what_was_read_rightly_stays() {
        for text in [
            "plain",
            "“CAFÉ” said the Irmã” of “SÃO”, voilà… è vero",
            "naïve façade, œuvre, Ångström, 20 €, Ð and Ñ",
            "Привет, мир — 你好",
            "â the circumflex, Ã alone, Â",
        ] {
            assert_eq!(repair(text), text);
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(text in "[\\PCâÃÂðï€“”\u{80}-\u{9f}]{0,60}") {
            let repaired = repair(&text);
            prop_assert!(repaired.chars().count() <= text.chars().count());
        }
    }
}
