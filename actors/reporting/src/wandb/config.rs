//! The operator's settings. Names as in openvalidators 1.2.0 (`--wandb.*`), where it had them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What goes to wandb, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WandbConfig {
    /// Nothing, files alone, or files and their upload.
    pub mode: Mode,
    /// The project of the rows.
    pub project_name: String,
    /// The user or team of the project; empty is the owner of the API key.
    pub entity: String,
    /// Notes of every run.
    pub notes: String,
    /// Forwards after which a new run begins.
    pub run_step_length: u64,
    /// Texts that are left out of the rows.
    pub redact: Redact,
    /// Blocks between rows of scores (`neuron_weights`, `neuron_hotkeys`): the reference's checkpoints.
    pub scores_every_blocks: u64,
    /// The server; empty is `WANDB_BASE_URL`, else wandb's own.
    pub base_url: String,
    /// A file with nothing but the API key, before `WANDB_API_KEY` and netrc.
    pub api_key_file: Option<PathBuf>,
    /// Uploaded runs whose files are kept.
    pub keep_uploaded_runs: usize,
    /// How often the hardware is looked at; 0 is never.
    pub hardware_seconds: u64,
    /// Add the gating head to each row of scores, as an artifact, where it has learned since.
    pub track_gating_model: bool,
}

/// Whether anything is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing.
    #[default]
    Off,
    /// Files that `wandb sync` uploads.
    Offline,
    /// Files, uploaded as they grow.
    Online,
}

/// Which texts nobody at wandb gets to read. They are `null` in the files already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redact {
    /// All texts are sent, as by the reference.
    #[default]
    None,
    /// Without prompts.
    Prompts,
    /// Without prompts and completions.
    Texts,
}

/// Values that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reporting.wandb.{key} is {found:?}: {expected}")]
pub struct WandbConfigError {
    key: &'static str,
    found: String,
    expected: &'static str,
}

// === impl WandbConfig ===

impl Default for WandbConfig {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            project_name: "openvalidators".to_owned(),
            entity: String::new(),
            notes: String::new(),
            run_step_length: 1_500,
            redact: Redact::default(),
            scores_every_blocks: 100,
            base_url: String::new(),
            api_key_file: None,
            keep_uploaded_runs: 5,
            hardware_seconds: 15,
            track_gating_model: false,
        }
    }
}

impl WandbConfig {
    /// Whether somebody set something up, and nothing comes of it.
    #[must_use]
    pub fn is_set_up_and_off(&self) -> bool {
        self.mode == Mode::Off && *self != Self::default()
    }

    /// # Errors
    /// The first value that makes no sense.
    pub fn check(&self) -> Result<(), WandbConfigError> {
        let refuse = |key, found: &str, expected| Err(WandbConfigError { key, found: found.to_owned(), expected });
        let plain = |text: &str| text.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char));
        if !plain(&self.project_name) || self.project_name.is_empty() || self.project_name.len() > 128 {
            return refuse("project_name", &self.project_name, "1 to 128 letters, digits, `-`, `_` or `.`");
        }
        if !plain(&self.entity) {
            return refuse(
                "entity",
                &self.entity,
                "letters, digits, `-`, `_` or `.`; empty is the owner of the API key",
            );
        }
        if self.run_step_length == 0 {
            return refuse("run_step_length", "0", "at least 1 forward");
        }
        if self.scores_every_blocks == 0 {
            return refuse("scores_every_blocks", "0", "at least 1 block");
        }
        if !self.base_url.is_empty() && server(&self.base_url).is_none() {
            return refuse("base_url", &self.base_url, "an http or https URL with a host");
        }
        Ok(())
    }
}

/// The address of a server, if it is one.
pub(super) fn server(text: &str) -> Option<reqwest::Url> {
    let url = reqwest::Url::parse(text.trim_end_matches('/')).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.host_str().is_some()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// openvalidators 1.2.0 was on by default: its flags alone must not look as if they did something.
    #[test]
    fn settings_without_an_effect_are_noticed() {
        assert!(!WandbConfig::default().is_set_up_and_off());
        let named = WandbConfig { entity: "team".into(), ..WandbConfig::default() };
        assert!(named.is_set_up_and_off());
        assert!(!WandbConfig { mode: Mode::Offline, ..named }.is_set_up_and_off());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        WandbConfig::default().check().unwrap();
        let wrong = [
            WandbConfig { project_name: "a/b".into(), ..WandbConfig::default() },
            WandbConfig { project_name: String::new(), ..WandbConfig::default() },
            WandbConfig { entity: "team?x=1".into(), ..WandbConfig::default() },
            WandbConfig { run_step_length: 0, ..WandbConfig::default() },
            WandbConfig { scores_every_blocks: 0, ..WandbConfig::default() },
            WandbConfig { base_url: "api.wandb.ai".into(), ..WandbConfig::default() },
        ];
        for config in wrong {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with("reporting.wandb."), "{error}");
        }
    }
}
