//! Behaviour of openvalidators 1.2.0 that was given up.

use serde::{Deserialize, Serialize};

/// One switch for each. Everything is off by default; [`Compat::REFERENCE`] is everything on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compat {
    /// Texts reach filters and models with their control characters.
    pub texts_verbatim: bool,
    /// Log-probability rewards may fall below −11: repetitions then reach −100 and flatten everybody else's scores.
    pub dpo_unclamped: bool,
    /// A prompt that fills the log-probability model scores every completion −11, as if that were their fault.
    pub dpo_long_prompt_floor: bool,
    /// The prompt-scored reward judges summaries alone (the names of the other steps never match), takes the words of its
    /// tags out of all texts, and looks for the score by counting characters.
    pub prompt_reference: bool,
    /// A strongly negative cosine passes the relevance filter like a positive one.
    pub relevance_absolute: bool,
    /// The blacklist compares texts letter by letter: another full stop, and a phrase passes. The prompt itself passes
    /// where it is not the base text.
    pub blacklist_exact: bool,
    /// The task validator finds its keywords inside words: "data:" contains "a:".
    pub task_validator_substring: bool,
    /// The diversity filter compares with the history from 502 embeddings on, leaves out the oldest 500 (of 500 more
    /// that it remembers), treats empty texts as texts, and blocks the copied with the copy.
    pub diversity_reference: bool,
    /// A long text is judged indecent or not in windows without the special tokens the network expects around each.
    pub nsfw_bare_windows: bool,
    /// One successful completion alone in a step makes the variance of every reward NaN: its scores are never scaled again.
    pub normaliser_unscaled_by_one: bool,
    /// When nobody earned anything the first completion is the best, whatever it is.
    pub best_of_nothing: bool,
    /// A step that nobody answered scores everybody 0.
    pub nobody_answered_zero: bool,
}

impl Compat {
    /// All of openvalidators 1.2.0.
    pub const REFERENCE: Self = Self {
        texts_verbatim: true,
        dpo_unclamped: true,
        dpo_long_prompt_floor: true,
        prompt_reference: true,
        relevance_absolute: true,
        blacklist_exact: true,
        task_validator_substring: true,
        diversity_reference: true,
        nsfw_bare_windows: true,
        normaliser_unscaled_by_one: true,
        best_of_nothing: true,
        nobody_answered_zero: true,
    };
}
