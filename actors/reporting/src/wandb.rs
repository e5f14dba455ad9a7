//! wandb: every row of openvalidators 1.2.0 by its names, kept on the disk first and uploaded in its own time.
//!
//! ```text
//! ledger ─ by its own cursor ─▶ row ─▶ journal ─▶ STATE/wandb/run-…/run-ID.wandb ─▶ uploader ─▶ GraphQL, file_stream
//!                                       hardware ─▶┘        (the real format)         └ run-ID.wandb.upload: how far
//! ```
//!
//! The log is wandb's own transaction log, so that without a key, or without this uploader, the real `wandb sync` does the
//! same. Nothing here slows a step: what cannot be written waits in the ledger, what cannot be sent waits on the disk.
//! `docs/reporting.md` has it from the operator's side.

mod artifact;
mod batch;
mod client;
mod config;
mod credentials;
mod hardware;
mod journal;
mod log_file;
mod logged;
mod metrics;
#[cfg(test)]
mod peer;
mod public_api;
mod record;
mod row;
mod runs;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod server_double;
mod setup;
mod uploader;

use std::{sync::Arc, time::Duration};

use openvalidators_messages::{
    Metagraph, Sequence,
    gating::ReadHead,
    ledger::StoredStep,
    weights::{ReadScores, ScoreTable},
};
use openvalidators_runtime::{BoxError, Mailbox, SharedClock, on_worker, within};
use parking_lot::Mutex;
use time::UtcOffset;
use tokio::sync::watch;

pub use config::{Mode, Redact, WandbConfig, WandbConfigError};
pub use journal::RunAbout;
#[cfg(test)]
pub(crate) use journal::tests::rows as rows_of;
pub use log_file::LogError;
pub use logged::{Logged, LoggedRun};
pub use metrics::WandbMetrics;
pub use public_api::{Extent, PublicApi, PublicApiError, Run, RunPath};
pub use setup::{Setup, SetupError};

use crate::{Follower, LedgerReader, Tail};
use hardware::Hardware;
use journal::{FINISHED, Journal};
use row::Columns;
use uploader::{Pace, Uploader};

/// The name under which the ledger keeps the cursor.
pub(crate) const READER: &str = "wandb";

/// What reports to wandb.
#[derive(Clone)]
pub struct WandbParts {
    /// Where rows go.
    pub setup: Setup,
    /// What runs say of this validator.
    pub about: Arc<RunAbout>,
    /// What is counted.
    pub metrics: WandbMetrics,
}

/// What it takes from the rest of reporting.
pub(crate) struct Around {
    pub scores: Mailbox<ReadScores>,
    pub head: Mailbox<ReadHead>,
    pub metagraph: watch::Receiver<Arc<Metagraph>>,
    pub clock: SharedClock,
    pub offset: UtcOffset,
    /// Leave the columns of reward functions and filters in.
    pub log_rewards: bool,
    /// How long the last upload may take.
    pub drain: Duration,
}

/// Follows the ledger into the journal.
struct Reporter {
    journal: Arc<Mutex<Journal>>,
    metrics: WandbMetrics,
    scores: Mailbox<ReadScores>,
    /// Where the gating head is tracked.
    head: Option<Mailbox<ReadHead>>,
    metagraph: watch::Receiver<Arc<Metagraph>>,
    clock: SharedClock,
    every_blocks: u64,
    /// Block and time of the latest row of scores.
    last_scores: Option<(u64, f64)>,
}

/// Writes and uploads until `stop`; then ends the run and uploads the rest, as far as its time reaches.
pub(crate) async fn report(parts: WandbParts, around: Around, tail: Tail, stop: watch::Receiver<bool>) {
    let WandbParts { setup, about, metrics } = parts;
    let Around { scores, head, metagraph, clock, offset, log_rewards, drain } = around;
    let config = setup.config;
    let columns = Columns { log_rewards, redact: config.redact };
    let (folder, offline) = (setup.folder, setup.online.is_none());
    let journal = Journal::new(folder.clone(), offline, about, columns, config.run_step_length, offset, clock.clone());
    let journal = Arc::new(Mutex::new(journal));
    let mut reporter = Reporter {
        journal: journal.clone(),
        metrics: metrics.clone(),
        scores,
        head: config.track_gating_model.then_some(head),
        metagraph,
        clock: clock.clone(),
        every_blocks: config.scores_every_blocks,
        last_scores: None,
    };
    let mut uploader = setup.online.map(|online| {
        let (server, places, keep) = (online.server, online.places, config.keep_uploaded_runs);
        Uploader::new(folder.clone(), server, places, keep, Pace::default(), clock.clone(), metrics)
    });
    {
        let uploading = async {
            match &mut uploader {
                Some(uploader) => uploader.run().await,
                None => std::future::pending().await,
            }
        };
        let look = sample_hardware(journal.clone(), folder, config.hardware_seconds, clock.clone());
        // The other two go on for ever: they end where they stand when there is no more to follow.
        tokio::select! {
            () = tail.follow(&mut reporter, stop) => {}
            () = uploading => {}
            () = look => {}
        }
    }
    let finished = on_worker(move || journal.lock().finish(FINISHED)).await;
    if let Err(error) = finished {
        tracing::warn!(%error, "the wandb run has no end; the next start ends it");
    }
    if let Some(mut uploader) = uploader
        && within(&*clock, drain, uploader.flush()).await.is_err()
    {
        tracing::warn!("the last rows take too long to reach wandb; the next start sends them");
    }
}

/// Adds samples of the hardware to the open run, for ever.
async fn sample_hardware(journal: Arc<Mutex<Journal>>, folder: std::path::PathBuf, seconds: u64, clock: SharedClock) {
    if seconds == 0 {
        return std::future::pending().await;
    }
    let mut hardware = on_worker(move || Hardware::new(&folder)).await;
    loop {
        clock.sleep(Duration::from_secs(seconds)).await;
        let journal = journal.clone();
        let (back, written) = on_worker(move || {
            let sample = hardware.look();
            let written = journal.lock().append_stats(sample);
            (hardware, written)
        })
        .await;
        hardware = back;
        if let Err(error) = written {
            tracing::debug!(%error, "a sample of the hardware is lost");
        }
    }
}

// === impl Reporter ===

impl Follower for Reporter {
    async fn resume(&mut self, cursor: Sequence, _: &LedgerReader) -> Result<Sequence, BoxError> {
        let journal = self.journal.clone();
        let written = on_worker(move || {
            let mut journal = journal.lock();
            let written = journal.recover()?.filter(|written| *written > cursor.0).unwrap_or(cursor.0);
            journal.assume_written(written);
            Ok::<_, journal::JournalError>(written)
        });
        Ok(Sequence(written.await?))
    }

    async fn take(&mut self, steps: &[StoredStep]) -> Result<(), BoxError> {
        let (journal, appended) = (self.journal.clone(), steps.to_vec());
        let rows = on_worker(move || journal.lock().append(&appended)).await?;
        self.metrics.observe_rows(rows);
        if let Some(last) = steps.last() {
            self.report_scores(last.record.step.forward.0).await?;
        }
        Ok(())
    }
}

impl Reporter {
    /// Adds a row of scores when it is time for one. Scores that cannot be had now are had with a later step.
    async fn report_scores(&mut self, forward: u64) -> Result<(), BoxError> {
        let metagraph = self.metagraph.borrow().clone();
        let (block, now) = (metagraph.block.0, self.clock.unix().as_secs_f64());
        if self.last_scores.is_some_and(|(last, _)| block.saturating_sub(last) < self.every_blocks) {
            return Ok(());
        }
        let scores: ScoreTable = match self.scores.call(ReadScores).await {
            Ok(scores) => scores,
            Err(error) => {
                tracing::debug!(%error, "no row of scores");
                return Ok(());
            }
        };
        let row = row::of_scores(forward, &metagraph, &scores, self.block_seconds(block, now));
        let journal = self.journal.clone();
        on_worker(move || journal.lock().append_row(row)).await?;
        self.metrics.observe_rows(1);
        self.last_scores = Some((block, now));
        self.report_head().await
    }

    /// Adds the gating head, where it is tracked.
    async fn report_head(&mut self) -> Result<(), BoxError> {
        let Some(head) = &self.head else { return Ok(()) };
        match head.call(ReadHead).await {
            Ok(head) => {
                let journal = self.journal.clone();
                on_worker(move || journal.lock().append_head(&head)).await?;
            }
            Err(error) => tracing::debug!(%error, "no version of the gating head"),
        }
        Ok(())
    }

    /// How long a block took, since the row of scores before.
    #[allow(clippy::cast_precision_loss, reason = "differences of blocks")]
    fn block_seconds(&self, block: u64, now: f64) -> Option<f64> {
        let (last, then) = self.last_scores?;
        (block > last).then(|| (now - then).max(0.0) / (block - last) as f64)
    }
}
