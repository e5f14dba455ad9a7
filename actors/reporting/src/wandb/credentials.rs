//! The API key: from a file of its own, the environment, or netrc, where `wandb login` puts it. It is never logged.

use std::{fmt, path::PathBuf};

use openvalidators_runtime::{AtPath, FileError};

/// The real client's variable.
pub(super) const KEY_VARIABLE: &str = "WANDB_API_KEY";
/// More is no key.
const LONGEST_KEY: usize = 512;
/// Shorter ones were never given out.
const SHORTEST_KEY: usize = 40;

/// Where a key may lie.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// The configured file.
    pub file: Option<PathBuf>,
    /// The value of [`KEY_VARIABLE`].
    pub variable: Option<ApiKey>,
    /// netrc, and the machine in it.
    pub netrc: Option<PathBuf>,
    /// The server's name.
    pub host: String,
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ApiKey(String);

/// A place that was named, and holds no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("{0}; reporting.wandb.api_key_file names it")]
    File(FileError),
    #[error("{place} holds no API key: {what}. https://wandb.ai/authorize shows yours")]
    NoKey { place: String, what: &'static str },
}

// === impl Places ===

impl Places {
    /// As the environment says.
    pub(super) fn of_process(file: Option<PathBuf>, host: &str) -> Self {
        let variable = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.trim().is_empty()).map(ApiKey);
        let netrc = std::env::var_os("NETRC").filter(|path| !path.is_empty()).map(PathBuf::from);
        let netrc = netrc.or_else(|| Some(std::env::home_dir()?.join(".netrc")));
        Self { file, variable, netrc, host: host.to_owned() }
    }

    /// The first key there is. Read anew at each attempt, so that a mended file is used.
    pub(super) fn find(&self) -> Result<Option<ApiKey>, CredentialError> {
        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path).at("read", path).map_err(CredentialError::File)?;
            return ApiKey::read(&text, || path.display().to_string()).map(Some);
        }
        if let Some(key) = &self.variable {
            return ApiKey::read(&key.0, || KEY_VARIABLE.to_owned()).map(Some);
        }
        // A netrc is there for many programs: one that cannot be read, or has nothing for us, is as none.
        let Some(path) = &self.netrc else { return Ok(None) };
        let Ok(text) = std::fs::read_to_string(path) else { return Ok(None) };
        let Some(password) = password_of(&text, &self.host) else { return Ok(None) };
        ApiKey::read(password, || format!("machine {} of {}", self.host, path.display())).map(Some)
    }
}

/// The password of a machine in a netrc file (`man 5 netrc`, without macros).
fn password_of<'a>(netrc: &'a str, host: &str) -> Option<&'a str> {
    let mut tokens = netrc
        .lines()
        .map(|line| line.split_once('#').map_or(line, |(before, _)| before))
        .flat_map(str::split_whitespace);
    let mut here = false;
    while let Some(token) = tokens.next() {
        match token {
            "machine" => here = tokens.next() == Some(host),
            "default" => here = false,
            "password" => {
                let password = tokens.next();
                if here {
                    return password;
                }
            }
            _ => {}
        }
    }
    None
}

// === impl ApiKey ===

impl ApiKey {
    fn read(text: &str, place: impl Fn() -> String) -> Result<Self, CredentialError> {
        let key = text.trim();
        let refuse = |what| Err(CredentialError::NoKey { place: place(), what });
        if key.is_empty() {
            return refuse("it is empty");
        }
        if !key.chars().all(|char| char.is_ascii_graphic()) {
            return refuse("it has spaces or other characters that no key has");
        }
        if !(SHORTEST_KEY..=LONGEST_KEY).contains(&key.len()) {
            return refuse("keys have 40 characters or more");
        }
        Ok(Self(key.to_owned()))
    }

    /// The secret itself, for the one header it goes into.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_file_goes_before_the_environment_and_that_before_netrc() {
        let folder = tempfile::tempdir().unwrap();
        let (file, netrc) = (folder.path().join("key"), folder.path().join("netrc"));
        let of = |last: &str| format!("{}{last}", &KEY[1..]);
        std::fs::write(&file, format!("{}\n", of("f"))).unwrap();
        let text = format!(
            "machine github.com login a password b\nmachine api.wandb.ai\n  login user\n  password {}\n",
            of("n")
        );
        std::fs::write(&netrc, text).unwrap();
        let mut places = Places {
            file: Some(file),
            variable: Some(ApiKey(of("v"))),
            netrc: Some(netrc),
            host: "api.wandb.ai".into(),
        };
        assert_eq!(places.find().unwrap(), Some(ApiKey(of("f"))));
        places.file = None;
        assert_eq!(places.find().unwrap(), Some(ApiKey(of("v"))));
        places.variable = None;
        assert_eq!(places.find().unwrap(), Some(ApiKey(of("n"))));
        places.host = "wandb.example.com".into();
        assert_eq!(places.find().unwrap(), None, "a key of another server is not sent to this one");
        assert!(!format!("{:?}", ApiKey(KEY.into())).contains(KEY));
    }

    #[test]
    fn a_place_that_was_named_and_holds_no_key_says_so_without_showing_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let places = Places { file: Some(file.clone()), ..Places::default() };
        assert!(places.find().unwrap_err().to_string().contains("api_key_file"));
        for text in ["", "short", "api key with spaces, and long enough to be one ....", &"x".repeat(600)] {
            std::fs::write(&file, text).unwrap();
            let error = places.find().unwrap_err().to_string();
            assert!(error.contains("holds no API key") && (text.is_empty() || !error.contains(text)), "{error}");
        }
    }
}
