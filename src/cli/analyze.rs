use std::path::PathBuf;

use clap::{Args, ValueEnum};
use openvalidators_tables::{
    figures::{Agg, By, Options},
    moment,
};
use regex::Regex;

use super::Select;

/// `openvalidators analyze`
///
/// What recorded steps say about miners, models and texts: the figures of openvalidators 1.2.0's `analysis/plotting.py`, and
/// more. A page that needs nothing but itself, tables for a terminal, or each figure as data.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  openvalidators analyze --from state --output report.html
  openvalidators analyze --from state --tables --figure leaderboard --by completion --agg size
  openvalidators analyze --from steps.parquet --data figures/ --since 2026-11-01
docs/analysis.md says which figure answers which question.")]
pub struct Analyze {
    /// Which steps.
    #[command(flatten)]
    pub select: Select,
    /// The page to make.
    #[arg(long, value_name = "FILE.html", required_unless_present_any = ["tables", "data"])]
    pub output: Option<PathBuf>,
    /// Print tables.
    #[arg(long)]
    pub tables: bool,
    /// Write each figure by itself into this folder: `ID.html`, `ID.json`, `ID.csv`.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Only these figures, by their ids: throughput weights uid_diversity completion_rates completion_rewards leaderboard
    /// dendrite_rates network_embedding reward_by_model correlations filter_pass_rates latency copycats gating_routes comparison
    /// shadows.
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub figure: Vec<String>,
    /// Replace files that exist.
    #[arg(long)]
    pub force: bool,
    /// What attackers would earn with each candidate, as `bench adversary --candidates FILE` wrote it: for the figure `shadows`.
    #[arg(long, value_name = "FILE")]
    pub benchmark: Option<PathBuf>,
    /// How the figures are made.
    #[command(flatten)]
    pub options: FigureOptions,
}

/// The arguments of the reference's plotting functions.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Figures")]
pub struct FigureOptions {
    /// The step that figures about one kind are about [default: followup for completion rewards and the network, answer for
    /// leaderboard and calls].
    #[arg(long, value_name = "NAME")]
    pub step: Option<String>,
    /// Follow the completions that match.
    #[arg(long, value_name = "REGEX")]
    pub regex: Option<Regex>,
    /// Follow this completion. May be repeated.
    #[arg(long = "completions", value_name = "TEXT", conflicts_with = "regex")]
    pub completions: Vec<String>,
    /// What the leaderboard ranks.
    #[arg(long, value_enum, default_value = "uid")]
    pub by: RankedBy,
    /// How it adds up rewards.
    #[arg(long, value_enum, default_value = "mean")]
    pub agg: Aggregate,
    /// The width of a bin of throughput, scores and comparison, minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=525_600))]
    pub interval: u32,
    /// The width of a bin of completion rates, minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=525_600))]
    pub rate_interval: u32,
    /// Leave out empty completions where diversity is counted.
    #[arg(long)]
    pub drop_failed: bool,
    /// How many of its most frequent texts a miner has in the network of those who share texts.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub network_texts: u16,
    /// How many miners, completions or pairs a figure shows [default: each its own number].
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    /// Only this miner, where a figure shows some. May be repeated.
    #[arg(long, value_name = "UID")]
    pub uid: Vec<i64>,
    /// Share of the newest reward in the moving averages.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub alpha: f64,
    /// Where the second period of the comparison begins, UTC [default: the middle].
    #[arg(long, value_name = "TIME", value_parser = split)]
    pub split: Option<i64>,
}

/// What the leaderboard ranks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RankedBy {
    /// Miners.
    Uid,
    /// Texts.
    Completion,
}

/// How rewards add up.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Aggregate {
    /// Their mean.
    Mean,
    /// The highest.
    Max,
    /// How many there are.
    Size,
}

// === impl FigureOptions ===

impl FigureOptions {
    /// As figures take them.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            interval_minutes: self.interval,
            rate_minutes: self.rate_interval,
            top: self.top,
            step: self.step.clone(),
            completions: self.completions.clone(),
            regex: self.regex.clone(),
            by: match self.by {
                RankedBy::Uid => By::Uid,
                RankedBy::Completion => By::Completion,
            },
            agg: match self.agg {
                Aggregate::Mean => Agg::Mean,
                Aggregate::Max => Agg::Max,
                Aggregate::Size => Agg::Size,
            },
            drop_failed: self.drop_failed,
            network_texts: self.network_texts.into(),
            uids: self.uid.clone(),
            alpha: self.alpha,
            split: self.split,
            ..Options::default()
        }
    }
}

fn split(text: &str) -> Result<i64, String> {
    moment::parse(text).ok_or_else(|| "expected a day or a time of day in UTC, as 2026-11-22T09:00".to_owned())
}
