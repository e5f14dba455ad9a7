//! The last message while a submission is in flight.

use actix::MessageResult;

use super::*;

/// A chain whose next block comes when the test says so: until then its mailbox leads to nobody.
struct SlowChain(Shared);

impl Actor for SlowChain {
    type Context = Context<Self>;
}

impl Handler<Envelope<SetWeights>> for SlowChain {
    type Result = MessageResult<Envelope<SetWeights>>;

    fn handle(&mut self, envelope: Envelope<SetWeights>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        MessageResult(self.0.borrow_mut().chain.take(&message))
    }
}

/// A life with a submission in flight, asked to end.
async fn stopping(bench: &Bench) -> tokio::task::JoinHandle<()> {
    let life = bench.start().await;
    bench.run(TEMPO / 2).await;
    assert_eq!(bench.world.borrow().settlements(), [Settlement::Open], "it is in flight");
    bench.world.borrow_mut().snapshot = None;
    let stopped = actix::spawn(async move {
        #[allow(clippy::disallowed_methods, reason = "Stop is the supervisor's own message and needs no place")]
        life.address.send(Stop).await.unwrap();
        life.abort.abort();
    });
    rest().await;
    assert!(bench.world.borrow().snapshot.is_some(), "the scores are safe whatever the chain does");
    assert!(!stopped.is_finished(), "it waits");
    stopped
}

fn with_slow_chain() -> (Bench, Mailbox<SetWeights>) {
    let mailbox = Inbox::new("slow_chain", 64, &Registry::new()).unwrap().mailbox();
    (Bench { slow_chain: Some(mailbox.clone()), ..Bench::new() }, mailbox)
}

/// A chain inside the process ends with it: what was cut off there was reported as lost by the life after the restart.
#[actix::test]
async fn a_submission_in_flight_is_settled_before_the_end() {
    let (bench, slow_chain) = with_slow_chain();
    let stopped = stopping(&bench).await;
    slow_chain.attach(&SlowChain(bench.world.clone()).start());
    rest().await;
    assert!(stopped.is_finished());
    assert!(matches!(bench.world.borrow().settlements()[..], [Settlement::Confirmed { .. }]));

    let life = bench.start().await;
    bench.run(TEMPO / 2 + TEMPO).await;
    assert!(bench.world.borrow().settlements().iter().all(confirmed), "{:?}", bench.world.borrow().settlements());
    assert_eq!(bench.taken().len(), 2, "one in each epoch");
    assert_eq!(life.metrics.intents.with_label_values(&["failed"]).get(), 0);
}

#[actix::test]
async fn a_chain_that_makes_no_block_does_not_hold_up_the_end() {
    let (mut bench, _slow_chain) = with_slow_chain();
    let stopped = stopping(&bench).await;
    bench.clock.advance(LAST_LOOK_PATIENCE - Duration::from_secs(1));
    rest().await;
    assert!(!stopped.is_finished());
    bench.clock.advance(Duration::from_secs(1));
    rest().await;
    assert!(stopped.is_finished());

    // As after a kill: the next life looks at the chain, and sends the weights again when they cannot come any more.
    bench.slow_chain = None;
    bench.start().await;
    bench.run(TEMPO / 2 - 5).await;
    assert_eq!(bench.taken().len(), 1);
    let settlements = bench.world.borrow().settlements();
    assert!(matches!(settlements[..], [Settlement::Failed { .. }, Settlement::Confirmed { .. }]), "{settlements:?}");
}

/// A block that comes while the actor ends is no reason for another look.
#[actix::test]
async fn no_look_begins_after_the_last_message() {
    let bench = Bench::new();
    let life = bench.start().await;
    #[allow(clippy::disallowed_methods, reason = "Stop is the supervisor's own message and needs no place")]
    life.address.send(Stop).await.unwrap();
    bench.run(TEMPO).await;
    assert!(bench.world.borrow().intents.is_empty() && bench.taken().is_empty());
    life.abort.abort();
}
