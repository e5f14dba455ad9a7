use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::localnet::{kinds::MinerMix, network::LocalnetError};

/// Latest reply of a slow miner, in stated timeouts.
const MAX_SLOW_OF_TIMEOUT: f64 = 100.0;
/// Largest completion of an oversized miner: each such miner keeps it in memory.
const MAX_OVERSIZED_BYTES: usize = 256 * 1024 * 1024;

/// What the operator sets about the miners of the local network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalnetConfig {
    /// How many miners of each kind.
    pub miners: MinerMix,
    /// The soonest a slow miner replies, as a share of the timeout that the validator states in its request.
    pub slow_least_of_timeout: f64,
    /// The latest a slow miner replies, likewise; in between, every moment is as likely. What comes after 1 is lost.
    pub slow_most_of_timeout: f64,
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
            // One reply in eleven is in time.
            slow_least_of_timeout: 0.9,
            slow_most_of_timeout: 2.0,
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
        let (least, most) = (self.slow_least_of_timeout, self.slow_most_of_timeout);
        let checks = [
            (stake(self.validator_stake), "validator_stake", self.validator_stake.to_string(), "give 0 TAO or more"),
            (stake(self.miner_stake), "miner_stake", self.miner_stake.to_string(), "give 0 TAO or more"),
            (
                (0.0..=MAX_SLOW_OF_TIMEOUT).contains(&least),
                "slow_least_of_timeout",
                least.to_string(),
                "give 0 to 100 times the timeout",
            ),
            (
                (least..=MAX_SLOW_OF_TIMEOUT).contains(&most),
                "slow_most_of_timeout",
                most.to_string(),
                "give at least `slow_least_of_timeout` and at most 100 times the timeout",
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

    /// When a slow miner replies, in stated timeouts; not empty once [`LocalnetConfig::check`] has passed.
    pub(crate) fn slow(&self) -> RangeInclusive<f64> {
        self.slow_least_of_timeout..=self.slow_most_of_timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_can_be_obeyed_and_nonsense_is_named() {
        assert!(LocalnetConfig::default().check().is_ok());
        let error = |config: LocalnetConfig| config.check().unwrap_err().to_string();
        let config = LocalnetConfig { slow_most_of_timeout: 0.5, ..LocalnetConfig::default() };
        assert!(error(config).contains("slow_most_of_timeout is 0.5: give at least `slow_least_of_timeout`"));
        let config = LocalnetConfig { slow_least_of_timeout: f64::NAN, ..LocalnetConfig::default() };
        assert!(error(config).contains("slow_least_of_timeout is NaN"));
        assert!(error(LocalnetConfig { miner_stake: -1.0, ..LocalnetConfig::default() }).contains("miner_stake is -1"));
        assert!(error(LocalnetConfig { oversized_bytes: 0, ..LocalnetConfig::default() }).contains("oversized_bytes"));
        assert!(toml::from_str::<LocalnetConfig>("oversized_byte = 3").is_err());
        assert_eq!(toml::from_str::<LocalnetConfig>("[miners]\ngood = 9").unwrap().miners.good, 9);
    }
}
