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
    let server = match LocalServer::bind(config.listen, chain.clone(), clock.clone()).await {
        Ok(server) => server,
        Err(error) => {
            chain.stop().await;
            return Err(error.into());
        }
    };
    let address = server.address();
    let network = LocalNetwork::new(chain.clone());
    let started = tokio::select! {
        started = Localnet::start(&config.localnet, &network, config.seed, &clock) => started.map(Some),
        // The operator need not wait for the first blocks.
        _ = shutdown.requested() => Ok(None),
    };
    let localnet = match started {
        Ok(Some(localnet)) => localnet,
        other => {
            drop((network, server));
            chain.stop().await;
            return other.map(drop);
        }
    };
    // From now on the server has the last handle: the chain closes its file when the server stops.
    drop((network, chain));
    tracing::info!(%address, miners = localnet.roster().iter().count(), "the local network is ready");
    ready(Ready { address, roster: localnet.roster() });
    let served = server.run(shutdown).await;
    localnet.stop().await;
    Ok(served?)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
