//! One step as a row.

use std::hash::{DefaultHasher, Hash, Hasher};

/// What a second is in the unit of [`StepRow::timestamp`].
pub const MICROS_PER_SECOND: f64 = 1e6;

/// The columns of scores that a store has, by the names of openvalidators 1.2.0 (`openvalidators/event.py`), and ours that
/// it lacks. Each comes raw, and under `NAME_normalized` as it counted.
pub const COLUMN_NAMES: [&str; 13] = [
    "dpo_reward_model",
    "rlhf_reward_model",
    "reciprocate_reward_model",
    "dahoas_reward_model",
    "prompt_reward_model",
    "constant_reward_model",
    "network_reward_model",
    "blacklist_filter",
    "task_validator_filter",
    "relevance_filter",
    "diversity_reward_model",
    "nsfw_filter",
    "firewall_filter",
];

/// A step: one prompt, the miners asked, what each completed and what that was worth. Lists are aligned: `uids[i]`,
/// `completions[i]`, `rewards[i]` are of one miner. A list that a source lacks is empty; within a list what is missing, NaN
/// or infinite is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepRow {
    /// Which run: the validator's hotkey for a ledger, wandb's id of the run, or the name of the file.
    pub run: String,
    /// The conversation within the run; `None` where it cannot be known.
    pub forward: Option<i64>,
    /// The text the forward is about, as a digest of its first prompt: what a split must not tear apart.
    pub context: String,
    /// The topic of that text, where its source names one.
    pub topic: Option<String>,
    /// `augment`, `followupK`, `answerK`.
    pub name: String,
    /// When its scores were there, microseconds since 1970, UTC.
    pub timestamp: i64,
    /// The chain's block.
    pub block: Option<i64>,
    /// How long it took, seconds.
    pub step_length: Option<f64>,
    /// What the miners were asked.
    pub prompt: String,
    /// Whom.
    pub uids: Vec<i64>,
    /// Who held those places: `0x` and 64 digits.
    pub hotkeys: Vec<String>,
    /// What they answered; empty for a failed call.
    pub completions: Vec<String>,
    /// How long each took, seconds.
    pub completion_times: Vec<Option<f64>>,
    /// Bittensor's status code of each call.
    pub status_codes: Vec<i64>,
    /// The probability with which each was asked.
    pub propensities: Vec<Option<f64>>,
    /// What each earned; empty when the step was not scored.
    pub rewards: Vec<Option<f64>>,
    /// The best completion, trimmed: the next prompt is made of it.
    pub best: Option<String>,
    /// Why there are no rewards.
    pub unscored: Option<String>,
    /// Scores of each reward model and filter, in the order of [`COLUMN_NAMES`].
    pub columns: Vec<Column>,
    /// Candidates that counted for nothing.
    pub shadows: Vec<Shadow>,
}

/// How a candidate reward function, filter or normaliser did in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shadow {
    /// Its name.
    pub name: String,
    /// Spearman's rank correlation with what is in force.
    pub correlation: Option<f64>,
    /// The share of completions a filter would block.
    pub blocked: Option<f64>,
    /// How long it took; `None` where nobody measured.
    pub seconds: Option<f64>,
    /// Whether it said nothing of the step.
    pub failed: bool,
}

/// The scores of one reward model or filter, aligned with the completions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// One of [`COLUMN_NAMES`].
    pub name: &'static str,
    /// What the model said.
    pub raw: Vec<Option<f64>>,
    /// What counted; empty where that was not recorded.
    pub normalized: Vec<Option<f64>>,
}

// === impl StepRow ===

impl StepRow {
    /// The name without its round.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.name.trim_end_matches(|digit: char| digit.is_ascii_digit())
    }

    /// The round of a followup or answer.
    #[must_use]
    pub fn round(&self) -> Option<u8> {
        self.name[self.kind().len()..].parse().ok()
    }

    /// The highest reward; `None` for a step without any.
    #[must_use]
    pub fn top_reward(&self) -> Option<f64> {
        self.rewards.iter().copied().flatten().reduce(f64::max)
    }

    /// What makes it the same step wherever it was recorded. Neither the run nor the time is part of it: the event log and
    /// wandb name them differently, and differ by milliseconds.
    #[must_use]
    pub(crate) fn identity(&self) -> u128 {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            (&self.name, self.block, &self.prompt, &self.uids, &self.completions).hash(&mut hasher);
            self.step_length.map(|seconds| (seconds * MICROS_PER_SECOND).round() as i64).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        half(0) << 64 | half(1)
    }
}

/// Sixteen hexadecimal digits that stand for a text, the same on every machine and in every version (FNV-1a of 64 bits;
/// Fowler, Noll & Vo).
#[must_use]
pub fn text_digest(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_kind_and_a_round() {
        let row = |name: &str| StepRow { name: name.into(), ..StepRow::default() };
        assert_eq!((row("answer12").kind().to_owned(), row("answer12").round()), ("answer".into(), Some(12)));
        assert_eq!((row("augment").kind().to_owned(), row("augment").round()), ("augment".into(), None));
    }

    #[test]
    fn a_step_is_the_same_under_another_run_and_time() {
        let step = StepRow { prompt: "p".into(), uids: vec![1, 2], step_length: Some(1.5), ..StepRow::default() };
        let elsewhere = StepRow { run: "other".into(), timestamp: 7, forward: Some(3), ..step.clone() };
        assert_eq!(step.identity(), elsewhere.identity());
        assert_ne!(step.identity(), StepRow { uids: vec![2, 1], ..step.clone() }.identity());
        assert_ne!(step.identity(), StepRow { step_length: Some(1.6), ..step.clone() }.identity());
    }

    #[test]
    fn digests_stay_the_same_between_versions() {
        assert_eq!(text_digest(""), "cbf29ce484222325");
        assert_eq!(text_digest("a"), "af63dc4c8601ec8c");
    }
}
