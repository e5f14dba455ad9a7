//! What the operator says of a model that a server elsewhere computes.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use reqwest::Url;
use serde::{Deserialize, Serialize};

/// One model, computed by servers elsewhere: `inference.remote.MODEL`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteConfig {
    /// What the servers speak.
    pub kind: RemoteKind,
    /// The servers, all with this one model: `http://host:port`, with a path where a proxy wants one.
    pub urls: Vec<String>,
    /// How the servers call the model; where it is not set they must have a single one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_name: Option<String>,
    /// The model's `tokenizer.json`, `tokenizer_config.json` and `config.json`; tensors are not needed. Not set, the folder
    /// that the model would be loaded from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The environment variable that holds the key sent as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// The file that holds it, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// Loads the model here too, and asks it when no server answers.
    #[serde(default)]
    pub fall_back_to_local: bool,
    /// How much, how long, how often.
    #[serde(default)]
    pub limits: RemoteLimits,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteKind {
    /// text-embeddings-inference: `/info`, `/embed`, `/predict`.
    Tei,
    /// vLLM, and who speaks as it does: `/v1/models`, `/v1/completions`, `/v1/embeddings`, `/classify`, with token ids.
    Openai,
}

/// How much is sent and taken, how long is waited, how often is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteLimits {
    /// How long all of a request may take, whatever fails meanwhile.
    pub deadline_seconds: u64,
    /// How long one server may take for its part of it.
    pub attempt_seconds: u64,
    /// How long a connection may take to be made.
    pub connect_timeout_seconds: u64,
    /// How often one part of a request is sent, to whichever server.
    pub attempts: NonZeroU32,
    /// Rows sent together; fewer where the server says so.
    pub rows_per_request: usize,
    /// Requests that one server has at a time; further ones wait.
    pub requests_in_flight: usize,
    /// The largest answer taken.
    pub max_body_bytes: usize,
    /// How long a server that failed is left alone: at first, doubling up to the longest.
    pub retry_first_seconds: u64,
    /// The longest.
    pub retry_longest_seconds: u64,
}

impl Default for RemoteLimits {
    fn default() -> Self {
        Self {
            deadline_seconds: 120,
            attempt_seconds: 50,
            connect_timeout_seconds: 4,
            attempts: NonZeroU32::MIN.saturating_add(3),
            rows_per_request: 16,
            requests_in_flight: 4,
            max_body_bytes: 16 << 20,
            retry_first_seconds: 1,
            retry_longest_seconds: 60,
        }
    }
}

// === impl RemoteConfig ===

impl RemoteConfig {
    /// The servers' addresses, each a base to which a path can be added.
    ///
    /// # Errors
    /// When there is none, or one is none. The error repeats no part of an address that could be a password.
    pub(super) fn bases(&self) -> Result<Vec<Url>, String> {
        if self.urls.is_empty() {
            return Err("`urls` names no server".into());
        }
        self.urls
            .iter()
            .enumerate()
            .map(|(place, text)| base(text).map_err(|why| format!("urls[{place}]: {why}")))
            .collect()
    }

    /// The key, if there is one; `variable` reads the environment.
    pub(super) fn api_key(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
        let key = match (&self.api_key_env, &self.api_key_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err("`api_key_env` and `api_key_file` are both set: set one".into()),
            (Some(name), None) => variable(name).ok_or_else(|| format!("`api_key_env`: {name} is not set"))?,
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| format!("`api_key_file`: cannot read {}: {error}", path.display()))?,
        };
        match key.trim() {
            "" => Err("the API key is empty".into()),
            key => Ok(Some(key.to_owned())),
        }
    }
}

impl RemoteLimits {
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_seconds.max(1))
    }

    pub(super) fn attempt(&self) -> Duration {
        Duration::from_secs(self.attempt_seconds.clamp(1, self.deadline_seconds.max(1)))
    }

    /// How long a server is left alone after so many failures in a row.
    pub(super) fn rest(&self, failures: u32) -> Duration {
        let doubled = self.retry_first_seconds.max(1).saturating_mul(1 << failures.saturating_sub(1).min(32));
        Duration::from_secs(doubled).min(self.longest_rest())
    }

    pub(super) fn longest_rest(&self) -> Duration {
        Duration::from_secs(self.retry_longest_seconds.max(1))
    }
}

fn base(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text.trim()).map_err(|error| format!("not an address: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("expected http://… or https://…, found `{}:…`", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(
            "an address holds host, port and path alone; a key belongs into `api_key_file` or `api_key_env`".into()
        );
    }
    let path = format!("{}/", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<RemoteConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn kind_and_urls_must_be_said_and_nothing_unknown() {
        assert!(read(r#"{"urls": ["http://a"]}"#).unwrap_err().to_string().contains("kind"));
        assert!(read(r#"{"kind": "tei"}"#).unwrap_err().to_string().contains("urls"));
        let typo = r#"{"kind": "tei", "urls": ["http://a"], "limits": {"deadline_second": 1}}"#;
        assert!(read(typo).unwrap_err().to_string().contains("deadline_second"));
        let partial = read(r#"{"kind": "openai", "urls": ["http://a/p"], "limits": {"attempts": 2}}"#).unwrap();
        assert_eq!(partial.limits.deadline_seconds, RemoteLimits::default().deadline_seconds);
        assert_eq!(partial.bases().unwrap()[0].join("v1/models").unwrap().as_str(), "http://a/p/v1/models");
    }

    #[test]
    fn an_address_with_a_secret_is_refused_and_not_repeated() {
        for text in ["http://user:secret@a", "http://a/?key=secret", "ftp://secret@a", "secret", ""] {
            let config = RemoteConfig { urls: vec![text.into()], ..read(r#"{"kind": "tei", "urls": []}"#).unwrap() };
            let error = config.bases().unwrap_err();
            assert!(error.starts_with("urls[0]") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_key_comes_from_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "from-file\n").unwrap();
        let plain = read(r#"{"kind": "tei", "urls": ["http://a"]}"#).unwrap();
        let of_file = RemoteConfig { api_key_file: Some(file), ..plain.clone() };
        let of_variable = RemoteConfig { api_key_env: Some("KEY".into()), ..plain.clone() };
        let variable = |name: &str| (name == "KEY").then(|| "from-variable".to_owned());
        assert_eq!(plain.api_key(variable), Ok(None));
        assert_eq!(of_file.api_key(variable), Ok(Some("from-file".into())));
        assert_eq!(of_variable.api_key(variable), Ok(Some("from-variable".into())));
        assert!(of_variable.api_key(|_| None).unwrap_err().contains("KEY"));
        let both = RemoteConfig { api_key_env: Some("KEY".into()), ..of_file };
        assert!(both.api_key(variable).unwrap_err().contains("set one"));
    }

    #[test]
    fn rests_double_up_to_the_longest() {
        let limits = RemoteLimits { retry_first_seconds: 2, retry_longest_seconds: 9, ..RemoteLimits::default() };
        let rests: Vec<u64> = [1, 2, 3, 4, 400].map(|failures| limits.rest(failures).as_secs()).to_vec();
        assert_eq!(rests, [2, 4, 8, 9, 9]);
    }
}
