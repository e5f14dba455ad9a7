//! Traces by OpenTelemetry: each forward with its steps, and in each step the waits of which it is made (route, query, score,
//! settle). They are sent as OTLP over HTTP where [`ENDPOINT`] says, and nowhere without it; the other variables of the
//! protocol (`OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT`, `_PROTOCOL`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`) have their
//! usual meaning: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.
//!
//! A collector that is slow or away costs a forward nothing: spans wait in a queue of the SDK's (2,048), are sent from a thread
//! of their own, and are dropped when the queue is full. Nothing of prompts or completions is in them.

use std::{env, time::Duration};

use anyhow::Context;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::Metadata;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

/// Says where traces go: the address of a collector, such as `http://127.0.0.1:4318`.
pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What spans are called unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "openvalidators";

/// How long the end of the program waits for the last spans to be sent.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// How long one request to the collector may take, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const REQUEST: Duration = Duration::from_secs(10);

/// Traces that are being sent. Dropped, the last ones go out.
pub struct Traces(SdkTracerProvider);

// === impl Traces ===

impl Traces {
    /// As the environment says; `None` when it says nothing. To be called outside of any runtime.
    ///
    /// # Errors
    /// When the address, or another of the variables, is none.
    pub fn start() -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = env::var(ENDPOINT).ok().filter(|endpoint| !endpoint.is_empty()) else { return Ok(None) };
        let attempted = || format!("sending traces to {ENDPOINT}={endpoint}");
        // Another part may have chosen it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::blocking::Client::builder().timeout(REQUEST).build().with_context(attempted)?;
        let exporter = SpanExporter::builder().with_http().with_http_client(client).build().with_context(attempted)?;
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(SERVICE);
        }
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        Ok(Some(Self(provider.build())))
    }

    /// What turns our spans into theirs.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let layer = tracing_opentelemetry::layer().with_tracer(self.0.tracer(SERVICE));
        // Lines of the log are not of the trace, and where and on which thread a future is polled says nothing.
        let layer = layer.with_location(false).with_threads(false).with_target(false).with_tracked_inactivity(false);
        layer.with_filter(filter_fn(is_of_a_forward))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Spans of the forwards: crates below us have spans too, those that send traces among them.
fn is_of_a_forward(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("openvalidators_prompts")
}
