//! The thread that reads on ahead. Nothing that a server or a file does ends it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use openvalidators_messages::prompts::Context;
use openvalidators_runtime::{Backoff, Seed, SharedClock, panic_text};
use rand::seq::SliceRandom;

use super::{
    Shared, StreamParts,
    position::{Position, PositionFile},
};
use crate::{
    hygiene::{Hygiene, LeftOut},
    source::{
        blocking::BlockOn,
        shards::{self, ReadError, Shards},
    },
};

/// Pauses after a failure, beyond those inside a request.
const PAUSES: Backoff =
    Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(300), retries: usize::MAX };
/// Failures in a row, none of them with a new record, after which a shard is left for the next.
const SHARD_ATTEMPTS: usize = 12;
/// Files left out in a row after which there is a pause: a server may refuse all of them for a while.
const LEFT_OUT_IN_A_ROW: usize = 3;
/// A pause is cut into pieces, so that a stop is noticed.
const STOP_POLL: Duration = Duration::from_millis(500);
/// While the buffer is filled for the first time the position is written after so many texts; later after each record, which
/// is as often as a forward begins.
const TEXTS_PER_WRITE: u64 = 100;
/// Records of a shard whose faults are told one by one.
const TOLD_RECORDS: u64 = 3;

pub(super) struct Filler {
    name: String,
    shards: Box<dyn Shards>,
    hygiene: Hygiene,
    seed: Seed,
    clock: SharedClock,
    shared: Arc<Shared>,
    position: Position,
    file: PositionFile,
    blocking: BlockOn,
    /// Failures since the last record.
    failed: usize,
    /// Those of them in the shard under way.
    failed_in_shard: usize,
    /// Shards left out since the last record.
    left_out: usize,
    /// The buffer was full once.
    was_full: bool,
    /// Texts put into the buffer in this pass.
    kept: usize,
    /// Why a record of this pass was of no use, the latest.
    useless: Option<String>,
}

/// Why reading ended.
enum End {
    /// Nobody wants texts any more.
    Stopped,
    Failed(ReadError),
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        Self::Failed(error)
    }
}

// === impl Filler ===

impl Filler {
    pub fn new(
        name: &str,
        shards: Box<dyn Shards>,
        hygiene: Hygiene,
        parts: &StreamParts,
        shared: Arc<Shared>,
    ) -> Self {
        let file = PositionFile::new(parts.folder.as_deref(), name);
        Self {
            name: name.to_owned(),
            position: file.read(&shards.identity()),
            shards,
            hygiene,
            seed: parts.seed,
            clock: parts.clock.clone(),
            shared,
            file,
            blocking: BlockOn::default(),
            failed: 0,
            failed_in_shard: 0,
            left_out: 0,
            was_full: false,
            kept: 0,
            useless: None,
        }
    }

    pub fn run(mut self) {
        while !self.shared.is_stopped() {
            let passed = catch_unwind(AssertUnwindSafe(|| self.pass()));
            let failure = match passed {
                Ok(Ok(())) => continue,
                Ok(Err(End::Stopped)) => break,
                Ok(Err(End::Failed(error))) => error,
                Err(panic) => ReadError::passing(format!("a defect: {}", panic_text(&*panic))),
            };
            self.pause_after(&failure);
        }
        self.file.write(&self.position);
    }

    /// Reads on to the end of the pass.
    fn pass(&mut self) -> Result<(), End> {
        let listing = self.shards.list(self.position.listing.as_deref())?;
        if self.position.listing.as_ref() != Some(&listing.version) {
            if let Some(was) = &self.position.listing {
                tracing::warn!(
                    source = self.name,
                    was,
                    now = listing.version,
                    "the source has changed: it begins anew"
                );
            }
            let (version, files) = (&listing.version, listing.shards.len());
            tracing::info!(source = self.name, version, files, "texts are read of this version from now on");
            self.position.listing = Some(version.clone());
            (self.position.shard, self.position.mark) = (0, <_>::default());
        }
        if let Some(newer) = &listing.newer {
            let reads = &listing.version;
            tracing::warn!(
                source = self.name,
                reads,
                newer,
                "the source has a newer version (docs/prompts.md, Pinned)"
            );
        }
        let mut order = listing.shards;
        order.shuffle(&mut self.seed.rng(&format!("shards of {}", self.name), &[self.position.pass]));
        let began_anew = (self.position.shard, self.position.mark) == (0, <_>::default());
        while let Some(shard) = order.get(self.position.shard) {
            let mut refused = None;
            match self.read(&listing.version, shard) {
                Ok(()) => {}
                Err(End::Stopped) => return Err(End::Stopped),
                Err(End::Failed(error)) => {
                    let error = ReadError { reason: format!("{shard}: {}", error.reason), ..error };
                    self.failed_in_shard += 1;
                    if !error.lasting && self.failed_in_shard < SHARD_ATTEMPTS {
                        return Err(error.into());
                    }
                    tracing::warn!(source = self.name, %error, "a file of texts is left out");
                    self.shared.metrics.count_failure();
                    self.useless = Some(error.reason.clone());
                    self.left_out += 1;
                    refused = Some(error).filter(|_| self.left_out.is_multiple_of(LEFT_OUT_IN_A_ROW));
                }
            }
            self.failed_in_shard = 0;
            (self.position.shard, self.position.mark) = (self.position.shard + 1, <_>::default());
            self.file.write(&self.position);
            if let Some(error) = refused {
                let files = self.left_out;
                return Err(
                    ReadError::passing(format!("{files} files in a row are left out, the last: {error}")).into()
                );
            }
        }
        (self.position.pass, self.position.shard) = (self.position.pass + 1, 0);
        self.file.write(&self.position);
        self.hygiene.begin_again();
        let (kept, useless) = (std::mem::take(&mut self.kept), self.useless.take());
        if kept == 0 && began_anew {
            let why = useless.unwrap_or_else(|| "it is empty".to_owned());
            return Err(ReadError::lasting(format!("it holds no usable text; the last reason: {why}")).into());
        }
        // A small source would fill the buffer with the same texts.
        self.shared.wait_until_left(kept / 2);
        Ok(())
    }

    /// Reads on to the end of a shard.
    fn read(&mut self, version: &str, shard: &str) -> Result<(), End> {
        let file = self.shards.open(version, shard)?;
        let mut reader = shards::read(shard, file, self.shards.column(), self.position.mark)?;
        let mut told = 0;
        loop {
            let place = reader.mark().record;
            let Some(record) = reader.next()? else { return Ok(()) };
            (self.failed, self.failed_in_shard, self.left_out) = (0, 0, 0);
            self.shared.metrics.count_record();
            let cleaned = record.map_err(|fault| {
                if told < TOLD_RECORDS {
                    tracing::warn!(source = self.name, shard, record = place + 1, fault, "a record without a text");
                }
                told += 1;
                self.useless = Some(format!("{shard}: record {}: {fault}", place + 1));
                LeftOut::Unreadable
            });
            match cleaned.and_then(|text| self.hygiene.clean(&text)) {
                Ok(text) => {
                    let source = format!("{}:{shard}:{place}", self.name);
                    self.was_full |= self.shared.is_full();
                    if !self.shared.put(Context { source, text: text.into() }) {
                        return Err(End::Stopped);
                    }
                    self.kept += 1;
                }
                Err(reason) => {
                    self.shared.metrics.count_left_out(reason);
                    if reason != LeftOut::Unreadable {
                        self.useless = Some(format!("{shard}: record {}: left out as {}", place + 1, reason.label()));
                    }
                }
            }
            self.position.mark = reader.mark();
            if self.was_full || (self.kept as u64).is_multiple_of(TEXTS_PER_WRITE) {
                self.file.write(&self.position);
            }
            if self.shared.is_stopped() {
                return Err(End::Stopped);
            }
        }
    }

    /// Tells what happened, once, and waits, longer each time.
    fn pause_after(&mut self, error: &ReadError) {
        self.shared.metrics.count_failure();
        if self.shared.note(&error.reason) {
            tracing::error!(source = self.name, %error, "a prompt source cannot be read; it is tried again");
        }
        self.file.write(&self.position);
        let wait = PAUSES.waits(self.seed.0).nth(self.failed).unwrap_or(PAUSES.longest);
        self.failed += 1;
        let until = self.clock.now() + wait;
        while !self.shared.is_stopped() && self.clock.now() < until {
            let left = until.saturating_sub(self.clock.now()).min(STOP_POLL);
            // Without a runtime there is nothing to wait with: no harm in an early attempt.
            let _ = self.blocking.block_on(async { self.clock.sleep(left).await });
        }
    }
}
