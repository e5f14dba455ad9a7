//! Mailboxes and supervision together: what the rest of the program relies on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use futures::FutureExt;
use prometheus::Registry;
use tokio::sync::Notify;

use crate::*;

#[derive(Clone, Copy, Message)]
#[rtype(result = "usize")]
enum Ask {
    /// Answers how many messages this life has handled.
    Count,
    /// Waits for the gate, holding its place.
    Wait,
    /// Panics in the handler.
    Panic,
}

/// Shared between the lives of the actor and the test.
#[derive(Clone, Default)]
struct World {
    inside: Arc<AtomicUsize>,
    most_inside: Arc<AtomicUsize>,
    lives: Arc<AtomicUsize>,
    stopped: Arc<AtomicUsize>,
    gate: Arc<Notify>,
}

struct Clerk {
    world: World,
    handled: usize,
}

impl Actor for Clerk {
    type Context = Context<Self>;
}

impl Handler<Envelope<Ask>> for Clerk {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, envelope: Envelope<Ask>, _: &mut Self::Context) -> Self::Result {
        let (ask, place) = envelope.open();
        assert!(!matches!(ask, Ask::Panic), "asked to panic");
        self.handled += 1;
        let (handled, world) = (self.handled, self.world.clone());
        Box::pin(async move {
            let inside = world.inside.fetch_add(1, Ordering::SeqCst) + 1;
            world.most_inside.fetch_max(inside, Ordering::SeqCst);
            if matches!(ask, Ask::Wait) {
                world.gate.notified().await;
            } else {
                tokio::task::yield_now().await;
            }
            world.inside.fetch_sub(1, Ordering::SeqCst);
            drop(place);
            handled
        })
    }
}

impl Handler<Stop> for Clerk {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Self::Context) {
        self.world.stopped.fetch_add(1, Ordering::SeqCst);
    }
}

struct House {
    world: World,
    inbox: Inbox,
    ask: Mailbox<Ask>,
    shutdown: Shutdown,
    supervision: Supervision,
    _thread: ActorThread,
}

fn house(capacity: usize, budget: RestartBudget) -> House {
    let (world, shutdown, thread) = (World::default(), Shutdown::default(), ActorThread::start());
    let inbox = Inbox::new("clerk", capacity, &Registry::new()).unwrap();
    let ask: Mailbox<Ask> = inbox.mailbox();
    let factory = {
        let world = world.clone();
        move || {
            let world = world.clone();
            async move {
                world.lives.fetch_add(1, Ordering::SeqCst);
                Ok(Clerk { world, handled: 0 })
            }
        }
    };
    let attach = {
        let ask = ask.clone();
        move |address: &actix::Addr<Clerk>| ask.attach(address)
    };
    let supervision = supervise(&thread, &inbox, budget, &SystemClock::shared(), &shutdown, factory, attach);
    House { world, inbox, ask, shutdown, supervision, _thread: thread }
}

/// Lets other tasks run until the condition holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let clock = SystemClock::new();
    while !condition() {
        assert!(clock.now() < Duration::from_secs(10), "waited in vain until {what}");
        clock.sleep(Duration::from_millis(1)).await;
    }
}

#[actix::test]
async fn two_hundred_callers_never_hold_more_than_eight_places() {
    let house = house(8, RestartBudget::default());
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let ask = house.ask.clone();
            actix::spawn(async move { ask.call(Ask::Count).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert!(house.world.most_inside.load(Ordering::SeqCst) <= 8);
    assert!(house.world.most_inside.load(Ordering::SeqCst) > 1, "the test must really overlap");
    assert!(house.inbox.is_drained());
}

#[actix::test]
async fn a_caller_that_gives_up_frees_its_place() {
    let house = house(1, RestartBudget::default());
    let inside = actix::spawn({
        let ask = house.ask.clone();
        async move { ask.call(Ask::Wait).await }
    });
    until("it is inside", || house.world.inside.load(Ordering::SeqCst) == 1).await;
    // One that waits for a place and gives up…
    let waiting = within(&SystemClock::new(), Duration::from_millis(20), house.ask.call(Ask::Count)).await;
    assert!(waiting.is_err());
    // …and one that is dropped while its message is being handled.
    inside.abort();
    house.world.gate.notify_one();
    until("the place is free", || house.inbox.is_drained()).await;
    assert_eq!(house.ask.call(Ask::Count).await.unwrap(), 2);
}

#[actix::test]
async fn a_panic_answers_everybody_leaks_no_place_and_a_fresh_actor_serves() {
    let house = house(8, RestartBudget::default());
    house.ask.call(Ask::Count).await.unwrap();
    // All in one go, so that the seven are queued behind the one that panics.
    let calls = std::iter::once(Ask::Panic).chain([Ask::Count; 7]).map(|ask| house.ask.call(ask));
    let answers = futures::future::join_all(calls).await;
    assert_eq!(answers[0], Err(CallError::MayHaveRun { inbox: "clerk" }));
    for answer in &answers[1..] {
        assert!(matches!(answer, Err(CallError::NeverStarted { inbox: "clerk", .. })), "{answer:?}");
    }
    assert!(house.inbox.is_drained(), "a place leaked");
    assert_eq!(house.ask.call(Ask::Count).await, Ok(1), "a fresh actor counts from one");
    assert_eq!(house.world.lives.load(Ordering::SeqCst), 2);
    assert!(!house.shutdown.is_requested());
}

#[actix::test]
async fn an_idempotent_message_is_sent_again_after_a_crash() {
    let house = house(2, RestartBudget::default());
    let (crash, answer) = tokio::join!(house.ask.call(Ask::Panic), house.ask.call_again(Ask::Count, 2));
    assert!(crash.is_err());
    assert_eq!(answer, Ok(1));
}

#[actix::test]
async fn a_spent_budget_ends_the_program_with_a_reason() {
    let house = house(4, RestartBudget { restarts: 2, window: Duration::from_secs(60) });
    for _ in 0..3 {
        assert!(house.ask.call(Ask::Panic).await.is_err());
    }
    house.shutdown.requested().await;
    let Some(Reason::Fault { part, what }) = house.shutdown.reason() else { panic!("no fault") };
    assert_eq!(part, "clerk");
    assert!(what.contains("failed 3 times") && what.contains("asked to panic"), "{what}");
    let refused = house.ask.call(Ask::Count).await;
    assert_eq!(refused, Err(CallError::NeverStarted { inbox: "clerk", reason: "closed" }));
}

#[actix::test]
async fn a_factory_that_fails_spends_the_budget_too() {
    let (thread, shutdown) = (ActorThread::start(), Shutdown::default());
    let inbox = Inbox::new("clerk", 1, &Registry::new()).unwrap();
    let budget = RestartBudget { restarts: 1, window: Duration::from_secs(60) };
    let factory = || async { Err::<Clerk, BoxError>("the ledger is unreadable".into()) };
    let supervision = supervise(&thread, &inbox, budget, &SystemClock::shared(), &shutdown, factory, |_| ());
    shutdown.requested().await;
    assert!(shutdown.reason().unwrap().to_string().contains("the ledger is unreadable"));
    supervision.close().await;
}

#[actix::test]
async fn a_slow_consumer_slows_its_producers() {
    let house = house(2, RestartBudget::default());
    let done = Arc::new(AtomicUsize::new(0));
    let producers: Vec<_> = (0..3)
        .map(|_| {
            let (ask, done) = (house.ask.clone(), done.clone());
            actix::spawn(async move {
                for _ in 0..4 {
                    ask.call(Ask::Wait).await.unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 0..=10 {
        until("every place is taken", || house.world.inside.load(Ordering::SeqCst) == 2).await;
        assert_eq!(house.inbox.health().depth, 2, "the third producer waits outside");
        assert_eq!(done.load(Ordering::SeqCst), round, "nobody runs ahead of the consumer");
        house.world.gate.notify_one();
        until("one is served", || done.load(Ordering::SeqCst) == round + 1).await;
    }
    house.world.gate.notify_one();
    futures::future::join_all(producers).await.into_iter().for_each(Result::unwrap);
}

#[actix::test]
async fn closing_serves_who_is_inside_refuses_the_rest_and_stops_the_actor() {
    let house = house(1, RestartBudget::default());
    let inside = actix::spawn({
        let ask = house.ask.clone();
        async move { ask.call(Ask::Wait).await }
    });
    until("it is inside", || house.world.inside.load(Ordering::SeqCst) == 1).await;
    let closing = actix::spawn(house.supervision.close());
    until("the door is closed", || house.ask.call(Ask::Count).now_or_never().is_some()).await;
    assert_eq!(house.world.stopped.load(Ordering::SeqCst), 0);
    house.world.gate.notify_one();
    assert_eq!(inside.await.unwrap(), Ok(1));
    closing.await.unwrap();
    assert_eq!(house.world.stopped.load(Ordering::SeqCst), 1);
    assert!(house.ask.call(Ask::Count).await.is_err());
}

/// It left its actor without anybody who would make it anew, and the program went on.
#[actix::test]
async fn a_supervisor_that_panics_itself_ends_the_program() {
    let (thread, shutdown) = (ActorThread::start(), Shutdown::default());
    let inbox = Inbox::new("clerk", 1, &Registry::new()).unwrap();
    let factory = || {
        assert!(Registry::new().gather().len() > 9, "before there is anything to await");
        async { Err::<Clerk, BoxError>("not reached".into()) }
    };
    let clock = SystemClock::shared();
    let supervision = supervise(&thread, &inbox, RestartBudget::default(), &clock, &shutdown, factory, |_| ());
    within(&*clock, Duration::from_secs(10), shutdown.requested()).await.expect("a reason to stop");
    assert_eq!(shutdown.reason().unwrap().to_string(), "clerk cannot go on: its supervisor ended before it");
    within(&*clock, Duration::from_secs(10), supervision.close()).await.expect("closing does not wait for it");
}
