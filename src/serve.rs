//! `openvalidators localnet`: chain and miners in a process of their own.

use std::net::SocketAddr;

use anyhow::Context;
use openvalidators_messages::Netuid;
use openvalidators_runtime::{Seed, Shutdown, SystemClock};
use openvalidators_subtensor::STATE_FILE;

use crate::{
    config::Config,
    console::{Style, print_note},
    localnet::{ServeConfig, serve},
    shutdown,
};

/// Serves until Ctrl-C or SIGTERM.
///
/// # Errors
/// When nothing could be started, or the chain ended by itself.
pub async fn run(config: Config, listen: SocketAddr) -> anyhow::Result<()> {
    let stop = Shutdown::default();
    shutdown::listen(stop.clone()).context("listening for signals")?;
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("making the state directory {}", config.state_dir.display()))?;
    let serving = ServeConfig {
        netuid: Netuid(config.chain.netuid),
        chain: config.chain.local,
        localnet: config.localnet,
        listen,
        state_file: config.state_dir.join(STATE_FILE),
        seed: Seed(config.seed),
    };
    serve(&serving, SystemClock::shared(), stop, |ready| {
        for entry in ready.roster.iter() {
            print_note(Style::Text, &format!("uid {:<3} {}", entry.uid, entry.kind));
        }
        print_note(Style::Text, &format!("ready: openvalidators run --chain {}", ready.address));
    })
    .await?;
    Ok(())
}
