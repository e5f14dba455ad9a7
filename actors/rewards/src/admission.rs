//! Admission of a miner's text, before any model sees it: bounded in length, free of control characters, trimmed.
//! And the folding with which texts are compared, which never reaches a model.

use unicode_normalization::UnicodeNormalization;

/// A text too long to be scored.
///
/// It is refused whole: were it cut, its unscored end would still travel into the next prompt when it wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the completion has more than {limit_characters} characters")]
pub struct TooLong {
    /// The limit it passed.
    pub limit_characters: usize,
}

/// The rules of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The most characters of a trimmed text.
    pub limit_characters: usize,
    /// Control characters stay, as in the reference.
    pub verbatim: bool,
}

impl Admission {
    /// The text as the models see it: trimmed as `reward/reward.py` does, without the control characters that tokenizers
    /// treat at whim (tab, line feed and carriage return stay).
    ///
    /// # Errors
    /// When the trimmed text has more than `limit_characters` characters.
    pub fn admit(self, text: &str) -> Result<String, TooLong> {
        let text = trimmed(text);
        if text.chars().nth(self.limit_characters).is_some() {
            return Err(TooLong { limit_characters: self.limit_characters });
        }
        if self.verbatim {
            return Ok(text.to_owned());
        }
        let kept: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r')).collect();
        Ok(trimmed(&kept).to_owned())
    }
}

/// The text without white space at its ends, as Python's `strip` has it: U+001C to U+001F are white space there.
#[must_use]
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}'))
}

/// The text reduced to what a reader would call its words: compatibility forms unified (NFKC), lower case, letters and
/// digits only. Two texts that differ in case, spacing, punctuation or zero-width characters fold to the same.
#[must_use]
pub fn folded(text: &str) -> String {
    text.nfkc().flat_map(char::to_lowercase).filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn admit(text: &str, limit_characters: usize) -> Result<String, TooLong> {
        Admission { limit_characters, verbatim: false }.admit(text)
    }

    #[test]
    fn control_characters_go_and_layout_stays() {
        assert_eq!(admit("\u{0} one\r\n\ttwo\u{7}\u{9f} \u{0}", 100).unwrap(), "one\r\n\ttwo");
        assert_eq!(admit(" \n ", 100).unwrap(), "");
    }

    /// Checked against Python's `str.strip`.
    #[test]
    fn verbatim_only_the_ends_are_trimmed_and_as_python_does() {
        let reference = Admission { limit_characters: 100, verbatim: true };
        let text = "\u{1f}\u{1c} \u{85}\u{a0}\u{2003}\u{3000}\n\u{0}a\u{1c}b\u{7}\u{200b}\u{2029}\u{b}";
        assert_eq!(reference.admit(text).unwrap(), "\u{0}a\u{1c}b\u{7}\u{200b}");
    }

    #[test]
    fn the_limit_counts_characters_of_the_trimmed_text() {
        assert_eq!(admit("  日本語  ", 3).unwrap(), "日本語");
        assert_eq!(admit("日本語x", 3), Err(TooLong { limit_characters: 3 }));
    }

    #[test]
    fn what_reads_alike_folds_alike() {
        let stock = folded("That is an excellent question.");
        assert_eq!(folded("that is  an excellent question!"), stock);
        assert_eq!(folded("THAT is an ex\u{200b}cellent ｑｕｅｓｔｉｏｎ"), stock);
        assert_ne!(folded("That is not an excellent question."), stock);
        assert_eq!(folded("?!…"), "");
    }

    proptest! {
        #[test]
        fn admission_is_idempotent(text in "\\PC{0,40}|[\u{0}-\u{20}a]{0,40}") {
            if let Ok(once) = admit(&text, 30) {
                prop_assert!(once.chars().count() <= 30);
                prop_assert_eq!(admit(&once, 30).unwrap(), once);
            }
        }
    }
}
