//! The local chain as a process of its own: a loopback socket that anybody on this machine may use.
//!
//! The callers are trusted: nothing is signed, any hotkey may be acted for. That is why no other address can be bound.

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use openvalidators_runtime::{SharedClock, Shutdown, accept_bounded};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::codec::{Framed, LinesCodecError};

use super::{
    engine::LocalChain,
    node::Node,
    wire::{self, Ask, Reply},
};

/// Connections served at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// A connection that asks nothing for this long is closed.
const IDLE_SECONDS: u64 = 60;

/// A bound socket in front of a local chain.
pub struct LocalServer {
    listener: TcpListener,
    address: SocketAddr,
    chain: LocalChain,
    clock: SharedClock,
}

/// Why a local chain cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LocalServerError {
    /// Whoever reaches the socket may act for any hotkey.
    #[error("the local chain trusts its callers and is served on loopback only, not on {0}: use 127.0.0.1")]
    NotLoopback(SocketAddr),
    /// The system said no.
    #[error("could not listen on {address} for the local chain: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The chain ended while it was being served.
    #[error("the local chain has stopped; its log says why")]
    ChainEnded,
}

// === impl LocalServer ===

impl LocalServer {
    /// Binds the socket; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is not loopback or cannot be bound.
    pub async fn bind(address: SocketAddr, chain: LocalChain, clock: SharedClock) -> Result<Self, LocalServerError> {
        if !address.ip().is_loopback() {
            return Err(LocalServerError::NotLoopback(address));
        }
        let failed = |source| LocalServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, chain, clock })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until shutdown is requested, then drops its handle of the chain.
    ///
    /// # Errors
    /// [`LocalServerError::ChainEnded`].
    pub async fn run(self, shutdown: Shutdown) -> Result<(), LocalServerError> {
        let Self { listener, chain, clock, .. } = self;
        let mut connections = JoinSet::new();
        let serve = |socket| {
            let (chain, clock) = (chain.clone(), clock.clone());
            async move { serve(socket, &chain, &clock).await }
        };
        let ended = tokio::select! {
            never = accept_bounded(&listener, MAX_CONNECTIONS, &*clock, &mut connections, serve) => match never {},
            () = shutdown.requested() => false,
            () = chain.ended() => true,
        };
        connections.shutdown().await;
        if ended { Err(LocalServerError::ChainEnded) } else { Ok(()) }
    }
}

/// Answers one connection's requests, one after the other, until it closes, idles, or sends what is no request (before
/// its answer is there, nothing is).
async fn serve(socket: TcpStream, chain: &LocalChain, clock: &SharedClock) {
    let idle = || clock.sleep(Duration::from_secs(IDLE_SECONDS));
    let mut lines = Framed::new(socket, wire::codec(wire::MAX_REQUEST_BYTES));
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            () = idle() => return,
        };
        let ask = match line {
            None | Some(Err(LinesCodecError::Io(_))) => return,
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                Err(format!("a request may have {} bytes", wire::MAX_REQUEST_BYTES))
            }
            Some(Ok(line)) => read(&line),
        };
        let (reply, last) = match ask {
            Ok(ask) => {
                // A caller that leaves does not keep its place until the next block.
                let answer = tokio::select! {
                    answer = chain.ask(ask.request) => answer,
                    _ = lines.next() => return,
                };
                let reply = answer.map_or_else(Reply::Error, |answer| Reply::Answer(Box::new(answer)));
                (reply, false)
            }
            Err(reason) => (Reply::Unread { version: wire::VERSION, reason }, true),
        };
        let Ok(line) = serde_json::to_string(&reply) else { return };
        let sent = tokio::select! {
            sent = lines.send(line) => sent.is_ok(),
            () = idle() => false,
        };
        if !sent || last {
            return;
        }
    }
}

fn read(line: &str) -> Result<Ask, String> {
    let ask: Ask = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if ask.version != wire::VERSION {
        return Err(format!("the request is of version {}, this chain speaks {}", ask.version, wire::VERSION));
    }
    Ok(ask)
}

#[cfg(test)]
mod tests;
