use std::{sync::Arc, time::Duration};

use openvalidators_messages::{StepOutcome, StepRecord, ledger::Settlement};
use openvalidators_runtime::{ActorThread, RestartBudget, Shutdown, SystemClock, supervise};

use super::*;
use crate::{
    OpenError,
    store::tests::{CHECK_ALL, identity, intent, outcome, record},
};

const RELEASE_LIMIT: Duration = Duration::from_secs(30);

fn step(forward: u64) -> Arc<StepRecord> {
    Arc::new(record(forward, 0, 2, 16))
}

/// Every message through its mailbox, on a supervised thread of its own, as the program runs it.
#[actix::test]
async fn the_whole_inbox_over_one_life_and_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).unwrap();
    let mailboxes = Mailboxes::new(4, &registry).unwrap();
    let (clock, shutdown, thread) = (SystemClock::shared(), Shutdown::default(), ActorThread::start());
    let (attached, path, kept, time) = (mailboxes.clone(), directory.path().to_owned(), metrics.clone(), clock.clone());
    let supervision = supervise(
        &thread,
        &mailboxes.inbox,
        RestartBudget::default(),
        &clock,
        &shutdown,
        move || {
            let store = Store::open(&path, &identity(), CHECK_ALL);
            let (metrics, clock) = (kept.clone(), time.clone());
            async move { Ok(LedgerActor::new(store?, LedgerConfig::default(), metrics, clock)) }
        },
        move |actor| attached.attach(actor),
    );

    let appended = mailboxes.append.call(Append { record: step(1) }).await.unwrap();
    assert_eq!(appended, Ok(Sequence(1)));
    let again = mailboxes.append.call(Append { record: step(1) }).await.unwrap();
    assert_eq!(again, Ok(Sequence(1)));
    assert_eq!(metrics.appends.get(), 1, "the second one changed nothing");
    let outcome = Arc::new(outcome(0.5));
    let stored = StoreOutcome { sequence: Sequence(1), outcome: outcome.clone() };
    mailboxes.store_outcome.call(stored).await.unwrap().unwrap();
    let steps = mailboxes.read_steps.call(ReadSteps { after: Sequence(0), limit: 10 }).await.unwrap().unwrap();
    assert_eq!(steps, [StoredStep { sequence: Sequence(1), record: step(1), outcome: Some(outcome) }]);

    let snapshot = Snapshot { sequence: Sequence(1), version: 1, state: b"state".to_vec() };
    let save = SaveSnapshot { owner: "weights", snapshot: snapshot.clone() };
    mailboxes.save_snapshot.call(save).await.unwrap().unwrap();
    let loaded = mailboxes.load_snapshot.call(LoadSnapshot { owner: "weights" }).await.unwrap().unwrap();
    assert_eq!(loaded, Some(snapshot));

    let id = mailboxes.record_intent.call(RecordIntent { intent: intent(360) }).await.unwrap().unwrap();
    let settlement = Settlement::Superseded;
    mailboxes.settle_intent.call(SettleIntent { id, settlement: settlement.clone() }).await.unwrap().unwrap();
    let intents = mailboxes.read_intents.call(ReadIntents { limit: 5 }).await.unwrap().unwrap();
    assert_eq!(intents, [StoredIntent { id, intent: intent(360), settlement }]);

    let cursor = SaveCursor { reader: "wandb", sequence: Sequence(1) };
    mailboxes.save_cursor.call(cursor).await.unwrap().unwrap();
    let cursor = mailboxes.load_cursor.call(LoadCursor { reader: "wandb" }).await.unwrap();
    assert_eq!(cursor, Ok(Sequence(1)));

    let nothing = StepOutcome::Unscored { reason: "test".into() };
    let unknown = StoreOutcome { sequence: Sequence(9), outcome: Arc::new(nothing) };
    let refused = mailboxes.store_outcome.call(unknown).await.unwrap().unwrap_err();
    assert_eq!(refused.attempted, "store an outcome");
    assert_eq!(metrics.errors.with_label_values(&["store_outcome"]).get(), 1);
    assert!(metrics.bytes.get() > 4096 && metrics.latest_sequence.get() == 1);

    supervision.close().await;
    assert!(!shutdown.is_requested());
    // The actor is dropped, and lets go of the directory, a moment after it was closed.
    let mut store = Store::open(directory.path(), &identity(), CHECK_ALL);
    while matches!(store, Err(OpenError::InUse { .. })) && clock.now() < RELEASE_LIMIT {
        clock.sleep(Duration::from_millis(5)).await;
        store = Store::open(directory.path(), &identity(), CHECK_ALL);
    }
    assert_eq!(store.unwrap().append(&record(2, 0, 2, 16)).unwrap(), Sequence(2));
}

#[actix::test]
async fn old_steps_go_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).unwrap();
    let mailboxes = Mailboxes::new(4, &registry).unwrap();
    let store = Store::open(directory.path(), &identity(), CHECK_ALL).unwrap();
    let config = LedgerConfig { retention_steps: 10, ..LedgerConfig::default() };
    mailboxes.attach(&LedgerActor::new(store, config, metrics.clone(), SystemClock::shared()).start());
    for forward in 1..=PRUNE_EVERY_APPENDS {
        let sequence = mailboxes.append.call(Append { record: step(forward) }).await.unwrap().unwrap();
        let snapshot = Snapshot { sequence, version: 1, state: vec![] };
        mailboxes.save_snapshot.call(SaveSnapshot { owner: "weights", snapshot }).await.unwrap().unwrap();
    }
    let oldest = mailboxes.read_steps.call(ReadSteps { after: Sequence(0), limit: 1 }).await.unwrap().unwrap();
    assert_eq!(oldest[0].sequence.0, PRUNE_EVERY_APPENDS - 10 + 1);
    assert_eq!(metrics.pruned.get(), PRUNE_EVERY_APPENDS - 10);
}

/// Records may have an end; the duty has none.
#[actix::test]
async fn at_its_limit_it_takes_no_step_and_every_intent() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let (metrics, mailboxes) = (Metrics::new(&registry).unwrap(), Mailboxes::new(4, &registry).unwrap());
    let store = Store::open(directory.path(), &identity(), CHECK_ALL).unwrap();
    let config = LedgerConfig { max_bytes: store.used_bytes().unwrap() + 64_000, ..LedgerConfig::default() };
    let actor = LedgerActor::new(store, config, metrics.clone(), SystemClock::shared());
    mailboxes.attach(&actor.start());
    let mut taken = 0;
    let refused = loop {
        match mailboxes.append.call(Append { record: Arc::new(record(taken + 1, 0, 5, 2_000)) }).await.unwrap() {
            Ok(_) => taken += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(taken > 2 && refused.contains("ledger.max_bytes is"), "{taken}: {refused}");
    assert_eq!(metrics.full.get(), 1);
    mailboxes.record_intent.call(RecordIntent { intent: intent(360) }).await.unwrap().unwrap();
    let steps = mailboxes.read_steps.call(ReadSteps { after: Sequence(0), limit: 99 }).await.unwrap().unwrap();
    assert_eq!(steps.len() as u64, taken, "nothing torn, and none given up below the fewest there must be");
}
