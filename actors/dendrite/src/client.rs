//! One exchange over HTTP/1.1, within limits. A thin layer over hyper's pooled client: connections are kept per axon,
//! there is no limit over all axons (hanging ones would starve the others), redirects are not followed.

use std::{error::Error, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Uri,
    body::{Body, Incoming},
    header::{ACCEPT, ACCEPT_ENCODING, HeaderValue, USER_AGENT},
};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use prometheus::IntCounter;

use crate::{
    config::Config,
    response::{Failure, Received},
};

/// How miners are asked, on either wire.
pub(crate) const METHOD: Method = Method::POST;

/// What they are asked for: the class name of the synapse.
pub(crate) const PATH: &str = "/Prompting";

/// Our name to axons.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("openvalidators/", env!("CARGO_PKG_VERSION")));

/// Compression is not asked for: what unpacks can unpack to anything.
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// The pool and its limits.
pub(crate) struct HttpClient {
    pool: Client<HttpConnector, Full<Bytes>>,
    max_body_bytes: usize,
    received_bytes: IntCounter,
}

// === impl HttpClient ===

impl HttpClient {
    pub fn new(config: &Config, received_bytes: IntCounter) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(config.connect_timeout()));
        connector.set_nodelay(true);
        let pool = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(config.pool_idle())
            .pool_max_idle_per_host(config.pool_max_idle_per_miner)
            .http1_max_headers(config.max_headers)
            .http1_max_buf_size(config.max_head_bytes)
            .build(connector);
        Self { pool, max_body_bytes: config.max_body_bytes, received_bytes }
    }

    /// Posts a synapse and reads the reply. Has no deadline of its own beyond that of connecting: drop it to give up.
    pub async fn exchange(&self, to: SocketAddr, headers: HeaderMap, body: String) -> Result<Received, Failure> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(to.to_string())
            .path_and_query(PATH)
            .build()
            .map_err(|error| Failure::Internal(error.to_string()))?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = METHOD;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(ACCEPT_ENCODING, IDENTITY);
        headers.insert(USER_AGENT, AGENT);
        let reply = self.pool.request(request).await.map_err(|error| failure_of(to, &error))?;
        let (head, body) = reply.into_parts();
        let body = self.read(body).await?;
        Ok(Received { status: head.status, headers: head.headers, body })
    }

    /// Reads as far as the limit; a body that says beforehand that it is larger is not read at all.
    async fn read(&self, mut body: Incoming) -> Result<Bytes, Failure> {
        let too_large = || Failure::TooLarge(self.max_body_bytes);
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > self.max_body_bytes {
            return Err(too_large());
        }
        let mut whole = BytesMut::with_capacity(announced);
        while let Some(frame) = body.frame().await {
            // Trailers are read by hyper within limits of its own, and mean nothing here.
            let Ok(data) = frame.map_err(|error| broken_body(&error))?.into_data() else { continue };
            self.received_bytes.inc_by(data.len() as u64);
            if whole.len() + data.len() > self.max_body_bytes {
                return Err(too_large());
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }
}

fn failure_of(to: SocketAddr, error: &legacy::Error) -> Failure {
    let why = root_cause(error);
    if error.is_connect() {
        return Failure::NoConnection(to, why);
    }
    match error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) {
        Some(http) if http.is_parse() || http.is_parse_too_large() || http.is_parse_status() => {
            Failure::BadProtocol(why)
        }
        _ => Failure::Disconnected(why),
    }
}

fn broken_body(error: &hyper::Error) -> Failure {
    let why = root_cause(error);
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    let malformed =
        io.is_some_and(|io| matches!(io.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData));
    if malformed || error.is_parse() { Failure::BadProtocol(why) } else { Failure::CutShort(why) }
}

/// The innermost error: the outer ones say "client error".
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
