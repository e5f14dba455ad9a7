use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use openvalidators_dendrite::Choice;
use openvalidators_keys::ss58;
use openvalidators_messages::Hotkey;

use super::Settings;

/// `openvalidators query`
///
/// Sends one signed `Prompting` request, exactly as the validator does, and prints how it ended. Exit code 0: answered.
#[derive(Debug, Args)]
pub struct Query {
    /// A miner by its place on the subnet: the chain that the configuration names tells its address and hotkey.
    #[arg(long, value_name = "N", conflicts_with_all = ["axon", "hotkey"])]
    pub uid: Option<u16>,
    /// Where the miner listens.
    #[arg(long, value_name = "IP:PORT", required_unless_present = "uid", requires = "hotkey")]
    pub axon: Option<SocketAddr>,
    /// The miner's hotkey, for which the request is signed.
    #[arg(long, value_name = "SS58", value_parser = ss58::decode, required_unless_present = "uid", requires = "axon")]
    pub hotkey: Option<Hotkey>,
    /// What to ask.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: String,
    /// The wire to ask on. Without it: Synapse, and btauth/1 when the answer shows that the miner speaks that.
    #[arg(long, value_enum)]
    pub transport: Option<Wire>,
    /// What the miner has to answer.
    #[arg(long, value_name = "SECONDS", default_value = "12", value_parser = query_timeout, allow_negative_numbers = true)]
    pub timeout: Duration,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// A TOML file over the defaults; `configs/local.toml` explains every key.
    #[arg(long, value_name = "FILE", env = "OPENVALIDATORS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set one key, e.g. `--set dendrite.allow_private_addresses=false`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// A wire to miners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Wire {
    /// Bittensor 6 to 10.
    Synapse,
    /// Bittensor 11.
    Btauth,
}

/// The longest `--timeout` of `query`, in seconds.
const MAX_QUERY_SECONDS: f64 = 600.0;

fn query_timeout(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().unwrap_or(f64::NAN);
    if !(seconds > 0.0 && seconds <= MAX_QUERY_SECONDS) {
        return Err(format!("give a number of seconds above 0 and up to {MAX_QUERY_SECONDS}"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

// === impl Query ===

impl Query {
    /// Where its settings come from.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings { config: self.config.clone(), set: self.set.clone(), ..Settings::default() }
    }
}

impl From<Wire> for Choice {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::Synapse => Self::Synapse,
            Wire::Btauth => Self::Btauth,
        }
    }
}
