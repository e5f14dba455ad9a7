use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::localnet::{kinds::MinerMix, network::LocalnetError};

/// Longest delay of a slow miner.
const MAX_SLOW_SECONDS: f64 = 3_600.0;
/// Largest completion of an oversized miner: each such miner keeps it in memory.
const MAX_OVERSIZED_BYTES: usize = 256 * 1024 * 1024;

/// What the operator sets about the miners of the local network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalnetConfig {
    /// How many miners of each kind.
    pub miners: MinerMix,
    /// The soonest a slow miner replies.
    pub slow_least_seconds: f64,
    /// The latest a slow miner replies. Beyond the validator's deadline, some of its replies are lost.
    pub slow_most_seconds: f64,
    /// Size of an oversized completion. Beyond the validator's limit of bytes, it is refused.
    pub oversized_bytes: usize,
    /// Stake of the validator, in TAO.
    pub validator_stake: f64,
    /// Stake of each miner, in TAO. Below the validator's, and below what a simulated validator has.
    pub miner_stake: f64,
}

// === impl LocalnetConfig ===

impl Default for LocalnetConfig {
    fn default() -> Self {
        Self {
            miners: MinerMix::default(),
            slow_least_seconds: 2.0,
            slow_most_seconds: 14.0,
            oversized_bytes: 16 * 1024 * 1024,
            validator_stake: 10_000.0,
            miner_stake: 0.0,
        }
    }
}

impl LocalnetConfig {
    /// # Errors
    /// The first setting that cannot be obeyed.
    pub fn check(&self) -> Result<(), LocalnetError> {
        self.miners.check()?;
        let stake = |tao: f64| tao.is_finite() && tao >= 0.0;
        let (least, most) = (self.slow_least_seconds, self.slow_most_seconds);
        let checks = [
            (stake(self.validator_stake), "validator_stake", self.validator_stake.to_string(), "give 0 TAO or more"),
            (stake(self.miner_stake), "miner_stake", self.miner_stake.to_string(), "give 0 TAO or more"),
            (
                (0.0..=MAX_SLOW_SECONDS).contains(&least),
                "slow_least_seconds",
                least.to_string(),
                "give 0 to 3600 seconds",
            ),
            (
                (least..=MAX_SLOW_SECONDS).contains(&most),
                "slow_most_seconds",
                most.to_string(),
                "give at least `slow_least_seconds` and at most 3600 seconds",
            ),
            (
                (1..=MAX_OVERSIZED_BYTES).contains(&self.oversized_bytes),
                "oversized_bytes",
                self.oversized_bytes.to_string(),
                "give 1 byte to 256 MiB (268435456)",
            ),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, key, found, remedy)) => Err(LocalnetError::Config { key, found, remedy }),
            None => Ok(()),
        }
    }

    /// The times between which a slow miner replies; see [`LocalnetConfig::check`].
    pub(crate) fn slow(&self) -> (Duration, Duration) {
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        (time(self.slow_least_seconds), time(self.slow_most_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_can_be_obeyed_and_nonsense_is_named() {
        assert!(LocalnetConfig::default().check().is_ok());
        let error = |config: LocalnetConfig| config.check().unwrap_err().to_string();
        let config = LocalnetConfig { slow_most_seconds: 1.0, ..LocalnetConfig::default() };
        assert!(error(config).contains("slow_most_seconds is 1: give at least `slow_least_seconds`"));
        let config = LocalnetConfig { slow_least_seconds: f64::NAN, ..LocalnetConfig::default() };
        assert!(error(config).contains("slow_least_seconds is NaN"));
        assert!(error(LocalnetConfig { miner_stake: -1.0, ..LocalnetConfig::default() }).contains("miner_stake is -1"));
        assert!(error(LocalnetConfig { oversized_bytes: 0, ..LocalnetConfig::default() }).contains("oversized_bytes"));
        assert!(toml::from_str::<LocalnetConfig>("oversized_byte = 3").is_err());
        assert_eq!(toml::from_str::<LocalnetConfig>("[miners]\ngood = 9").unwrap().miners.good, 9);
    }
}
