//! Following the chain, block by block.

use std::sync::Arc;

use openvalidators_messages::{Metagraph, subtensor::ChainError};
use openvalidators_runtime::{Pulse, fault_point};
use tokio::sync::watch;

use crate::calls::ChainCalls;

/// Failures in a row after which the wait no longer grows: the backoff is drawn anew.
const GROWING_WAITS: usize = 16;

/// Reads the metagraph after each block and publishes it, for ever. While the chain cannot be reached, what was published
/// last stays, and its age is in the metrics.
pub(crate) async fn follow(calls: ChainCalls, published: watch::Sender<Arc<Metagraph>>, pulse: Pulse) {
    let mut waits = calls.waits("follow", GROWING_WAITS);
    let mut failures = 0_u64;
    loop {
        pulse.beat();
        fault_point("subtensor", "follow");
        match advance(&calls, &published).await {
            Ok(()) => {
                if failures > 0 {
                    tracing::info!(failures, "the chain is reached again");
                    failures = 0;
                    waits = calls.waits("follow", GROWING_WAITS);
                }
            }
            Err(error) => {
                failures += 1;
                let wait = waits.next().unwrap_or_else(|| calls.longest_wait());
                tracing::warn!(%error, failures, wait_seconds = wait.as_secs_f64(), "the chain is not followed");
                calls.clock().sleep(wait).await;
            }
        }
    }
}

/// One block further.
async fn advance(calls: &ChainCalls, published: &watch::Sender<Arc<Metagraph>>) -> Result<(), ChainError> {
    let known = published.borrow().block;
    calls.next_block(known).await?;
    let fresh = calls.metagraph().await?;
    // A node behind the one before must not take us back.
    published.send_if_modified(|current| {
        let newer = fresh.block > current.block;
        if newer {
            *current = Arc::new(fresh);
        }
        newer
    });
    if let Err(error) = calls.compare_clocks().await {
        tracing::debug!(%error, "the chain's time was not read");
    }
    Ok(())
}
