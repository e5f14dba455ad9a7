//! Sends what the logs hold to wandb's server, in its own time, from where the last acknowledged line ended.
//!
//! One batch of lines is in memory; the rest waits on the disk, for days if need be. Lines carry their offset, so a batch
//! sent again after a lost answer, or by the next process, takes its own place.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use openvalidators_runtime::{AtPath, Backoff, FileError, SharedClock, on_worker};
use reqwest::Url;
use serde_json::{Map, Value, json};

use super::{
    artifact,
    batch::{Batch, Latest, Progress, run_of},
    client::{Client, ClientTask, NewRun, RequestError, Target},
    credentials::{CredentialError, Places},
    log_file::LogError,
    metrics::WandbMetrics,
    record::RunRecord,
    runs::{self, RunFolder},
};

/// Waits after a failure that may pass: the real client's, but for ever.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(60), retries: usize::MAX };

/// Tries of a version of the gating head after the first one fails; then rows go on without it.
const ARTIFACT_RETRIES: u32 = 5;

/// How fast the uploader goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between requests, and between looks at the logs: the real client's 15 s.
    pub tick: Duration,
    /// A run without rows for so long says that it is alive: the real client's 30 s.
    pub heartbeat: Duration,
    /// Until a refused run, or a refused key, is tried again; somebody may have mended the key or the project.
    pub refused: Duration,
    /// Waits after failures, divided by this; tests are in a hurry.
    pub hurry: u32,
    /// Lines of one request.
    pub request_bytes: usize,
}

/// The uploader of one folder of runs.
pub(super) struct Uploader {
    pub folder: PathBuf,
    pub server: Url,
    pub places: Places,
    pub keep_uploaded_runs: usize,
    pub pace: Pace,
    pub clock: SharedClock,
    pub metrics: WandbMetrics,
    session: Option<Session>,
    active: Option<Active>,
    /// Logs that cannot be read; each is complained about once.
    given_up: BTreeSet<String>,
    /// Runs that the server refuses, and when each is tried again. The others keep their pace meanwhile.
    refused: BTreeMap<String, Duration>,
    /// What went wrong last, until something goes right.
    trouble: Option<String>,
}

/// A key that the server knows.
struct Session {
    client: Client,
    /// Whose it is.
    owner: String,
}

/// The run being uploaded.
struct Active {
    folder: RunFolder,
    about: RunRecord,
    target: Target,
    progress: Progress,
    latest: Latest,
    /// When the server last heard of it.
    heard_at: Duration,
    /// In a row, of versions of the gating head.
    artifact_failures: u32,
}

/// Why nothing more was uploaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server takes nothing of one run.
    #[error(transparent)]
    RunRefused(RequestError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("there is no API key for {0} any more: set WANDB_API_KEY, or log in with `wandb login`")]
    NoKey(String),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// How a round over a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The server has all there is; the run goes on.
    CaughtUp,
    /// The run is complete there.
    Complete,
}

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(15),
            heartbeat: Duration::from_secs(30),
            refused: Duration::from_secs(600),
            hurry: 1,
            request_bytes: super::batch::REQUEST_BYTES,
        }
    }
}

// === impl Uploader ===

impl Uploader {
    pub(super) fn new(
        folder: PathBuf,
        server: Url,
        places: Places,
        keep_uploaded_runs: usize,
        pace: Pace,
        clock: SharedClock,
        metrics: WandbMetrics,
    ) -> Self {
        let (session, active, trouble) = (None, None, None);
        let (given_up, refused) = (BTreeSet::new(), BTreeMap::new());
        Self {
            folder,
            server,
            places,
            keep_uploaded_runs,
            pace,
            clock,
            metrics,
            session,
            active,
            given_up,
            refused,
            trouble,
        }
    }

    /// Uploads for ever. Dropped anywhere, it loses nothing.
    pub(super) async fn run(&mut self) {
        let mut waits = BACKOFF.waits(0);
        loop {
            let pause = match self.upload(self.pace.tick).await {
                Ok(()) => {
                    if self.refused.is_empty() && self.trouble.take().is_some() {
                        tracing::info!("rows reach wandb again");
                    }
                    waits = BACKOFF.waits(0);
                    self.pace.tick
                }
                Err(error) => {
                    let next = waits.next().unwrap_or(BACKOFF.longest) / self.pace.hurry;
                    let retry_in = match &error {
                        UploadError::Request(RequestError::Passing { wait, .. }) => wait.unwrap_or(next).max(next),
                        UploadError::File(_) | UploadError::Log(_) => next,
                        _ => self.pace.refused,
                    };
                    self.complain(&error, retry_in);
                    if matches!(error, UploadError::RunRefused(_)) { self.pace.tick } else { retry_in }
                }
            };
            self.clock.sleep(pause).await;
        }
    }

    /// Uploads what there is, without pauses: for the end.
    pub(super) async fn flush(&mut self) {
        if let Err(error) = self.upload(Duration::ZERO).await {
            tracing::warn!(%error, "the last rows did not reach wandb; the next start sends them");
        }
    }

    /// Says what is wrong, once for as long as it is the same.
    fn complain(&mut self, error: &UploadError, retry_in: Duration) {
        let words = error.to_string();
        if self.trouble.as_ref() == Some(&words) {
            tracing::debug!(%error, ?retry_in, "rows still do not reach wandb");
        } else {
            tracing::warn!(%error, ?retry_in, "rows do not reach wandb; they wait on the disk, and the validator goes on");
            self.trouble = Some(words);
        }
    }

    /// One round over every run that is not uploaded, earliest first, with this pause between requests.
    async fn upload(&mut self, pause: Duration) -> Result<(), UploadError> {
        let folder = self.folder.clone();
        let runs = on_worker(move || pending(&folder)).await?;
        self.metrics.observe_backlog(runs.iter().map(|(_, bytes)| bytes).sum());
        self.ask_the_refused_again();
        let mut refused = None;
        for (run, _) in runs {
            if self.refused.contains_key(&run.id) {
                continue;
            }
            let uploaded = self.upload_run(&run, pause).await;
            match uploaded {
                Ok(Round::Complete) => self.active = None,
                Ok(Round::CaughtUp) => {}
                Err(UploadError::Log(error @ (LogError::NotALog { .. } | LogError::OtherVersion { .. }))) => {
                    if self.given_up.insert(run.id.clone()) {
                        tracing::warn!(%error, "this run is not uploaded");
                    }
                }
                // Another run may go to where this one may not; a key that is refused is refused for all.
                Err(UploadError::Request(error @ RequestError::Refused(_))) if self.session.is_some() => {
                    self.active = None;
                    self.refused.insert(run.id.clone(), self.clock.now() + self.pace.refused);
                    refused = Some(UploadError::RunRefused(error));
                }
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Forgets the refusals whose time has come, and with them the key: it may have been replaced meanwhile.
    fn ask_the_refused_again(&mut self) {
        let now = self.clock.now();
        let before = self.refused.len();
        self.refused.retain(|_, again_at| *again_at > now);
        if self.refused.len() < before {
            (self.session, self.active) = (None, None);
        }
    }

    async fn upload_run(&mut self, run: &RunFolder, pause: Duration) -> Result<Round, UploadError> {
        if self.active.as_ref().is_none_or(|active| active.folder != *run) {
            self.active = None;
            let Some(begun) = self.begin(run).await? else { return Ok(Round::CaughtUp) };
            self.active = Some(begun);
        }
        loop {
            let (Some(active), Some(session)) = (&mut self.active, &self.session) else { return Ok(Round::CaughtUp) };
            let batch = active.read(self.pace.request_bytes).await?;
            let now = self.clock.now();
            if batch.is_empty() {
                if now.saturating_sub(active.heard_at) >= self.pace.heartbeat {
                    session.client.stream(&active.target, &json!({})).await?;
                    active.heard_at = now;
                }
                return Ok(Round::CaughtUp);
            }
            for artifact in &batch.artifacts {
                match session.client.upload(&active.target, run, artifact).await {
                    Ok(()) => active.artifact_failures = 0,
                    Err(error @ RequestError::Passing { .. }) if active.artifact_failures < ARTIFACT_RETRIES => {
                        active.artifact_failures += 1;
                        return Err(error.into());
                    }
                    // Rows do not wait for ever: files go to a storage of their own, which may be out of reach alone.
                    Err(error) => tracing::warn!(%error, "a version of the gating head is not uploaded"),
                }
            }
            let (is_last, more) = (batch.exit_code.is_some(), batch.more);
            session.client.stream(&active.target, &batch.body()).await?;
            active.heard_at = now;
            self.metrics.observe_acknowledged(batch.history.len() as u64, self.clock.unix().as_secs_f64());
            active.acknowledge(&batch).await?;
            let (done, folder) = (batch.artifacts, run.clone());
            on_worker(move || done.iter().for_each(|version| artifact::forget(&folder, version))).await;
            if is_last {
                let (run, folder, keep) = (run.clone(), self.folder.clone(), self.keep_uploaded_runs);
                tracing::info!(run = run.id, entity = active.target.entity, "a wandb run is uploaded");
                on_worker(move || complete(&run, &folder, keep)).await?;
                return Ok(Round::Complete);
            }
            if !more {
                return Ok(Round::CaughtUp);
            }
            self.clock.sleep(pause).await;
        }
    }

    /// Tells the server of a run. `None` for a log that does not say which run it is, yet.
    async fn begin(&mut self, run: &RunFolder) -> Result<Option<Active>, UploadError> {
        let path = run.log();
        let progress_path = run.progress();
        let Some(about) = on_worker(move || run_of(&path)).await? else { return Ok(None) };
        let progress = on_worker(move || load_progress(&progress_path)).await?;
        if self.session.is_none() {
            self.session = Some(self.open().await?);
        }
        let Some(session) = &self.session else { return Ok(None) };
        let entity = if about.entity.is_empty() { &session.owner } else { &about.entity };
        let new = NewRun {
            id: &about.run_id,
            entity,
            project: &about.project,
            notes: &about.notes,
            tags: &about.tags,
            host: &about.host,
            config: config_of(&about),
        };
        let target = session.client.upsert(&new).await?;
        tracing::info!(run = target.run, entity = target.entity, project = target.project, "uploading a wandb run");
        let (folder, heard_at) = (run.clone(), self.clock.now());
        Ok(Some(Active { folder, about, target, progress, latest: Latest::default(), heard_at, artifact_failures: 0 }))
    }

    /// Looks for the key and asks whose it is.
    async fn open(&self) -> Result<Session, UploadError> {
        let (places, host) = (self.places.clone(), self.places.host.clone());
        let key = on_worker(move || places.find()).await?.ok_or(UploadError::NoKey(host))?;
        let (server, clock, metrics) = (self.server.clone(), self.clock.clone(), self.metrics.clone());
        let client = Client::new(server, key, clock, metrics, ClientTask::Uploading)?;
        let owner = client.viewer().await?;
        Ok(Session { client, owner })
    }
}

// === impl Active ===

impl Active {
    async fn read(&mut self, limit_bytes: usize) -> Result<Batch, UploadError> {
        let (path, from, mut latest) = (self.folder.log(), self.progress, self.latest.clone());
        let started_at = self.about.start_time.as_ref().map_or(0.0, super::record::Timestamp::seconds_since_1970);
        let (batch, latest) = on_worker(move || {
            let batch = Batch::read(&path, from, started_at, &mut latest, limit_bytes);
            (batch, latest)
        })
        .await;
        let batch = batch?;
        // Read again after a failed request, the same values come again.
        self.latest = latest;
        Ok(batch)
    }

    async fn acknowledge(&mut self, batch: &Batch) -> Result<(), UploadError> {
        let (progress, path) = (batch.acknowledged(), self.folder.progress());
        self.progress = progress;
        on_worker(move || save_progress(&path, progress)).await?;
        Ok(())
    }
}

/// The settings of a run as wandb keeps them.
fn config_of(about: &RunRecord) -> Value {
    let items = about.config.iter().flat_map(|config| &config.update);
    let value = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    let mut config: Map<String, Value> =
        items.map(|item| (item.name().to_owned(), json!({ "value": value(&item.value_json) }))).collect();
    let client = concat!("openvalidators ", env!("CARGO_PKG_VERSION"));
    config.insert("_wandb".to_owned(), json!({ "value": { "cli_version": client, "m": [], "t": {} } }));
    Value::Object(config)
}

/// Runs that are ours to upload and are not yet, with the bytes that are left of each.
fn pending(folder: &Path) -> Result<Vec<(RunFolder, u64)>, UploadError> {
    let mut pending = Vec::new();
    for run in runs::list(folder)? {
        if run.offline || run.synced().exists() {
            continue;
        }
        // A folder without a log is a run that begins just now, or could not.
        if let Ok(about) = std::fs::metadata(run.log()) {
            let done = load_progress(&run.progress())?.position;
            pending.push((run, about.len().saturating_sub(done)));
        }
    }
    Ok(pending)
}

/// From the beginning when there is none; what is sent twice takes its own place.
fn load_progress(path: &Path) -> Result<Progress, UploadError> {
    match std::fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "this run is uploaded from its beginning");
            Progress::default()
        })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Progress::default()),
        Err(error) => Err(error).at("read", path)?,
    }
}

fn save_progress(path: &Path, progress: Progress) -> Result<(), FileError> {
    let new = path.with_extension("upload.new");
    let text = serde_json::to_vec(&progress).map_err(std::io::Error::other).at("describe", path)?;
    std::fs::write(&new, text).at("write", &new)?;
    std::fs::rename(&new, path).at("rename", &new)
}

/// Marks a run as uploaded, and drops the earliest uploaded ones that are too many.
fn complete(run: &RunFolder, folder: &Path, keep: usize) -> Result<(), FileError> {
    std::fs::write(run.synced(), b"").at("write", run.synced())?;
    let mut uploaded = runs::list(folder)?;
    uploaded.retain(|run| !run.offline && run.synced().exists());
    for run in uploaded.iter().rev().skip(keep) {
        std::fs::remove_dir_all(&run.path).at("remove", &run.path)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
