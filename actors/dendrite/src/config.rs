use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::transport::Choice;

/// What the operator sets about asking miners.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The wire: `auto`, `synapse` or `btauth`.
    pub transport: Choice,
    /// The address we say we have. Axons replace it by the one they see.
    pub external_ip: IpAddr,
    /// The SDK version we say we are, as one integer (10.5.0). From 7_002_000 on axons check how fresh a request is.
    pub declared_version: u32,
    /// Addresses at which we serve: never queried, whoever advertises them.
    pub own_addresses: Vec<SocketAddr>,
    /// Whether loopback, link-local, private and otherwise not global addresses are queried: for local networks only.
    pub allow_private_addresses: bool,
    /// How long a connection may take to be made; the step's deadline counts as well.
    pub connect_timeout_seconds: f64,
    /// Largest completion body taken; a miner that sends more has not answered.
    pub max_body_bytes: usize,
    /// Longest completion kept; a longer one is as good as none. Every completion goes into the ledger and the event log,
    /// so no more is kept than rewards will look at (`rewards.completion_limit_characters`).
    pub max_completion_characters: usize,
    /// Largest head of a reply, at least [`Config::MIN_HEAD_BYTES`].
    pub max_head_bytes: usize,
    /// Most headers of a reply.
    pub max_headers: usize,
    /// How long an unused connection is kept.
    pub pool_idle_seconds: f64,
    /// Unused connections kept for each miner.
    pub pool_max_idle_per_miner: usize,
}

/// A setting that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Times are positive and finite.
    #[error("`{key}` is {found}: give a number of seconds above 0 and up to {MAX_SECONDS}")]
    BadSeconds {
        /// Which key.
        key: &'static str,
        /// What stands there.
        found: f64,
    },
    /// A limit that nothing could meet.
    #[error("`{key}` is {found}: give at least {least}")]
    TooSmall {
        /// Which key.
        key: &'static str,
        /// What stands there.
        found: usize,
        /// The least that works.
        least: usize,
    },
}

/// No wait of this crate is longer.
const MAX_SECONDS: f64 = 3_600.0;

// === impl Config ===

impl Config {
    /// hyper reads heads through a buffer of at least this size.
    pub const MIN_HEAD_BYTES: usize = 8_192;

    /// # Errors
    /// The first setting that cannot be obeyed.
    pub fn check(&self) -> Result<(), ConfigError> {
        let seconds =
            [("connect_timeout_seconds", self.connect_timeout_seconds), ("pool_idle_seconds", self.pool_idle_seconds)];
        for (key, found) in seconds {
            if !(found > 0.0 && found <= MAX_SECONDS) {
                return Err(ConfigError::BadSeconds { key, found });
            }
        }
        let sizes = [
            ("max_body_bytes", self.max_body_bytes, 1_024),
            ("max_completion_characters", self.max_completion_characters, 1),
            ("max_head_bytes", self.max_head_bytes, Self::MIN_HEAD_BYTES),
            // An SDK's reply has about 25.
            ("max_headers", self.max_headers, 32),
        ];
        match sizes.into_iter().find(|(_, found, least)| found < least) {
            Some((key, found, least)) => Err(ConfigError::TooSmall { key, found, least }),
            None => Ok(()),
        }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.connect_timeout_seconds)
    }

    pub(crate) fn pool_idle(&self) -> Duration {
        Duration::from_secs_f64(self.pool_idle_seconds)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            transport: Choice::Auto,
            external_ip: Ipv4Addr::UNSPECIFIED.into(),
            declared_version: 10_005_000,
            own_addresses: Vec::new(),
            allow_private_addresses: false,
            connect_timeout_seconds: 4.0,
            max_body_bytes: 256 * 1_024,
            max_completion_characters: 8_000,
            max_head_bytes: 16 * 1_024,
            max_headers: 64,
            pool_idle_seconds: 30.0,
            pool_max_idle_per_miner: 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_can_be_obeyed_and_nonsense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let error = |config: Config| config.check().unwrap_err().to_string();
        assert!(
            error(Config { pool_idle_seconds: f64::NAN, ..Config::default() }).contains("`pool_idle_seconds` is NaN")
        );
        assert!(
            error(Config { connect_timeout_seconds: 0.0, ..Config::default() }).contains("connect_timeout_seconds")
        );
        let nothing = Config { max_completion_characters: 0, ..Config::default() };
        assert!(error(nothing).contains("`max_completion_characters` is 0"));
        assert!(error(Config { max_head_bytes: 10, ..Config::default() }).contains("at least 8192"));
        assert!(serde_json::from_str::<Config>(r#"{"max_body_byte": 1}"#).is_err());
    }
}
