//! Where sentences end, and the cut that opens a forward.
//!
//! The reference counts full stops (`forward.py`), which takes "3.5" and "Dr. Smith" apart and leaves nothing of a text
//! without one. Here a sentence ends at a terminator that white space and no small letter follow, or at an empty line.

/// Words before a full stop that never end a sentence.
const ABBREVIATIONS: [&str; 22] = [
    "Mr", "Mrs", "Ms", "Dr", "Prof", "St", "Mt", "Gen", "Col", "Capt", "Lt", "Sgt", "Rev", "Hon", "Messrs", "Fig",
    "vs", "ca", "cf", "e.g", "i.e", "approx",
];

/// The first `count` sentences of a text, as they stand in it, at most `limit_bytes` long. Sentences stay whole, and what
/// is left over after the last whole one is dropped; of a text without one whole sentence within the limit the beginning
/// is taken, up to the last white space within the limit. Empty only when no letter or digit is within the limit.
#[must_use]
pub fn cut(text: &str, count: usize, limit_bytes: usize) -> &str {
    let text = text.trim();
    let head = &text[..text.floor_char_boundary(limit_bytes)];
    if let Some(end) = ends(head).take(count.max(1)).last() {
        return &head[..end];
    }
    if !head.contains(char::is_alphanumeric) {
        return "";
    }
    let end = if head.len() < text.len() { head.rfind(char::is_whitespace) } else { None };
    let words = head[..end.unwrap_or(head.len())].trim_end();
    // A first "word" longer than the limit is better than punctuation alone.
    if words.contains(char::is_alphanumeric) { words } else { head }
}

/// Whole sentences in a text.
#[cfg(test)]
pub fn count(text: &str) -> usize {
    ends(text.trim()).count()
}

/// Byte positions right after each whole sentence. A stretch without a letter or digit is no sentence and belongs to the
/// next one.
fn ends(text: &str) -> impl Iterator<Item = usize> {
    let mut chars = text.char_indices().peekable();
    let mut start = 0;
    std::iter::from_fn(move || {
        while let Some((at, char)) = chars.next() {
            let end = match char {
                '\n' if starts_with_empty_line(&text[at + 1..]) => at,
                '.' | '!' | '?' | '…' | '。' | '！' | '？' => {
                    while chars.next_if(|(_, next)| is_closing(*next)).is_some() {}
                    let end = chars.peek().map_or(text.len(), |(next, _)| *next);
                    let wide = matches!(char, '。' | '！' | '？');
                    if !(wide || ends_here(&text[start..at], char, &text[end..])) {
                        continue;
                    }
                    end
                }
                _ => continue,
            };
            if text[start..end].contains(char::is_alphanumeric) {
                start = end;
                return Some(end);
            }
        }
        None
    })
}

fn starts_with_empty_line(text: &str) -> bool {
    text.chars().take_while(|char| char.is_whitespace()).any(|char| char == '\n')
}

/// What may stand between a terminator and the white space after it.
fn is_closing(char: char) -> bool {
    matches!(char, '.' | '!' | '?' | '…' | '"' | '\'' | '”' | '’' | '»' | ')' | ']' | '}')
}

fn ends_here(sentence: &str, terminator: char, rest: &str) -> bool {
    if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
        return false;
    }
    if rest.trim_start().starts_with(char::is_lowercase) {
        return false;
    }
    let word = sentence.rsplit(|char: char| char.is_whitespace() || "([\"“'‘".contains(char)).next().unwrap_or("");
    let mut letters = word.chars();
    let is_initial = letters.next().is_some_and(char::is_uppercase) && letters.next().is_none();
    terminator != '.' || rest.trim_start().is_empty() || !(is_initial || ABBREVIATIONS.contains(&word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &str) -> Vec<&str> {
        let mut from = 0;
        ends(text).map(|end| text[std::mem::replace(&mut from, end)..end].trim()).collect()
    }

    #[test]
    fn sentences_end_where_a_reader_ends_them() {
        assert_eq!(
            split("Dr. J. Smith paid 3.5 dollars. \"Why?\" she asked. He (it seems) left! Then... nothing. A tail"),
            ["Dr. J. Smith paid 3.5 dollars.", "\"Why?\" she asked.", "He (it seems) left!", "Then... nothing."]
        );
        assert_eq!(
            split("A heading\n\nThe text.\nIt wraps\nhere. End."),
            ["A heading", "The text.", "It wraps\nhere.", "End."]
        );
        assert_eq!(split("Fine (he said.) So it was.\" Yes."), ["Fine (he said.)", "So it was.\"", "Yes."]);
        assert_eq!(split("一つ。二つ。"), ["一つ。", "二つ。"]);
        assert_eq!(split("... !!! Well. ..."), ["... !!! Well."]);
    }

    #[test]
    fn the_cut_keeps_whole_sentences() {
        let text = "One is here. Two is here. Three is here. And a fragm";
        assert_eq!(cut(text, 2, 1_000), "One is here. Two is here.");
        assert_eq!(cut(text, 30, 1_000), "One is here. Two is here. Three is here.");
        assert_eq!(cut(text, 30, 30), "One is here. Two is here.");
        assert_eq!(cut(text, 0, 1_000), "One is here.");
    }

    #[test]
    fn a_text_without_a_full_stop_is_not_lost() {
        assert_eq!(cut("What is the capital of Texas", 15, 1_000), "What is the capital of Texas");
        assert_eq!(cut("no stop in this long line", 15, 14), "no stop in");
        assert_eq!(cut(&"é".repeat(50), 15, 11), "é".repeat(5));
        assert_eq!(cut("- 0123456789", 15, 8), "- 012345");
        assert_eq!(cut("  \n ", 15, 1_000), "");
        assert_eq!(cut("... --- ...", 15, 1_000), "");
    }

    proptest! {
        #[test]
        fn the_cut_is_a_bounded_piece_of_the_text_and_never_empty(
            text in "(\\PC|[a-zA-Z.!? \\n]){0,400}", sentences in 0_usize..40, limit in 1_usize..600,
        ) {
            let piece = cut(&text, sentences, limit);
            prop_assert!(piece.len() <= limit);
            prop_assert!(text.trim().starts_with(piece));
            prop_assert!(count(piece) <= sentences.max(1));
            let head = &text.trim()[..text.trim().floor_char_boundary(limit)];
            prop_assert_eq!(piece.contains(char::is_alphanumeric), head.contains(char::is_alphanumeric));
        }
    }
}
