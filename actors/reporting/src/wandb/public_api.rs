//! Reading runs back from wandb: which there are, and their rows.
//!
//! Queries and variables are those of the real client 0.31.0 (`wandb.Api().runs`, `run.scan_history`), recorded from it. A
//! run's history comes in two parts: Parquet files that the server has exported, where it offers any, and pages of the rows
//! behind them.

use std::{
    fmt,
    io::Write,
    path::Path,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use openvalidators_runtime::{AtPath, Backoff, FileError, SharedClock};
use prometheus::Registry;
use reqwest::Url;
use serde_json::{Value, json};

use super::{
    client::{Client, ClientTask, RequestError, because},
    credentials::{ApiKey, Places},
    metrics::WandbMetrics,
    setup::{SetupError, server_of_process},
};

/// Waits between attempts: some four minutes in all.
const RETRIES: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60), retries: 8 };
/// Before the server has answered at all: a machine without a network, or a wrong address, is soon told so.
const FIRST_RETRIES: Backoff =
    Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(2), retries: 2 };
/// The longest wait that a server may impose.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Runs asked for at once, as the real client does.
const RUNS_PAGE: usize = 50;
/// Runs of one project that are listed.
const RUNS_LIMIT: usize = 100_000;

const RUN_FIELDS: &str = "name tags state createdAt heartbeatAt historyLineCount";
const HISTORY_KEYS: &str = "query RunHistoryKeys($project: String!, $entity: String!, $name: String!) { project(name: \
    $project, entityName: $entity) { run(name: $name) { historyKeys } } }";
const PARQUET_HISTORY: &str = "query RunParquetHistory($entity: String!, $project: String!, $runName: String!, $liveKeys: \
    [String!]!) { project(name: $project, entityName: $entity) { run(name: $runName) { parquetHistory(liveKeys: $liveKeys) \
    { parquetUrls liveData } } } }";
const HISTORY_PAGE: &str = "query HistoryPage($entity: String!, $project: String!, $run: String!, $minStep: Int64!, \
    $maxStep: Int64!, $pageSize: Int!) { project(name: $project, entityName: $entity) { run(name: $run) { history(minStep: \
    $minStep, maxStep: $maxStep, samples: $pageSize) } } }";
const VIEWER: &str = "query Viewer { viewer { id entity username email } }";

/// `ENTITY/PROJECT` or `ENTITY/PROJECT/RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPath {
    /// The user or team.
    pub entity: String,
    /// Its project.
    pub project: String,
    /// One run; all without.
    pub run: Option<String>,
}

/// A run as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// `running`, `finished`, `crashed`, `failed`, …
    pub state: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// When it began, as the server writes times: `2026-11-22T09:00:00`.
    pub created_at: String,
    /// When it was last heard of.
    pub heartbeat_at: String,
    /// Rows.
    pub rows: u64,
}

/// Where the rows of a run are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The `_step` after the last row.
    pub end: u64,
    /// Addresses of Parquet files with the older rows, which need no key and end soon.
    pub exports: Vec<String>,
    /// The `_step` of the first row that is in none of them.
    pub live_from: u64,
}

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PublicApiError {
    /// There is no server or key to ask with.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No key.
    #[error(
        "there is no API key for {host}: set WANDB_API_KEY, or log in with `wandb login`. https://wandb.ai/authorize shows yours"
    )]
    NoKey {
        /// The server.
        host: String,
    },
    /// The server said no, or nothing for too long.
    #[error("{0}")]
    Request(String),
    /// A page is longer than is read: ask for fewer rows.
    #[error("{0}")]
    TooLong(String),
    /// There is no such thing, or the key may not see it.
    #[error("wandb shows no {what} to this key: check its name, and that the key may read there")]
    Unknown {
        /// What was asked for.
        what: String,
    },
    /// The disk said no.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A server and a key to read with.
pub struct PublicApi {
    client: Client,
    clock: SharedClock,
    /// Requests so far: the jitter of waits is drawn from it.
    requests: AtomicU64,
}

// === impl RunPath ===

impl FromStr for RunPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.trim_matches('/').split('/').collect();
        // The page of a run in a browser has `runs` in its address.
        let (entity, project, run) = match parts[..] {
            [entity, project] => (entity, project, None),
            [entity, project, run] | [entity, project, "runs", run] => (entity, project, Some(run.to_owned())),
            _ => return Err("expected ENTITY/PROJECT or ENTITY/PROJECT/RUN".to_owned()),
        };
        let plain = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        if [Some(entity), Some(project), run.as_deref()].into_iter().flatten().all(plain) {
            Ok(Self { entity: entity.to_owned(), project: project.to_owned(), run })
        } else {
            Err("expected ENTITY/PROJECT or ENTITY/PROJECT/RUN, without spaces".to_owned())
        }
    }
}

impl fmt::Display for RunPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.entity, self.project)?;
        self.run.iter().try_for_each(|run| write!(f, "/{run}"))
    }
}

// === impl PublicApi ===

impl PublicApi {
    /// The server and key of the environment: `WANDB_BASE_URL`, `WANDB_API_KEY`, netrc.
    ///
    /// # Errors
    /// When there is no key, or no such server.
    pub fn of_process(clock: SharedClock) -> Result<Self, PublicApiError> {
        let server = server_of_process("")?;
        let host = server.host_str().unwrap_or_default().to_owned();
        let key = Places::of_process(None, &host).find().map_err(SetupError::from)?;
        Self::with(server, key.ok_or(PublicApiError::NoKey { host })?, clock)
    }

    fn with(server: Url, key: ApiKey, clock: SharedClock) -> Result<Self, PublicApiError> {
        // Nobody scrapes a command; the counts go with it.
        let metrics =
            WandbMetrics::new(&Registry::new()).map_err(|error| PublicApiError::Request(error.to_string()))?;
        let client = Client::new(server, key, clock.clone(), metrics, ClientTask::Reading)
            .map_err(|error| PublicApiError::Request(error.to_string()))?;
        Ok(Self { client, clock, requests: AtomicU64::new(0) })
    }

    /// The runs of a project that have all of the tags, oldest first; or the one that is named.
    ///
    /// # Errors
    /// When the server does not answer, refuses, or knows no such project or run.
    pub async fn runs(&self, path: &RunPath, tags: &[String]) -> Result<Vec<Run>, PublicApiError> {
        // A wrong key is answered with an empty project: who it is comes first.
        let attempt = "asking whose the API key is";
        let viewer = async || self.client.graphql("Viewer", VIEWER, json!({}), attempt).await.map_err(Failed::Request);
        let viewer = self.retried(FIRST_RETRIES, viewer).await?;
        if viewer.pointer("/viewer/id").is_none_or(Value::is_null) {
            let host = self.client.host();
            let what = format!("the API key is nobody's at {host}. Check WANDB_API_KEY, or netrc");
            return Err(PublicApiError::Request(what));
        }
        match &path.run {
            Some(run) => Ok(vec![self.run(path, run).await?]),
            None => self.listed(path, tags).await,
        }
    }

    async fn run(&self, path: &RunPath, run: &str) -> Result<Run, PublicApiError> {
        let query = format!(
            "query Run($project: String!, $entity: String!, $name: String!) {{ project(name: $project, entityName: $entity) \
             {{ run(name: $name) {{ {RUN_FIELDS} }} }} }}"
        );
        let variables = json!({ "entity": path.entity, "project": path.project, "name": run });
        let data = self.ask("Run", &query, variables, &format!("asking for run {path}")).await?;
        let node = data.pointer("/project/run").filter(|run| !run.is_null());
        node.and_then(Run::of).ok_or_else(|| PublicApiError::Unknown { what: format!("run {path}") })
    }

    async fn listed(&self, path: &RunPath, tags: &[String]) -> Result<Vec<Run>, PublicApiError> {
        let query = format!(
            "query Runs($project: String!, $entity: String!, $cursor: String, $perPage: Int = 50, $order: String, $filters: \
             JSONString) {{ project(name: $project, entityName: $entity) {{ runs(filters: $filters, after: $cursor, first: \
             $perPage, order: $order) {{ edges {{ node {{ {RUN_FIELDS} }} cursor }} pageInfo {{ endCursor hasNextPage }} }} \
             }} }}"
        );
        let each: Vec<Value> = tags.iter().map(|tag| json!({ "tags": { "$in": [tag] } })).collect();
        let filters = if each.is_empty() { json!({}) } else { json!({ "$and": each }) };
        let (mut runs, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let variables = json!({
                "entity": path.entity, "project": path.project, "cursor": cursor, "perPage": RUNS_PAGE,
                "order": "+created_at", "filters": filters.to_string(),
            });
            let data = self.ask("Runs", &query, variables, &format!("listing the runs of {path}")).await?;
            let found = data.pointer("/project/runs").filter(|runs| !runs.is_null());
            let found = found.ok_or_else(|| PublicApiError::Unknown { what: format!("project {path}") })?;
            let edges = found["edges"].as_array().map(Vec::as_slice).unwrap_or_default();
            runs.extend(edges.iter().filter_map(|edge| Run::of(&edge["node"])));
            let next = &found["pageInfo"]["endCursor"];
            let is_last = found["pageInfo"]["hasNextPage"] != true || next.is_null() || *next == cursor;
            if is_last || edges.is_empty() || runs.len() >= RUNS_LIMIT {
                return Ok(runs);
            }
            cursor = next.clone();
        }
    }

    /// Where the rows of a run are.
    ///
    /// # Errors
    /// When the server does not answer, refuses, or knows no such run.
    pub async fn extent(&self, path: &RunPath, run: &str) -> Result<Extent, PublicApiError> {
        let attempt = format!("asking for the extent of run {run}");
        let unknown = || PublicApiError::Unknown { what: format!("run {run} of {path}") };
        let (entity, project) = (&path.entity, &path.project);
        let variables = json!({ "entity": entity, "project": project, "name": run });
        let data = self.ask("RunHistoryKeys", HISTORY_KEYS, variables, &attempt).await?;
        let keys = data.pointer("/project/run").filter(|run| !run.is_null()).ok_or_else(unknown)?;
        // A run without rows has no keys.
        let end = keys.pointer("/historyKeys/lastStep").and_then(whole).map_or(0, |last| last + 1);
        let variables = json!({ "entity": entity, "project": project, "runName": run, "liveKeys": ["_step"] });
        let data = self.ask("RunParquetHistory", PARQUET_HISTORY, variables, &attempt).await?;
        let history = data.pointer("/project/run/parquetHistory").cloned().unwrap_or_default();
        let exports = history["parquetUrls"].as_array().map(Vec::as_slice).unwrap_or_default();
        let exports: Vec<String> = exports.iter().filter_map(|url| url.as_str().map(str::to_owned)).collect();
        let live = history["liveData"].as_array().map(Vec::as_slice).unwrap_or_default();
        let live_from = match exports.is_empty() {
            true => 0,
            false => live.iter().filter_map(|row| whole(&row["_step"])).min().unwrap_or(end),
        };
        Ok(Extent { end, exports, live_from })
    }

    /// The rows with `_step` in a range, each as JSON.
    ///
    /// # Errors
    /// As [`Self::extent`]; [`PublicApiError::TooLong`] when they are too many for one answer.
    pub async fn rows(
        &self,
        path: &RunPath,
        run: &str,
        steps: std::ops::Range<u64>,
    ) -> Result<Vec<String>, PublicApiError> {
        let variables = json!({
            "entity": path.entity, "project": path.project, "run": run, "minStep": steps.start, "maxStep": steps.end,
            // No more rows than steps: of more the server would hand out a sample.
            "pageSize": steps.end.saturating_sub(steps.start),
        });
        let attempt = format!("asking for rows {} to {} of run {run}", steps.start, steps.end.saturating_sub(1));
        let data = self.ask("HistoryPage", HISTORY_PAGE, variables, &attempt).await?;
        let rows = data.pointer("/project/run/history").and_then(Value::as_array);
        let rows = rows.ok_or_else(|| PublicApiError::Unknown { what: format!("run {run} of {path}") })?;
        Ok(rows.iter().filter_map(|row| row.as_str().map(str::to_owned)).collect())
    }

    /// Fetches an exported file of a run into a new file.
    ///
    /// # Errors
    /// When it cannot be had, or the disk refuses; what is there of it then is left.
    pub async fn fetch(&self, url: &str, into: &Path) -> Result<u64, PublicApiError> {
        let attempt = "fetching exported history";
        let url = Url::parse(url).map_err(|error| PublicApiError::Request(format!("{attempt}: {error}")))?;
        self.retried(RETRIES, async || {
            let mut response = self.client.get(url.clone(), attempt).await.map_err(Failed::Request)?;
            let mut file = std::fs::File::create(into).at("create", into).map_err(Failed::File)?;
            let mut bytes = 0;
            while let Some(chunk) = response.chunk().await.map_err(|error| {
                let what = format!("{attempt}: {}", because(&error));
                Failed::Request(RequestError::Passing { what, wait: None })
            })? {
                file.write_all(&chunk).at("write", into).map_err(Failed::File)?;
                bytes += chunk.len() as u64;
            }
            Ok(bytes)
        })
        .await
    }

    async fn ask(&self, name: &str, query: &str, variables: Value, attempt: &str) -> Result<Value, PublicApiError> {
        let ask = async || self.client.graphql(name, query, variables.clone(), attempt).await.map_err(Failed::Request);
        self.retried(RETRIES, ask).await
    }

    /// Tries again what may pass, with growing waits, or as long as the server asks for.
    async fn retried<T>(
        &self,
        retries: Backoff,
        attempt: impl AsyncFn() -> Result<T, Failed>,
    ) -> Result<T, PublicApiError> {
        let mut waits = retries.waits(self.requests.fetch_add(1, Ordering::Relaxed));
        loop {
            let (what, wait) = match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(Failed::File(error)) => return Err(error.into()),
                Err(Failed::Request(RequestError::TooLong(what))) => return Err(PublicApiError::TooLong(what)),
                Err(Failed::Request(RequestError::Refused(what))) => return Err(PublicApiError::Request(what)),
                Err(Failed::Request(RequestError::Passing { what, wait })) => (what, wait),
            };
            let Some(ours) = waits.next() else {
                let attempts = retries.retries + 1;
                return Err(PublicApiError::Request(format!("{what} (after {attempts} attempts)")));
            };
            let wait = wait.unwrap_or(ours).min(LONGEST_WAIT);
            tracing::info!("{what}; again in {:.0} s", wait.as_secs_f64());
            self.clock.sleep(wait).await;
        }
    }
}

/// An attempt that came to nothing.
enum Failed {
    Request(RequestError),
    File(FileError),
}

// === impl Run ===

impl Run {
    fn of(node: &Value) -> Option<Self> {
        let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
        let tags = node["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
        Some(Self {
            id: node["name"].as_str()?.to_owned(),
            state: text("state"),
            tags: tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect(),
            created_at: text("createdAt"),
            heartbeat_at: text("heartbeatAt"),
            rows: whole(&node["historyLineCount"]).unwrap_or(0),
        })
    }
}

/// A whole number, however the server writes it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|number| (0.0..9e15).contains(number)).map(|number| number as u64))
}

#[cfg(test)]
mod tests;
