use std::cell::Cell;

use actix::{Actor, Context, Handler};
use openvalidators_messages::{
    ForwardId, STEP_RECORD_VERSION, Scoring, StepId, StepName,
    ledger::{Append, LedgerError},
};
use openvalidators_runtime::{ActorThread, Envelope, Inbox, Reason, RestartBudget, Stop, SystemClock, supervise};
use prometheus::Registry;

use super::*;
use crate::{
    budget::Budget,
    stage::{BLOCK, Cast, Log, Stage, outcome},
};

fn record(forward: u64) -> Arc<StepRecord> {
    Arc::new(StepRecord {
        version: STEP_RECORD_VERSION,
        step: StepId { forward: ForwardId(forward), index: 0 },
        name: StepName::Augment,
        block: BLOCK,
        started_at: 0.0,
        length_seconds: 0.0,
        seed: 0,
        code_version: String::new(),
        source: String::new(),
        prompt: String::new(),
        embedding: None,
        base_text: String::new(),
        asked: Vec::new(),
        completions: Vec::new(),
        scoring: Scoring::Scored(Default::default()),
        digests: Default::default(),
    })
}

fn settler(stage: &Stage) -> Arc<Settler> {
    settler_on(stage, Arc::new(stage.clock.clone()))
}

fn settler_on(stage: &Stage, clock: SharedClock) -> Arc<Settler> {
    let timeout = Duration::from_secs(60);
    Arc::new(Settler::new(stage.desks.clone(), timeout, clock, stage.shutdown.clone(), stage.metrics.clone()))
}

fn full() -> LedgerError {
    LedgerError { attempted: "append", reason: "disk full".to_owned() }
}

async fn settle(stage: &Stage, budget: &Arc<Budget>, forward: u64) -> Result<Settled, NotSettled> {
    let settler = settler(stage);
    let ticket = budget.take().await.unwrap();
    stage.drive(async move { settler.settle(record(forward), ticket).await }).await
}

#[actix::test]
async fn one_step_at_a_time_each_part_in_order() {
    let log = Log::default();
    let (append, rewards, weights, store) = (log.clone(), log.clone(), log.clone(), log.clone());
    let gating = log.clone();
    let mut sequence = 0;
    let stage = Stage::new(Cast {
        append: Box::new(move |m| {
            sequence += 1;
            append.note(format!("append {}", m.record.step.forward));
            Ok(Sequence(sequence))
        }),
        apply_rewards: Box::new(move |m| {
            rewards.note(format!("rewards {}", m.sequence));
            Ok(outcome(&m.record, Some(0)))
        }),
        apply_weights: Box::new(move |m| {
            weights.note(format!("weights {}", m.sequence));
            Ok(())
        }),
        apply_gating: Box::new(move |m| {
            gating.note(format!("gating {}", m.sequence));
            Ok(Some(0.25))
        }),
        store_outcome: Box::new(move |m| {
            store.note(format!("store {}", m.sequence));
            Ok(())
        }),
        ..Cast::default()
    });
    let settler = settler(&stage);
    let budget = Budget::new(Some(3), stage.shutdown.clone());
    let mut together = Vec::new();
    for forward in 1..=3 {
        let (settler, ticket) = (settler.clone(), budget.take().await.unwrap());
        together.push(async move { settler.settle(record(forward), ticket).await.unwrap().sequence });
    }
    let sequences = stage.drive(futures::future::join_all(together)).await;
    assert_eq!(sequences, [Sequence(1), Sequence(2), Sequence(3)]);
    let expected: Vec<_> = (1..=3)
        .flat_map(|n| ["append", "rewards", "weights", "gating", "store"].map(|part| format!("{part} {n}")))
        .collect();
    assert_eq!(log.take(), expected);
    assert_eq!(stage.shutdown.reason(), Some(Reason::Finished));
    let stored = stage.store_outcome.messages();
    assert!(stored.iter().all(|store| store.outcome.scored().unwrap().gating_loss == Some(0.25)), "{stored:?}");
}

#[actix::test]
async fn ledger_trouble_is_waited_out_with_growing_pauses() {
    let mut trouble = 4;
    let append = move |_: &Append| {
        trouble -= 1;
        if trouble > 0 { Err(full()) } else { Ok(Sequence(9)) }
    };
    let stage = Stage::new(Cast { append: Box::new(append), ..Cast::default() });
    let budget = Budget::new(Some(5), stage.shutdown.clone());
    assert_eq!(settle(&stage, &budget, 1).await.unwrap().sequence, Sequence(9));
    assert_eq!(stage.append.len(), 4);
    assert!(stage.append.messages().iter().all(|append| append.record.step.forward == ForwardId(1)));
    assert_eq!(stage.metric(r#"openvalidators_settle_retries_total{part="append"}"#), 3.0);
    assert_eq!(stage.apply_rewards.len(), 1);
}

#[actix::test]
async fn a_step_that_cannot_be_appended_did_not_happen_and_costs_no_budget() {
    let stage = Stage::new(Cast { append: Box::new(|_| Err(full())), ..Cast::default() });
    let budget = Budget::new(Some(1), stage.shutdown.clone());
    let error = settle(&stage, &budget, 1).await.unwrap_err();
    assert_eq!((error.part, error.attempts, error.appended), ("append", SETTLE_BACKOFF.retries + 1, false));
    assert!(error.to_string().contains("disk full"), "{error}");
    assert!(stage.apply_rewards.is_empty());
    assert!(budget.take().await.is_some(), "the ticket went back");
    assert!(!stage.shutdown.is_requested());
}

#[actix::test]
async fn a_step_in_the_ledger_counts_even_if_it_cannot_be_folded() {
    let gap = || FoldError::Gap { asked: Sequence(1), applied: Sequence(0), reason: "unreadable".to_owned() };
    let stage = Stage::new(Cast { apply_weights: Box::new(move |_| Err(gap())), ..Cast::default() });
    let budget = Budget::new(Some(1), stage.shutdown.clone());
    let error = settle(&stage, &budget, 1).await.unwrap_err();
    assert_eq!((error.part, error.appended), ("fold into weights", true));
    assert_eq!(stage.store_outcome.len(), 1, "weights can catch up from the stored outcome");
    assert_eq!(stage.apply_gating.len(), 1, "and nobody else is kept waiting for them");
    assert_eq!(stage.shutdown.reason(), Some(Reason::Finished));

    let past = || FoldError::AlreadyFolded { asked: Sequence(1), applied: Sequence(5) };
    let stage = Stage::new(Cast { apply_rewards: Box::new(move |_| Err(past())), ..Cast::default() });
    let budget = Budget::new(None, stage.shutdown.clone());
    let error = settle(&stage, &budget, 1).await.unwrap_err();
    assert_eq!((error.part, error.attempts), ("fold into rewards", 1), "asking again would not help");
}

/// Weights failed over step 1 while the ledger refused its outcome; then the outcome of step 2 was stored, and weights, which
/// fold from the ledger, left step 1 out of the scores for ever.
#[actix::test]
async fn no_outcome_is_stored_or_folded_before_the_one_that_is_owed() {
    let log = Log::default();
    let (rewards, weights, store) = (log.clone(), log.clone(), log.clone());
    let mut refusals = SETTLE_BACKOFF.retries + 1;
    let stage = Stage::new(Cast {
        apply_rewards: Box::new(move |m| {
            rewards.note(format!("rewards {}", m.sequence));
            Ok(outcome(&m.record, Some(0)))
        }),
        apply_weights: Box::new(move |m| {
            weights.note(format!("weights {}", m.sequence));
            let reason = "it has no outcome yet".to_owned();
            let gap = FoldError::Gap { asked: m.sequence, applied: Sequence(0), reason };
            if m.sequence == Sequence(1) { Err(gap) } else { Ok(()) }
        }),
        store_outcome: Box::new(move |m| {
            if refusals > 0 {
                refusals -= 1;
                return Err(full());
            }
            store.note(format!("store {}", m.sequence));
            Ok(())
        }),
        ..Cast::default()
    });
    let (settler, budget) = (settler(&stage), Budget::new(None, stage.shutdown.clone()));
    let settle = async |forward| {
        let (settler, ticket) = (settler.clone(), budget.take().await.unwrap());
        stage.drive(async move { settler.settle(record(forward), ticket).await }).await
    };
    assert_eq!(settle(1).await.unwrap_err().part, "store the outcome");
    log.take();
    settle(2).await.unwrap();
    assert_eq!(log.take(), ["store 1", "rewards 2", "weights 2", "store 2"]);
}

#[actix::test]
async fn a_hung_neighbour_is_asked_again_and_a_shutdown_ends_that() {
    let mut stage = Stage::new(Cast::default());
    stage.desks.append = Inbox::new("hung", 1, &Registry::new()).unwrap().mailbox();
    let (settler, budget) = (settler(&stage), Budget::new(None, stage.shutdown.clone()));
    let ticket = budget.take().await.unwrap();
    let (clock, shutdown) = (stage.clock.clone(), stage.shutdown.clone());
    let work = async move {
        let since = openvalidators_runtime::Clock::now(&clock);
        let stopping = async {
            openvalidators_runtime::Clock::sleep(&clock, Duration::from_secs(100)).await;
            shutdown.request(Reason::Signal("SIGTERM"));
        };
        let (settled, ()) = futures::future::join(settler.settle(record(1), ticket), stopping).await;
        (settled.unwrap_err(), openvalidators_runtime::Clock::now(&clock) - since)
    };
    let (error, took) = stage.drive(work).await;
    assert_eq!((error.attempts, error.reason.as_str()), (2, "no answer within 60 s"));
    assert!(took < Duration::from_secs(130), "{took:?}");
}

// === A neighbour that panics ===

thread_local! {
    static LIVES: Cell<usize> = const { Cell::new(0) };
}

/// Panics over the first message of its first life.
struct Brittle {
    life: usize,
}

impl Actor for Brittle {
    type Context = Context<Self>;
}

impl Handler<Envelope<rewards::Apply>> for Brittle {
    type Result = actix::MessageResult<Envelope<rewards::Apply>>;

    fn handle(&mut self, envelope: Envelope<rewards::Apply>, _: &mut Self::Context) -> Self::Result {
        let (apply, _place) = envelope.open();
        assert!(self.life > 1, "an inconsistent state, in this test on purpose");
        actix::MessageResult(Ok(outcome(&apply.record, Some(0))))
    }
}

impl Handler<Stop> for Brittle {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Self::Context) {}
}

#[actix::test]
async fn a_neighbour_that_panics_is_asked_again_when_it_is_back() {
    let mut stage = Stage::new(Cast::default());
    let inbox = Inbox::new("brittle", 4, &stage.registry).unwrap();
    stage.desks.apply_rewards = inbox.mailbox();
    let mailbox = stage.desks.apply_rewards.clone();
    // Real threads die in real time.
    let clock = SystemClock::shared();
    let thread = ActorThread::start();
    let life = async || {
        let life = LIVES.get() + 1;
        LIVES.set(life);
        Ok(Brittle { life })
    };
    let attach = move |actor: &actix::Addr<Brittle>| mailbox.attach(actor);
    let _supervision = supervise(&thread, &inbox, RestartBudget::default(), &clock, &stage.shutdown, life, attach);
    let budget = Budget::new(None, stage.shutdown.clone());
    let settler = settler_on(&stage, clock);
    let settled = settler.settle(record(1), budget.take().await.unwrap()).await.unwrap();
    assert_eq!(settled.label(), "best");
    assert_eq!(stage.append.len(), 1);
    assert_eq!(stage.apply_weights.len(), 1);
    assert_eq!(stage.metric(r#"openvalidators_actor_restarts_total{inbox="brittle"}"#), 1.0);
}
