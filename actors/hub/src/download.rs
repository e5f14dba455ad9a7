//! One file over HTTP: resumed where an earlier request stopped, retried with patience, never longer than promised,
//! and verified before anybody sees it.

use std::{
    error::Error,
    io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use openvalidators_runtime::{AtPath, FileError, SharedClock};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{
        ACCEPT, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER,
    },
    redirect::Policy,
};
use serde::{Deserialize, Serialize};
use tokio::{fs::File, io::AsyncWriteExt};

use crate::{
    Event, HubError, Progress,
    cache::sha256_of,
    config::{Settings, Token},
};

/// Redirects followed for one request; the hub needs two.
const REDIRECTS: usize = 6;
/// The first pause before a request is repeated; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, also when a server asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// What is to be fetched.
pub(crate) struct Wanted<'a> {
    /// For people.
    pub label: &'a str,
    pub url: Url,
    pub token: Option<&'a Token>,
    /// The exact size, where it is known.
    pub bytes: Option<u64>,
    /// More than this is refused.
    pub limit_bytes: u64,
    /// What the file must be, where it is known.
    pub sha256: Option<&'a str>,
    /// Where it is written. Whole and verified after success.
    pub part: &'a Path,
}

/// Why a file could not be had.
#[derive(Debug)]
pub(crate) enum Failure {
    /// This source does not serve it; another may.
    Source(String),
    /// It refused to, and a hub says why in a word.
    Refused { status: StatusCode, code: Option<String> },
    /// This machine is at fault: no other source would help.
    Here(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Here(error)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::Here(error.into())
    }
}

impl Failure {
    /// Says which file it was.
    pub fn of(self, file: &str) -> Self {
        match self {
            Self::Source(reason) => Self::Source(format!("{file}: {reason}")),
            Self::Refused { status, .. } => Self::Source(format!("{file}: it answered {status}")),
            here @ Self::Here(_) => here,
        }
    }
}

/// Fetches files.
pub(crate) struct Downloader<'a> {
    pub client: Client,
    /// The same, but for redirects, which it hands on.
    pub heads: Client,
    pub clock: &'a SharedClock,
    pub progress: &'a dyn Progress,
    pub attempts: NonZeroU32,
}

/// What a server says of a file without sending it.
pub(crate) struct Head {
    pub headers: HeaderMap,
    /// The file itself is on another host; the headers are not of that one.
    pub redirected: bool,
}

/// How one request ended, if not well.
pub(crate) enum Trouble {
    /// Worth repeating, after the pause the server asked for.
    Passing { reason: String, pause: Option<Duration>, advanced: bool },
    /// No connection came about.
    Unreachable(String),
    /// Not worth repeating.
    Lasting(Failure),
}

/// What must be remembered of an unfinished file to go on with it; lies beside it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Unfinished {
    /// Without the query, which holds a signature on some servers.
    address: String,
    /// The strong `ETag`, else `Last-Modified`: what `If-Range` compares. None for what another program left, which is gone
    /// on with where a sha256 will tell whether that was right.
    validator: Option<String>,
    /// The size of the part.
    #[serde(skip)]
    done: u64,
}

/// Builds the client that everything is fetched with.
///
/// The system's certificate store is trusted (with `SSL_CERT_FILE` and `SSL_CERT_DIR` as everywhere), plus the
/// configured certificates. Proxies come from the environment.
pub(crate) fn client(settings: &Settings) -> Result<Client, HubError> {
    build(settings, following())
}

/// The same, handing redirects on instead of following them.
pub(crate) fn client_for_heads(settings: &Settings) -> Result<Client, HubError> {
    build(settings, Policy::none())
}

fn following() -> Policy {
    Policy::custom(|attempt| {
        let left_https =
            attempt.previous().last().is_some_and(|from| from.scheme() == "https") && attempt.url().scheme() != "https";
        if left_https {
            attempt.error("redirected from https to plain http")
        } else if attempt.previous().len() > REDIRECTS {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    })
}

fn build(settings: &Settings, redirects: Policy) -> Result<Client, HubError> {
    // Fails when the process has a provider already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("openvalidators/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.connect_timeout)
        .read_timeout(settings.idle_timeout)
        .redirect(redirects);
    if let Some(path) = &settings.certificates {
        let bad = |reason: String| HubError::BadSetting {
            setting: "certificates_file, PIP_CERT, REQUESTS_CA_BUNDLE, or cert of pip's configuration".into(),
            reason: format!("{}: {reason}", path.display()),
        };
        let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad(because(&error)))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| HubError::BadSetting {
        setting: "the HTTPS client".into(),
        reason: format!("{}. SSL_CERT_FILE, or certificates_file, names the certificates to trust", because(&error)),
    })
}

// === impl Downloader ===

impl Downloader<'_> {
    /// Fetches a small text.
    pub async fn text(
        &self,
        url: Url,
        accept: &'static str,
        token: Option<&Token>,
        limit_bytes: usize,
    ) -> Result<String, Failure> {
        self.patiently(async || {
            let request = with_token(self.client.get(url.clone()).header(ACCEPT, accept), token);
            let mut response = accepted(request.send().await)?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| passing(because(&error)))? {
                if body.len() + chunk.len() > limit_bytes {
                    return Err(lasting(format!("its answer passes {limit_bytes} bytes")));
                }
                body.extend_from_slice(&chunk);
            }
            String::from_utf8(body).map_err(|_| lasting("its answer is not UTF-8".into()))
        })
        .await
    }

    /// What a server says of a file. Redirects within the server are followed, as for a repository that was renamed; one to
    /// another host ends the questions.
    pub async fn head(&self, url: Url, token: Option<&Token>) -> Result<Head, Failure> {
        self.patiently(async || {
            let mut url = url.clone();
            for _ in 0..=REDIRECTS {
                let sent = with_token(self.heads.head(url.clone()), token).send().await;
                let redirected = sent.as_ref().is_ok_and(|response| response.status().is_redirection());
                let response = if redirected { answered(sent) } else { accepted(sent) }?;
                let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
                match location.filter(|location| redirected && location.starts_with('/') && !location.starts_with("//"))
                {
                    Some(path) => {
                        url = url.join(path).map_err(|error| lasting(format!("it redirects nowhere: {error}")))?;
                    }
                    None => return Ok(Head { headers: response.headers().clone(), redirected }),
                }
            }
            Err(lasting("too many redirects".into()))
        })
        .await
    }

    /// Fetches a file into `wanted.part`, going on where an earlier call stopped; one that was whole is not fetched
    /// again.
    pub async fn file(&self, wanted: &Wanted<'_>) -> Result<(), Failure> {
        self.patiently(async || {
            let resumed = self.request(wanted).await?;
            let Some(expected) = wanted.sha256 else { return Ok(()) };
            let part = wanted.part.to_owned();
            let found = tokio::task::spawn_blocking(move || sha256_of(&part).at("read", part))
                .await
                .map_err(|error| lasting(format!("hashing it failed: {error}")))?
                .map_err(here)?;
            if found == expected {
                return Ok(());
            }
            forget(wanted.part).map_err(here)?;
            let reason = format!("sha256 is {found}, expected {expected}");
            // A resumed file may be two halves of different ones; a whole one is simply wrong.
            if resumed { Err(passing(reason)) } else { Err(lasting(reason)) }
        })
        .await?;
        self.progress.report(Event::Finished { file: wanted.label });
        Ok(())
    }

    /// Repeats a request while repeating makes sense. Only attempts in a row without a new byte count; a server that
    /// takes no connection gets two, so that the next source has its turn within seconds.
    pub async fn patiently<T>(&self, mut request: impl AsyncFnMut() -> Result<T, Trouble>) -> Result<T, Failure> {
        let mut failed = 0;
        loop {
            let (reason, pause, allowed) = match request().await {
                Ok(done) => return Ok(done),
                Err(Trouble::Lasting(failure)) => return Err(failure),
                Err(Trouble::Unreachable(reason)) => (reason, None, self.attempts.get().min(2)),
                Err(Trouble::Passing { reason, pause, advanced }) => {
                    failed = if advanced { 0 } else { failed };
                    (reason, pause, self.attempts.get())
                }
            };
            failed += 1;
            if failed >= allowed {
                return Err(Failure::Source(reason));
            }
            self.progress.report(Event::Retrying { reason: &reason });
            let doubled = FIRST_PAUSE.saturating_mul(1 << (failed - 1).min(8));
            self.clock.sleep(pause.unwrap_or(doubled).min(LONGEST_PAUSE)).await;
        }
    }

    /// One request, from wherever the part ends. Says whether it went on from an earlier one.
    async fn request(&self, wanted: &Wanted<'_>) -> Result<bool, Trouble> {
        let unfinished = Unfinished::recall(wanted).map_err(here)?;
        let done = unfinished.as_ref().map_or(0, |unfinished| unfinished.done);
        if done > 0 && Some(done) == wanted.bytes {
            return Ok(true);
        }
        let mut request = with_token(self.client.get(wanted.url.clone()), wanted.token);
        if let Some(unfinished) = &unfinished {
            request = request.header(RANGE, format!("bytes={done}-"));
            if let Some(validator) = &unfinished.validator {
                request = request.header(IF_RANGE, validator);
            }
        }
        let response = accepted(request.send().await)?;
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        let (start, total) = if resumed {
            content_range(&response).unwrap_or((u64::MAX, None))
        } else {
            // The whole file: it changed, the server knows no ranges, or there was nothing to go on with.
            (0, response.content_length())
        };
        if start != if resumed { done } else { 0 } || response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            forget(wanted.part).map_err(here)?;
            return Err(passing(format!("asked for the bytes from {done}, was answered {}", response.status())));
        }
        refuse_wrong_size(wanted, total)?;
        Unfinished::remember(wanted, &response).map_err(here)?;
        self.progress.report(Event::Started { file: wanted.label, done: start, total: total.or(wanted.bytes) });
        self.receive(wanted, response, start, total).await?;
        Ok(resumed)
    }

    /// Appends the body to the part.
    async fn receive(
        &self,
        wanted: &Wanted<'_>,
        mut response: Response,
        start: u64,
        total: Option<u64>,
    ) -> Result<(), Trouble> {
        let io = |result: io::Result<()>| result.at("write", wanted.part).map_err(here);
        let mut file =
            File::options().create(true).append(true).open(wanted.part).await.at("open", wanted.part).map_err(here)?;
        io(file.set_len(start).await)?;
        let mut done = start;
        let ended = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    done += chunk.len() as u64;
                    if done > wanted.bytes.or(total).unwrap_or(u64::MAX).min(wanted.limit_bytes) {
                        drop(file);
                        forget(wanted.part).map_err(here)?;
                        return Err(lasting(format!(
                            "it sends more than the {} bytes expected",
                            done - chunk.len() as u64
                        )));
                    }
                    io(file.write_all(&chunk).await)?;
                    self.progress.report(Event::Advanced { done });
                }
                Ok(None) => break None,
                Err(error) => break Some(because(&error)),
            }
        };
        // Also after an interruption: what came is kept for the next request.
        io(file.sync_data().await)?;
        match (ended, total.or(wanted.bytes)) {
            (Some(reason), _) => Err(Trouble::Passing {
                reason: format!("broke off at byte {done}: {reason}"),
                pause: None,
                advanced: done > start,
            }),
            (None, Some(expected)) if done < expected => Err(Trouble::Passing {
                reason: format!("ended at byte {done} of {expected}"),
                pause: None,
                advanced: done > start,
            }),
            (None, _) => Ok(()),
        }
    }
}

// === impl Unfinished ===

impl Unfinished {
    /// What an earlier request left, if one can go on with it. What cannot be used is removed.
    fn recall(wanted: &Wanted<'_>) -> Result<Option<Self>, HubError> {
        let done = std::fs::metadata(wanted.part).map_or(0, |metadata| metadata.len());
        let known = std::fs::read(memory_of(wanted.part))
            .ok()
            .and_then(|json| serde_json::from_slice::<Self>(&json).ok())
            .filter(|known| done > 0 && known.address == address(&wanted.url));
        let left_by_another = Self { address: address(&wanted.url), validator: None, done };
        let known = known.or((done > 0 && wanted.sha256.is_some()).then_some(left_by_another));
        if known.is_none() || done > wanted.bytes.unwrap_or(wanted.limit_bytes) {
            forget(wanted.part)?;
            return Ok(None);
        }
        Ok(known.map(|known| Self { done, ..known }))
    }

    /// Writes down what is needed to go on. A server that gives no validator cannot be resumed.
    fn remember(wanted: &Wanted<'_>, response: &Response) -> Result<(), FileError> {
        let header = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let path = memory_of(wanted.part);
        let strong = header(ETAG).filter(|etag| !etag.starts_with("W/"));
        let Some(validator) = strong.or_else(|| header(LAST_MODIFIED)) else {
            return std::fs::remove_file(&path).or_else(absent_is_fine).at("remove", path);
        };
        let known = Self { address: address(&wanted.url), validator: Some(validator.to_owned()), done: 0 };
        let json = serde_json::to_vec(&known).map_err(io::Error::other).at("write", &path)?;
        std::fs::write(&path, json).at("write", path)
    }
}

fn memory_of(part: &Path) -> PathBuf {
    part.with_added_extension("json")
}

fn address(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// Drops an unfinished download.
pub(crate) fn forget(part: &Path) -> Result<(), FileError> {
    for path in [part.to_owned(), memory_of(part)] {
        std::fs::remove_file(&path).or_else(absent_is_fine).at("remove", path)?;
    }
    Ok(())
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

// === Reading answers ===

/// The answer, if it is one that carries the bytes asked for (or says that the range is past the end).
pub(crate) fn accepted(sent: reqwest::Result<Response>) -> Result<Response, Trouble> {
    let response = answered(sent)?;
    let status = response.status();
    let reason = format!("it answered {status}");
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Err(Trouble::Passing { reason, pause: retry_after(&response), advanced: false })
        }
        status if status.is_server_error() => {
            Err(Trouble::Passing { reason, pause: retry_after(&response), advanced: false })
        }
        status => {
            let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok()).map(str::to_owned);
            Err(Trouble::Lasting(Failure::Refused { status, code }))
        }
    }
}

/// The answer, whatever it is.
fn answered(sent: reqwest::Result<Response>) -> Result<Response, Trouble> {
    sent.map_err(|error| {
        let reason = because(&error);
        match () {
            () if error.is_redirect() || error.is_builder() => lasting(reason),
            () if error.is_connect() => Trouble::Unreachable(reason),
            () => passing(reason),
        }
    })
}

/// Refuses before the first byte what cannot be the file.
fn refuse_wrong_size(wanted: &Wanted<'_>, total: Option<u64>) -> Result<(), Trouble> {
    match (total, wanted.bytes) {
        (Some(total), Some(bytes)) if total != bytes => {
            Err(lasting(format!("it offers a file of {total} bytes, expected {bytes}")))
        }
        (Some(total), _) if total > wanted.limit_bytes => {
            Err(lasting(format!("it offers {total} bytes, the limit is {}", wanted.limit_bytes)))
        }
        _ => Ok(()),
    }
}

/// First byte and size of the file, from `Content-Range: bytes 5-9/10` (`*` for an unknown size).
pub(crate) fn content_range(response: &Response) -> Option<(u64, Option<u64>)> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    Some((start, if total == "*" { None } else { Some(total.parse().ok()?) }))
}

pub(crate) fn with_token(request: RequestBuilder, token: Option<&Token>) -> RequestBuilder {
    match token {
        Some(token) => request.bearer_auth(&token.0),
        None => request,
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

fn here(error: impl Into<Failure>) -> Trouble {
    Trouble::Lasting(error.into())
}

pub(crate) fn passing(reason: String) -> Trouble {
    Trouble::Passing { reason, pause: None, advanced: false }
}

pub(crate) fn lasting(reason: String) -> Trouble {
    Trouble::Lasting(Failure::Source(reason))
}

/// An error with its causes on one line, and without the address, which may hold a password or a signature.
pub(crate) fn because(error: &reqwest::Error) -> String {
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
