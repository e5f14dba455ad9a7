use std::time::Duration;

use clap::{Args, Subcommand};

use super::Settings;

/// `openvalidators prompts`
#[derive(Debug, Args)]
pub struct Prompts {
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// What to do with the sources.
    #[command(subcommand)]
    pub action: PromptsAction,
}

/// What to do with prompt sources.
#[derive(Debug, Subcommand)]
pub enum PromptsAction {
    /// Read texts from each source as `run` would, and show them. Nothing is written; exit code 1 where a source gave none.
    Sample(PromptsSample),
}

/// `openvalidators prompts sample`
#[derive(Debug, Args)]
pub struct PromptsSample {
    /// Only this source: the NAME of a table `[prompts.sources.NAME]`.
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Texts of each source.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
    /// How long to wait for them.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub patience: u32,
    /// Print whole texts as JSON lines.
    #[arg(long)]
    pub json: bool,
}

// === impl PromptsSample ===

impl PromptsSample {
    /// How long to wait.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.patience.into())
    }
}
