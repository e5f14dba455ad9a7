use std::sync::{Arc, Mutex};

use openvalidators_runtime::DrivenClock;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{MemoryLedger, steps, unsettled};

const READER: &str = "notes";
const POLL: Duration = Duration::from_secs(1);

/// Notes what it is given; refuses as often as it is told to.
#[derive(Clone, Default)]
struct Notes {
    taken: Arc<Mutex<Vec<Vec<u64>>>>,
    refusals: Arc<Mutex<usize>>,
    troubles: Arc<Mutex<Vec<Option<String>>>>,
}

impl Follower for Notes {
    async fn take(&mut self, steps: &[StoredStep]) -> Result<(), BoxError> {
        let mut refusals = self.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return Err("the disk is full".into());
        }
        self.taken.lock().unwrap().push(steps.iter().map(|step| step.sequence.0).collect());
        Ok(())
    }

    fn troubled(&mut self, error: Option<&TailError>) {
        self.troubles.lock().unwrap().push(error.map(ToString::to_string));
    }
}

impl Notes {
    fn taken(&self) -> Vec<Vec<u64>> {
        self.taken.lock().unwrap().clone()
    }
}

/// A tail at work on a ledger in memory, with a driven clock.
struct Bench {
    ledger: MemoryLedger,
    clock: DrivenClock,
    notes: Notes,
    stop: watch::Sender<bool>,
    following: JoinHandle<()>,
}

impl Bench {
    fn start(ledger: &MemoryLedger, notes: Notes) -> Self {
        let clock = DrivenClock::new(Duration::ZERO);
        let shared: SharedClock = Arc::new(clock.clone());
        let tail = Tail {
            reader: READER,
            ledger: ledger.reader(),
            clock: Arc::new(clock.clone()),
            pulse: Pulse::new(&shared),
            poll: POLL,
            batch_steps: NonZeroUsize::new(4).unwrap(),
            drain: Duration::from_secs(5),
        };
        let (stop, stopping) = watch::channel(false);
        let mut follower = notes.clone();
        let following = actix::spawn(async move { tail.follow(&mut follower, stopping).await });
        Self { ledger: ledger.clone(), clock, notes, stop, following }
    }

    /// Until the tail sleeps.
    async fn rest(&self) {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
            if self.clock.sleepers() > 0 {
                return;
            }
        }
        panic!("the tail does not come to rest");
    }

    async fn pass(&self, time: Duration) {
        self.rest().await;
        self.clock.advance(time);
        // The sleeper wakes and goes to sleep anew.
        tokio::task::yield_now().await;
        self.rest().await;
    }

    async fn stop(self) -> Notes {
        self.stop.send_replace(true);
        self.following.await.unwrap();
        self.notes
    }

    fn cursor(&self) -> u64 {
        self.ledger.cursor(READER)
    }
}

#[actix::test]
async fn steps_come_in_batches_in_order_and_the_cursor_follows() {
    let ledger = MemoryLedger::with(steps(1..=9));
    let bench = Bench::start(&ledger, Notes::default());
    bench.rest().await;
    assert_eq!(bench.notes.taken(), [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9]]);
    assert_eq!(bench.cursor(), 9);
    ledger.push(steps([10]).remove(0));
    bench.pass(POLL / 2).await;
    assert_eq!(bench.cursor(), 9, "looked for only after the pause");
    bench.pass(POLL).await;
    assert_eq!(bench.cursor(), 10);
    assert_eq!(bench.stop().await.taken().len(), 4);
}

#[actix::test]
async fn a_new_life_goes_on_at_the_cursor() {
    let ledger = MemoryLedger::with(steps(1..=3));
    let first = Bench::start(&ledger, Notes::default());
    first.rest().await;
    first.stop().await;
    ledger.push(steps([4]).remove(0));
    let second = Bench::start(&ledger, Notes::default());
    second.rest().await;
    assert_eq!(second.stop().await.taken(), [vec![4]]);
}

#[actix::test]
async fn a_stop_drains_what_is_left() {
    let ledger = MemoryLedger::with(vec![]);
    let bench = Bench::start(&ledger, Notes::default());
    bench.rest().await;
    steps(1..=9).into_iter().for_each(|step| ledger.push(step));
    let taken = bench.stop().await.taken();
    assert_eq!(taken.concat(), (1..=9).collect::<Vec<_>>());
    assert_eq!(ledger.cursor(READER), 9);
}

#[actix::test]
async fn a_drain_gives_up_on_a_dead_ledger() {
    let ledger = MemoryLedger::with(steps(1..=2));
    let bench = Bench::start(&ledger, Notes::default());
    bench.rest().await;
    ledger.push(steps([3]).remove(0));
    *ledger.failing.borrow_mut() = usize::MAX;
    assert_eq!(bench.stop().await.taken(), [vec![1, 2]]);
}

#[actix::test]
async fn errors_are_told_once_each_and_retried_with_growing_pauses() {
    let ledger = MemoryLedger::with(steps(1..=2));
    *ledger.failing.borrow_mut() = 3;
    let notes = Notes { refusals: Arc::new(Mutex::new(2)), ..Notes::default() };
    let bench = Bench::start(&ledger, notes);
    // Longer than any pause, one error each.
    for _ in 0..5 {
        assert!(bench.notes.taken().is_empty());
        bench.pass(2 * BACKOFF.longest).await;
    }
    let notes = bench.stop().await;
    assert_eq!(notes.taken(), [vec![1, 2]]);
    let troubles = notes.troubles.lock().unwrap().clone();
    assert_eq!(troubles.len(), 6, "{troubles:?}");
    assert!(troubles[0].as_ref().unwrap().contains("database is locked"));
    let refused = troubles[4].as_ref().unwrap();
    assert!(refused.contains("notes could not take step 1: the disk is full"), "{refused}");
    assert_eq!(troubles[5], None);
}

#[actix::test]
async fn a_cursor_that_could_not_be_saved_is_saved_later_and_nothing_comes_twice() {
    let ledger = MemoryLedger::with(steps(1..=2));
    *ledger.failing_saves.borrow_mut() = 1;
    let bench = Bench::start(&ledger, Notes::default());
    bench.rest().await;
    assert_eq!((bench.notes.taken(), bench.cursor()), (vec![vec![1, 2]], 0));
    bench.pass(2 * BACKOFF.longest).await;
    assert_eq!(bench.cursor(), 2);
    assert_eq!(bench.stop().await.taken(), [vec![1, 2]]);
}

#[actix::test]
async fn a_step_waits_for_its_outcome_but_not_for_ever() {
    let ledger = MemoryLedger::with(steps(1..=1));
    ledger.push(unsettled(2));
    let bench = Bench::start(&ledger, Notes::default());
    bench.rest().await;
    assert_eq!(bench.cursor(), 1);
    bench.pass(OUTCOME_PATIENCE - POLL).await;
    assert_eq!(bench.cursor(), 1);
    ledger.steps.borrow_mut()[1] = steps([2]).remove(0);
    ledger.push(unsettled(3));
    bench.pass(POLL).await;
    assert_eq!(bench.cursor(), 2, "the outcome came");
    bench.pass(OUTCOME_PATIENCE).await;
    assert_eq!(bench.cursor(), 3, "no outcome came: passed on without");
    assert_eq!(bench.stop().await.taken(), [vec![1], vec![2], vec![3]]);
}

#[actix::test]
async fn a_hole_before_a_settled_step_is_passed_on_at_once() {
    let ledger = MemoryLedger::with(vec![unsettled(1), steps([2]).remove(0), unsettled(3)]);
    let bench = Bench::start(&ledger, Notes::default());
    bench.rest().await;
    assert_eq!(bench.stop().await.taken(), [vec![1, 2]], "the newest is left to the next start");
}

/// A tail may also run on the program's own threads, as the console's does.
#[test]
fn following_can_move_between_threads() {
    fn assert_send(_: impl Send) {}
    fn follow(tail: &Tail, notes: &mut Notes, stop: watch::Receiver<bool>) {
        assert_send(tail.follow(notes, stop));
    }
    let _: fn(&Tail, &mut Notes, watch::Receiver<bool>) = follow;
}
