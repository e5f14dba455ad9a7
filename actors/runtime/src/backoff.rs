//! How long to wait between attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Doubling waits with jitter, between two limits. Each wait is drawn between the plain one and twice that, so that many
/// waiters do not come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait, before jitter.
    pub first: Duration,
    /// The longest wait, before jitter.
    pub longest: Duration,
    /// Waits in all; the attempts are one more.
    pub retries: usize,
}

impl Backoff {
    /// The waits, in order. The jitter is derived from `seed`.
    pub fn waits(self, seed: u64) -> impl Iterator<Item = Duration> + Send {
        ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .with_max_times(self.retries)
            .with_jitter()
            .with_jitter_seed(seed)
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_stay_within_their_limits_and_end() {
        let backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1), retries: 8 };
        let waits: Vec<_> = backoff.waits(7).collect();
        assert_eq!(waits.len(), 8);
        assert!(waits.iter().all(|wait| *wait >= backoff.first && *wait <= 2 * backoff.longest));
        assert!(waits[7] > waits[0]);
        assert_eq!(waits, backoff.waits(7).collect::<Vec<_>>());
        assert_ne!(waits, backoff.waits(8).collect::<Vec<_>>());
    }
}
