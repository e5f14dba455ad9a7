//! The operator's settings of routing.

use openvalidators_messages::inference::{ModelName, Pooling};
use serde::{Deserialize, Serialize};

use crate::{forecast, head::Training, state::Rules};

/// Everything an operator can say about routing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A neuron with a validator permit and more stake than this, in TAO, is a validator and is not asked.
    pub vpermit_tao_limit: f64,
    /// How miners are chosen.
    pub routing: RoutingKind,
    /// The model that reads prompts.
    pub model: ModelName,
    /// How the states of a prompt's tokens become one row.
    pub pooling: Pooling,
    /// A prompt whose embedding takes longer is routed uniformly and teaches nothing.
    pub embed_timeout_seconds: f64,
    /// Scored steps with which learned routing begins; until then it is uniform.
    pub warm_up_steps: usize,
    /// Latest steps that forecasts are made from.
    pub memory_steps: usize,
    /// Blocks in which the doubt about a remembered reward doubles.
    pub half_life_blocks: u64,
    /// Share of a step's places given out whatever anybody promises, above 0 and at most 1: everyone's floor.
    pub exploration: f64,
    /// Standard deviations of doubt added to what a miner is expected to earn.
    pub optimism: f64,
    /// Every available miner is asked at least once in so many blocks, as far as places suffice; 0 is one tempo.
    pub longest_wait_blocks: u64,
    /// Step size of the head's training.
    pub learning_rate: f32,
    /// Share of its velocity a parameter of the head keeps from step to step.
    pub momentum: f32,
    /// What was learned of a hotkey not asked for so many blocks is forgotten (50,400 blocks of 12 s: a week).
    pub forget_after_blocks: u64,
    /// A snapshot goes to the ledger after so many steps.
    pub snapshot_every_steps: u64,
    /// Ways of openvalidators 1.2.0.
    pub compat: Compat,
}

/// How miners are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoutingKind {
    /// By what each promises for the prompt, once warmed up.
    #[default]
    Learned,
    /// All alike, as openvalidators 1.2.0 really did.
    Uniform,
    /// All alike, and no model reads prompts: nothing is learned (`--neuron.mock_gating_model`).
    Blind,
}

/// Ways of openvalidators 1.2.0, each of which was given up for a reason (`docs/differences.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compat {
    /// Never clear the gradients of the head: each step descends along the sum of all since the start.
    pub accumulate_gradients: bool,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("[gating] {key} is {found}; it must be {wanted}")]
pub struct ConfigError {
    /// Which.
    pub key: &'static str,
    /// What was found.
    pub found: f64,
    /// What would do.
    pub wanted: &'static str,
}

/// Most steps remembered: each costs its embedding and a number for each other one.
const MOST_STEPS: usize = 8_192;

// === impl Config ===

impl Config {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// [`ConfigError`] names the first that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let amount = |value: f64| value.is_finite() && value >= 0.0;
        let share = |value: f32| (0.0..1.0).contains(&value);
        let steps = 8..=MOST_STEPS;
        let rules = [
            ("vpermit_tao_limit", self.vpermit_tao_limit, "an amount of TAO, 0 or more", self.vpermit_tao_limit >= 0.0),
            ("embed_timeout_seconds", self.embed_timeout_seconds, "above 0 and at most 600", {
                self.embed_timeout_seconds > 0.0 && self.embed_timeout_seconds <= 600.0
            }),
            ("memory_steps", self.memory_steps as f64, "8 to 8192", steps.contains(&self.memory_steps)),
            ("warm_up_steps", self.warm_up_steps as f64, "from 8 to memory_steps", {
                (8..=self.memory_steps).contains(&self.warm_up_steps)
            }),
            ("half_life_blocks", self.half_life_blocks as f64, "at least 1", self.half_life_blocks > 0),
            (
                "exploration",
                self.exploration,
                "above 0 and at most 1",
                self.exploration > 0.0 && self.exploration <= 1.0,
            ),
            ("optimism", self.optimism, "0 or more", amount(self.optimism)),
            ("learning_rate", f64::from(self.learning_rate), "from 0 to below 1", share(self.learning_rate)),
            ("momentum", f64::from(self.momentum), "from 0 to below 1", share(self.momentum)),
            ("snapshot_every_steps", self.snapshot_every_steps as f64, "at least 1", self.snapshot_every_steps > 0),
        ];
        match rules.into_iter().find(|(.., holds)| !holds) {
            Some((key, found, wanted, _)) => Err(ConfigError { key, found, wanted }),
            None => Ok(()),
        }
    }

    /// What the rows of prompts are called in records: rows of different models or poolings are not comparable.
    #[must_use]
    pub fn encoder(&self) -> String {
        let pooling = match self.pooling {
            Pooling::Mean => "mean",
            Pooling::MeanNormalised => "mean_normalised",
            Pooling::MeanOfWindows => "mean_of_windows",
            Pooling::LastToken => "last_token",
        };
        format!("{}/{pooling}", self.model)
    }

    /// What folding a step goes by.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            encoder: self.encoder(),
            training: Training {
                learning_rate: self.learning_rate,
                momentum: self.momentum,
                accumulate_gradients: self.compat.accumulate_gradients,
            },
            memory: forecast::Rules {
                steps: self.memory_steps,
                warm_up_steps: self.warm_up_steps,
                half_life_blocks: self.half_life_blocks,
            },
            forget_after_blocks: self.forget_after_blocks,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vpermit_tao_limit: 4096.0,
            routing: RoutingKind::Learned,
            model: ModelName::new("all-MiniLM-L6-v2"),
            pooling: Pooling::MeanNormalised,
            embed_timeout_seconds: 10.0,
            warm_up_steps: 50,
            memory_steps: 1_000,
            half_life_blocks: 720,
            exploration: 0.2,
            optimism: 1.5,
            longest_wait_blocks: 0,
            learning_rate: 0.01,
            momentum: 0.9,
            forget_after_blocks: 50_400,
            snapshot_every_steps: 100,
            compat: Compat::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_makes_sense_and_nonsense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let cases = [
            (Config { vpermit_tao_limit: f64::NAN, ..Config::default() }, "vpermit_tao_limit"),
            (Config { vpermit_tao_limit: -1.0, ..Config::default() }, "vpermit_tao_limit"),
            (Config { exploration: 0.0, ..Config::default() }, "exploration"),
            (Config { exploration: f64::NAN, ..Config::default() }, "exploration"),
            (Config { memory_steps: 1_000_000, ..Config::default() }, "memory_steps"),
            (Config { warm_up_steps: 2_000, ..Config::default() }, "warm_up_steps"),
            (Config { learning_rate: f32::INFINITY, ..Config::default() }, "learning_rate"),
            (Config { momentum: 1.0, ..Config::default() }, "momentum"),
            (Config { embed_timeout_seconds: 0.0, ..Config::default() }, "embed_timeout_seconds"),
        ];
        for (config, key) in cases {
            let error = config.check().unwrap_err();
            assert_eq!(error.key, key);
            assert!(error.to_string().starts_with(&format!("[gating] {key} is ")), "{error}");
        }
    }

    #[test]
    fn only_known_keys_are_taken() {
        let config: Config =
            serde_json::from_str(r#"{"routing": "uniform", "compat": {"accumulate_gradients": true}}"#).unwrap();
        assert_eq!(config.routing, RoutingKind::Uniform);
        assert!(config.rules().training.accumulate_gradients);
        assert!(serde_json::from_str::<Config>(r#"{"routing": "best"}"#).is_err());
        assert!(serde_json::from_str::<Config>(r#"{"explore": 1}"#).is_err());
    }
}
