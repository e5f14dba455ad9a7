use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Settings;

/// `openvalidators update`
///
/// Releases come from the address that `update.url` names, signed with the key of `update.public_key`; without both nothing is
/// looked up. Nothing is updated by itself: a person or a timer runs it (docs/operations.md).
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 done, 1 the new version was taken back, 2 refused and nothing changed.")]
pub struct Update {
    /// Where settings come from: those that `run` gets.
    #[command(flatten)]
    pub settings: Settings,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// The program to replace, instead of this one.
    #[arg(long, value_name = "FILE", global = true)]
    pub binary: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub action: UpdateAction,
}

/// What to do about releases.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum UpdateAction {
    /// Say whether there is a newer release, with a signature that holds.
    Check,
    /// Put the newest release in the place of this program and keep this one beside it. The running validator goes on until it is
    /// restarted.
    Apply {
        /// Restart the validator then (`update.restart_command`), watch it, and take the release back if it does not do its duty.
        #[arg(long)]
        guard: bool,
    },
    /// Watch a release that was applied, and take it back if it does not do its duty.
    Guard,
    /// Take the release back: put the program of before in its place.
    Rollback,
}
