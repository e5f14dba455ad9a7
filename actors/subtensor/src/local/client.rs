//! A local chain behind a socket.
//!
//! Each call has a connection of its own: there is nothing to reconnect, and a chain that was killed and started again is
//! reached by the next call. On loopback a connection costs less than the JSON that goes through it.

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use futures::{SinkExt, StreamExt};
use openvalidators_messages::subtensor::ChainError;
use openvalidators_runtime::SharedClock;
use tokio::net::TcpStream;
use tokio_util::codec::{Framed, LinesCodecError};

use super::{
    node::{Answer, Node, Request},
    wire::{self, Ask, Reply},
};
use crate::chain::with_deadline;

/// Reaches a [`super::LocalServer`].
#[derive(Clone)]
pub struct LocalClient {
    address: SocketAddr,
    clock: SharedClock,
    timeout: Duration,
}

// === impl LocalClient ===

impl LocalClient {
    /// Connects to nothing yet. `timeout` is each call's deadline, except for waiting for the next block, which has the
    /// caller's alone. It must be longer than a block: a transaction is answered in the next one.
    #[must_use]
    pub fn new(address: SocketAddr, clock: SharedClock, timeout: Duration) -> Self {
        Self { address, clock, timeout }
    }

    async fn exchange(&self, request: Request) -> Result<Answer, ChainError> {
        let call = request.name();
        let unreachable = |attempt: &str, reason: &dyn std::fmt::Display| ChainError::Unreachable {
            call: call.to_owned(),
            reason: format!("could not {attempt} {}: {reason}", self.address),
        };
        let bad = |reason: String| ChainError::BadAnswer { call: call.to_owned(), reason };
        let line = serde_json::to_string(&Ask { version: wire::VERSION, request })
            .map_err(|error| bad(format!("the request could not be written: {error}")))?;

        let socket = TcpStream::connect(self.address).await.map_err(|error| unreachable("connect to", &error))?;
        let mut lines = Framed::new(socket, wire::codec(wire::MAX_ANSWER_BYTES));
        lines.send(line).await.map_err(|error| unreachable("write to", &error))?;
        let line = match lines.next().await {
            Some(Ok(line)) => line,
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                return Err(bad(format!("an answer may have {} bytes", wire::MAX_ANSWER_BYTES)));
            }
            Some(Err(error)) => return Err(unreachable("read from", &error)),
            None => return Err(unreachable("read from", &"it closed the connection without an answer")),
        };
        match serde_json::from_str(&line) {
            Ok(Reply::Answer(answer)) => Ok(*answer),
            Ok(Reply::Error(error)) => Err(error),
            Ok(Reply::Unread { version, reason }) => {
                Err(bad(format!("the chain (version {version}) did not understand: {reason}")))
            }
            Err(error) => Err(bad(error.to_string())),
        }
    }
}

#[async_trait]
impl Node for LocalClient {
    async fn ask(&self, request: Request) -> Result<Answer, ChainError> {
        if matches!(request, Request::NextBlock { .. }) {
            return self.exchange(request).await;
        }
        let call = request.name();
        with_deadline(&*self.clock, self.timeout, call, self.exchange(request)).await
    }
}
