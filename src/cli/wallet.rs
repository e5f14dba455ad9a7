use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Settings;

/// `openvalidators wallet`
///
/// A validator signs with a hotkey, which lies in a wallet: a folder that btcli made.
#[derive(Debug, Args)]
#[command(after_help = WALLET_HELP)]
pub struct Wallet {
    /// What to do with it.
    #[command(subcommand)]
    pub action: WalletAction,
}

/// What to do with a wallet.
#[derive(Debug, Subcommand)]
pub enum WalletAction {
    /// Open the hotkey and say what is right and what is wrong with its wallet. Exit code 0: a validator can start with it.
    #[command(after_help = WALLET_HELP)]
    Check(WalletCheck),
}

/// `openvalidators wallet check`
#[derive(Debug, Args)]
pub struct WalletCheck {
    /// A TOML file over the defaults; `configs/local.toml` explains every key.
    #[arg(long, value_name = "FILE", env = "OPENVALIDATORS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set one key, e.g. `--set wallet.password_file=/run/credentials/password`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// What an operator should know about wallets.
const WALLET_HELP: &str = "\
A wallet on disk (--wallet.path, ~/.bittensor/wallets if not set):
  NAME/hotkeys/HOTKEY        the hotkey's secret: the only file that is opened, and it is enough to validate
  NAME/hotkeys/HOTKEYpub.txt its address
  NAME/coldkeypub.txt        the owner's address
  NAME/coldkey               the owner's secret: never opened; keep it on another machine

Nothing is created here. btcli makes a wallet, and brings one back from its phrase:
  btcli wallet new-coldkey  --wallet NAME
  btcli wallet new-hotkey   --wallet NAME --wallet-hotkey HOTKEY
  btcli wallet regen-hotkey --wallet NAME --wallet-hotkey HOTKEY

A hotkey may have a password (opening it then takes 512 MiB of memory for a moment). It is taken from the first of
  1. the file that wallet.password_file names
  2. the environment variable OPENVALIDATORS_WALLET_PASSWORD
  3. the SDK's environment variable BT_PW_ and the hotkey's path
  4. the terminal";

// === impl WalletCheck ===

impl WalletCheck {
    /// Where its settings come from.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings { config: self.config.clone(), set: self.set.clone(), ..Settings::default() }
    }
}
