//! The operator's settings of routing.

use serde::{Deserialize, Serialize};

/// Everything an operator can say about routing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A neuron with a validator permit and more stake than this, in TAO, is a validator and is not asked.
    pub vpermit_tao_limit: f64,
}

/// A setting that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("[gating] vpermit_tao_limit is {found}; it must be an amount of TAO, 0 or more")]
pub struct ConfigError {
    /// What was found.
    pub found: f64,
}

impl Config {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// When the limit is negative or not a number.
    pub fn check(&self) -> Result<(), ConfigError> {
        let found = self.vpermit_tao_limit;
        if found >= 0.0 { Ok(()) } else { Err(ConfigError { found }) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { vpermit_tao_limit: 4096.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_an_amount() {
        assert_eq!(Config::default().check(), Ok(()));
        for limit in [f64::NAN, -1.0] {
            assert!(Config { vpermit_tao_limit: limit }.check().unwrap_err().to_string().contains("[gating]"));
        }
    }
}
