//! The HTTP listener: `/metrics` for Prometheus, `/health` and `/ready` for supervisors.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::{Health, HealthReport};

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

    /// Serves until `stop` is ready.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(
        self,
        registry: Registry,
        health: Health,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let shared = Shared { registry, health: Arc::new(health) };
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(async |State(shared): State<Shared>| answer(&shared.health.is_live())))
            .route("/ready", get(async |State(shared): State<Shared>| answer(&shared.health.is_ready())))
            .with_state(shared);
        axum::serve(self.listener, routes).with_graceful_shutdown(stop).await
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
