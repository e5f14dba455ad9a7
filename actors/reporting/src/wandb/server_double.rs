//! A wandb server on this machine, for tests: it keeps what it is sent by run, and fails as it is told to. What it answers
//! are recorded answers of real exchanges with clients 0.15.3 and 0.31.0.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that uses it says what is wrong by failing"
)]

mod artifacts;
mod reading;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::body::{Body, to_bytes};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use reqwest::Url;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// A key that the double knows.
pub const KEY: &str = "0123456789abcdef0123456789abcdef01234567";
/// Whose it is.
pub const OWNER: &str = "fakeuser";

/// The server, until it is dropped.
pub struct Double {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
pub struct State {
    /// By `entity/project/run`.
    pub runs: BTreeMap<String, RunState>,
    /// What becomes of the next requests; then all goes well.
    pub faults: VecDeque<Fault>,
    /// Operations of GraphQL by name, and `file_stream`, in the order they came; failed ones too.
    pub requests: Vec<(String, Value)>,
    /// What the server's clock shows, where it is not ours.
    pub date: Option<&'static str>,
    /// By their ids here.
    pub artifacts: BTreeMap<String, artifacts::Version>,
    /// Whether a file of an artifact came with the API key, which is for the server alone.
    pub artifact_puts_with_key: bool,
    /// Whether nothing can be put.
    pub storage_is_away: bool,
    /// The only entity that the key may write to, where there is one.
    pub writable: Option<&'static str>,
    /// The Parquet files of a run, by `entity/project/run`, and the `_step` of the first row that they lack.
    pub exports: BTreeMap<String, (Vec<Vec<u8>>, i64)>,
    /// The most runs in one answer, where it is less than what was asked for.
    pub runs_page: Option<usize>,
}

/// What the double holds of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunState {
    pub history: Vec<String>,
    pub events: Vec<String>,
    pub summary: String,
    pub config: String,
    pub tags: Value,
    pub notes: Value,
    pub exit_code: Option<i64>,
    /// Lines that came a second time, and were other ones.
    pub overwritten: usize,
    /// Lines that came at an offset behind a gap.
    pub gaps: usize,
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Answers so, and keeps nothing.
    Status(u16),
    /// Asks to come again after so many seconds.
    Busy(&'static str),
    /// Closes the connection before it has taken anything.
    DropBefore,
    /// Takes what came, and closes the connection before it answers.
    DropAfter,
    /// All goes well this time.
    None,
}

// === impl Double ===

impl Double {
    /// At a port of its own.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await.unwrap()
    }

    /// At an address, `IP:PORT`.
    pub async fn start_at(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = shared.clone();
                let service = service_fn(move |request| answer(request, shared.clone(), address));
                tokio::spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, state, serving })
    }

    pub fn url(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).unwrap()
    }

    /// The one run there is.
    pub fn only_run(&self) -> (String, RunState) {
        let state = self.state.lock();
        assert_eq!(state.runs.len(), 1, "{:?}", state.runs.keys());
        state.runs.iter().next().map(|(name, run)| (name.clone(), run.clone())).unwrap()
    }

    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().faults.extend(faults);
    }

    pub fn requested(&self, name: &str) -> usize {
        self.state.lock().requests.iter().filter(|(found, _)| found == name).count()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
    address: SocketAddr,
) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let body = to_bytes(Body::new(body), 64 << 20).await.map_err(io::Error::other)?;
    let fault = state.lock().faults.pop_front().unwrap_or(Fault::None);
    let path = head.uri.path().to_owned();
    let known = head.headers.get("authorization").and_then(|value| value.to_str().ok()) == Some(&*authorization());
    let mut state = state.lock();
    let reply = |status: u16, body: &Value, date: Option<&str>| {
        let mut response = Response::builder().status(status).header("content-type", "application/json");
        if let Some(date) = date {
            response = response.header("date", date);
        }
        response.body(Body::from(body.to_string())).map_err(io::Error::other)
    };
    let date = state.date;
    match fault {
        Fault::DropBefore => return Err(io::Error::other("dropped")),
        Fault::Status(status) => {
            state.requests.push((format!("failed {status}"), Value::Null));
            return reply(status, &json!({ "error": "injected\u{1b}[31m" }), date);
        }
        Fault::Busy(seconds) => {
            state.requests.push(("failed 429".into(), Value::Null));
            let response = Response::builder().status(429).header("retry-after", seconds);
            return response.body(Body::from(r#"{"error": "rate limit exceeded"}"#)).map_err(io::Error::other);
        }
        Fault::DropAfter | Fault::None => {}
    }
    if let Some(asked) = path.strip_prefix("/export/") {
        // As a store behind pre-signed addresses: it wants no key, and a signature is in the address.
        assert!(!head.headers.contains_key("authorization"), "the key goes to no other server");
        state.requests.push(("export".into(), asked.into()));
        let export = asked
            .rsplit_once('/')
            .and_then(|(run, number)| state.exports.get(run)?.0.get(number.parse::<usize>().ok()?).cloned());
        let status = if export.is_some() { 200 } else { 404 };
        let response = Response::builder().status(status);
        return response.body(Body::from(export.unwrap_or_default())).map_err(io::Error::other);
    }
    let (status, answer) = if head.method != Method::POST {
        artifacts::take(&mut state, &path, head.headers.contains_key("authorization"), &body);
        (if state.storage_is_away { 503 } else { 200 }, json!({}))
    } else if !known {
        (401, json!({ "errors": [{ "message": "user is not logged in" }] }))
    } else if path == "/graphql" {
        let asked: Value = serde_json::from_slice(&body).unwrap();
        state.graphql(&asked, address)
    } else if let ["", "files", entity, project, run, "file_stream"] = path.split('/').collect::<Vec<_>>()[..] {
        let body: Value = serde_json::from_slice(&body).unwrap();
        state.requests.push(("file_stream".into(), body.clone()));
        state.stream(&format!("{entity}/{project}/{run}"), &body)
    } else {
        (404, json!({ "error": "not found" }))
    };
    match fault {
        Fault::DropAfter => Err(io::Error::other("dropped")),
        _ => reply(status, &answer, date),
    }
}

fn authorization() -> String {
    let pairs = format!("api:{KEY}").into_bytes();
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for chunk in pairs.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = letters[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > chunk.len() { '=' } else { letter.into() });
        }
    }
    text
}

// === impl State ===

impl State {
    fn graphql(&mut self, asked: &Value, address: SocketAddr) -> (u16, Value) {
        let query = asked["query"].as_str().unwrap_or_default();
        let mut words = query.split(['(', '{', ' ', '\n']).filter(|word| !word.is_empty());
        words.find(|word| matches!(*word, "query" | "mutation"));
        let name = words.next().unwrap_or_default().to_owned();
        let variables = &asked["variables"];
        self.requests.push((name.clone(), variables.clone()));
        let text = |key: &str, otherwise: &str| variables[key].as_str().unwrap_or(otherwise).to_owned();
        let (entity, project, run) = (text("entity", OWNER), text("project", "uncategorized"), text("name", ""));
        let data = match &*name {
            "Viewer" | "GetDefaultEntity" => json!({ "viewer": {
                "id": "VXNlcjox", "entity": OWNER, "username": OWNER, "email": "f@example.com", "name": "Fake",
                "flags": "{}", "teams": { "edges": [] }, "admin": false, "apiKeys": { "edges": [] }, "deletedAt": null,
            } }),
            "UpsertBucket" => {
                if self.writable.is_some_and(|writable| writable != entity) {
                    return (403, json!({ "errors": [{ "message": "permission denied\u{1b}[31m" }] }));
                }
                let held = self.runs.entry(format!("{entity}/{project}/{run}")).or_default();
                for (key, place) in [("tags", &mut held.tags), ("notes", &mut held.notes)] {
                    if !variables[key].is_null() {
                        *place = variables[key].clone();
                    }
                }
                if let Some(config) = variables["config"].as_str() {
                    config.clone_into(&mut held.config);
                }
                json!({ "upsertBucket": { "bucket": {
                    "id": "UnVuOjE=", "name": run, "displayName": "fake-run-1", "description": null, "sweepName": null,
                    "config": held.config, "historyLineCount": held.history.len(),
                    "project": { "id": "UHJvamVjdDox", "name": project, "entity": { "id": "RW50aXR5OjE=", "name": entity } },
                }, "inserted": true } })
            }
            "RunResumeStatus" => json!({ "model": {
                "id": "UHJvamVjdDox", "name": project, "entity": { "id": "RW50aXR5OjE=", "name": entity }, "bucket": null,
            } }),
            "ServerFeaturesQuery" | "ServerFeatures" => json!({ "serverInfo": { "features": [] } }),
            "ServerInfo" => json!({ "serverInfo": {
                "cliVersionInfo": { "max_cli_version": "9.9.9", "min_cli_version": "0.0.1" }, "latestLocalVersionInfo": null,
            } }),
            "RunStoppedStatus" => json!({ "project": { "run": { "stopped": false } } }),
            "OrganizationCoreWeaveOrganizationID" => {
                json!({ "entity": { "organization": { "coreWeaveOrganizationId": null } } })
            }
            "CreateRunFiles" => {
                let files = variables["files"].as_array().cloned().unwrap_or_default();
                let files = files.iter().map(|name| {
                    let path = name.as_str().unwrap_or_default();
                    json!({ "name": name, "uploadUrl": format!("http://{address}/upload/{path}") })
                });
                json!({ "createRunFiles": { "runID": "x", "uploadHeaders": [], "files": files.collect::<Vec<_>>() } })
            }
            "RunUploadUrls" => {
                let files = variables["files"].as_array().cloned().unwrap_or_default();
                let edges = files.iter().map(|name| {
                    let path = name.as_str().unwrap_or_default();
                    let node =
                        json!({ "name": name, "url": format!("http://{address}/upload/{path}"), "updatedAt": null });
                    json!({ "node": node })
                });
                let files = json!({ "uploadHeaders": [], "edges": edges.collect::<Vec<_>>() });
                json!({ "model": { "bucket": { "id": "UnVuOjE=", "files": files } } })
            }
            _ if query.contains("__type(") || query.contains("__schema") => types_asked_for(query),
            _ if reading::answer(self, &name, variables, address).is_some() => {
                reading::answer(self, &name, variables, address).unwrap()
            }
            "ArtifactType" => json!({ "project": { "artifact": null } }),
            _ => match artifacts::answer(self, &name, variables, address) {
                Some(answer) => answer,
                None => return (200, json!({ "errors": [{ "message": format!("unknown operation {name}") }] })),
            },
        };
        (200, json!({ "data": data }))
    }

    fn stream(&mut self, run: &str, body: &Value) -> (u16, Value) {
        let Some(run) = self.runs.get_mut(run) else { return (404, json!({ "error": "no such run" })) };
        for (file, sent) in body["files"].as_object().unwrap_or(&Map::new()) {
            let content = sent["content"].as_array().cloned().unwrap_or_default();
            let content: Vec<String> = content.iter().map(|line| line.as_str().unwrap().to_owned()).collect();
            let offset = usize::try_from(sent["offset"].as_u64().unwrap()).unwrap();
            let lines = match &**file {
                "wandb-history.jsonl" => &mut run.history,
                "wandb-events.jsonl" => &mut run.events,
                "wandb-summary.json" => {
                    run.summary = content.last().cloned().unwrap_or_default();
                    continue;
                }
                _ => continue,
            };
            run.gaps += offset.saturating_sub(lines.len());
            for (index, line) in content.into_iter().enumerate() {
                match lines.get(offset + index) {
                    Some(there) if *there == line => {}
                    Some(_) => run.overwritten += 1,
                    None => lines.push(line),
                }
            }
        }
        if body["complete"] == true {
            run.exit_code = body["exitcode"].as_i64();
        }
        (200, json!({ "exitcode": null, "limits": {} }))
    }
}

/// Old clients ask which fields the server's types have. This one's have none beside those of always.
fn types_asked_for(query: &str) -> Value {
    let mut found = Map::new();
    for part in query.split("__type").skip(1) {
        let name = part.split('"').nth(1).unwrap_or_default();
        found.insert(name.to_owned(), json!({ "name": name, "fields": [], "inputFields": [] }));
    }
    // `alias: __type(name: "Type")`: both names may be asked for.
    for (alias, rest) in query.split_whitespace().collect::<Vec<_>>().windows(2).map(|pair| (pair[0], pair[1])) {
        if rest.starts_with("__type") {
            found.insert(alias.trim_end_matches(':').to_owned(), json!({ "fields": [], "inputFields": [] }));
        }
    }
    Value::Object(found)
}

/// Waits for something of another task, in real time.
pub async fn until(what: &str, mut there: impl FnMut() -> bool) {
    let clock = openvalidators_runtime::SystemClock::shared();
    for _ in 0..3_000 {
        if there() {
            return;
        }
        clock.sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not happen");
}
