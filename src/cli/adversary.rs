//! `openvalidators bench adversary`

use std::path::PathBuf;

use clap::Args;

use super::Settings;

/// `openvalidators bench adversary`
///
/// Plays a subnet of honest miners in three tiers and of attackers, once for each way to earn without working and each share
/// of attackers, and says what part of the weights they get: with the rewards as configured, and as openvalidators 1.2.0
/// judged (`--compat`). The judges are the real models of the configuration; moving averages and weight vector are those of
/// the validator. A capture ratio of 1 is what an average miner gets.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  openvalidators bench adversary --conversations 2 --steps 60         a first look
  openvalidators bench adversary --write docs                         the table and the plot of docs/adversary.md
  openvalidators bench adversary --only 'exact copycat' --shares 0.3  one strategy
  openvalidators bench adversary --set 'rewards.shadows=[\"rank_normaliser\"]' --candidates candidates.json
                                                                      what a candidate would let through
  openvalidators bench adversary --cache said.json                    keeps what the language model says between runs

The texts come from finite pools and are scored once: most of the time goes into that, and --cache spares it.")]
pub struct BenchAdversary {
    /// Conversations (a summary, a question, an answer each) that prompts are taken from.
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub conversations: usize,
    /// Steps of a game.
    #[arg(long, value_name = "N", default_value_t = 180)]
    pub steps: usize,
    /// Miners on the subnet.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub uids: usize,
    /// Miners asked in a step.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub asked: usize,
    /// Shares of attackers.
    #[arg(long, value_name = "SHARE,…", value_delimiter = ',', default_values_t = [0.05, 0.15, 0.3])]
    pub shares: Vec<f64>,
    /// Only strategies whose name contains one of these.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Where passages and dice come from. Defences were tuned on other seeds than the default.
    #[arg(long, value_name = "N", default_value_t = 20_240)]
    pub seed: u64,
    /// Reads from and writes to this file what the language model says of each completion.
    #[arg(long, value_name = "FILE")]
    pub cache: Option<PathBuf>,
    /// Plays the strategies alone, not what each defence buys: a fifth of the time.
    #[arg(long)]
    pub strategies_only: bool,
    /// Writes what attackers earn with each candidate of `rewards.shadows` in force, for `rewards.shadow_benchmark` and
    /// `analyze --benchmark`.
    #[arg(long, value_name = "FILE")]
    pub candidates: Option<PathBuf>,
    /// Writes `adversary.md` and `adversary.svg` into this folder.
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// A TOML file over the defaults (`configs/local.toml`).
    #[arg(long, value_name = "FILE", env = "OPENVALIDATORS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set one key, e.g. `--set rewards.relevance.enabled=false`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl BenchAdversary {
    /// Where its settings come from; with `compat`, as openvalidators 1.2.0 judged.
    #[must_use]
    pub fn settings(&self, compat: bool) -> Settings {
        Settings { config: self.config.clone(), set: self.set.clone(), compat, ..Settings::default() }
    }
}
