//! A second validator with our hotkey.

use super::*;

fn guarded() -> Bench {
    let mut bench = Bench::new();
    bench.config.same_key_guard = true;
    bench
}

fn waiting(life: &Life, reason: &str) -> bool {
    life.metrics.waiting.with_label_values(&[reason]).get() == 1
}

#[actix::test]
async fn after_a_start_a_tempo_is_watched_and_then_weights_are_set() {
    let bench = guarded();
    let life = bench.start().await;
    bench.run(TEMPO - 5).await;
    assert!(waiting(&life, "watching") && bench.taken().is_empty());
    bench.run(2 * TEMPO).await;
    assert_eq!(bench.taken().len(), 2);
    // A quick restart waits for nothing.
    life.abort.abort();
    rest().await;
    bench.start().await;
    bench.run(TEMPO).await;
    assert_eq!(bench.taken().len(), 3);
}

#[actix::test]
async fn an_update_that_is_not_ours_stops_weights_until_the_next_start() {
    let bench = guarded();
    let life = bench.start().await;
    bench.run(2 * TEMPO).await;
    let before = bench.taken().len();
    assert!(before > 0 && !waiting(&life, "another_validator"));
    let block = bench.world.borrow().chain.block;
    bench.world.borrow_mut().chain.last_update = block + 1;
    bench.run(3 * TEMPO).await;
    assert!(waiting(&life, "another_validator"));
    assert_eq!(bench.taken().len(), before, "not one more");
}
