//! The operator's settings: as written ([`Config`]), and checked ([`Settings`]).

use std::{fmt::Display, path::PathBuf, time::Duration};

use openvalidators_messages::StepKind;
use openvalidators_runtime::Backoff;
use serde::{Deserialize, Serialize};

use crate::{script::Script, template::TemplateError};

/// Most rounds of followup and answer: the index of a step is one byte, and each round takes two steps.
pub const MAX_FOLLOWUP_STEPS: u8 = 100;
/// Most forwards at once: far above what one device can score.
pub const MAX_CONCURRENT_FORWARDS: usize = 256;
/// Most miners a step may ask: every place of a subnet.
pub const MAX_SAMPLE_SIZE: usize = 65_536;
/// Longest of all the timeouts and pauses below.
pub const MAX_SECONDS: f64 = 86_400.0;
/// Least room for a text in a prompt: enough for a sentence.
pub const MIN_TEXT_BYTES: usize = 256;
/// Most room for a text in a prompt: far above what any model reads.
pub const MAX_TEXT_BYTES: usize = 1_048_576;

/// The table `[prompts]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Forwards that run at the same time.
    pub concurrent_forwards: usize,
    /// Rounds of followup and answer after the augment step.
    pub num_followup_steps: u8,
    /// Steps to settle before the program finishes; without it, it runs until it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Miners asked for a summary.
    pub augment_sample_size: usize,
    /// Miners asked for a question.
    pub followup_sample_size: usize,
    /// Miners asked for an answer.
    pub answer_sample_size: usize,
    /// What a miner has to deliver a summary.
    pub augment_timeout_seconds: f64,
    /// What a miner has to deliver a question.
    pub followup_timeout_seconds: f64,
    /// What a miner has to deliver an answer.
    pub answer_timeout_seconds: f64,
    /// Longest wait for raw scores; the step is settled as unscored after that.
    pub score_timeout_seconds: f64,
    /// Longest wait for a context, a choice of miners, or one attempt at a part of settling.
    pub call_timeout_seconds: f64,
    /// First pause of a lane after a forward without one usable completion; it doubles with each further one.
    pub pause_first_seconds: f64,
    /// Longest such pause, before jitter.
    pub pause_longest_seconds: f64,
    /// Most bytes of a drawn context that go into a prompt. Like the two limits below small enough that a prompt in
    /// English leaves room for a completion in 2,048 tokens (four bytes make about one): a step whose prompt fills the
    /// model is unscored.
    pub context_limit_bytes: usize,
    /// Most bytes of one completion that go into a later prompt, quote marks included; at most half of
    /// `quoted_total_bytes`, so that summary and question always find room.
    pub quote_limit_bytes: usize,
    /// Most bytes of completions in one prompt; the oldest exchanges are left out of it first.
    pub quoted_total_bytes: usize,
    /// Where contexts come from.
    pub source: SourceConfig,
    /// Files that replace the built-in wording.
    pub templates: TemplatePaths,
    /// Ways of openvalidators 1.2.0 that are off for good reason.
    pub compat: Compat,
}

/// Where contexts come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceConfig {
    /// The passages that are part of the program.
    Embedded {},
    /// A folder of `.txt` and `.jsonl` files.
    Directory {
        /// The folder.
        path: PathBuf,
    },
}

/// Files that replace the built-in wording; what is left out stays as built in. Which placeholders each must name is
/// told in [`crate::Script`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemplatePaths {
    /// Asks for a summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<PathBuf>,
    /// Asks for the first question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub followup_first: Option<PathBuf>,
    /// Asks for a further question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub followup_next: Option<PathBuf>,
    /// Asks for an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<PathBuf>,
    /// Tells an earlier question and its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<PathBuf>,
    /// Introduces quoted text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quoted: Option<PathBuf>,
}

/// Ways of openvalidators 1.2.0 that are off for good reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compat {
    /// Pastes a miner's text into the next prompts as it came (its length stays bounded): a channel from one miner to
    /// the models of all others.
    pub paste_verbatim: bool,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A number out of its range.
    #[error("`prompts.{key}` is {found}: set it between {least} and {most}")]
    OutOfRange {
        /// The key below `[prompts]`.
        key: &'static str,
        /// What it is.
        found: String,
        /// The smallest allowed value.
        least: String,
        /// The largest allowed value.
        most: String,
    },
    /// A template that cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// [`Config`], checked and typed; the templates are read.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) concurrent_forwards: usize,
    pub(crate) followup_steps: u8,
    pub(crate) steps: Option<u64>,
    pub(crate) augment: Asking,
    pub(crate) followup: Asking,
    pub(crate) answer: Asking,
    pub(crate) score_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) pause: Backoff,
    pub(crate) context_limit_bytes: usize,
    pub(crate) script: Script,
}

/// How one kind of step asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    /// How many miners.
    pub count: usize,
    /// What each has.
    pub timeout: Duration,
}

/// Pauses that still grow; the ones after are as long as the last.
const GROWING_PAUSES: usize = 32;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrent_forwards: 1,
            num_followup_steps: 4,
            steps: None,
            augment_sample_size: 50,
            followup_sample_size: 50,
            answer_sample_size: 50,
            augment_timeout_seconds: 10.0,
            followup_timeout_seconds: 10.0,
            answer_timeout_seconds: 10.0,
            score_timeout_seconds: 600.0,
            call_timeout_seconds: 60.0,
            pause_first_seconds: 1.0,
            pause_longest_seconds: 60.0,
            context_limit_bytes: 6_000,
            quote_limit_bytes: 1_500,
            quoted_total_bytes: 5_000,
            source: SourceConfig::default(),
            templates: TemplatePaths::default(),
            compat: Compat::default(),
        }
    }
}

impl Config {
    /// Checks every number and reads the templates.
    ///
    /// # Errors
    /// [`ConfigError`] names the key or the file, what was found and what is allowed.
    pub fn check(&self) -> Result<Settings, ConfigError> {
        let asking = |count: (&'static str, usize), timeout: (&'static str, f64)| {
            let count = within(count.0, count.1, 1, MAX_SAMPLE_SIZE)?;
            Ok::<_, ConfigError>(Asking { count, timeout: seconds(timeout.0, timeout.1)? })
        };
        let first = seconds("pause_first_seconds", self.pause_first_seconds)?;
        let longest =
            within("pause_longest_seconds", self.pause_longest_seconds, self.pause_first_seconds, MAX_SECONDS)?;
        let quoted_total_bytes =
            within("quoted_total_bytes", self.quoted_total_bytes, 2 * MIN_TEXT_BYTES, MAX_TEXT_BYTES)?;
        let quote_limit_bytes =
            within("quote_limit_bytes", self.quote_limit_bytes, MIN_TEXT_BYTES, quoted_total_bytes / 2)?;
        Ok(Settings {
            concurrent_forwards: within("concurrent_forwards", self.concurrent_forwards, 1, MAX_CONCURRENT_FORWARDS)?,
            followup_steps: within("num_followup_steps", self.num_followup_steps, 0, MAX_FOLLOWUP_STEPS)?,
            steps: self.steps,
            augment: asking(
                ("augment_sample_size", self.augment_sample_size),
                ("augment_timeout_seconds", self.augment_timeout_seconds),
            )?,
            followup: asking(
                ("followup_sample_size", self.followup_sample_size),
                ("followup_timeout_seconds", self.followup_timeout_seconds),
            )?,
            answer: asking(
                ("answer_sample_size", self.answer_sample_size),
                ("answer_timeout_seconds", self.answer_timeout_seconds),
            )?,
            score_timeout: seconds("score_timeout_seconds", self.score_timeout_seconds)?,
            call_timeout: seconds("call_timeout_seconds", self.call_timeout_seconds)?,
            pause: Backoff { first, longest: Duration::from_secs_f64(longest), retries: GROWING_PAUSES },
            context_limit_bytes: within(
                "context_limit_bytes",
                self.context_limit_bytes,
                MIN_TEXT_BYTES,
                MAX_TEXT_BYTES,
            )?,
            script: Script::load(&self.templates, quote_limit_bytes, quoted_total_bytes, self.compat.paste_verbatim)?,
        })
    }
}

// === impl SourceConfig ===

impl Default for SourceConfig {
    fn default() -> Self {
        Self::Embedded {}
    }
}

// === impl Settings ===

impl Settings {
    /// How a kind of step asks.
    pub(crate) fn asking(&self, kind: StepKind) -> Asking {
        match kind {
            StepKind::Augment => self.augment,
            StepKind::Followup => self.followup,
            StepKind::Answer => self.answer,
        }
    }

    /// Steps of a forward that nothing cuts short.
    pub(crate) fn steps_of_a_forward(&self) -> u8 {
        1 + 2 * self.followup_steps
    }
}

/// Refuses what is outside the range, NaN included.
fn within<T: PartialOrd + Display>(key: &'static str, found: T, least: T, most: T) -> Result<T, ConfigError> {
    if least <= found && found <= most {
        return Ok(found);
    }
    Err(ConfigError::OutOfRange { key, found: found.to_string(), least: least.to_string(), most: most.to_string() })
}

/// A time from a millisecond to [`MAX_SECONDS`].
fn seconds(key: &'static str, found: f64) -> Result<Duration, ConfigError> {
    within(key, found, 0.001, MAX_SECONDS).map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_references_and_survives_toml() {
        let config = Config::default();
        let settings = config.check().unwrap();
        assert_eq!(settings.steps_of_a_forward(), 9);
        assert_eq!(settings.asking(StepKind::Answer).count, 50);
        assert_eq!(settings.asking(StepKind::Augment).timeout, Duration::from_secs(10));
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&written).unwrap(), config);
        assert_eq!(toml::from_str::<Config>("").unwrap(), config);
    }

    #[test]
    fn a_bad_number_is_told_with_its_key() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(
            refused(|c| c.answer_timeout_seconds = f64::NAN),
            "`prompts.answer_timeout_seconds` is NaN: set it between 0.001 and 86400"
        );
        assert!(refused(|c| c.concurrent_forwards = 0).contains("prompts.concurrent_forwards"));
        assert!(refused(|c| c.followup_sample_size = 0).contains("prompts.followup_sample_size"));
        assert!(refused(|c| c.num_followup_steps = 101).contains("between 0 and 100"));
        assert!(refused(|c| c.quote_limit_bytes = 1).contains("prompts.quote_limit_bytes"));
        assert!(refused(|c| c.quote_limit_bytes = 2_501).contains("between 256 and 2500"));
        assert!(refused(|c| c.quoted_total_bytes = 511).contains("prompts.quoted_total_bytes"));
        assert!(refused(|c| c.pause_longest_seconds = 0.5).contains("between 1 and"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<Config>("timeout = 1").is_err());
        assert!(toml::from_str::<Config>("[source]\nkind = \"embedded\"\npath = \"x\"").is_err());
        assert!(toml::from_str::<Config>("[source]\nkind = \"directory\"").is_err());
        let found = toml::from_str::<Config>("[source]\nkind = \"directory\"\npath = \"texts\"").unwrap();
        assert_eq!(found.source, SourceConfig::Directory { path: "texts".into() });
    }
}
