//! wandb's HTTP interface, as far as rows need it: who we are, a run, and lines at offsets of its files.
//!
//! Operations and bodies are those of the real clients 0.15.3 and 0.31.0, which send the same ones.

use std::time::{Duration, SystemTime};

use openvalidators_runtime::SharedClock;
use parking_lot::Mutex;
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{credentials::ApiKey, metrics::WandbMetrics};

const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// The real client's limit of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(180);
/// Longer answers to what we send are not read; the longest repeats our configuration.
const ANSWER_BYTES: usize = 8 << 20;
/// Longer pages of rows are not read: they are asked for in smaller pieces.
const PAGE_BYTES: usize = 64 << 20;
/// A file of a run's history may be gigabytes.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(3600);
/// Of a server's words that are shown.
const SHOWN_CHARACTERS: usize = 300;
/// Waits that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// A clock further from the server's is complained about: times of rows are wrong, and certificates may seem so.
const SKEW_LIMIT_SECONDS: f64 = 60.0;

const VIEWER: &str = "query Viewer { viewer { id entity username email } }";
const UPSERT_BUCKET: &str = "mutation UpsertBucket($id: String, $name: String, $project: String, $entity: String, \
    $groupName: String, $description: String, $displayName: String, $notes: String, $commit: String, $config: JSONString, \
    $host: String, $debug: Boolean, $program: String, $repo: String, $jobType: String, $state: String, $sweep: String, \
    $tags: [String!], $summaryMetrics: JSONString) { upsertBucket(input: {id: $id, name: $name, groupName: $groupName, \
    modelName: $project, entityName: $entity, description: $description, displayName: $displayName, notes: $notes, config: \
    $config, commit: $commit, host: $host, debug: $debug, jobProgram: $program, jobRepo: $repo, jobType: $jobType, state: \
    $state, sweep: $sweep, tags: $tags, summaryMetrics: $summaryMetrics}) { bucket { id name displayName project { id name \
    entity { id name } } historyLineCount } inserted } }";

/// Talks to one server with one key.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    key: ApiKey,
    clock: SharedClock,
    metrics: WandbMetrics,
    task: ClientTask,
    /// Whether the clocks were far apart at the latest answer.
    skewed: Mutex<bool>,
}

/// What a client is for: what its refusals advise, and how long its answers may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientTask {
    Uploading,
    Reading,
}

/// Where the lines of a run go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub entity: String,
    pub project: String,
    pub run: String,
}

/// A run as it is told to the server.
#[derive(Clone, Debug, Default)]
pub(super) struct NewRun<'a> {
    pub id: &'a str,
    pub entity: &'a str,
    pub project: &'a str,
    pub notes: &'a str,
    pub tags: &'a [String],
    pub host: &'a str,
    /// `{name: {"value": …}}`
    pub config: Value,
}

/// A request without the answer asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// It may work later.
    #[error("{what}")]
    Passing {
        what: String,
        /// What the server asked for.
        wait: Option<Duration>,
    },
    /// It will not, unless somebody changes something.
    #[error("{0}")]
    Refused(String),
    /// It may work for less at once.
    #[error("{0}")]
    TooLong(String),
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Value>,
    #[serde(default)]
    errors: Vec<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    #[serde(default)]
    message: String,
}

// === impl Client ===

impl Client {
    pub(super) fn new(
        base: Url,
        key: ApiKey,
        clock: SharedClock,
        metrics: WandbMetrics,
        task: ClientTask,
    ) -> Result<Self, RequestError> {
        // Fails when the process has a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("openvalidators/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .timeout(REQUEST_LIMIT)
            // The key goes to the server that was named, and to no other.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| RequestError::Refused(format!("the HTTPS client: {}", because(&error))))?;
        Ok(Self { http, base, key, clock, metrics, task, skewed: Mutex::new(false) })
    }

    /// Whose key it is: the entity that runs go to when none is named.
    pub(super) async fn viewer(&self) -> Result<String, RequestError> {
        let data = self.graphql("Viewer", VIEWER, json!({}), "asking whose the API key is").await?;
        let entity = data.pointer("/viewer/entity").and_then(Value::as_str);
        entity.map(str::to_owned).ok_or_else(|| {
            let host = self.host();
            RequestError::Refused(format!(
                "the API key is nobody's at {host}. Check WANDB_API_KEY, netrc or api_key_file"
            ))
        })
    }

    /// Makes the run, or finds it.
    pub(super) async fn upsert(&self, run: &NewRun<'_>) -> Result<Target, RequestError> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let variables = json!({
            "id": null, "name": run.id, "project": run.project, "entity": run.entity, "groupName": null,
            "description": null, "displayName": null, "notes": text(run.notes), "commit": null,
            "config": run.config.to_string(), "host": text(run.host), "debug": null, "program": null, "repo": null,
            "jobType": null, "state": null, "sweep": null, "tags": run.tags, "summaryMetrics": null,
        });
        let attempt = format!("making run {} in {}/{}", run.id, run.entity, run.project);
        let data = self.graphql("UpsertBucket", UPSERT_BUCKET, variables, &attempt).await?;
        let bucket = data.pointer("/upsertBucket/bucket");
        let name = |pointer, otherwise: &str| {
            let found = bucket.and_then(|bucket| bucket.pointer(pointer)).and_then(Value::as_str);
            found.unwrap_or(otherwise).to_owned()
        };
        Ok(Target {
            entity: name("/project/entity/name", run.entity),
            project: name("/project/name", run.project),
            run: name("/name", run.id),
        })
    }

    /// Sends lines of a run's files. They are addressed by offset, so that sending them again changes nothing.
    pub(super) async fn stream(&self, target: &Target, body: &Value) -> Result<(), RequestError> {
        let Target { entity, project, run } = target;
        let path = ["files", entity, project, run, "file_stream"];
        let attempt = format!("sending rows of run {run} to {entity}/{project}");
        self.post(&path, body, &attempt).await.map(drop)
    }

    /// Asks a question of wandb's GraphQL interface.
    pub(super) async fn graphql(
        &self,
        name: &str,
        query: &str,
        variables: Value,
        attempt: &str,
    ) -> Result<Value, RequestError> {
        let body = json!({ "query": query, "variables": variables, "operationName": name });
        let answer = self.post(&["graphql"], &body, attempt).await?;
        let passing = |what: String| RequestError::Passing { what: format!("{attempt}: {what}"), wait: None };
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|error| passing(format!("the answer is no GraphQL: {error}")))?;
        if let Some(first) = answer.errors.first() {
            let said = shown(&first.message);
            let advice = self.task.advice();
            return Err(RequestError::Refused(format!("{attempt}: {} says: {said}. {advice}", self.host())));
        }
        answer.data.ok_or_else(|| passing("the answer has no data".to_owned()))
    }

    /// Puts bytes where the server said, which is often another one: without the key.
    pub(super) async fn put(
        &self,
        to: &str,
        headers: &[(String, String)],
        bytes: Vec<u8>,
        attempt: &str,
    ) -> Result<(), RequestError> {
        let passing = |what: String| RequestError::Passing { what: format!("{attempt}: {what}"), wait: None };
        let url =
            Url::parse(to).map_err(|error| passing(format!("the server names no place to upload to: {error}")))?;
        let request = headers.iter().fold(self.http.put(url), |request, (name, value)| request.header(name, value));
        let response = request.body(bytes).send().await.map_err(|error| passing(because(&error.without_url())))?;
        let (status, wait) = (response.status(), wait_asked_for(response.headers()));
        let answer = read(response, ANSWER_BYTES).await.map_err(passing)?.unwrap_or_default();
        // A signed address is good for a while alone: with a new one it may work.
        let what = || format!("{attempt}: the storage answers {status}: {}", shown(&message_of(&answer)));
        if status.is_success() { Ok(()) } else { Err(RequestError::Passing { what: what(), wait }) }
    }

    async fn post(&self, path: &[&str], body: &Value, attempt: &str) -> Result<Vec<u8>, RequestError> {
        let posted = self.try_post(path, body, attempt).await;
        self.metrics.observe_request(match &posted {
            Ok(_) => "ok",
            Err(RequestError::Passing { .. }) => "failed",
            Err(RequestError::Refused(_) | RequestError::TooLong(_)) => "refused",
        });
        posted
    }

    async fn try_post(&self, path: &[&str], body: &Value, attempt: &str) -> Result<Vec<u8>, RequestError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let passing = |what: String| RequestError::Passing { what: format!("{attempt}: {what}"), wait: None };
        let request = self.http.post(url).basic_auth("api", Some(self.key.reveal()));
        let request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        let response = request.send().await.map_err(|error| passing(because(&error)))?;
        self.compare_clocks(response.headers());
        let (status, wait) = (response.status(), wait_asked_for(response.headers()));
        let answer = match read(response, self.task.answer_bytes()).await.map_err(passing)? {
            Some(answer) => answer,
            None => {
                let mebibytes = self.task.answer_bytes() >> 20;
                return Err(RequestError::TooLong(format!("{attempt}: the answer passes {mebibytes} MiB")));
            }
        };
        if status.is_success() {
            return Ok(answer);
        }
        let said = format!("{attempt}: {} answers {status}: {}", self.host(), shown(&message_of(&answer)));
        let may_pass =
            status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        if may_pass && status != StatusCode::NOT_IMPLEMENTED {
            return Err(RequestError::Passing { what: said, wait });
        }
        Err(RequestError::Refused(match status {
            StatusCode::UNAUTHORIZED => {
                format!("{said}. The API key is not accepted: check {}", self.task.key_places())
            }
            _ => format!("{said}. {}", self.task.advice()),
        }))
    }

    /// Says once when our clock and the server's are apart, and once when they are together again.
    fn compare_clocks(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else { return };
        let Ok(theirs) = date.duration_since(SystemTime::UNIX_EPOCH) else { return };
        let skew = self.clock.unix().as_secs_f64() - theirs.as_secs_f64();
        self.metrics.observe_skew(skew);
        let (far, mut skewed) = (skew.abs() > SKEW_LIMIT_SECONDS, self.skewed.lock());
        if far && !*skewed {
            let host = self.host();
            tracing::warn!(
                "this machine's clock is {:.0} s {} that of {host}: rows have wrong times. Set it, e.g. with chrony",
                skew.abs(),
                if skew > 0.0 { "ahead of" } else { "behind" }
            );
        } else if !far && *skewed {
            tracing::info!("this machine's clock agrees with wandb's again");
        }
        *skewed = far;
    }

    /// Fetches a file that the server keeps elsewhere, under an address of its own that is secret enough: without the key.
    pub(super) async fn get(&self, url: Url, attempt: &str) -> Result<Response, RequestError> {
        let passing = |what: String| RequestError::Passing { what: format!("{attempt}: {what}"), wait: None };
        let request = self.http.get(url).timeout(DOWNLOAD_LIMIT);
        let response = request.send().await.map_err(|error| passing(because(&error)))?;
        let (status, wait) = (response.status(), wait_asked_for(response.headers()));
        if status.is_success() {
            return Ok(response);
        }
        let what = format!("{attempt}: the answer is {status}");
        match status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            true => Err(RequestError::Passing { what, wait }),
            false => Err(RequestError::Refused(what)),
        }
    }

    pub(super) fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }
}

// === impl ClientTask ===

impl ClientTask {
    fn advice(self) -> &'static str {
        match self {
            Self::Uploading => {
                "Check reporting.wandb.entity and project_name, and that the key may write there; rows are kept until they are \
                 taken"
            }
            Self::Reading => "Check the name ENTITY/PROJECT, and that the key may read there",
        }
    }

    fn key_places(self) -> &'static str {
        match self {
            Self::Uploading => "WANDB_API_KEY, netrc or reporting.wandb.api_key_file",
            Self::Reading => "WANDB_API_KEY, or netrc where `wandb login` puts it",
        }
    }

    fn answer_bytes(self) -> usize {
        match self {
            Self::Uploading => ANSWER_BYTES,
            Self::Reading => PAGE_BYTES,
        }
    }
}

/// The whole answer; `None` when it is longer than the limit.
async fn read(mut response: Response, limit: usize) -> Result<Option<Vec<u8>>, String> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| because(&error))? {
        if answer.len() + chunk.len() > limit {
            return Ok(None);
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(Some(answer))
}

fn wait_asked_for(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = seconds(RETRY_AFTER.as_str()).or_else(|| seconds("RateLimit-Reset"))?;
    Duration::try_from_secs_f64(seconds).ok().map(|wait| wait.min(LONGEST_WAIT))
}

/// What a refusal says: wandb's are JSON of several shapes.
fn message_of(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer).into_owned();
    let Ok(json) = serde_json::from_str::<Value>(&text) else { return text };
    let message = ["/errors/0/message", "/error/message", "/error", "/message"];
    let message = message.iter().find_map(|pointer| json.pointer(pointer)?.as_str().map(str::to_owned));
    message.unwrap_or(text)
}

/// A server's words, fit for a log.
fn shown(words: &str) -> String {
    let words = if words.trim().is_empty() { "(nothing)" } else { words.trim() };
    words.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect()
}

/// An error with its causes; reqwest's own words leave them out.
pub(super) fn because(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
