//! Time that jumps to the next thing due.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use openvalidators_runtime::{Clock, works_given};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A clock of one runtime: when its thread has nothing to do, and no worker has either, the next sleeper's moment has come.
#[derive(Clone)]
pub(super) struct Simulated {
    state: Arc<Mutex<Sleepers>>,
    barrier_passed: Arc<AtomicBool>,
    /// Works given before the latest barrier.
    behind: Arc<AtomicU64>,
}

#[derive(Default)]
struct Sleepers {
    now: Duration,
    number: u64,
    due: BinaryHeap<Reverse<(Duration, u64)>>,
    wake: BTreeMap<u64, oneshot::Sender<()>>,
}

/// 2026-11-20, for wall-clock times.
const UNIX_AT_ZERO: Duration = Duration::from_secs(1_795_000_000);

impl Simulated {
    pub(super) fn new() -> Self {
        let (state, barrier_passed, behind) = Default::default();
        let this = Self { state, barrier_passed, behind };
        this.barrier_passed.store(true, Ordering::SeqCst);
        this
    }

    /// Called when the runtime's thread has nothing to do. Workers are one thread, so what was given to it before a barrier
    /// is done, and whoever awaits it is awake, when the barrier is. Time goes on when nothing was given since.
    pub(super) fn idle(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.barrier_passed.load(Ordering::SeqCst) {
            return;
        }
        let given = works_given();
        if self.behind.swap(given, Ordering::SeqCst) != given {
            self.barrier_passed.store(false, Ordering::SeqCst);
            let (passed, of_wake) = (self.barrier_passed.clone(), runtime.clone());
            runtime.spawn_blocking(move || {
                passed.store(true, Ordering::SeqCst);
                // So that the thread parks, and asks, again.
                of_wake.spawn(async {});
            });
            return;
        }
        self.go_on();
    }

    fn go_on(&self) {
        let mut state = self.state.lock();
        while let Some(Reverse((due, number))) = state.due.pop() {
            let Some(wake) = state.wake.remove(&number) else { continue };
            if wake.is_closed() {
                continue;
            }
            state.now = state.now.max(due);
            drop(state);
            let _ = wake.send(());
            return;
        }
    }
}

impl Clock for Simulated {
    fn now(&self) -> Duration {
        self.state.lock().now
    }

    fn unix(&self) -> Duration {
        UNIX_AT_ZERO + self.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        let (wake, woken) = oneshot::channel();
        let mut state = self.state.lock();
        state.number += 1;
        let (number, due) = (state.number, state.now + duration);
        state.due.push(Reverse((due, number)));
        state.wake.insert(number, wake);
        Box::pin(async move {
            let _ = woken.await;
        })
    }
}
