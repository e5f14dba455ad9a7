//! Panics on request, so that tests can see what the whole program makes of one.
//!
//! `OPENVALIDATORS_PANIC_AT=ledger::Append=3` makes the third `Append` that the ledger takes up panic; several are parted by
//! commas. Only a build with debug assertions looks: tests need no build of their own, and a release has none of it.

/// The variable that asks for a panic.
pub const PANIC_AT: &str = "OPENVALIDATORS_PANIC_AT";

/// Where a panic may be asked for: `PART::WORK`. Handlers of messages need none, [`Envelope::open`](crate::Envelope::open) has
/// theirs; work that an actor does by itself names its own.
#[allow(clippy::panic, reason = "it is what was asked for")]
pub fn fault_point(part: &str, work: &str) {
    #[cfg(debug_assertions)]
    if asked::is_due(part, work) {
        panic!("asked for by {PANIC_AT}: {part}::{work}");
    }
    #[cfg(not(debug_assertions))]
    let _ = (part, work);
}

#[cfg(debug_assertions)]
mod asked {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    use super::PANIC_AT;

    /// A place, and how many times it is still passed before the panic; at 0 it has happened.
    struct Asked {
        place: String,
        left: AtomicU64,
    }

    static ASKED: LazyLock<Vec<Asked>> =
        LazyLock::new(|| std::env::var(PANIC_AT).map_or_else(|_| Vec::new(), |text| parse(&text)));

    pub(super) fn is_due(part: &str, work: &str) -> bool {
        ASKED.iter().any(|asked| asked.is_at(part, work) && asked.count_down())
    }

    fn parse(text: &str) -> Vec<Asked> {
        let entries = text.split(',').filter(|entry| !entry.is_empty());
        let asked = |entry: &str| {
            let (place, times) = entry.split_once('=').unwrap_or((entry, "1"));
            Asked { place: place.to_owned(), left: AtomicU64::new(times.parse().unwrap_or(1)) }
        };
        entries.map(asked).collect()
    }

    impl Asked {
        fn is_at(&self, part: &str, work: &str) -> bool {
            let rest = self.place.strip_prefix(part).and_then(|rest| rest.strip_prefix("::"));
            rest == Some(work)
        }

        fn count_down(&self) -> bool {
            let counted = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            counted == Ok(1)
        }
    }

    #[test]
    fn the_time_asked_for_panics_and_no_other() {
        let asked = parse("ledger::Append=2,weights::attend");
        assert!(asked[0].is_at("ledger", "Append") && !asked[0].is_at("ledger", "AppendMore"));
        assert_eq!([(); 4].map(|()| asked[0].count_down()), [false, true, false, false]);
        assert!(asked[1].is_at("weights", "attend") && asked[1].count_down());
    }
}
