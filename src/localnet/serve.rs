//! The subcommand `localnet`: the local chain behind a loopback socket, and its miners, in a process of their own.

use std::{net::SocketAddr, path::PathBuf};

use openvalidators_messages::Netuid;
use openvalidators_runtime::{Seed, SharedClock, Shutdown};
use openvalidators_subtensor::local::{LocalChain, LocalChainConfig, LocalNetwork, LocalServer};

use crate::localnet::{Localnet, LocalnetConfig, LocalnetError, Roster};

/// What it takes to serve a local network.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The subnet's number.
    pub netuid: Netuid,
    /// The chain.
    pub chain: LocalChainConfig,
    /// The miners.
    pub localnet: LocalnetConfig,
    /// Where the chain listens: a loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the chain's state is kept; a chain that finds its file goes on with it.
    pub state_file: PathBuf,
    /// Of everything random. With another seed the same state file gets other miners beside those it knows.
    pub seed: Seed,
}

/// A local network that is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready<'a> {
    /// What a validator connects to.
    pub address: SocketAddr,
    /// Who is who.
    pub roster: &'a Roster,
}

/// Serves chain and miners until shutdown is requested; then stops the miners and lets the chain save and close.
/// `ready` is called once, when a validator may connect: it tells the operator the address.
///
/// # Errors
/// [`LocalnetError`]: nothing could be started, or the chain ended by itself.
pub async fn serve(
    config: &ServeConfig,
    clock: SharedClock,
    shutdown: Shutdown,
    ready: impl FnOnce(Ready<'_>),
) -> Result<(), LocalnetError> {
    // Before there is a state file.
    config.localnet.check()?;
    let state_file = Some(config.state_file.as_path());
    let chain = LocalChain::start(&config.chain, config.netuid, clock.clone(), config.seed, state_file)?;
    let served = serve_chain(chain.clone(), config, clock, shutdown, ready).await;
    // However it went: who starts the chain next finds its file free.
    chain.stop().await;
    served
}

/// Leaves no handle of the chain behind.
async fn serve_chain(
    chain: LocalChain,
    config: &ServeConfig,
    clock: SharedClock,
    shutdown: Shutdown,
    ready: impl FnOnce(Ready<'_>),
) -> Result<(), LocalnetError> {
    let server = LocalServer::bind(config.listen, chain.clone(), clock.clone()).await?;
    let address = server.address();
    let network = LocalNetwork::new(chain);
    let localnet = tokio::select! {
        started = Localnet::start(&config.localnet, &network, config.seed, &clock) => started?,
        // The operator need not wait for the first blocks.
        _ = shutdown.requested() => return Ok(()),
    };
    tracing::info!(%address, miners = localnet.roster().iter().count(), "the local network is ready");
    ready(Ready { address, roster: localnet.roster() });
    let served = server.run(shutdown).await;
    localnet.stop().await;
    Ok(served?)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
