use std::path::PathBuf;

use clap::Args;

use super::Settings;

/// `openvalidators doctor`
///
/// Looks at everything a validator needs: configuration, wallet, chain and our place on it, ports, time, disk, open files,
/// device, models, memory, wandb, ledger, service manager. Give it the settings that `run` will get.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 nothing must be mended, 8 something must, 2 the command line is wrong.")]
pub struct Doctor {
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Less free space than so many gigabytes where the state directory is must be mended.
    #[arg(long, value_name = "GB", default_value_t = 10.0)]
    pub min_free_gb: f64,
    /// The unit with which systemd runs the validator.
    #[arg(long, value_name = "FILE", default_value = "/etc/systemd/system/openvalidators.service")]
    pub unit: PathBuf,
}
