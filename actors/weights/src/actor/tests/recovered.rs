//! Scores come back from snapshot and ledger, each step once.

use super::*;

#[actix::test]
async fn a_gap_is_filled_from_the_ledger_and_nothing_is_folded_twice() {
    let mut bench = Bench::new();
    bench.config.snapshot_every_steps = 4;
    let life = bench.start().await;
    let steps: Vec<Apply> = (2..=9).map(|number| bench.append(number, &[(key(1), Some(1.0))])).collect();
    for step in [&steps[0], &steps[0], &steps[7], &steps[3]] {
        life.mailboxes.apply.call(step.clone()).await.unwrap().unwrap();
    }
    let table = life.mailboxes.read_scores.call(ReadScores).await.unwrap();
    assert_eq!(table.sequence, Sequence(9));
    assert_eq!(table.rows[0].asked, 9);
    assert!((table.rows[0].score - (1.0 - 0.95f64.powi(9))).abs() < 1e-12);
    assert_eq!(**life.published.borrow(), table);
    rest().await;
    let snapshot = bench.world.borrow().snapshot.clone().unwrap();
    assert_eq!(Scores::restore(&snapshot).unwrap().table(), table);

    let eleven = Apply { sequence: Sequence(11), ..steps[0].clone() };
    let error = life.mailboxes.apply.call(eleven.clone()).await.unwrap().unwrap_err();
    assert_eq!(
        error,
        FoldError::Gap { asked: Sequence(11), applied: Sequence(9), reason: "step 10 is not in it".into() }
    );
    bench.append(10, &[(key(1), Some(1.0))]);
    bench.world.borrow_mut().steps[9].outcome = None;
    let error = life.mailboxes.apply.call(eleven).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("step 10 has no outcome yet"), "{error}");
    assert_eq!(life.mailboxes.read_scores.call(ReadScores).await.unwrap(), table, "nothing was folded half");
}

#[actix::test]
async fn a_step_whose_outcome_was_never_stored_does_not_stop_the_scores() {
    let bench = Bench::new();
    for number in 2..=9 {
        bench.append(number, &[(key(1), Some(1.0))]);
    }
    let lose = |step: usize| bench.world.borrow_mut().steps[step - 1].outcome = None;
    // Found at a restart: 3 and 4 lie before the outcome of 5, but 9 may still come.
    [3, 4, 9].into_iter().for_each(lose);
    let life = bench.start().await;
    assert_eq!(life.published.borrow().sequence, Sequence(8));
    assert_eq!(life.published.borrow().rows[0].asked, 6, "of eight steps");
    assert_eq!(life.metrics.left_out.get(), 2);

    // Found while it runs: 9 is missing until something later is stored.
    let ten = bench.append(10, &[(key(1), Some(1.0))]);
    let error = life.mailboxes.apply.call(ten).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("step 9 has no outcome yet"), "{error}");
    let eleven = bench.append(11, &[(key(1), Some(1.0))]);
    life.mailboxes.apply.call(eleven).await.unwrap().unwrap();
    let table = life.mailboxes.read_scores.call(ReadScores).await.unwrap();
    assert_eq!((table.sequence, table.rows[0].asked, life.metrics.left_out.get()), (Sequence(11), 8, 3));
}

#[actix::test]
async fn a_new_life_resumes_where_the_ledger_is() {
    let bench = Bench::new();
    let life = bench.start().await;
    let mut last = bench.append(2, &[(key(2), Some(1.0))]);
    life.mailboxes.apply.call(last.clone()).await.unwrap().unwrap();
    let before = life.mailboxes.read_scores.call(ReadScores).await.unwrap();
    life.abort.abort();
    rest().await;
    let life = bench.start().await;
    assert_eq!(**life.published.borrow(), before, "folded from the ledger alone");

    #[allow(clippy::disallowed_methods, reason = "Stop is the supervisor's own message and needs no place")]
    life.address.send(Stop).await.unwrap();
    life.abort.abort();
    assert_eq!(bench.world.borrow().snapshot.as_ref().unwrap().sequence, Sequence(2), "a last snapshot was left");
    for number in 3..=6 {
        last = bench.append(number, &[(key(2), Some(1.0))]);
    }
    {
        let mut world = bench.world.borrow_mut();
        world.steps[5].outcome = None;
        world.steps.drain(..2);
    }
    let life = bench.start().await;
    assert_eq!(life.published.borrow().sequence, Sequence(5), "up to the first step without an outcome");
    life.mailboxes.apply.call(last).await.unwrap().unwrap();
    assert_eq!(life.published.borrow().sequence, Sequence(6));
}

#[actix::test]
async fn an_unreadable_snapshot_is_made_anew_from_what_the_ledger_has() {
    let bench = Bench::new();
    for number in 2..=5 {
        bench.append(number, &[(key(2), Some(1.0))]);
    }
    bench.world.borrow_mut().snapshot = Some(Snapshot { sequence: Sequence(4), version: 99, state: vec![] });
    bench.world.borrow_mut().steps.drain(..2);
    let life = bench.start().await;
    let table = life.published.borrow().clone();
    assert_eq!((table.sequence, table.rows.len(), table.rows[0].asked), (Sequence(5), 1, 3));
}
