//! Faults on request, so that tests can see what the whole program makes of one.
//!
//! `OPENVALIDATORS_PANIC_AT=ledger::Append=3` makes the third `Append` that the ledger takes up panic,
//! `OPENVALIDATORS_HANG_AT=device::turn=5=60` holds the fifth turn of a device up for 60 seconds, and
//! `OPENVALIDATORS_FAIL_AT=device::batch=1` makes every batch from the first on fail; several are parted by commas. Only a build with
//! debug assertions looks: tests need no build of their own, and a release has none of it.

/// The variable that asks for a panic, once: `PART::WORK=TIME`.
pub const PANIC_AT: &str = "OPENVALIDATORS_PANIC_AT";

/// The variable that asks for a hang, once: `PART::WORK=TIME=SECONDS`.
pub const HANG_AT: &str = "OPENVALIDATORS_HANG_AT";

/// The variable that asks for a failure, from that time on: `PART::WORK=TIME`.
pub const FAIL_AT: &str = "OPENVALIDATORS_FAIL_AT";

/// Where a panic or a hang may be asked for: `PART::WORK`. Handlers of messages need none, [`Envelope::open`](crate::Envelope::open) has
/// theirs; work that an actor does by itself names its own. A hang holds the thread: it is for threads of their own.
#[allow(clippy::panic, reason = "it is what was asked for")]
pub fn fault_point(part: &str, work: &str) {
    #[cfg(debug_assertions)]
    {
        if let Some(hang) = asked::HANGS.iter().find(|hang| hang.is_at(part, work) && hang.is_due()) {
            tracing::warn!(seconds = hang.seconds, "asked for by {HANG_AT}: {part}::{work} hangs");
            std::thread::sleep(std::time::Duration::from_secs(hang.seconds));
            tracing::warn!("asked for by {HANG_AT}: {part}::{work} goes on");
        }
        if asked::PANICS.iter().any(|asked| asked.is_at(part, work) && asked.is_due()) {
            panic!("asked for by {PANIC_AT}: {part}::{work}");
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = (part, work);
}

/// Whether this is to fail: the caller makes the error that it would meet.
#[must_use]
pub fn is_failure_asked(part: &str, work: &str) -> bool {
    #[cfg(debug_assertions)]
    {
        asked::FAILURES.iter().any(|asked| asked.is_at(part, work) && asked.is_due_from_now_on())
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = (part, work);
        false
    }
}

#[cfg(debug_assertions)]
mod asked {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    use super::{FAIL_AT, HANG_AT, PANIC_AT};

    /// A place, how many times it is still passed before the fault, and how long that takes; at 0 it has happened.
    pub(super) struct Asked {
        place: String,
        left: AtomicU64,
        pub(super) seconds: u64,
    }

    pub(super) static PANICS: LazyLock<Vec<Asked>> = LazyLock::new(|| of_variable(PANIC_AT));
    pub(super) static HANGS: LazyLock<Vec<Asked>> = LazyLock::new(|| of_variable(HANG_AT));
    pub(super) static FAILURES: LazyLock<Vec<Asked>> = LazyLock::new(|| of_variable(FAIL_AT));

    fn of_variable(name: &str) -> Vec<Asked> {
        std::env::var(name).map_or_else(|_| Vec::new(), |text| parse(&text))
    }

    fn parse(text: &str) -> Vec<Asked> {
        let entries = text.split(',').filter(|entry| !entry.is_empty());
        let asked = |entry: &str| {
            let (place, numbers) = entry.split_once('=').unwrap_or((entry, "1"));
            let mut numbers = numbers.split('=').map(|number| number.parse().unwrap_or(1));
            let (time, seconds) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(0));
            Asked { place: place.to_owned(), left: AtomicU64::new(time), seconds }
        };
        entries.map(asked).collect()
    }

    impl Asked {
        pub(super) fn is_at(&self, part: &str, work: &str) -> bool {
            let rest = self.place.strip_prefix(part).and_then(|rest| rest.strip_prefix("::"));
            rest == Some(work)
        }

        /// At the time asked for, and at no other.
        pub(super) fn is_due(&self) -> bool {
            self.count_down() == Ok(1)
        }

        /// At the time asked for, and at every later one.
        pub(super) fn is_due_from_now_on(&self) -> bool {
            matches!(self.count_down(), Ok(1) | Err(_))
        }

        /// What was left before; an error when nothing was.
        fn count_down(&self) -> Result<u64, u64> {
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        }
    }

    #[test]
    fn the_time_asked_for_fails_and_no_other() {
        let asked = parse("ledger::Append=2,weights::attend,device::turn=3=60");
        assert!(asked[0].is_at("ledger", "Append") && !asked[0].is_at("ledger", "AppendMore"));
        assert_eq!([(); 4].map(|()| asked[0].is_due()), [false, true, false, false]);
        assert!(asked[1].is_at("weights", "attend") && asked[1].is_due());
        assert_eq!(asked[2].seconds, 60);
        assert_eq!([(); 5].map(|()| asked[2].is_due_from_now_on()), [false, false, true, true, true]);
    }
}
