//! Commits that are hashes: their author reveals them, whichever life it is in.

use super::*;

fn commits_by_hash() -> Bench {
    let bench = Bench::new();
    {
        let mut world = bench.world.borrow_mut();
        (world.chain.commit_reveal, world.chain.by_hash) = (true, true);
    }
    bench.metagraphs.send_replace(Arc::new(bench.world.borrow().chain.metagraph()));
    bench
}

fn reveals(bench: &Bench) -> usize {
    bench.world.borrow().chain.revealed.len()
}

#[actix::test]
async fn a_hash_is_revealed_when_its_epoch_begins() {
    let bench = commits_by_hash();
    let life = bench.start().await;
    bench.run(TEMPO / 2 + 10).await;
    {
        let world = bench.world.borrow();
        let (intent, asked) = (&world.intents[0].intent, &world.chain.asked[0]);
        assert_eq!(intent.salt, asked.salt, "what is committed can be read from the ledger");
        assert_eq!(intent.salt.as_ref().map(Vec::len), Some(8));
        assert!(matches!(world.settlements()[..], [Settlement::Committed { reveal_epoch: 11, .. }]));
    }
    bench.run(TEMPO / 2 - 20).await;
    assert_eq!(reveals(&bench), 0);
    bench.run(20).await;
    assert_eq!(reveals(&bench), 1);
    assert!(confirmed(&bench.world.borrow().settlements()[0]));
    bench.run(2 * TEMPO).await;
    let world = bench.world.borrow();
    assert_eq!((world.chain.asked.len(), world.chain.revealed.len()), (3, 3), "one commit and one reveal an epoch");
    assert_ne!(world.intents[0].intent.salt, world.intents[1].intent.salt);
    assert_eq!(life.metrics.lost_commits.get(), 0);
}

#[actix::test]
async fn a_life_that_ends_between_commit_and_reveal_leaves_the_reveal_to_the_next() {
    for kill in
        [Kill::AfterSubmission, Kill::BeforeSettlement, Kill::AfterSettlement, Kill::BeforeReveal, Kill::AfterReveal]
    {
        let bench = commits_by_hash();
        bench.world.borrow_mut().kill_at = Some(kill);
        bench.start().await;
        let is_of_reveal = matches!(kill, Kill::BeforeReveal | Kill::AfterReveal);
        bench.run(if is_of_reveal { TEMPO + 5 } else { TEMPO / 2 }).await;
        assert_eq!(bench.world.borrow().kill_at, None, "{kill:?} happened");
        let life = bench.start().await;
        bench.run(if is_of_reveal { TEMPO / 4 } else { 3 * TEMPO / 4 }).await;
        let world = bench.world.borrow();
        assert_eq!((world.chain.asked.len(), world.chain.revealed.len()), (1, 1), "{kill:?}: once");
        assert!(confirmed(&world.settlements()[0]), "{kill:?}: {:?}", world.settlements());
        assert_eq!(life.metrics.lost_commits.get(), 0, "{kill:?}");
    }
}

#[actix::test]
async fn a_reveal_that_was_taken_without_an_answer_is_not_sent_again() {
    let bench = commits_by_hash();
    let _life = bench.start().await;
    bench.run(TEMPO / 2 + 10).await;
    bench.world.borrow_mut().chain.silent = true;
    bench.run(TEMPO / 2 + 30).await;
    assert_eq!(reveals(&bench), 1);
    assert!(confirmed(&bench.world.borrow().settlements()[0]));
}

/// The commit is lost: it is counted, said at the level of errors, and the epoch has another.
#[actix::test]
async fn a_hash_that_nobody_can_reveal_is_a_lost_commit() {
    for lost in ["refused", "no salt"] {
        let bench = commits_by_hash();
        bench.start().await.abort.abort();
        bench.run(TEMPO / 2).await;
        bench.world.borrow_mut().life = None;
        let first = bench.start().await;
        bench.run(10).await;
        first.abort.abort();
        {
            let mut world = bench.world.borrow_mut();
            world.chain.reveals_fail = true;
            if lost == "no salt" {
                world.intents[0].intent.salt = None;
            }
        }
        let life = bench.start().await;
        bench.run(TEMPO).await;
        let tries = reveals(&bench);
        assert!(
            if lost == "refused" { tries > 1 && tries <= TEMPO as usize / 10 } else { tries == 0 },
            "{lost}: {tries}"
        );
        assert_eq!(life.metrics.lost_commits.get(), 0, "its epoch is not over");
        bench.run(TEMPO).await;
        let settlements = bench.world.borrow().settlements();
        assert!(matches!(settlements[..], [Settlement::Failed { .. }, ..]), "{lost}: {settlements:?}");
        assert_eq!(life.metrics.lost_commits.get(), 1, "{lost}");
        assert!(bench.taken().len() >= 2, "{lost}: committed anew");
    }
}
