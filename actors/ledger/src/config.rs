//! What the operator may set.

use serde::{Deserialize, Serialize};

/// Fewest steps that retention may keep: more than all forwards in flight can have, so that no step that may still be
/// appended again has gone.
pub const FEWEST_STEPS_KEPT: u64 = 1_000;

/// Settings of the ledger. The state directory and the identity are the program's, not the ledger's alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// How many of the latest steps are kept; 0 keeps all. A step of 50 completions takes about 0.4 MB. Older steps go only
    /// when every owner has a snapshot past them and every reader has read them; snapshots and weight intents always stay.
    pub retention_steps: u64,
    /// Most bytes of the archive (Parquet files beside the ledger) that the numbers of steps older than that go to; past it the
    /// oldest files go. 0 keeps no archive.
    pub archive_max_bytes: u64,
    /// Days after which the texts of a step (prompt, context, completions) are dropped and its numbers kept; 0 keeps them as
    /// long as the step.
    pub keep_texts_days: u64,
    /// At this many bytes no step is taken any more: neither counted nor recorded, and weights go on from the scores there
    /// are. Before that, the oldest steps go, down to the fewest there must be. 0 is no limit.
    pub max_bytes: u64,
    /// A database of at most this size is checked for damage at start; 0 never checks. About 1 s for each GB read from memory.
    pub check_up_to_bytes: u64,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ledger.retention_steps must be 0 (keep all) or at least {FEWEST_STEPS_KEPT}, found {found}")]
pub struct BadRetention {
    /// What was written.
    pub found: u64,
}

// === impl LedgerConfig ===

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            retention_steps: 50_000,
            archive_max_bytes: 4 << 30,
            keep_texts_days: 30,
            max_bytes: 0,
            check_up_to_bytes: 256 << 20,
        }
    }
}

impl LedgerConfig {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// When retention would remove steps of forwards in flight.
    pub fn check(&self) -> Result<(), BadRetention> {
        match self.retention_steps {
            0 | FEWEST_STEPS_KEPT.. => Ok(()),
            found => Err(BadRetention { found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_makes_sense_and_nonsense_is_named() {
        assert_eq!(LedgerConfig::default().check(), Ok(()));
        assert_eq!(LedgerConfig { retention_steps: 0, ..LedgerConfig::default() }.check(), Ok(()));
        let error = LedgerConfig { retention_steps: 999, ..LedgerConfig::default() }.check().unwrap_err();
        assert!(error.to_string().contains("at least 1000, found 999"), "{error}");
        assert!(serde_json::from_str::<LedgerConfig>(r#"{"retention_step": 5000}"#).is_err());
    }
}
