//! The operator's settings, and what the environment adds to them.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::{Entry, HubError, pip::PipConfig};

/// The public hub, used when nothing names another.
const HUGGING_FACE_ENDPOINT: &str = "https://huggingface.co";
/// The public package index, used when nothing names another.
const PYTHON_PACKAGE_INDEX: &str = "https://pypi.org/simple";

/// Settings of the model cache. A key that is set here wins over the conventional environment variable in its comment;
/// a key that is not set takes that variable, then the public default. Proxies (`HTTPS_PROXY`, `NO_PROXY`, …) are read
/// from the environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HubConfig {
    /// Where models are kept, a folder for each: links into the cache below, or files. Else `OPENVALIDATORS_MODELS`, else
    /// `$XDG_CACHE_HOME/openvalidators/models`, else `~/.cache/openvalidators/models`.
    pub folder: Option<PathBuf>,
    /// The cache of Hugging Face's own tools, where files of the hub are kept. Else `HF_HUB_CACHE`, else `$HF_HOME/hub`, else
    /// `$XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`.
    pub hugging_face_cache: Option<PathBuf>,
    /// The Hugging Face hub or a mirror of it. Else `HF_ENDPOINT`.
    pub hugging_face_endpoint: Option<String>,
    /// A file holding an access token for the hub. Else `HF_TOKEN` (the token itself), else `HF_TOKEN_PATH`.
    pub hugging_face_token_file: Option<PathBuf>,
    /// A Python package index that speaks PEP 691. Else `PIP_INDEX_URL`, else pip's configuration files.
    pub python_package_index: Option<String>,
    /// Certificates (PEM) trusted on top of the system's. Else `PIP_CERT`, else `REQUESTS_CA_BUNDLE`, else pip's
    /// configuration files.
    pub certificates_file: Option<PathBuf>,
    /// Never use the network: what is not here is an error.
    pub offline: bool,
    /// Refuse models of which no sha256 is known beforehand, instead of trusting the hub's listing once.
    pub require_pinned: bool,
    /// Refuse models that do not fit into the memory there is, before they are loaded.
    pub check_memory: bool,
    /// Models by name, beside and before those known.
    pub catalogue: BTreeMap<String, Entry>,
    /// How long a server has to take a connection. Short: the next source may be a better one.
    pub connect_timeout_seconds: u64,
    /// How long a server may send nothing before the connection is dropped and resumed.
    pub idle_timeout_seconds: u64,
    /// How long fetching one model may take altogether, waiting for another process included.
    pub fetch_timeout_seconds: u64,
    /// Requests in a row that may fail without a new byte before a source is given up.
    pub attempts: NonZeroU32,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            folder: None,
            hugging_face_cache: None,
            hugging_face_endpoint: None,
            hugging_face_token_file: None,
            python_package_index: None,
            certificates_file: None,
            offline: false,
            require_pinned: false,
            check_memory: true,
            catalogue: BTreeMap::new(),
            connect_timeout_seconds: 4,
            idle_timeout_seconds: 30,
            fetch_timeout_seconds: 3600,
            attempts: NonZeroU32::MIN.saturating_add(4),
        }
    }
}

/// [`HubConfig`] with every question answered.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub folder: PathBuf,
    pub hub_cache: PathBuf,
    pub endpoint: Url,
    pub token: Option<Token>,
    pub index: Url,
    pub certificates: Option<PathBuf>,
    pub offline: bool,
    pub require_pinned: bool,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub fetch_timeout: Duration,
    pub attempts: NonZeroU32,
}

/// An access token, which never reaches a log.
#[derive(Clone)]
pub(crate) struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

// === impl HubConfig ===

impl HubConfig {
    /// The hub that models come from, as these settings and the environment of this process name it.
    ///
    /// # Errors
    /// When it is no address.
    pub fn endpoint(&self) -> Result<Url, HubError> {
        self.resolve(&|name| std::env::var(name).ok()).map(|settings| settings.endpoint)
    }

    /// Answers what is left open from the environment; `variable` reads it.
    pub(crate) fn resolve(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Settings, HubError> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let pip = PipConfig::read(&variable);
        Ok(Settings {
            folder: absolute(self.resolve_folder(&variable)?)?,
            hub_cache: absolute(self.resolve_hub_cache(&variable)?)?,
            endpoint: first_url(
                [
                    ("hugging_face_endpoint", self.hugging_face_endpoint.clone()),
                    ("HF_ENDPOINT", variable("HF_ENDPOINT")),
                ],
                HUGGING_FACE_ENDPOINT,
            )?,
            token: self.resolve_token(&variable)?,
            index: first_url(
                [
                    ("python_package_index", self.python_package_index.clone()),
                    ("PIP_INDEX_URL, or index-url of pip's configuration", pip.index),
                ],
                PYTHON_PACKAGE_INDEX,
            )?,
            certificates: self.certificates_file.clone().or(pip.certificates),
            offline: self.offline,
            require_pinned: self.require_pinned,
            connect_timeout: Duration::from_secs(self.connect_timeout_seconds.max(1)),
            idle_timeout: Duration::from_secs(self.idle_timeout_seconds.max(1)),
            fetch_timeout: Duration::from_secs(self.fetch_timeout_seconds.max(1)),
            attempts: self.attempts,
        })
    }

    fn resolve_folder(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, HubError> {
        let below = |root: PathBuf| root.join("openvalidators").join("models");
        let named = self.folder.clone().or_else(|| variable("OPENVALIDATORS_MODELS").map(PathBuf::from));
        // The XDG specification: a relative path is to be ignored.
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).map(below);
        named.or(cache).or_else(|| variable("HOME").map(|home| below(Path::new(&home).join(".cache")))).ok_or_else(
            || HubError::BadSetting {
                setting: "the folder of the models".into(),
                reason: "neither OPENVALIDATORS_MODELS, XDG_CACHE_HOME nor HOME is set: set the first".into(),
            },
        )
    }

    fn resolve_hub_cache(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, HubError> {
        // In the order of huggingface_hub, old names included.
        let named = self.hugging_face_cache.clone();
        let named =
            named.or_else(|| variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from));
        let home = || {
            variable("HF_HOME").map(PathBuf::from).or_else(|| {
                let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
                let cache = cache.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")));
                cache.map(|cache| cache.join("huggingface"))
            })
        };
        // Where none of this is known, beside our own.
        match named.or_else(|| home().map(|home| home.join("hub"))) {
            Some(cache) => Ok(cache),
            None => Ok(self.resolve_folder(variable)?.join("hub")),
        }
    }

    fn resolve_token(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Token>, HubError> {
        if self.hugging_face_token_file.is_none()
            && let Some(token) = variable("HF_TOKEN")
        {
            return Ok(Some(Token(token.trim().to_owned())));
        }
        let Some(path) = self.hugging_face_token_file.clone().or_else(|| variable("HF_TOKEN_PATH").map(PathBuf::from))
        else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(&path).map_err(|error| HubError::BadSetting {
            setting: "hugging_face_token_file, or HF_TOKEN_PATH".into(),
            reason: format!("could not read {}: {error}", path.display()),
        })?;
        Ok(Some(Token(text.trim().to_owned())))
    }
}

/// Links into it must hold wherever they are read from.
fn absolute(path: PathBuf) -> Result<PathBuf, HubError> {
    std::path::absolute(&path).map_err(|error| HubError::BadSetting {
        setting: path.display().to_string(),
        reason: format!("no such folder can be: {error}"),
    })
}

/// The first that is given, as a base to which path segments can be added.
fn first_url<const N: usize>(candidates: [(&str, Option<String>); N], default: &str) -> Result<Url, HubError> {
    let (setting, text) = candidates
        .into_iter()
        .find_map(|(setting, text)| text.map(|text| (setting, text)))
        .unwrap_or(("default", default.to_owned()));
    let bad = |reason: String| HubError::BadSetting { setting: setting.to_owned(), reason };
    // The value may hold a password: it is not repeated.
    let mut url = Url::parse(text.trim()).map_err(|error| bad(format!("not an address: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad(format!("expected https://… or http://…, found `{}:…`", url.scheme())));
    }
    let path = format!("{}/", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn resolve(config: &HubConfig, variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        config.resolve(&|name| match name {
            // The machine's own pip configuration has no say here.
            "PIP_CONFIG_FILE" => Some(variables.get(name).copied().unwrap_or("/dev/null").to_owned()),
            _ => variables.get(name).map(|value| (*value).to_owned()),
        })
    }

    #[test]
    fn the_folder_follows_the_environment() {
        let folder = |variables: &[(&str, &str)]| resolve(&HubConfig::default(), variables).unwrap().folder;
        assert_eq!(folder(&[("HOME", "/h")]), Path::new("/h/.cache/openvalidators/models"));
        assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/openvalidators/models"));
        assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "x")]), Path::new("/h/.cache/openvalidators/models"));
        assert_eq!(folder(&[("HOME", "/h"), ("OPENVALIDATORS_MODELS", "/m")]), Path::new("/m"));
        let set = HubConfig { folder: Some("/f".into()), ..HubConfig::default() };
        assert_eq!(resolve(&set, &[("OPENVALIDATORS_MODELS", "/m")]).unwrap().folder, Path::new("/f"));
        let error = resolve(&HubConfig::default(), &[]).unwrap_err().to_string();
        assert!(error.contains("OPENVALIDATORS_MODELS"), "{error}");
    }

    #[test]
    fn the_hubs_cache_is_where_its_own_tools_have_it() {
        let cache = |variables: &[(&str, &str)]| resolve(&HubConfig::default(), variables).unwrap().hub_cache;
        assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/f")]), Path::new("/f/hub"));
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c"), ("HOME", "/h")]), Path::new("/c"));
        assert_eq!(cache(&[("OPENVALIDATORS_MODELS", "/m")]), Path::new("/m/hub"));
        let set = HubConfig { hugging_face_cache: Some("/s".into()), ..HubConfig::default() };
        assert_eq!(resolve(&set, &[("HOME", "/h"), ("HF_HUB_CACHE", "/c")]).unwrap().hub_cache, Path::new("/s"));
    }

    #[test]
    fn servers_follow_the_environment_and_default_to_the_public_ones() {
        let public = resolve(&HubConfig::default(), &[("HOME", "/h")]).unwrap();
        assert_eq!(public.endpoint.as_str(), "https://huggingface.co/");
        assert_eq!(public.index.as_str(), "https://pypi.org/simple/");
        let mirrors =
            [("HOME", "/h"), ("HF_ENDPOINT", "http://hub:8080/x/"), ("PIP_INDEX_URL", "https://u:p@i/simple")];
        let mirrored = resolve(&HubConfig::default(), &mirrors).unwrap();
        assert_eq!(mirrored.endpoint.as_str(), "http://hub:8080/x/");
        assert_eq!(mirrored.index.as_str(), "https://u:p@i/simple/");
        let bad = resolve(&HubConfig::default(), &[("HOME", "/h"), ("PIP_INDEX_URL", "ftp://secret@i/")]).unwrap_err();
        assert!(bad.to_string().contains("PIP_INDEX_URL") && !bad.to_string().contains("secret"), "{bad}");
    }

    #[test]
    fn a_token_is_read_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "hf_from_file\n").unwrap();
        let variables = [("HOME", "/h"), ("HF_TOKEN", "hf_from_variable")];
        let named = HubConfig { hugging_face_token_file: Some(file), ..HubConfig::default() };
        assert_eq!(resolve(&named, &variables).unwrap().token.unwrap().0, "hf_from_file");
        let settings = resolve(&HubConfig::default(), &variables).unwrap();
        assert!(!format!("{settings:?}").contains("hf_from"));
        assert_eq!(settings.token.unwrap().0, "hf_from_variable");
        assert!(resolve(&HubConfig::default(), &[("HOME", "/h"), ("HF_TOKEN_PATH", "/no/such")]).is_err());
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(serde_json::from_str::<HubConfig>(r#"{"foldr": "/x"}"#).unwrap_err().to_string().contains("foldr"));
        assert_eq!(serde_json::from_str::<HubConfig>("{}").unwrap(), HubConfig::default());
    }
}
