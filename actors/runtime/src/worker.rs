//! Work that would hold up the thread of an actor.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicU64, Ordering},
};

static GIVEN: AtomicU64 = AtomicU64::new(0);

/// Runs `work` on a thread for blocking work. A panic there becomes a panic here, so that a supervisor sees it.
///
/// # Panics
/// When `work` does, or the runtime is gone before it ran.
pub async fn on_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    GIVEN.fetch_add(1, Ordering::SeqCst);
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => resume_unwind(error.try_into_panic().unwrap_or_else(|error| Box::new(error.to_string()))),
    }
}

/// How many times [`on_worker`] was given work, in this process: a clock that jumps when nothing is left to do looks whether some
/// may be in flight.
#[must_use]
pub fn works_given() -> u64 {
    GIVEN.load(Ordering::SeqCst)
}
