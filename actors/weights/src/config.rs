//! What the operator may set.

use serde::{Deserialize, Serialize};

/// Settings of the scores and of weight setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightsConfig {
    /// Never puts weights on the chain; scores are kept all the same. (`--neuron.disable_set_weights`)
    pub disable_set_weights: bool,
    /// Share of the newest reward in a hotkey's moving average, above 0, at most 1. (`--neuron.moving_average_alpha`)
    pub moving_average_alpha: f64,
    /// A hotkey that no step asked for so many blocks is forgotten (50,400 blocks of 12 s: a week).
    pub forget_after_blocks: u64,
    /// Most that one reward counts in the average, where a miner was asked against the odds of learned routing.
    pub max_importance: f64,
    /// Where every miner is asked equally often, one turn is as many steps as it takes for each to be asked once. A hotkey
    /// that no step asked for more turns than these loses score: it serves no axon, and rests on what it earned.
    pub rest_grace_turns: f64,
    /// Turns after which it has lost half. 0 never takes anything, as openvalidators 1.2.0.
    pub rest_half_life_turns: f64,
    /// A snapshot of the scores goes to the ledger after so many steps.
    pub snapshot_every_steps: u64,

    /// Where in an epoch weights are set, as a share of its tempo in 0..=0.95: the same for every epoch and after any restart.
    pub set_at_fraction: f64,
    /// After a refusal the next attempt waits so many blocks.
    pub retry_after_blocks: u64,
    /// Attempts in one epoch, the first included.
    pub attempts_per_epoch: u32,
    /// A submission that is not on the chain so many blocks later never will be: at least the era of a signed extrinsic.
    pub submission_lifetime_blocks: u64,
    /// What one question to the chain may take, in seconds; then its outcome counts as unknown.
    pub chain_timeout_seconds: u64,
    /// Sent with the weights unless the subnet wants a higher one.
    pub version_key: u64,

    /// Whether to watch for a second validator with our hotkey: none are set for a tempo after a start (a quick restart
    /// excepted), and no more once our uid's last update has moved without us.
    pub same_key_guard: bool,

    /// What to do when the scores are no reason to pay anyone.
    pub when_empty: WhenEmpty,
    /// Weights that are held are sent again when they are so many tempos old, and in any case two tempos before the subnet's
    /// `activity_cutoff`, at which the chain counts a validator as inactive (13.9 tempos by default). 0 never does.
    pub resend_held_after_tempos: f64,
    /// Fewest registered hotkeys that must have answered a scored step (in a smaller subnet all that may be asked).
    pub min_scored: usize,
    /// Scores are no reason to pay anyone when the newest scored answer is older than this.
    pub max_score_age_seconds: u64,
    /// Before the first weights on a real network: so many axons are asked by steps, and unless one of them has answered, the
    /// subnet is taken for one of another protocol and steps are scored only. 0 asks nobody.
    pub probe_axons: usize,
    /// Shares below this quantile of the positive ones get nothing, in 0..1.
    pub exclude_quantile: f64,
}

/// What to put on the chain when no score is positive, too few hotkeys have answered, or all answers are old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenEmpty {
    /// Nothing: the weights of an earlier epoch stay.
    #[default]
    Hold,
    /// All to the subnet owner's uid, which burns the miners' emission; nothing when the owner has none.
    Owner,
    /// The same to everyone, as openvalidators 1.2.0 did.
    Uniform,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("weights.{key} must be {wanted}, found {found}")]
pub struct BadConfig {
    /// Which.
    pub key: &'static str,
    /// What would do.
    pub wanted: &'static str,
    /// What was written.
    pub found: f64,
}

// === impl WeightsConfig ===

impl Default for WeightsConfig {
    fn default() -> Self {
        Self {
            disable_set_weights: false,
            moving_average_alpha: 0.05,
            forget_after_blocks: 50_400,
            max_importance: 10.0,
            rest_grace_turns: 4.0,
            rest_half_life_turns: 8.0,
            snapshot_every_steps: 50,
            set_at_fraction: 0.5,
            retry_after_blocks: 10,
            attempts_per_epoch: 3,
            submission_lifetime_blocks: 64,
            chain_timeout_seconds: 120,
            version_key: 0,
            same_key_guard: true,
            when_empty: WhenEmpty::Hold,
            resend_held_after_tempos: 10.0,
            min_scored: 10,
            max_score_age_seconds: 43_200,
            probe_axons: 20,
            exclude_quantile: 0.0,
        }
    }
}

impl WeightsConfig {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// Names the first key that is wrong.
    pub fn check(&self) -> Result<(), BadConfig> {
        let rules = [
            ("moving_average_alpha", "above 0 and at most 1", self.moving_average_alpha, {
                self.moving_average_alpha > 0.0 && self.moving_average_alpha <= 1.0
            }),
            ("set_at_fraction", "from 0 to 0.95", self.set_at_fraction, (0.0..=0.95).contains(&self.set_at_fraction)),
            (
                "exclude_quantile",
                "from 0 to below 1",
                self.exclude_quantile,
                (0.0..1.0).contains(&self.exclude_quantile),
            ),
            ("max_importance", "a number of at least 1", self.max_importance, {
                self.max_importance >= 1.0 && self.max_importance.is_finite()
            }),
            ("rest_grace_turns", "from 1 to 1000", self.rest_grace_turns, {
                (1.0..=1_000.0).contains(&self.rest_grace_turns)
            }),
            (
                "rest_half_life_turns",
                "from 0 to 1000",
                self.rest_half_life_turns,
                (0.0..=1_000.0).contains(&self.rest_half_life_turns),
            ),
            (
                "resend_held_after_tempos",
                "from 0 to 1000",
                self.resend_held_after_tempos,
                (0.0..=1_000.0).contains(&self.resend_held_after_tempos),
            ),
            ("snapshot_every_steps", "at least 1", self.snapshot_every_steps as f64, self.snapshot_every_steps > 0),
            ("attempts_per_epoch", "at least 1", f64::from(self.attempts_per_epoch), self.attempts_per_epoch > 0),
            ("chain_timeout_seconds", "at least 1", self.chain_timeout_seconds as f64, self.chain_timeout_seconds > 0),
        ];
        match rules.into_iter().find(|(.., holds)| !holds) {
            Some((key, wanted, found, _)) => Err(BadConfig { key, wanted, found }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_makes_sense_and_nonsense_is_named() {
        assert_eq!(WeightsConfig::default().check(), Ok(()));
        let cases = [
            (WeightsConfig { moving_average_alpha: 0.0, ..WeightsConfig::default() }, "moving_average_alpha"),
            (WeightsConfig { moving_average_alpha: f64::NAN, ..WeightsConfig::default() }, "moving_average_alpha"),
            (WeightsConfig { set_at_fraction: 1.0, ..WeightsConfig::default() }, "set_at_fraction"),
            (WeightsConfig { exclude_quantile: 1.0, ..WeightsConfig::default() }, "exclude_quantile"),
            (WeightsConfig { max_importance: 0.5, ..WeightsConfig::default() }, "max_importance"),
            (WeightsConfig { max_importance: f64::NAN, ..WeightsConfig::default() }, "max_importance"),
            (WeightsConfig { rest_grace_turns: 0.5, ..WeightsConfig::default() }, "rest_grace_turns"),
            (WeightsConfig { rest_half_life_turns: -1.0, ..WeightsConfig::default() }, "rest_half_life_turns"),
            (WeightsConfig { attempts_per_epoch: 0, ..WeightsConfig::default() }, "attempts_per_epoch"),
        ];
        for (config, key) in cases {
            assert_eq!(config.check().unwrap_err().key, key);
        }
    }

    #[test]
    fn only_known_keys_are_taken() {
        let config: WeightsConfig = serde_json::from_str(r#"{"when_empty": "owner", "min_scored": 3}"#).unwrap();
        assert_eq!(config, WeightsConfig { when_empty: WhenEmpty::Owner, min_scored: 3, ..WeightsConfig::default() });
        assert!(serde_json::from_str::<WeightsConfig>(r#"{"min_score": 3}"#).is_err());
    }
}
