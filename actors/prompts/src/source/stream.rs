//! Texts that are read on ahead: a thread reads shards, cleans texts and keeps a buffer full; a forward takes one out of the
//! buffer and never waits. When the buffer is empty it is told why, and the next source has its turn.
//!
//! The buffer is also what shuffles, as that of `datasets` does (10,000 texts in `dataset.py` of the reference): each draw
//! takes any of the texts in it. The shards of each pass come in an order of their own. Where the thread stands is written
//! into the state directory (`position.rs`), so a restart reads on; texts that were in the buffer are not read again.

mod filler;
mod position;

use std::{path::PathBuf, sync::Arc};

use openvalidators_messages::prompts::{Context, SourceError};
use openvalidators_runtime::{Seed, SharedClock};
use parking_lot::{Condvar, Mutex};
use rand::{Rng, RngCore};

use super::{Source, metrics::SourceMetrics, shards::Shards};
use crate::hygiene::{Hygiene, HygieneConfig};
use filler::Filler;

/// Texts of one buffer take so much memory at most, one text excepted.
const BUFFER_BYTES: usize = 256 << 20;

/// A source that is read on ahead. The thread ends soon after this is dropped.
pub struct Stream {
    name: String,
    shared: Arc<Shared>,
}

/// What streams have in common.
#[derive(Clone)]
pub struct StreamParts {
    /// Texts read ahead.
    pub buffer: usize,
    /// Which texts are kept.
    pub hygiene: HygieneConfig,
    /// Of the order of shards.
    pub seed: Seed,
    /// Of pauses.
    pub clock: SharedClock,
    /// Where positions are kept; nowhere without it.
    pub folder: Option<PathBuf>,
}

/// What the thread and the forwards share.
struct Shared {
    capacity: usize,
    metrics: SourceMetrics,
    state: Mutex<State>,
    /// There may be room now.
    room: Condvar,
}

#[derive(Default)]
struct State {
    texts: Vec<Context>,
    bytes: usize,
    /// Texts that were ever put in.
    put: u64,
    /// What keeps the thread from reading.
    trouble: Option<String>,
    stopped: bool,
}

// === impl Stream ===

impl Stream {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        name: &str,
        shards: Box<dyn Shards>,
        parts: &StreamParts,
        metrics: SourceMetrics,
    ) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { capacity: parts.buffer.max(1), metrics, state: Mutex::default(), room: Condvar::new() });
        let hygiene = Hygiene::new(&parts.hygiene);
        let filler = Filler::new(name, shards, hygiene, parts, shared.clone());
        // Not joined: it may be in the middle of a request, which ends by itself.
        std::thread::Builder::new().name(format!("prompts-{name}")).spawn(move || filler.run())?;
        Ok(Self { name: name.to_owned(), shared })
    }

    /// Stops, and waits until the thread has written where it stands.
    #[cfg(test)]
    pub fn close(self) {
        let shared = self.shared.clone();
        drop(self);
        while Arc::strong_count(&shared) > 1 {
            std::thread::yield_now();
        }
    }
}

impl Source for Stream {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn draw(&self, rng: &mut dyn RngCore) -> Result<Context, SourceError> {
        let mut state = self.shared.state.lock();
        if state.texts.is_empty() {
            let reason = state.trouble.clone().unwrap_or_else(|| "nothing is read yet".to_owned());
            return Err(SourceError { source_name: self.name.clone(), reason });
        }
        let at = rng.random_range(0..state.texts.len());
        let context = state.texts.swap_remove(at);
        state.bytes = state.bytes.saturating_sub(context.text.len());
        self.shared.metrics.set_level(state.texts.len());
        drop(state);
        self.shared.room.notify_one();
        Ok(context)
    }

    fn is_settled(&self) -> bool {
        let state = self.shared.state.lock();
        state.put > 0 || state.trouble.is_some()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.room.notify_all();
    }
}

// === impl Shared ===

impl Shared {
    fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    fn is_full(&self) -> bool {
        self.state.lock().is_full(self.capacity)
    }

    /// Puts a text in once there is room; false when nobody wants texts any more.
    fn put(&self, context: Context) -> bool {
        let mut state = self.state.lock();
        while state.is_full(self.capacity) && !state.stopped {
            self.room.wait(&mut state);
        }
        if state.stopped {
            return false;
        }
        state.bytes += context.text.len();
        state.texts.push(context);
        state.put += 1;
        if state.trouble.take().is_some() {
            self.metrics.set_up(true);
        }
        self.metrics.set_level(state.texts.len());
        true
    }

    /// Waits until so few texts are left.
    fn wait_until_left(&self, texts: usize) {
        let mut state = self.state.lock();
        while state.texts.len() > texts && !state.stopped {
            self.room.wait(&mut state);
        }
    }

    /// Notes what keeps the thread from reading; true when it is news.
    fn note(&self, trouble: &str) -> bool {
        let mut state = self.state.lock();
        let news = state.trouble.as_deref() != Some(trouble);
        state.trouble = Some(trouble.to_owned());
        self.metrics.set_up(false);
        news
    }
}

// === impl State ===

impl State {
    fn is_full(&self, capacity: usize) -> bool {
        self.texts.len() >= capacity || self.bytes >= BUFFER_BYTES
    }
}

#[cfg(test)]
mod tests;
