//! The HTTP listener: `/metrics` for Prometheus, `/health` and `/ready` for supervisors.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use openvalidators_runtime::{SharedClock, accept_bounded};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{Health, HealthReport};

/// Connections served at once; further ones wait. A scraper keeps one, a person's browser a few.
const MAX_CONNECTIONS: usize = 64;
/// How long the head of a request may take; also how long an unused connection is kept. Prometheus asks every 15 s or so.
const HEAD_LIMIT: Duration = Duration::from_secs(60);

/// A listener that is bound and serves once it is told to.
pub struct Exporter {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Shared {
    registry: Registry,
    health: Arc<Health>,
}

/// The exporter cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// Somebody else does.
    #[error(
        "reporting.metrics.address {address} is in use: is another validator running here? End it, or choose another \
         port (reporting.metrics.address), or none at all (reporting.metrics.off = true)"
    )]
    InUse {
        /// The configured address.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("could not listen on reporting.metrics.address {address}: {source}")]
    Refused {
        /// The configured address.
        address: SocketAddr,
        /// What it said.
        source: io::Error,
    },
}

// === impl Exporter ===

impl Exporter {
    /// Takes the port and serves nothing yet. Port 0 takes any that is free.
    ///
    /// # Errors
    /// [`ExporterError`].
    pub async fn bind(address: SocketAddr) -> Result<Self, ExporterError> {
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "metrics are served beyond this machine, without a password");
        }
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ExporterError::InUse { address },
            _ => ExporterError::Refused { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for ever. Dropped, it closes every connection.
    pub async fn serve(self, registry: Registry, health: Arc<Health>, clock: SharedClock) -> Infallible {
        let shared = Shared { registry, health };
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(async |State(shared): State<Shared>| answer(&shared.health.is_live())))
            .route("/ready", get(async |State(shared): State<Shared>| answer(&shared.health.is_ready())))
            .with_state(shared);
        let mut connections = JoinSet::new();
        let serve = |stream| serve_connection(stream, routes.clone());
        accept_bounded(&self.listener, MAX_CONNECTIONS, &*clock, &mut connections, serve).await
    }
}

async fn serve_connection(stream: TcpStream, routes: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the exporter ended");
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&shared.registry.gather(), &mut text) {
        Ok(()) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn answer(report: &HealthReport) -> Response {
    let status = if report.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(report) {
        Ok(json) => (status, [(CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests;
