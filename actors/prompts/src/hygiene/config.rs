//! The operator's settings of text hygiene.

use serde::{Deserialize, Serialize};
use whatlang::Lang;

use crate::config::{ConfigError, MAX_TEXT_BYTES, within};

/// Most passages that are remembered: eight bytes and a place in a table for each.
const MAX_REMEMBERED: usize = 10_000_000;

/// The table `[prompts.hygiene]`: which texts of files and datasets may become prompts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HygieneConfig {
    /// Shorter texts are left out.
    pub min_bytes: usize,
    /// Longer texts are cut here.
    pub max_bytes: usize,
    /// Languages by their ISO 639-3 codes; a text that is surely in another is left out. Any language where empty.
    pub languages: Vec<String>,
    /// Passages of a source that are remembered, so that they do not come again within one pass through it.
    pub remember_passages: usize,
}

// === impl HygieneConfig ===

impl Default for HygieneConfig {
    fn default() -> Self {
        Self { min_bytes: 200, max_bytes: 100_000, languages: vec!["eng".to_owned()], remember_passages: 200_000 }
    }
}

impl HygieneConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`ConfigError`] names the key, what was found and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        within("hygiene.min_bytes", self.min_bytes, 1, MAX_TEXT_BYTES)?;
        within("hygiene.max_bytes", self.max_bytes, self.min_bytes, MAX_TEXT_BYTES)?;
        within("hygiene.remember_passages", self.remember_passages, 0, MAX_REMEMBERED)?;
        match self.languages.iter().find(|code| Lang::from_code(code.as_str()).is_none()) {
            None => Ok(()),
            Some(found) => Err(ConfigError::Language { found: found.clone() }),
        }
    }
}
