//! The served axon: the other end of the wire, for local miners and for validators that are asked themselves.
//!
//! It answers as the SDK's axon does (`bittensor/core/axon.py`), pings included: blacklist, then verification, then the body's hash, then
//! the forward function; refusals carry `bt_header_axon_status_code` and a JSON `message`. Stricter than the SDK in what
//! keeps memory bounded, see [`verify`].

use std::{io, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use openvalidators_messages::Hotkey;
use openvalidators_runtime::{SharedClock, accept_bounded, within};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use self::{exchange::Exchange, verify::Verifier};

mod exchange;
mod reply;
mod verify;

pub use reply::Reply;

/// Limits of a served axon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AxonConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Connections at a time; further ones wait.
    pub max_connections: usize,
    /// Largest body of a request.
    pub max_body_bytes: usize,
    /// How long a head, and then a body, may take to come; also how long an unused connection is kept.
    pub read_timeout_seconds: f64,
    /// How long requests in hand may take once the axon is closing.
    pub close_timeout_seconds: f64,
}

/// What an axon does with what it is asked. Any `Fn(AxonRequest) -> impl Future<Output = Reply>` is one.
pub trait Forward: Send + Sync + 'static {
    /// Why this dendrite is not served; asked before its signature is checked.
    fn blacklist(&self, _dendrite: &Hotkey) -> Option<String> {
        None
    }

    /// Answers one verified request. A panic is answered with status 500.
    fn forward(&self, request: AxonRequest) -> BoxFuture<'static, Reply>;
}

/// A verified request.
#[derive(Clone, Debug, PartialEq)]
pub struct AxonRequest {
    /// Who signed it.
    pub dendrite: Hotkey,
    /// As many as `messages`, if the sender is honest.
    pub roles: Vec<String>,
    /// The conversation.
    pub messages: Vec<String>,
    /// How long the sender says it will wait.
    pub timeout: Duration,
}

/// A running axon. Dropped, it closes without waiting for anybody.
#[derive(Debug)]
pub struct Axon {
    address: SocketAddr,
    closing: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

// === impl Axon ===

impl Axon {
    /// Listens and serves on the current tokio runtime, as `hotkey`.
    ///
    /// # Errors
    /// When the address cannot be bound; the error names it.
    pub async fn serve(
        hotkey: Hotkey,
        config: AxonConfig,
        clock: SharedClock,
        forward: impl Forward,
    ) -> io::Result<Self> {
        Self::start(hotkey, config, clock, Some(Box::new(forward))).await
    }

    /// The same, for who is seen and not asked: signed pings are answered, everything else is refused.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub async fn serve_pings(hotkey: Hotkey, config: AxonConfig, clock: SharedClock) -> io::Result<Self> {
        Self::start(hotkey, config, clock, None).await
    }

    async fn start(
        hotkey: Hotkey,
        config: AxonConfig,
        clock: SharedClock,
        forward: Option<Box<dyn Forward>>,
    ) -> io::Result<Self> {
        let named = |error: io::Error| {
            let what = format!("cannot listen at {}: {error}; choose another address or port", config.listen);
            io::Error::new(error.kind(), what)
        };
        let listener = TcpListener::bind(config.listen).await.map_err(named)?;
        let address = listener.local_addr()?;
        let exchange = Exchange {
            verifier: Verifier::new(hotkey, clock.clone()),
            forward,
            clock,
            max_body_bytes: config.max_body_bytes,
            read_timeout: config.read_timeout(),
        };
        let (closing, closed) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, config, Arc::new(exchange), closed));
        Ok(Self { address, closing, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests and waits for those in hand, as long as the configuration allows.
    pub async fn close(self) {
        let _ = self.closing.send(true);
        let _ = self.accepting.await;
    }
}

async fn accept(listener: TcpListener, config: AxonConfig, exchange: Arc<Exchange>, mut closed: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let on_close = closed.clone();
    let serve = |stream| serve_connection(stream, &config, exchange.clone(), on_close.clone());
    tokio::select! {
        never = accept_bounded(&listener, config.max_connections, &*exchange.clock, &mut connections, serve) => match never {},
        // A dropped sender closes too.
        _ = closed.changed() => {}
    }
    drop(listener);
    if closed.has_changed().is_ok() {
        let patience = Duration::from_secs_f64(config.close_timeout_seconds);
        let drained = async { while connections.join_next().await.is_some() {} };
        if within(&*exchange.clock, patience, drained).await.is_err() {
            tracing::warn!("closing an axon that is still asked");
        }
    }
}

fn serve_connection(
    stream: TcpStream,
    config: &AxonConfig,
    exchange: Arc<Exchange>,
    mut closed: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + use<> {
    let read_timeout = config.read_timeout();
    async move {
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let exchange = exchange.clone();
            async move { exchange.handle(request).await }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(read_timeout)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            _ = closed.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the axon ended");
        }
    }
}

// === impl AxonConfig ===

impl AxonConfig {
    fn read_timeout(&self) -> Duration {
        Duration::try_from_secs_f64(self.read_timeout_seconds).unwrap_or(Duration::from_secs(10))
    }
}

impl Default for AxonConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            max_connections: 1_024,
            max_body_bytes: 1_024 * 1_024,
            read_timeout_seconds: 10.0,
            close_timeout_seconds: 5.0,
        }
    }
}

// === Forward for closures ===

impl<F, Replying> Forward for F
where
    F: Fn(AxonRequest) -> Replying + Send + Sync + 'static,
    Replying: Future<Output = Reply> + Send + 'static,
{
    fn forward(&self, request: AxonRequest) -> BoxFuture<'static, Reply> {
        self(request).boxed()
    }
}

/// Calls the forward function; `None` when it panicked.
async fn forward_safely(forward: &dyn Forward, request: AxonRequest) -> Option<Reply> {
    let replying = std::panic::catch_unwind(AssertUnwindSafe(|| forward.forward(request))).ok()?;
    AssertUnwindSafe(replying).catch_unwind().await.ok()
}

#[cfg(test)]
mod tests;
