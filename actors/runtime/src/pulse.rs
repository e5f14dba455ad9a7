//! Signs of life of work that no message asks for: a loop that follows the chain, one that reads the ledger.
//!
//! An inbox tells by itself whether its actor gets on with what it was sent. A loop has to say so: a [`Pulse`] is beaten at each of
//! its turns, and `/health` and the watchdog look at how long ago that was. Work that comes and goes rests in between.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::SharedClock;

/// When a loop last began a turn. Clones are the same pulse; it outlives the actor whose loop it is.
#[derive(Clone)]
pub struct Pulse {
    clock: SharedClock,
    latest_ms: Arc<AtomicU64>,
}

/// Later than any beat.
const RESTING: u64 = u64::MAX;

// === impl Pulse ===

impl Pulse {
    /// Beats once, now.
    #[must_use]
    pub fn new(clock: &SharedClock) -> Self {
        let pulse = Self { clock: clock.clone(), latest_ms: Arc::default() };
        pulse.beat();
        pulse
    }

    /// Another turn begins.
    pub fn beat(&self) {
        self.latest_ms.store(millis(self.clock.now()), Ordering::Relaxed);
    }

    /// Nothing to do until the next beat.
    pub fn rest(&self) {
        self.latest_ms.store(RESTING, Ordering::Relaxed);
    }

    /// Since the latest turn began; zero at rest.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        let latest = self.latest_ms.load(Ordering::Relaxed);
        Duration::from_millis(millis(self.clock.now()).saturating_sub(latest))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DrivenClock;

    #[test]
    fn silence_is_counted_from_the_latest_turn() {
        let driven = DrivenClock::new(Duration::ZERO);
        let clock: SharedClock = Arc::new(driven.clone());
        let pulse = Pulse::new(&clock);
        driven.advance(Duration::from_secs(7));
        assert_eq!(pulse.clone().silent_for(), Duration::from_secs(7));
        pulse.beat();
        assert_eq!(pulse.silent_for(), Duration::ZERO);
        pulse.rest();
        driven.advance(Duration::from_secs(7));
        assert_eq!(pulse.silent_for(), Duration::ZERO, "at rest");
    }
}
