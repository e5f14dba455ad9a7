//! Work that would hold up the thread of an actor.

use std::panic::resume_unwind;

/// Runs `work` on a thread for blocking work. A panic there becomes a panic here, so that a supervisor sees it.
///
/// # Panics
/// When `work` does, or the runtime is gone before it ran.
pub async fn on_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => resume_unwind(error.try_into_panic().unwrap_or_else(|error| Box::new(error.to_string()))),
    }
}
