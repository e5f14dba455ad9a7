//! Time, handed down so that tests can drive it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What time it is, in two ways, and how to wait.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment; never goes back, does not count wall-clock corrections. For durations and
    /// deadlines.
    fn now(&self) -> Duration;
    /// Wall clock, since 1970-01-01 UTC; may jump. For records and signatures.
    fn unix(&self) -> Duration;
    /// Waits by [`Clock::now`].
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The clock everything shares.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock. Its `sleep` needs a tokio runtime.
pub struct SystemClock {
    origin: Instant,
}

/// A clock that stands still until it is told to go: for tests. Clones share their time.
#[derive(Clone)]
pub struct DrivenClock {
    state: Arc<Mutex<Driven>>,
}

struct Driven {
    now: Duration,
    unix_at_zero: Duration,
    sleepers: Vec<(Duration, oneshot::Sender<()>)>,
}

/// The limit of a wait came before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} s", limit.as_secs_f64())]
pub struct TooLate {
    /// What was allowed.
    pub limit: Duration,
}

/// Waits for a future, `limit` at most by the given clock; then the future is dropped where it stands, and what it started
/// elsewhere may still take effect. One that is ready is taken even when the limit has come.
///
/// # Errors
/// [`TooLate`] at the limit.
pub async fn within<T>(clock: &dyn Clock, limit: Duration, work: impl Future<Output = T>) -> Result<T, TooLate> {
    tokio::select! {
        biased;
        answer = work => Ok(answer),
        () = clock.sleep(limit) => Err(TooLate { limit }),
    }
}

// === impl SystemClock ===

impl SystemClock {
    /// Starts at zero now.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "starting a clock is an act, not a default")]
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// Shared from the start.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn unix(&self) -> Duration {
        // A machine whose date is before 1970 gets 1970: signatures will be refused, nothing panics.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

// === impl DrivenClock ===

impl DrivenClock {
    /// Monotonic time starts at zero, wall-clock time at `unix`.
    #[must_use]
    pub fn new(unix: Duration) -> Self {
        let state = Driven { now: Duration::ZERO, unix_at_zero: unix, sleepers: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Sets the wall clock, as somebody who corrects it does: [`Clock::now`] and whoever waits notice nothing.
    pub fn set_unix(&self, unix: Duration) {
        let mut state = self.state.lock();
        state.unix_at_zero = unix.saturating_sub(state.now);
    }

    /// Lets time pass and wakes, earliest first, every sleeper whose moment has come.
    pub fn advance(&self, duration: Duration) {
        let mut state = self.state.lock();
        state.now += duration;
        let now = state.now;
        let (mut due, later) = std::mem::take(&mut state.sleepers).into_iter().partition::<Vec<_>, _>(|s| s.0 <= now);
        state.sleepers = later;
        drop(state);
        due.sort_by_key(|sleeper| sleeper.0);
        for (_, wake) in due {
            let _ = wake.send(());
        }
    }

    /// How many are asleep: lets a test wait until what it drives has come to rest.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        let mut state = self.state.lock();
        state.sleepers.retain(|(_, wake)| !wake.is_closed());
        state.sleepers.len()
    }
}

impl Clock for DrivenClock {
    fn now(&self) -> Duration {
        self.state.lock().now
    }

    fn unix(&self) -> Duration {
        let state = self.state.lock();
        state.unix_at_zero + state.now
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.state.lock();
        if duration.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        let (wake, woken) = oneshot::channel();
        let due = state.now + duration;
        state.sleepers.push((due, wake));
        Box::pin(async move {
            let _ = woken.await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driven_clock_wakes_only_whom_it_should() {
        let clock = DrivenClock::new(Duration::from_secs(1_000));
        let soon = tokio::spawn(clock.sleep(Duration::from_secs(1)));
        let late = tokio::spawn(clock.sleep(Duration::from_secs(10)));
        assert_eq!(clock.sleepers(), 2);
        clock.advance(Duration::from_secs(1));
        soon.await.unwrap();
        assert_eq!(clock.sleepers(), 1);
        assert!(!late.is_finished());
        assert_eq!(clock.now(), Duration::from_secs(1));
        assert_eq!(clock.unix(), Duration::from_secs(1_001));
        clock.advance(Duration::from_secs(9));
        late.await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_ends_at_its_limit_and_drops_what_it_waited_for() {
        let clock = DrivenClock::new(Duration::ZERO);
        let second = Duration::from_secs(1);
        assert_eq!(within(&clock, Duration::ZERO, async { 7 }).await, Ok(7), "ready is never too late");

        let (held, dropped) = oneshot::channel::<()>();
        let driven = clock.clone();
        let waiting = tokio::spawn(async move {
            let hanging = async move {
                let _held = held;
                std::future::pending::<()>().await;
            };
            within(&driven, 2 * second, hanging).await
        });
        while clock.sleepers() == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(second);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        clock.advance(second);
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "no answer within 2 s");
        assert!(dropped.await.is_err(), "nobody holds it any more");
        assert_eq!(clock.sleepers(), 0);
    }
}
