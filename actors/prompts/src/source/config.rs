//! The operator's settings of sources.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, within};

/// Most sources of one mix.
const MAX_SOURCES: usize = 32;
/// Longest name: it labels metrics and names a file.
const MAX_NAME_BYTES: usize = 40;

/// The tables `[prompts.sources.NAME]`.
pub type SourcesConfig = BTreeMap<String, SourceConfig>;

/// One place that texts come from, and its share of the forwards beside the others' weights. At 0 it is asked only when
/// no other has a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SourceConfig {
    /// The passages that are part of the program.
    Embedded(EmbeddedConfig),
    /// A folder of files.
    Directory(DirectoryConfig),
    /// A dataset of the Hugging Face hub.
    HuggingFace(HuggingFaceConfig),
    /// Files of any server.
    Addresses(AddressesConfig),
}

/// `kind = "embedded"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// The share.
    pub weight: f64,
}

/// `kind = "directory"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryConfig {
    /// The share.
    #[serde(default = "one")]
    pub weight: f64,
    /// The folder, of `.txt`, `.jsonl` and `.parquet` files, the first two also packed by gzip or Zstandard.
    pub path: PathBuf,
    /// The column of `.parquet`, the key of `.jsonl`.
    #[serde(default = "text")]
    pub column: String,
}

/// `kind = "hugging_face"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HuggingFaceConfig {
    /// The share.
    #[serde(default = "one")]
    pub weight: f64,
    /// `owner/name`.
    pub dataset: String,
    /// A branch, a tag or a commit. What a branch stands for when it is first read is kept in the state directory, and stays.
    /// `refs/convert/parquet` is where the hub keeps what it has converted.
    #[serde(default = "main_branch")]
    pub revision: String,
    /// The configuration of the dataset, a folder of its repository; needed where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The split.
    #[serde(default = "train")]
    pub split: String,
    /// Only files whose paths begin like this, whatever configuration and split they are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
    /// The column of texts.
    #[serde(default = "text")]
    pub column: String,
}

/// `kind = "addresses"`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressesConfig {
    /// The share.
    #[serde(default = "one")]
    pub weight: f64,
    /// The address of a text with the address of a file on each line.
    pub list: String,
    /// The sha256 of that text: another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Only addresses that hold one of these words, where any are given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// The column of texts.
    #[serde(default = "text")]
    pub column: String,
}

fn one() -> f64 {
    1.0
}

fn text() -> String {
    "text".to_owned()
}

fn train() -> String {
    "train".to_owned()
}

fn main_branch() -> String {
    "main".to_owned()
}

// === impl SourceConfig ===

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { weight: one() }
    }
}

impl SourceConfig {
    /// Its share.
    #[must_use]
    pub fn weight(&self) -> f64 {
        match self {
            Self::Embedded(config) => config.weight,
            Self::Directory(config) => config.weight,
            Self::HuggingFace(config) => config.weight,
            Self::Addresses(config) => config.weight,
        }
    }
}

/// What a configuration that says nothing has: the passages of the program.
pub(crate) fn default_sources() -> SourcesConfig {
    [("embedded".to_owned(), SourceConfig::Embedded(EmbeddedConfig::default()))].into()
}

/// Checks names, weights and what `only` names.
///
/// # Errors
/// [`ConfigError`] names the key, what was found and what is allowed.
pub(crate) fn check(sources: &SourcesConfig, only: Option<&str>) -> Result<(), ConfigError> {
    within("sources: their number", sources.len(), 1, MAX_SOURCES)?;
    for (name, source) in sources {
        let fit = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '-' | '_');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(fit) {
            return Err(ConfigError::SourceName { name: name.clone() });
        }
        let weight = source.weight();
        if !(0.0..=1e6).contains(&weight) {
            return Err(ConfigError::SourceWeight { name: name.clone(), weight });
        }
    }
    match only {
        Some(only) if !sources.contains_key(only) => {
            let known = sources.keys().cloned().collect::<Vec<_>>().join(", ");
            Err(ConfigError::NoSuchSource { name: only.to_owned(), known })
        }
        _ => Ok(()),
    }
}
