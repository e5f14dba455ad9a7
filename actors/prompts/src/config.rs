//! The operator's settings: as written ([`Config`]), and checked ([`Settings`]).

use std::{fmt::Display, path::PathBuf, time::Duration};

use openvalidators_messages::StepKind;
use openvalidators_runtime::Backoff;
use serde::{Deserialize, Serialize};

use crate::{
    hygiene::HygieneConfig,
    script::Script,
    source::{self, SourcesConfig},
    template::TemplateError,
};

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
/// Most texts read ahead of one source; their memory has a limit of its own.
pub const MAX_SHUFFLE_BUFFER: usize = 1_000_000;

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
    /// Where contexts come from, by names of the operator's choice.
    pub sources: SourcesConfig,
    /// The one source that is used, and no other; all where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// Texts of a source that are read ahead; each draw takes any of them, which shuffles as `datasets` does.
    pub shuffle_buffer: usize,
    /// How long the start waits for the first text of each source; then others stand in for it.
    pub first_text_patience_seconds: f64,
    /// Which texts of files and datasets are used.
    pub hygiene: HygieneConfig,
    /// Files that replace the built-in wording.
    pub templates: TemplatePaths,
    /// Ways of openvalidators 1.2.0 that are off for good reason.
    pub compat: Compat,
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
    /// A source by a name that cannot be one.
    #[error("`prompts.sources.{name}`: a name has 1 to 40 of a-z, 0-9, `-` and `_`")]
    SourceName {
        /// What it is.
        name: String,
    },
    /// A source whose share is none.
    #[error("`prompts.sources.{name}.weight` is {weight}: set it between 0 and 1000000; at 0 it stands in for others")]
    SourceWeight {
        /// The source.
        name: String,
        /// What it is.
        weight: f64,
    },
    /// `only` names no source.
    #[error("`prompts.only` is `{name}`, which is no source: it is one of {known}")]
    NoSuchSource {
        /// What it is.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A language nobody knows.
    #[error(
        "`prompts.hygiene.languages` has `{found}`: write codes of ISO 639-3, such as eng, deu, fra, spa, cmn, jpn; [] takes \
         any language"
    )]
    Language {
        /// What it is.
        found: String,
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
            sources: source::default_sources(),
            only: None,
            shuffle_buffer: 10_000,
            first_text_patience_seconds: 20.0,
            hygiene: HygieneConfig::default(),
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
        source::check(&self.sources, self.only.as_deref())?;
        within("shuffle_buffer", self.shuffle_buffer, 1, MAX_SHUFFLE_BUFFER)?;
        within("first_text_patience_seconds", self.first_text_patience_seconds, 0.0, MAX_SECONDS)?;
        self.hygiene.check()?;
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
pub(crate) fn within<T: PartialOrd + Display>(
    key: &'static str,
    found: T,
    least: T,
    most: T,
) -> Result<T, ConfigError> {
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
        assert!(toml::from_str::<Config>("[sources.a]\nkind = \"embedded\"\npath = \"x\"").is_err());
        assert!(toml::from_str::<Config>("[sources.a]\nkind = \"directory\"").is_err());
        assert!(toml::from_str::<Config>("[sources.a]\nkind = \"hugging_face\"\nspilt = \"x\"").is_err());
    }

    #[test]
    fn sources_are_named_and_weighed() {
        let text = "[sources.web]\nkind = \"hugging_face\"\ndataset = \"o/n\"\n[sources.mine]\nkind = \"directory\"\n\
                    path = \"texts\"\nweight = 0.5";
        let mut config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
        let refused = |config: &Config| config.check().unwrap_err().to_string();
        config.only = Some("wb".to_owned());
        assert_eq!(refused(&config), "`prompts.only` is `wb`, which is no source: it is one of mine, web");
        config.only = Some("web".to_owned());
        config.hygiene.languages = vec!["en".to_owned()];
        assert!(refused(&config).contains("`prompts.hygiene.languages` has `en`"));
        let embedded = config.sources["mine"].clone();
        config.sources.insert("My texts".to_owned(), embedded);
        assert!(refused(&config).contains("`prompts.sources.My texts`: a name has"));
        let heavy = "[sources.a]\nkind = \"embedded\"\nweight = -1.0";
        assert!(refused(&toml::from_str(heavy).unwrap()).contains("`prompts.sources.a.weight` is -1"));
    }
}
