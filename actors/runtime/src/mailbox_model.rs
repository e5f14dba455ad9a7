//! The mailbox beside a model of it: any order of calls, callers that give up, finished work, panics, and a closing door, on real
//! threads. What a caller is told is compared with what the actor saw.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use parking_lot::Mutex;
use prometheus::Registry;
use proptest::prelude::*;
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::*;

const CAPACITY: usize = 3;
/// Each costs the pause of a restart.
const MOST_PANICS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(20);

/// What is done to the mailbox.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A call whose work ends when it is let go.
    Call,
    /// A call whose handler panics.
    Panic,
    /// The caller of one of the calls so far goes away.
    GiveUp(prop::sample::Index),
    /// One piece of work ends.
    LetGo,
    /// Others run.
    Yield,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Work {
    number: usize,
    panics: bool,
}

/// What every life of the actor sees.
#[derive(Clone)]
struct Seen {
    /// Numbers in the order in which they were taken up.
    taken: Arc<Mutex<Vec<usize>>>,
    inside: Arc<Mutex<(usize, usize)>>,
    let_go: Arc<Semaphore>,
}

struct Worker(Seen);

/// One piece of work, counted while it lives: a panic drops it, too.
struct Inside(Seen);

impl Actor for Worker {
    type Context = Context<Self>;
}

impl Handler<Stop> for Worker {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Self::Context) {}
}

impl Handler<Envelope<Work>> for Worker {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, envelope: Envelope<Work>, _: &mut Self::Context) -> Self::Result {
        let (work, place) = envelope.open();
        self.0.taken.lock().push(work.number);
        assert!(!work.panics, "asked to panic");
        let inside = Inside::new(&self.0);
        Box::pin(async move {
            if let Ok(gone) = inside.0.let_go.clone().acquire_owned().await {
                gone.forget();
            }
            drop(inside);
            drop(place);
        })
    }
}

impl Inside {
    fn new(seen: &Seen) -> Self {
        let mut inside = seen.inside.lock();
        inside.0 += 1;
        inside.1 = inside.1.max(inside.0);
        drop(inside);
        Self(seen.clone())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.lock().0 -= 1;
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Call),
        1 => Just(Step::Panic),
        2 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
        3 => Just(Step::LetGo),
        3 => Just(Step::Yield),
    ]
}

async fn run(steps: Vec<Step>) {
    let seen = Seen { taken: Arc::default(), inside: Arc::default(), let_go: Arc::new(Semaphore::new(0)) };
    let (thread, shutdown, clock) = (ActorThread::start(), Shutdown::default(), SystemClock::shared());
    let inbox = Inbox::new("worker", CAPACITY, &Registry::new()).unwrap();
    let mailbox: Mailbox<Work> = inbox.mailbox();
    let of_factory = seen.clone();
    let factory = move || {
        let seen = of_factory.clone();
        async move { Ok::<_, BoxError>(Worker(seen)) }
    };
    let attached = mailbox.clone();
    let attach = move |address: &actix::Addr<Worker>| attached.attach(address);
    let supervision = supervise(&thread, &inbox, RestartBudget::default(), &clock, &shutdown, factory, attach);

    let (mut calls, mut given_up, mut panics): (Vec<JoinHandle<_>>, BTreeSet<usize>, _) =
        (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for step in steps {
        match step {
            Step::Call | Step::Panic => {
                let (mailbox, number) = (mailbox.clone(), calls.len());
                let is_panic = matches!(step, Step::Panic) && panics.len() < MOST_PANICS;
                panics.extend(is_panic.then_some(number));
                calls.push(actix::spawn(async move { mailbox.call(Work { number, panics: is_panic }).await }));
            }
            Step::GiveUp(which) if !calls.is_empty() => {
                let number = which.index(calls.len());
                // One that has its answer cannot give up any more.
                if !calls[number].is_finished() {
                    calls[number].abort();
                    given_up.insert(number);
                }
            }
            Step::LetGo => seen.let_go.add_permits(1),
            Step::GiveUp(_) | Step::Yield => clock.sleep(Duration::from_millis(1)).await,
        }
        assert!(inbox.health().depth <= CAPACITY && seen.inside.lock().1 <= CAPACITY, "{:?}", inbox.health());
    }

    // All work ends, and everybody hears how his call did.
    seen.let_go.add_permits(calls.len());
    let ended = within(&*clock, PATIENCE, futures::future::join_all(calls)).await.expect("a caller waits for ever");
    within(&*clock, PATIENCE, supervision.close()).await.expect("the door does not close");
    assert!(inbox.is_drained(), "a place leaked");
    assert!(!shutdown.is_requested(), "{:?}", shutdown.reason());
    let taken = seen.taken.lock().clone();
    let taken_once: BTreeSet<usize> = taken.iter().copied().collect();
    assert_eq!(taken_once.len(), taken.len(), "a message was taken up twice: {taken:?}");
    let a_panic_was_taken = taken_once.iter().any(|number| panics.contains(number));
    for (number, answer) in ended.into_iter().enumerate() {
        let (is_taken, is_panic) = (taken_once.contains(&number), panics.contains(&number));
        match answer {
            Ok(Ok(())) => assert!(is_taken && !is_panic, "{number} was answered"),
            Ok(Err(CallError::NeverStarted { .. })) => {
                assert!(!is_taken && a_panic_was_taken, "{number} never started")
            }
            Ok(Err(CallError::MayHaveRun { .. })) => assert!(is_taken && a_panic_was_taken, "{number} may have run"),
            Err(_) => assert!(given_up.contains(&number), "{number} ended without an answer"),
        }
    }
    assert_eq!(seen.inside.lock().0, 0, "work lives on");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_caller_is_told_what_became_of_its_message(steps in prop::collection::vec(step(), 1..60)) {
        actix::System::new().block_on(run(steps));
    }
}
