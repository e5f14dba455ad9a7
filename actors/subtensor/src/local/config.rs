//! The operator's settings of the local chain, and the rules they become.

use openvalidators_messages::Netuid;
use serde::{Deserialize, Serialize};

use super::yuma::{LiquidAlpha, YumaRules};

/// Most places a local subnet may have: a metagraph stays well under the limit of one answer.
pub const MAX_UIDS: u16 = 1024;

/// The tempo that mainnet's other numbers of blocks belong to.
const MAINNET_TEMPO_BLOCKS: u64 = 360;
const MAINNET_WEIGHTS_RATE_LIMIT_BLOCKS: u64 = 100;
const MAINNET_SERVING_RATE_LIMIT_BLOCKS: u64 = 50;
/// Of 256 places, mainnet keeps this many that pruning may always choose from.
const MAINNET_MIN_NON_IMMUNE_UIDS: u64 = 10;
const MAINNET_MAX_UIDS: u64 = 256;
/// The subnet owner's cut of every block's emission.
const OWNER_CUT: f64 = 11_796.0 / 65_535.0;

/// A subnet of one's own. The defaults are a fresh subnet of mainnet, made quick: 20 blocks of a second an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalChainConfig {
    /// Time from one block to the next.
    pub block_seconds: f64,
    /// Blocks from one epoch to the next. The limits between two weight settings and between two servings, and the
    /// activity cut-off, follow it in mainnet's proportions (100, 50 and 5000 blocks at tempo 360): unscaled, they would
    /// refuse nearly everything at a tempo of 20.
    pub tempo: u64,
    /// Places; one more registration replaces a neuron.
    pub max_uids: u16,
    /// Most validator permits.
    pub max_validators: usize,
    /// Blocks for which a newcomer is not replaced (mainnet: 5000 at tempo 360).
    pub immunity_blocks: u64,
    /// Fewest uids a weight vector may name.
    pub min_allowed_weights: u16,
    /// The key weights must carry at least; 0 accepts any.
    pub weights_version_key: u64,
    /// Stake below which weights are refused and votes do not count, in TAO.
    pub stake_threshold: f64,
    /// Whether weights are committed first and revealed by the chain later.
    pub commit_reveal: bool,
    /// Epochs from a commit to its reveal.
    pub reveal_period_epochs: u64,
    /// Blocks into its epoch before a commit can be revealed. The SDK asks for 3 of 360; past the tempo, every commit
    /// expires.
    pub reveal_delay_blocks: u64,
    /// Yuma 3 bonds, or those of Yuma 2.
    pub yuma3: bool,
    /// A moving average for each bond of its own.
    pub liquid_alpha: bool,
    /// What the subnet earns each block, before the owner's cut of 18 %.
    pub emission_per_block_rao: u64,
    /// How often an epoch that is due comes a block late, as happens on a busy chain; 0 is never.
    pub late_epoch_probability: f64,
    /// The other validators.
    pub validators: SimulatedValidatorsConfig,
}

/// Validators that the chain itself plays. They see what anybody can see: weights on the chain, an epoch late. They are
/// registered and staked in block 0; a chain that is gone on with keeps those it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatedValidatorsConfig {
    /// How many copy the weights of the validators that are not simulated, with noise.
    pub copying: usize,
    /// How many set random weights.
    pub random: usize,
    /// Stake of each, in TAO.
    pub stake: f64,
    /// Spread of the copies: each weight is multiplied by exp(noise · z), z normal.
    pub noise: f64,
}

/// A setting that makes no chain.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("chain.local.{key} is {found}: {remedy}")]
pub struct LocalConfigError {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub found: String,
    /// What it must be.
    pub remedy: &'static str,
}

/// The subnet's rules, all in blocks, rao and shares. They come from the settings at each start and are not part of the
/// chain's state.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The subnet.
    pub netuid: Netuid,
    /// Those that consensus reads.
    pub yuma: YumaRules,
    /// See [`LocalChainConfig::max_uids`].
    pub max_uids: u16,
    /// See [`LocalChainConfig::immunity_blocks`].
    pub immunity_blocks: u64,
    /// Places that may be replaced and are not immune: at most this many, and an immune one goes instead.
    pub min_non_immune_uids: usize,
    /// See [`LocalChainConfig::min_allowed_weights`].
    pub min_allowed_weights: u16,
    /// Blocks between two weight settings or commits of one hotkey.
    pub weights_rate_limit: u64,
    /// Blocks between two servings of one hotkey.
    pub serving_rate_limit: u64,
    /// See [`LocalChainConfig::weights_version_key`].
    pub weights_version_key: u64,
    /// See [`LocalChainConfig::reveal_period_epochs`].
    pub reveal_period_epochs: u64,
    /// See [`LocalChainConfig::reveal_delay_blocks`].
    pub reveal_delay_blocks: u64,
    /// What miners and validators share of each block.
    pub shared_rao_per_block: u64,
    /// See [`LocalChainConfig::late_epoch_probability`].
    pub late_epoch_probability: f64,
    /// See [`LocalChainConfig::validators`].
    pub validators: SimulatedValidatorsConfig,
}

// === impl LocalChainConfig ===

impl Default for LocalChainConfig {
    fn default() -> Self {
        Self {
            block_seconds: 1.0,
            tempo: 20,
            max_uids: 256,
            max_validators: 64,
            immunity_blocks: 277,
            min_allowed_weights: 1,
            weights_version_key: 0,
            stake_threshold: 0.0,
            commit_reveal: true,
            reveal_period_epochs: 1,
            reveal_delay_blocks: 0,
            yuma3: true,
            liquid_alpha: false,
            emission_per_block_rao: 1_000_000_000,
            late_epoch_probability: 0.1,
            validators: SimulatedValidatorsConfig::default(),
        }
    }
}

impl LocalChainConfig {
    /// The rules these settings make.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn rules(&self, netuid: Netuid) -> Result<Rules, LocalConfigError> {
        self.check()?;
        let scaled = |blocks: u64| (blocks * self.tempo / MAINNET_TEMPO_BLOCKS).max(1);
        let yuma = YumaRules {
            max_validators: self.max_validators,
            stake_threshold: self.stake_threshold,
            commit_reveal: self.commit_reveal,
            yuma3: self.yuma3,
            liquid_alpha: self.liquid_alpha.then(LiquidAlpha::default),
            ..YumaRules::with_tempo(self.tempo)
        };
        let min_non_immune = u64::from(self.max_uids) * MAINNET_MIN_NON_IMMUNE_UIDS / MAINNET_MAX_UIDS;
        Ok(Rules {
            netuid,
            yuma,
            max_uids: self.max_uids,
            immunity_blocks: self.immunity_blocks,
            min_non_immune_uids: usize::try_from(min_non_immune).unwrap_or(usize::MAX),
            min_allowed_weights: self.min_allowed_weights,
            weights_rate_limit: scaled(MAINNET_WEIGHTS_RATE_LIMIT_BLOCKS),
            serving_rate_limit: scaled(MAINNET_SERVING_RATE_LIMIT_BLOCKS),
            weights_version_key: self.weights_version_key,
            reveal_period_epochs: self.reveal_period_epochs,
            reveal_delay_blocks: self.reveal_delay_blocks,
            shared_rao_per_block: (self.emission_per_block_rao as f64 * (1.0 - OWNER_CUT)) as u64,
            late_epoch_probability: self.late_epoch_probability,
            validators: self.validators.clone(),
        })
    }

    fn check(&self) -> Result<(), LocalConfigError> {
        let simulated = self.validators.copying.saturating_add(self.validators.random);
        let places_kept = simulated.saturating_add(1);
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        let checks = [
            (
                (0.01..=3600.0).contains(&self.block_seconds),
                "block_seconds",
                self.block_seconds.to_string(),
                "set a time from 0.01 to 3600 seconds",
            ),
            ((2..=50_400).contains(&self.tempo), "tempo", self.tempo.to_string(), "set 2 to 50400 blocks"),
            ((1..=MAX_UIDS).contains(&self.max_uids), "max_uids", self.max_uids.to_string(), "set 1 to 1024"),
            (
                places_kept <= usize::from(self.max_uids),
                "validators",
                format!("{simulated} in all"),
                "leave a place for the subnet's owner: fewer simulated validators, or more max_uids",
            ),
            (self.max_validators > 0, "max_validators", self.max_validators.to_string(), "set at least 1"),
            (
                not_negative(self.stake_threshold),
                "stake_threshold",
                self.stake_threshold.to_string(),
                "set 0 TAO or more",
            ),
            (
                (1..=100).contains(&self.reveal_period_epochs),
                "reveal_period_epochs",
                self.reveal_period_epochs.to_string(),
                "set 1 to 100 epochs",
            ),
            (
                (0.0..1.0).contains(&self.late_epoch_probability),
                "late_epoch_probability",
                self.late_epoch_probability.to_string(),
                "set a probability of at least 0 and less than 1",
            ),
            (
                simulated == 0 || positive(self.validators.stake),
                "validators.stake",
                self.validators.stake.to_string(),
                "set more than 0 TAO",
            ),
            (
                (0.0..=5.0).contains(&self.validators.noise),
                "validators.noise",
                self.validators.noise.to_string(),
                "set 0 to 5",
            ),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, key, found, remedy)) => Err(LocalConfigError { key, found, remedy }),
            None => Ok(()),
        }
    }
}

impl Default for SimulatedValidatorsConfig {
    fn default() -> Self {
        Self { copying: 2, random: 1, stake: 1000.0, noise: 0.1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_the_tempo() {
        let rules = LocalChainConfig::default().rules(Netuid(1)).unwrap();
        assert_eq!((rules.weights_rate_limit, rules.serving_rate_limit, rules.yuma.activity_cutoff), (5, 2, 277));
        let mainnet = LocalChainConfig { tempo: 360, ..LocalChainConfig::default() }.rules(Netuid(1)).unwrap();
        assert_eq!((mainnet.weights_rate_limit, mainnet.serving_rate_limit), (100, 50));
        assert_eq!((mainnet.yuma.activity_cutoff, mainnet.min_non_immune_uids), (5000, 10));
        assert_eq!(mainnet.shared_rao_per_block, 820_004_577);
    }

    #[test]
    fn impossible_settings_are_named() {
        let with = |change: fn(&mut LocalChainConfig)| {
            let mut config = LocalChainConfig::default();
            change(&mut config);
            config.rules(Netuid(1)).unwrap_err().to_string()
        };
        assert!(with(|c| c.block_seconds = f64::NAN).contains("chain.local.block_seconds is NaN"));
        assert!(with(|c| c.tempo = 0).contains("tempo"));
        assert!(with(|c| c.max_uids = 3).contains("validators"));
        assert!(with(|c| c.validators.stake = -1.0).contains("validators.stake"));
        assert!(with(|c| c.late_epoch_probability = 1.0).contains("late_epoch_probability"));
        assert!(with(|c| c.reveal_period_epochs = 0).contains("reveal_period_epochs"));
    }
}
