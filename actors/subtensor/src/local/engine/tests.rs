use std::path::PathBuf;

use openvalidators_messages::{
    Metagraph,
    subtensor::{SetWeights, Submission},
};
use openvalidators_runtime::{DrivenClock, SystemClock, within};

use super::*;
use crate::{
    chain::Chain,
    local::{LocalNetwork, SimulatedValidatorsConfig},
};

fn key(byte: u8) -> Hotkey {
    Hotkey([byte; 32])
}

fn quiet() -> LocalChainConfig {
    LocalChainConfig {
        commit_reveal: false,
        late_epoch_probability: 0.0,
        validators: SimulatedValidatorsConfig { copying: 0, random: 0, ..SimulatedValidatorsConfig::default() },
        ..LocalChainConfig::default()
    }
}

struct Driven {
    clock: DrivenClock,
    chain: LocalChain,
    network: LocalNetwork,
}

impl Driven {
    fn start(config: &LocalChainConfig, file: Option<&Path>) -> Self {
        let clock = DrivenClock::new(Duration::ZERO);
        let chain = LocalChain::start(config, Netuid(1), Arc::new(clock.clone()), Seed(3), file).unwrap();
        Self { clock, network: LocalNetwork::new(chain.clone()), chain }
    }

    async fn block(&self) -> u64 {
        self.network.metagraph().await.unwrap().block.0
    }

    async fn run_to(&self, block: u64) -> Metagraph {
        while self.block().await < block {
            let head = Block(self.block().await);
            self.clock.advance(Duration::from_secs(1));
            self.network.next_block(head).await.unwrap();
        }
        self.network.metagraph().await.unwrap()
    }

    /// Sends, lets the pool see it, and makes the next block.
    async fn in_next_block<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> T {
        let call = tokio::spawn(call);
        settle().await;
        self.clock.advance(Duration::from_secs(1));
        call.await.unwrap()
    }

    async fn register(&self, byte: u8) -> Result<Uid, ChainError> {
        let network = self.network.clone();
        self.in_next_block(async move { network.register(key(byte), key(200)).await }).await
    }

    async fn set_weights(&self, byte: u8, uids: &[u16]) -> Result<Submission, ChainError> {
        let account = self.network.account(key(byte));
        let weights = SetWeights {
            uids: uids.iter().map(|uid| Uid(*uid)).collect(),
            weights: vec![1; uids.len()],
            version_key: 0,
            salt: None,
        };
        self.in_next_block(async move { account.submit_weights(&weights).await }).await
    }

    async fn stop(self) {
        drop(self.network);
        self.chain.stop().await;
    }
}

/// On the one thread of a test: everybody does what can be done without time.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn blocks_follow_the_clock() {
    let driven = Driven::start(&quiet(), None);
    assert_eq!(driven.block().await, 0);
    assert_eq!(driven.run_to(5).await.block, Block(5));
    // Held up for less than the limit, the chain catches up; for more, it does not.
    driven.clock.advance(Duration::from_secs(10));
    settle().await;
    assert_eq!(driven.block().await, 15);
    driven.clock.advance(Duration::from_secs(1000));
    settle().await;
    assert!((16..18).contains(&driven.block().await), "{}", driven.block().await);
}

#[tokio::test]
async fn the_three_ways_of_no_are_told_apart() {
    let driven = Driven::start(&LocalChainConfig { stake_threshold: 10.0, ..quiet() }, None);
    assert_eq!(driven.register(1).await, Ok(Uid(1)));
    assert!(matches!(driven.register(1).await, Err(ChainError::FailedInBlock { name, .. })
        if name == "HotKeyAlreadyRegisteredInSubNet"));

    let refused = driven.set_weights(1, &[0]).await.unwrap_err();
    let expected = ChainError::RefusedByPool { call: "set_weights".to_owned(), name: "StakeAmountTooLow".to_owned() };
    assert_eq!(refused, expected);

    let network = driven.network.clone();
    driven.in_next_block(async move { network.set_stake(key(1), 50.0).await }).await.unwrap();
    let at = driven.run_to(10).await.block.0 + 1;
    let failed = driven.set_weights(1, &[0]).await.unwrap_err();
    let name = "NeuronNoValidatorPermit".to_owned();
    assert_eq!(failed, ChainError::FailedInBlock { call: "set_weights".to_owned(), block: Block(at), name });

    driven.run_to(20).await;
    assert_eq!(driven.set_weights(1, &[0]).await, Ok(Submission::Set { block: Block(21) }));
    assert_eq!(driven.network.account(key(1)).weights_of(Uid(1)).await.unwrap(), [(Uid(0), 65535)]);
    assert_eq!(driven.network.account(key(1)).weights_of(Uid(99)).await.unwrap(), []);
}

#[tokio::test]
async fn a_commit_reaches_the_state_at_its_epoch() {
    let driven = Driven::start(&LocalChainConfig { commit_reveal: true, ..quiet() }, None);
    assert_eq!(driven.register(1).await, Ok(Uid(1)));
    let network = driven.network.clone();
    driven.in_next_block(async move { network.set_stake(key(1), 50.0).await }).await.unwrap();
    driven.run_to(30).await;
    let answer = driven.set_weights(1, &[0]).await;
    assert_eq!(answer, Ok(Submission::Committed { block: Block(31), reveal_epoch: 2 }));
    let account = driven.network.account(key(1));
    driven.run_to(39).await;
    assert_eq!(account.weights_of(Uid(1)).await.unwrap(), []);
    assert_eq!(driven.run_to(40).await.epoch_index, 2);
    assert_eq!(account.weights_of(Uid(1)).await.unwrap(), [(Uid(0), 65535)]);
}

#[tokio::test]
async fn a_full_pool_refuses_and_empties_block_by_block() {
    let driven = Driven::start(&quiet(), None);
    let send = || {
        let network = driven.network.clone();
        tokio::spawn(async move { network.set_stake(key(1), 1.0).await })
    };
    // The first wave goes into the next block, the second waits behind it, and one more finds no place.
    let mut stakes: Vec<_> = (0..POOL_TRANSACTIONS).map(|_| send()).collect();
    settle().await;
    stakes.extend((0..=POOL_TRANSACTIONS).map(|_| send()));
    settle().await;
    assert!(stakes[2 * POOL_TRANSACTIONS].is_finished());
    driven.run_to(2).await;
    let mut blocks = Vec::new();
    for stake in stakes {
        blocks.push(stake.await.unwrap());
    }
    let name = "ImmediatelyDropped".to_owned();
    assert_eq!(blocks.pop(), Some(Err(ChainError::RefusedByPool { call: "set_stake".to_owned(), name })));
    assert!(blocks[..POOL_TRANSACTIONS].iter().all(|block| *block == Ok(Block(1))));
    assert!(blocks[POOL_TRANSACTIONS..].iter().all(|block| *block == Ok(Block(2))));
}

#[tokio::test]
async fn whoever_has_seen_more_is_told_that_this_is_another_chain() {
    let driven = Driven::start(&quiet(), None);
    let error = driven.network.next_block(Block(7)).await.unwrap_err();
    assert!(matches!(&error, ChainError::BadAnswer { reason, .. } if reason.contains("another chain")), "{error}");
}

// === on disk ===

fn saved(path: &Path) -> Subnet {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(text.split_once('\n').unwrap().1).unwrap()
}

fn state_file(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("chain.json")
}

#[tokio::test]
async fn what_is_shown_and_answered_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = state_file(&dir);
    let driven = Driven::start(&quiet(), Some(&path));
    for byte in 1..6 {
        let uid = driven.register(byte).await.unwrap();
        assert_eq!(saved(&path).uid_of(&key(byte)), Some(uid.0));
        assert_eq!(saved(&path).block, driven.block().await);
    }
}

#[tokio::test]
async fn a_restart_goes_on_as_if_nothing_had_happened() {
    let config = LocalChainConfig { late_epoch_probability: 0.2, ..LocalChainConfig::default() };
    let whole = Driven::start(&config, None);
    let registered = whole.register(1).await;
    let expected = whole.run_to(150).await;

    let dir = tempfile::tempdir().unwrap();
    let path = state_file(&dir);
    let mut driven = Driven::start(&config, Some(&path));
    assert_eq!(driven.register(1).await, registered);
    for block in [7, 41, 99] {
        driven.run_to(block).await;
        driven.stop().await;
        driven = Driven::start(&config, Some(&path));
        assert_eq!(driven.block().await, block);
    }
    assert_eq!(driven.run_to(150).await, expected);
}

#[tokio::test]
async fn a_chain_that_cannot_save_stands_still_and_goes_on_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/chain.json");
    let driven = Driven::start(&quiet(), Some(&path));
    driven.run_to(3).await;
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let error = driven.register(1).await.unwrap_err();
    assert!(matches!(&error, ChainError::Unreachable { reason, .. } if reason.contains("was not saved")), "{error}");
    assert_eq!(driven.block().await, 3, "a block that was not saved is not shown");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert_eq!(driven.register(1).await, Ok(Uid(1)));
    assert_eq!(saved(&path).block, driven.block().await);
}

#[tokio::test]
async fn a_second_chain_on_one_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = state_file(&dir);
    let driven = Driven::start(&quiet(), Some(&path));
    driven.run_to(1).await;
    let clock: SharedClock = Arc::new(driven.clock.clone());
    let start =
        |config: &LocalChainConfig| LocalChain::start(config, Netuid(1), clock.clone(), Seed(3), Some(&path)).map(drop);
    assert!(matches!(start(&quiet()), Err(LocalChainError::StateFile(StateFileError::InUse { .. }))));
    driven.register(1).await.unwrap();
    driven.stop().await;
    let small = LocalChainConfig { max_uids: 1, ..quiet() };
    assert!(matches!(start(&small), Err(LocalChainError::TooManyNeurons { found: 2, max_uids: 1 })));
    assert!(matches!(start(&LocalChainConfig { tempo: 0, ..quiet() }), Err(LocalChainError::Config(_))));
}

/// Whatever ends the task that makes blocks, a handle tells.
#[test]
fn a_chain_whose_task_has_ended_says_so() {
    let (ours, others) = (tokio::runtime::Runtime::new().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let network = {
        let _entered = others.enter();
        Driven::start(&quiet(), None).network
    };
    let soon = |network: LocalNetwork| async move {
        within(&SystemClock::new(), Duration::from_millis(50), network.ended()).await
    };
    assert!(ours.block_on(soon(network.clone())).is_err(), "it runs");
    others.shutdown_background();
    ours.block_on(within(&SystemClock::new(), Duration::from_secs(10), network.ended())).unwrap();
}

#[tokio::test]
async fn whoever_waits_on_a_chain_that_stops_is_told() {
    let driven = Driven::start(&quiet(), None);
    let Driven { chain, network, clock } = driven;
    drop(network);
    let mut head = chain.head.clone();
    let pool = chain.pool.downgrade();
    chain.stop().await;
    assert!(pool.upgrade().is_none());
    assert!(head.changed().await.is_err());
    assert_eq!(clock.sleepers(), 0);
}
