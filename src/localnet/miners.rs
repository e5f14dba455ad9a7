//! The miners at work: a real HTTP server on a loopback port for each, with a hotkey of its own.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use openvalidators_dendrite::axon::{Axon, AxonConfig, AxonRequest, Reply};
use openvalidators_keys::HotkeySigner;
use openvalidators_messages::Hotkey;
use openvalidators_runtime::{Seed, SharedClock};
use rand::{Rng, seq::IndexedRandom};

use crate::localnet::{
    answers::Author,
    behaviour::{Behaviour, Planned, oversized_body},
    config::LocalnetConfig,
    garbage::Garbage,
    kinds::MinerKind,
    network::LocalnetError,
};

/// Connections a miner serves at once; further ones wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a miner that is told to stop goes on with the requests in hand.
const CLOSE_SECONDS: f64 = 1.0;

/// The running miners of a local network, by index. Dropped, they stop without waiting for anybody.
#[derive(Debug)]
pub struct Miners {
    miners: Vec<Miner>,
}

/// A running miner.
#[derive(Debug)]
pub struct Miner {
    /// Its index in the local network; not its uid, which the chain gives.
    pub index: u16,
    /// What it is.
    pub kind: MinerKind,
    /// Its key.
    pub hotkey: Hotkey,
    server: Server,
}

#[derive(Debug)]
enum Server {
    Axon(Axon),
    Garbage(Garbage),
}

/// The hotkey of a miner of the local network with this seed.
#[must_use]
pub fn hotkey(seed: Seed, index: u16) -> Hotkey {
    HotkeySigner::from_seed(&seed.rng("localnet/hotkey", &[u64::from(index)]).random()).hotkey()
}

// === impl Miners ===

impl Miners {
    /// Starts every miner of the mix on the current tokio runtime. A miner that panics while it serves fails that request
    /// alone.
    ///
    /// # Errors
    /// A mix or setting that cannot be, or no socket.
    pub async fn start(config: &LocalnetConfig, seed: Seed, clock: &SharedClock) -> Result<Self, LocalnetError> {
        config.check()?;
        let kinds = config.miners.kinds(seed)?;
        let oversized = oversized_body(config.oversized_bytes);
        let mut miners = Vec::with_capacity(kinds.len());
        for (index, &kind) in (0..).zip(&kinds) {
            let behaviour = Behaviour {
                seed,
                index,
                kind,
                victim: victim(&kinds, seed, index),
                slow: config.slow(),
                oversized: oversized.clone(),
            };
            let hotkey = hotkey(seed, index);
            let server = Server::start(hotkey, behaviour, clock.clone())
                .await
                .map_err(|source| LocalnetError::Listen { index, kind, source })?;
            miners.push(Miner { index, kind, hotkey, server });
        }
        Ok(Self { miners })
    }

    /// By index.
    #[must_use]
    pub fn as_slice(&self) -> &[Miner] {
        &self.miners
    }

    /// Takes no more requests, lets those in hand end for a second, and closes.
    pub async fn stop(self) {
        let closing = self.miners.into_iter().filter_map(|miner| match miner.server {
            // A request to a hanging miner never ends: there is nothing to wait for.
            Server::Axon(axon) if miner.kind != MinerKind::Hanging => Some(axon.close()),
            Server::Axon(_) | Server::Garbage(_) => None,
        });
        futures::future::join_all(closing).await;
    }
}

/// The honest miner that this one would copy.
fn victim(kinds: &[MinerKind], seed: Seed, copycat: u16) -> Option<Author> {
    let honest: Vec<Author> = (0..)
        .zip(kinds)
        .filter_map(|(index, kind)| match kind {
            MinerKind::Honest(tier) => Some(Author { seed, index, tier: *tier }),
            _ => None,
        })
        .collect();
    honest.choose(&mut seed.rng("localnet/victim", &[u64::from(copycat)])).copied()
}

// === impl Miner ===

impl Miner {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match &self.server {
            Server::Axon(axon) => axon.address(),
            Server::Garbage(garbage) => garbage.address(),
        }
    }
}

// === impl Server ===

impl Server {
    async fn start(hotkey: Hotkey, behaviour: Behaviour, clock: SharedClock) -> io::Result<Self> {
        if behaviour.kind == MinerKind::Garbage {
            return Ok(Self::Garbage(Garbage::serve(behaviour.seed, clock).await?));
        }
        let config = AxonConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            max_connections: MAX_CONNECTIONS,
            close_timeout_seconds: CLOSE_SECONDS,
            ..AxonConfig::default()
        };
        let (behaviour, waiting) = (Arc::new(behaviour), clock.clone());
        let forward = move |request| {
            let behaviour = behaviour.clone();
            reply(move |prompt, timeout| behaviour.reply(prompt, timeout), waiting.clone(), request)
        };
        Ok(Self::Axon(Axon::serve(hotkey, config, clock, forward).await?))
    }
}

/// The last message is the prompt. Reading it takes milliseconds, off the threads that serve sockets.
async fn reply(
    plan: impl FnOnce(&str, Duration) -> Planned + Send + 'static,
    clock: SharedClock,
    mut request: AxonRequest,
) -> Reply {
    let prompt = request.messages.pop().unwrap_or_default();
    match tokio::task::spawn_blocking(move || plan(&prompt, request.timeout)).await {
        Ok(planned) => {
            clock.sleep(planned.after).await;
            planned.reply
        }
        Err(error) => {
            tracing::error!(%error, "a local miner failed to complete a prompt");
            Reply::Status { code: 500, message: "Internal Server Error".to_owned() }
        }
    }
}

#[cfg(test)]
#[path = "miners_tests.rs"]
mod tests;
