//! Where rows go, found out before anything starts, and said once.

use std::path::{Path, PathBuf};

use openvalidators_runtime::FileError;
use reqwest::Url;

use super::{
    config::{Mode, Redact, WandbConfig, server},
    credentials::{CredentialError, KEY_VARIABLE, Places},
};

/// wandb's own.
const SERVER: &str = "https://api.wandb.ai";
/// The real client's variable for another one.
const SERVER_VARIABLE: &str = "WANDB_BASE_URL";
/// Below the state directory.
const FOLDER: &str = "wandb";

/// Where rows go.
#[derive(Clone, Debug)]
pub struct Setup {
    pub(super) config: WandbConfig,
    /// Of all runs.
    pub(super) folder: PathBuf,
    /// The server, where there is a key for one.
    pub(super) online: Option<Online>,
}

/// A server, and where its key is.
#[derive(Clone, Debug)]
pub(super) struct Online {
    pub server: Url,
    pub places: Places,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The server's address.
    #[error("{place} is {found:?}: expected an http or https URL with a host, such as {SERVER}")]
    Server {
        /// Where it was written.
        place: &'static str,
        /// What was written.
        found: String,
    },
    /// The key.
    #[error("wandb: {0}")]
    Key(String),
}

impl From<CredentialError> for SetupError {
    fn from(error: CredentialError) -> Self {
        Self::Key(error.to_string())
    }
}

impl From<FileError> for SetupError {
    fn from(error: FileError) -> Self {
        Self::Key(error.to_string())
    }
}

/// The server that is configured; without one that of the environment, or wandb's own.
pub(super) fn server_of_process(configured: &str) -> Result<Url, SetupError> {
    let variable = std::env::var(SERVER_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let (place, text) = match (configured, &variable) {
        ("", Some(text)) => (SERVER_VARIABLE, text.trim()),
        ("", None) => ("the default", SERVER),
        (text, _) => ("reporting.wandb.base_url", text),
    };
    server(text).ok_or_else(|| SetupError::Server { place, found: text.to_owned() })
}

// === impl Setup ===

impl Setup {
    /// What the settings and the environment say; `None` when wandb is off.
    ///
    /// # Errors
    /// When a server or a key is named that is none.
    pub fn of(config: &WandbConfig, state_dir: &Path) -> Result<Option<Self>, SetupError> {
        if config.mode == Mode::Off {
            return Ok(None);
        }
        let mut setup = Self { config: config.clone(), folder: state_dir.join(FOLDER), online: None };
        if config.mode == Mode::Online {
            let server = server_of_process(&config.base_url)?;
            let places = Places::of_process(config.api_key_file.clone(), server.host_str().unwrap_or_default());
            if places.find()?.is_some() {
                setup.online = Some(Online { server, places });
            }
        }
        Ok(Some(setup))
    }

    /// The server that rows are uploaded to; none where they stay here, or no key is found.
    #[must_use]
    pub fn server(&self) -> Option<&Url> {
        self.online.as_ref().map(|online| &online.server)
    }

    /// What the operator is told once: where rows go, who can read them, and what to do where they go nowhere.
    #[must_use]
    pub fn note(&self) -> String {
        let WandbConfig { mode, project_name, entity, redact, .. } = &self.config;
        let folder = self.folder.display();
        let texts = match redact {
            Redact::None => "prompts and completions included (reporting.wandb.redact)",
            Redact::Prompts => "without prompts",
            Redact::Texts => "without prompts and completions",
        };
        let later = format!("upload them later with `wandb sync {folder}/offline-run-*`");
        match (&self.online, mode) {
            (Some(online), _) => {
                let owner = if entity.is_empty() { "the owner of the API key" } else { entity };
                let host = online.server.host_str().unwrap_or_default();
                format!(
                    "wandb: rows go to project {project_name} of {owner} at {host}, {texts}; whoever may see that project \
                     reads them. They are kept in {folder} first"
                )
            }
            (None, Mode::Online) => format!(
                "wandb: there is no API key, so rows stay in {folder}; {later}. For the next start: `wandb login`, \
                 {KEY_VARIABLE}, or reporting.wandb.api_key_file (anonymous reporting no longer exists at wandb)"
            ),
            (None, _) => format!("wandb: offline; rows stay in {folder}, {texts}; {later}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_names_place_reader_and_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, crate::wandb::server_double::KEY).unwrap();
        let online = WandbConfig {
            mode: Mode::Online,
            base_url: "http://127.0.0.1:1".into(),
            api_key_file: Some(key.clone()),
            ..WandbConfig::default()
        };
        let note = Setup::of(&online, folder.path()).unwrap().unwrap().note();
        for words in ["openvalidators", "the owner of the API key", "127.0.0.1", "prompts and completions included"] {
            assert!(note.contains(words), "{note}");
        }
        assert!(!note.contains(crate::wandb::server_double::KEY));
        let redacted = WandbConfig { redact: Redact::Texts, entity: "team".into(), ..online.clone() };
        let note = Setup::of(&redacted, folder.path()).unwrap().unwrap().note();
        assert!(note.contains("without prompts and completions") && note.contains("of team at"), "{note}");

        std::fs::write(&key, "").unwrap();
        let error = Setup::of(&online, folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds no API key") && error.contains("key"), "{error}");
        assert!(Setup::of(&WandbConfig::default(), folder.path()).unwrap().is_none(), "off");

        let without = Setup { online: None, config: online, folder: folder.path().join("wandb") };
        let note = without.note();
        assert!(note.contains("no API key") && note.contains("wandb sync") && note.contains("WANDB_API_KEY"), "{note}");
    }
}
