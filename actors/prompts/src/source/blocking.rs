//! Waiting for the network on a thread of one's own.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

use super::shards::ReadError;

/// A runtime for the one thread that uses it, made at the first wait. To be dropped on that thread.
#[derive(Default)]
pub(super) struct BlockOn(OnceLock<Runtime>);

// === impl BlockOn ===

impl BlockOn {
    /// Waits for a future.
    ///
    /// # Errors
    /// When the system gives no runtime.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, ReadError> {
        if let Some(runtime) = self.0.get() {
            return Ok(runtime.block_on(work));
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ReadError::passing(format!("no runtime to wait with: {error}")))?;
        Ok(self.0.get_or_init(|| runtime).block_on(work))
    }
}
