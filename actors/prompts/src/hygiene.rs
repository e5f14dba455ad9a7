//! Text hygiene: what the web put into a text is repaired where it can be, and a text that would make a poor prompt is
//! left out.
//!
//! In this order: encoding that was read wrongly is repaired (`mojibake.rs`); invisible characters and special-token
//! strings are dealt with as in miners' texts (`quote.rs`); what is too long is cut; what is damaged, too short, in
//! another language, or was seen lately is left out. The language is told by whatlang, trigrams in half a megabyte; lingua
//! is more accurate on single words, which no text here is, and its models are a hundred times as large.

mod config;
mod mojibake;
mod seen;

pub use config::HygieneConfig;
use seen::Seen;
use whatlang::Lang;

use crate::quote;

/// Of a text, so much decides on its language.
const LANGUAGE_BYTES: usize = 4_000;
/// One character in so many may be U+FFFD, which stands for bytes that were no text.
const DAMAGED_ONE_IN: usize = 100;

/// Cleans the texts of one source.
pub(crate) struct Hygiene {
    min_bytes: usize,
    max_bytes: usize,
    /// Any where empty.
    languages: Vec<Lang>,
    seen: Seen,
}

/// Why a text is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LeftOut {
    /// The record holds no text.
    Unreadable,
    /// Its bytes were lost before it came here.
    Damaged,
    /// It has too few bytes, or nothing to read.
    Short,
    /// It is in a language that is not wanted.
    Language,
    /// It was seen lately.
    Repeated,
}

// === impl LeftOut ===

impl LeftOut {
    pub const ALL: [Self; 5] = [Self::Unreadable, Self::Damaged, Self::Short, Self::Language, Self::Repeated];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Damaged => "damaged",
            Self::Short => "short",
            Self::Language => "language",
            Self::Repeated => "repeated",
        }
    }
}

// === impl Hygiene ===

impl Hygiene {
    /// With settings that were checked.
    pub fn new(config: &HygieneConfig) -> Self {
        Self {
            min_bytes: config.min_bytes,
            max_bytes: config.max_bytes,
            languages: config.languages.iter().filter_map(Lang::from_code).collect(),
            seen: Seen::new(config.remember_passages),
        }
    }

    /// The text as it may be used.
    pub fn clean(&mut self, text: &str) -> Result<String, LeftOut> {
        let text = quote::clean(&mojibake::repair(text), self.max_bytes);
        let lost = text.chars().filter(|&char| char == char::REPLACEMENT_CHARACTER).count();
        if lost * DAMAGED_ONE_IN > text.chars().count() {
            return Err(LeftOut::Damaged);
        }
        if text.len() < self.min_bytes || !text.contains(char::is_alphanumeric) {
            return Err(LeftOut::Short);
        }
        if self.is_foreign(&text) {
            return Err(LeftOut::Language);
        }
        if !self.seen.is_new(&text) {
            return Err(LeftOut::Repeated);
        }
        Ok(text)
    }

    /// The source begins again: what was seen comes again rightly.
    pub fn begin_again(&mut self) {
        self.seen.forget();
    }

    /// Only a sure answer leaves a text out.
    fn is_foreign(&self, text: &str) -> bool {
        if self.languages.is_empty() {
            return false;
        }
        let found = whatlang::detect(&text[..text.floor_char_boundary(LANGUAGE_BYTES)]);
        found.is_some_and(|info| info.is_reliable() && !self.languages.contains(&info.lang()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str = "The harbour lay quiet under a thin fog, and the boats had not yet gone out to sea.";

    fn hygiene(change: impl FnOnce(&mut HygieneConfig)) -> Hygiene {
        let mut config = HygieneConfig { min_bytes: 20, ..HygieneConfig::default() };
        change(&mut config);
        Hygiene::new(&config)
    }

    #[test]
    fn a_text_is_repaired_and_made_harmless() {
        let mut hygiene = hygiene(|_| {});
        let told = format!("{ENGLISH}\u{202E}\u{7} The cafÃ© said â€œyesâ€\u{9d}.<|endoftext|>");
        assert_eq!(hygiene.clean(&told).unwrap(), format!("{ENGLISH} The café said “yes”.< |endoftext|>"));
    }

    #[test]
    fn what_makes_a_poor_prompt_is_left_out() {
        let mut hygiene = hygiene(|config| config.languages = vec!["eng".to_owned()]);
        assert_eq!(hygiene.clean("Too short."), Err(LeftOut::Short));
        assert_eq!(hygiene.clean(&"-".repeat(100)), Err(LeftOut::Short));
        assert_eq!(hygiene.clean(&format!("{ENGLISH} \u{FFFD}\u{FFFD}")), Err(LeftOut::Damaged));
        let german =
            "Der Hafen lag still unter dünnem Nebel, und die Boote waren noch nicht hinausgefahren auf die See.";
        assert_eq!(hygiene.clean(german), Err(LeftOut::Language));
        assert!(hygiene.clean(ENGLISH).is_ok());
        let again = format!("  {}", ENGLISH.to_uppercase().replace(' ', "\n"));
        assert_eq!(hygiene.clean(&again), Err(LeftOut::Repeated));
        hygiene.begin_again();
        assert!(hygiene.clean(&again).is_ok());
    }

    #[test]
    fn any_language_and_a_limited_length_can_be_had() {
        let mut hygiene = hygiene(|config| (config.languages, config.max_bytes) = (vec![], 50));
        let german =
            "Der Hafen lag still unter dünnem Nebel, und die Boote waren noch nicht hinausgefahren auf die See.";
        let cut = hygiene.clean(german).unwrap();
        assert!(cut.len() <= 50 && german.starts_with(&cut), "{cut}");
    }
}
