//! One HTTP exchange with one server: a bounded body each way, no redirects, and faults sorted by whose they are.

use std::{error::Error, time::Duration};

use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::{Serialize, de::DeserializeOwned};

use super::config::RemoteConfig;

/// How much of a server's own words about an error is repeated.
const QUOTED_BYTES: usize = 200;

/// A server, and how it is reached.
#[derive(Clone, Debug)]
pub(super) struct Server {
    http: Client,
    base: Url,
    max_body_bytes: usize,
}

/// Why an exchange brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server is at fault: down, busy, or not what it should be. It may say for how long it wants to be left alone.
    Server { reason: String, pause: Option<Duration> },
    /// The server could not serve these rows; others may do better.
    Rows(String),
}

// === impl Server ===

impl Server {
    /// Every server of `config`, none of them asked yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub(super) fn all(config: &RemoteConfig, variable: impl Fn(&str) -> Option<String>) -> Result<Vec<Self>, String> {
        // Fails when the process has a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(key) = config.api_key(variable)? {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| "the API key holds characters that no header may hold".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = Client::builder()
            .user_agent(concat!("openvalidators/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(Duration::from_secs(config.limits.connect_timeout_seconds.max(1)))
            // Where a redirect leads is not what was configured, and the key would go there too.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| format!("the HTTP client: {}", because(&error)))?;
        let max_body_bytes = config.limits.max_body_bytes;
        Ok(config.bases()?.into_iter().map(|base| Self { http: http.clone(), base, max_body_bytes }).collect())
    }

    /// Where it is, for people and records. Addresses hold no credentials.
    pub(super) fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// What `GET path` answers.
    ///
    /// # Errors
    /// [`Fault`], always the server's.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        self.exchange(path, |url| self.http.get(url)).await.map_err(Fault::of_the_server)
    }

    /// What `POST path` of `body` answers.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Fault> {
        self.exchange(path, |url| self.http.post(url).json(body)).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        path: &str,
        request: impl FnOnce(Url) -> RequestBuilder,
    ) -> Result<T, Fault> {
        let at = |reason: String| format!("/{path}: {reason}");
        let url = self.base.join(path).map_err(|error| Fault::server(at(error.to_string())))?;
        let response = request(url).send().await.map_err(|error| Fault::server(at(because(&error))))?;
        let (status, pause) = (response.status(), retry_after(&response));
        let body = self.body(response).await.map_err(|reason| Fault::server(at(reason)))?;
        if status != StatusCode::OK {
            let reason = at(format!("it answered {status}{}", quoted(&body)));
            return Err(if is_about_rows(status) { Fault::Rows(reason) } else { Fault::Server { reason, pause } });
        }
        serde_json::from_slice(&body)
            .map_err(|error| Fault::server(at(format!("not the answer expected: {error}{}", quoted(&body)))))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, String> {
        let limit = self.max_body_bytes;
        let too_long = || format!("its answer passes {limit} bytes (`limits.max_body_bytes`)");
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| because(&error))? {
            if body.len() + chunk.len() > limit {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

// === impl Fault ===

impl Fault {
    pub(super) fn server(reason: impl Into<String>) -> Self {
        Self::Server { reason: reason.into(), pause: None }
    }

    fn of_the_server(self) -> Self {
        match self {
            Self::Rows(reason) => Self::server(reason),
            fault @ Self::Server { .. } => fault,
        }
    }
}

/// Whether a status speaks of what was sent, and not of the server: too long, not tokenisable, or a row that the server
/// breaks on, which it says as 500.
fn is_about_rows(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::FAILED_DEPENDENCY
            | StatusCode::INTERNAL_SERVER_ERROR
    )
}

fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// The beginning of what a server says, in one line of printable letters.
fn quoted(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(QUOTED_BYTES)]);
    let line = text.split(|letter: char| letter.is_whitespace() || letter.is_control()).filter(|word| !word.is_empty());
    match line.collect::<Vec<_>>().join(" ") {
        line if line.is_empty() => String::new(),
        line => format!(": {line}"),
    }
}

/// An error with its causes on one line, without the address.
fn because(error: &reqwest::Error) -> String {
    let mut words = if error.is_timeout() { "timed out".to_owned() } else { String::new() };
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.contains(&text) {
            words.push_str(if words.is_empty() { "" } else { ": " });
            words.push_str(&text);
        }
        cause = error.source();
    }
    if words.is_empty() { "the request failed".to_owned() } else { words }
}
