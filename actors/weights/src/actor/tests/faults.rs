//! Kills at random, a disk that hangs, a wall clock that jumps.

use openvalidators_runtime::Seed;
use rand::Rng;

use super::*;

/// Kills in a run of this test, and the variable that asks for another number.
const KILLS: usize = 20;
const KILLS_VARIABLE: &str = "OPENVALIDATORS_WEIGHT_KILLS";

/// One kill in each of so many epochs of a world.
const EPOCHS: u64 = 4;

#[actix::test]
async fn killed_at_random_in_every_epoch_each_gets_exactly_one() {
    let wanted = std::env::var(KILLS_VARIABLE).ok().map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
    let places = [
        Kill::AfterIntent,
        Kill::BeforeSubmission,
        Kill::AfterSubmission,
        Kill::BeforeSettlement,
        Kill::AfterSettlement,
    ];
    let mut killed = 0;
    for seed in 0.. {
        if killed >= wanted {
            break;
        }
        let mut rng = Seed(seed).rng("kills", &[]);
        let bench = Bench::new();
        bench.world.borrow_mut().chain.commit_reveal = rng.random();
        bench.start().await;
        for _ in 0..EPOCHS {
            let (kill, nobody_for) = (places[rng.random_range(0..places.len())], 5 * rng.random_range(0..10));
            bench.world.borrow_mut().kill_at = Some(kill);
            bench.run(TEMPO / 2 + 20).await;
            assert_eq!(bench.world.borrow().kill_at, None, "seed {seed}: {kill:?} happened");
            killed += 1;
            bench.run(nobody_for).await;
            bench.start().await;
            bench.run(TEMPO / 2 - 20 - nobody_for).await;
        }
        bench.run(TEMPO / 2 + 20).await;
        let epochs: Vec<_> = bench.taken().iter().map(|block| block / TEMPO).collect();
        let first = START / TEMPO;
        assert_eq!(epochs, (first..=first + EPOCHS).collect::<Vec<_>>(), "seed {seed}: one in each epoch");
        let world = bench.world.borrow();
        assert_eq!(world.chain.asked.len(), world.chain.taken.len(), "seed {seed}: and none was offered twice");
        let settlements = world.settlements();
        assert!(!settlements.contains(&Settlement::Open), "seed {seed}: {settlements:?}");
        let good = settlements
            .iter()
            .filter(|settlement| matches!(settlement, Settlement::Confirmed { .. } | Settlement::Committed { .. }));
        assert_eq!(good.count(), epochs.len(), "seed {seed}: {settlements:?}");
    }
}

/// Neither an error nor an answer came from a disk that hangs, and no weights left.
#[actix::test]
async fn a_ledger_that_hangs_does_not_keep_weights_from_the_chain() {
    let mut bench = Bench::new();
    bench.ledger_hangs = true;
    bench.world.borrow_mut().ledger_refuses = true;
    let life = bench.start().await;
    for epochs in 1..=3 {
        bench.run(TEMPO).await;
        assert_eq!(bench.taken().len(), epochs);
        assert!(bench.pulse.silent_for() < Duration::from_secs(120), "each wait has its end");
    }
    assert_eq!(life.metrics.unrecorded.get(), 3);
}

#[actix::test]
async fn a_wall_clock_that_jumps_an_hour_misses_no_epoch() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let bench = Bench::new();
    let life = bench.start().await;
    let wall = |bench: &Bench| openvalidators_runtime::Clock::unix(&bench.clock);
    for epoch in 1..=6 {
        bench.run(TEMPO / 3).await;
        match epoch {
            2 | 5 => bench.clock.set_unix(wall(&bench) + HOUR),
            3 | 6 => bench.clock.set_unix(wall(&bench) - HOUR),
            _ => {}
        }
        // A step scored by the clock as it is now.
        let apply = bench.append(wall(&bench).as_secs(), &[(key(1), Some(1.0)), (key(2), Some(0.5))]);
        life.mailboxes.apply.call(apply).await.unwrap().unwrap();
        bench.run(TEMPO - TEMPO / 3).await;
        assert_eq!(bench.taken().len(), epoch, "epoch {epoch}");
        let since = wall(&bench).as_secs_f64() - life.metrics.last_set.get();
        assert!((0.0..HOUR.as_secs_f64()).contains(&since), "epoch {epoch}: set {since} s ago");
    }
    assert_eq!(life.metrics.epochs_missed.get(), 0);
    assert!(bench.world.borrow().settlements().iter().all(confirmed));
}
