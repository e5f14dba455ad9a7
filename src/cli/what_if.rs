use std::path::PathBuf;

use clap::{Args, ValueEnum};
use openvalidators_rewards::normaliser::{COUNT_LIMIT_SCORES, Normalisation};

use super::Settings;
use crate::config::profiles::Profile;

/// `openvalidators what-if`
///
/// Plays the recorded steps of a ledger twice, as the validator does: with the settings it has, and with those settings and your
/// change. Shows who would rank where. No model is needed: raw scores are in the ledger. The ledger is only read.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  openvalidators what-if --from state --with weights.moving_average_alpha=0.01
  openvalidators what-if --from state --without diversity_reward_model
  openvalidators what-if --from state --timeout 5
  openvalidators what-if --from state --normaliser rank
  openvalidators what-if --from state --with 'rewards.weights={dpo_reward_model=0.0,prompt_reward_model=1.0}'

Both plays begin with nothing known, so that they differ in the change alone. What the diversity filter found in its history is
taken as it was recorded, unless the change is about that (rewards.diversity.history_*): then it is searched anew, which takes
a tenth of a second a step. What was computed when the step was made cannot
be changed here: other models, other templates, the batch part of the diversity filter. A reward that was not recorded cannot be
given a weight: run it as a shadow first (rewards.shadows). A filter that ran as a shadow is promoted by turning it on, e.g.
--with rewards.firewall.enabled=true. Below the miners stands what every shadow of the steps agreed with, and what it cost.")]
pub struct WhatIf {
    /// The state directory whose steps to play.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// One key of the configuration to change, e.g. `weights.moving_average_alpha=0.01`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub with: Vec<String>,
    /// Let everything pass this filter, e.g. `nsfw_filter`. May be repeated.
    #[arg(long, value_name = "FILTER")]
    pub without: Vec<String>,
    /// Count calls that took longer as failed.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// How raw scores of reward models become shares of 0 to 1 [default: as the validator did].
    #[arg(long, value_enum)]
    pub normaliser: Option<Normaliser>,
    /// How many of the latest scores the running normaliser is about.
    #[arg(long, value_name = "SCORES", default_value_t = COUNT_LIMIT_SCORES, value_parser = clap::value_parser!(u64).range(1..))]
    pub normaliser_memory: u64,
    /// How many miners to show [default: all].
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// The profile the validator ran with.
    #[arg(long, value_enum, env = "OPENVALIDATORS_PROFILE")]
    pub profile: Option<Profile>,
    /// The TOML file the validator ran with.
    #[arg(long, value_name = "FILE", env = "OPENVALIDATORS_CONFIG")]
    pub config: Option<PathBuf>,
    /// One key the validator ran with. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// How raw scores become shares.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Normaliser {
    /// By the median and the median absolute deviation of what filters pass.
    Robust,
    /// By the running mean and variance of each model, as openvalidators 1.2.0 did.
    Running,
    /// By the mean and variance of the step's own scores.
    Step,
    /// By their order within the step.
    Rank,
    /// As they are.
    Raw,
}

// === impl WhatIf ===

impl WhatIf {
    /// The settings the validator ran with.
    #[must_use]
    pub fn before(&self) -> Settings {
        let Self { profile, config, set, .. } = self;
        Settings { profile: *profile, config: config.clone(), set: set.clone(), ..Settings::default() }
    }

    /// The normalisation asked for.
    #[must_use]
    pub fn normalisation(&self) -> Option<Normalisation> {
        Some(match self.normaliser? {
            Normaliser::Robust => Normalisation::Robust,
            Normaliser::Running => Normalisation::Running { count_limit: self.normaliser_memory },
            Normaliser::Step => Normalisation::Step,
            Normaliser::Rank => Normalisation::Rank,
            Normaliser::Raw => Normalisation::Raw,
        })
    }

    /// Those, and the change.
    #[must_use]
    pub fn after(&self) -> Settings {
        let mut after = self.before();
        after.set.extend(self.with.iter().cloned());
        after
    }
}
