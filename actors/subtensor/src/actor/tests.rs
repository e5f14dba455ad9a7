use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use openvalidators_messages::{Axon, Block, Hotkey, Netuid};
use openvalidators_runtime::{
    ActorThread, Clock, DrivenClock, RestartBudget, Seed, SharedClock, Shutdown, SystemClock, supervise,
};
use parking_lot::Mutex as SyncMutex;

use super::*;
use crate::{
    Chain, ChainConfig, Metrics,
    local::{LocalChain, LocalChainConfig, LocalNetwork, SimulatedValidatorsConfig},
};

fn key(byte: u8) -> Hotkey {
    Hotkey([byte; 32])
}

fn unreachable<T>(call: &str) -> Result<T, ChainError> {
    Err(ChainError::Unreachable { call: call.to_owned(), reason: "cut".to_owned() })
}

/// A local chain whose line can be cut, and whose submissions can be held.
struct Line {
    chain: crate::local::LocalAccount,
    faults: SyncMutex<VecDeque<&'static str>>,
    cut: watch::Sender<bool>,
    held: watch::Sender<bool>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl Line {
    /// Fails the next calls of this name, one for each time it is listed.
    fn fault(&self, call: &'static str) -> bool {
        let mut faults = self.faults.lock();
        let hit = *self.cut.borrow() || faults.front() == Some(&call);
        if faults.front() == Some(&call) {
            faults.pop_front();
        }
        hit
    }
}

#[async_trait]
impl Chain for Line {
    async fn next_block(&self, after: Block) -> Result<Block, ChainError> {
        if self.fault("next_block") {
            return unreachable("next_block");
        }
        let mut cut = self.cut.subscribe();
        tokio::select! {
            block = self.chain.next_block(after) => block,
            _ = cut.wait_for(|cut| *cut) => unreachable("next_block"),
        }
    }

    async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        if self.fault("metagraph") { unreachable("metagraph") } else { self.chain.metagraph().await }
    }

    async fn submit_weights(&self, weights: &SetWeights) -> Result<Submission, ChainError> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let mut held = self.held.subscribe();
        let released = held.wait_for(|held| !*held).await.is_ok();
        let answer = if self.fault("submit_weights") || !released {
            unreachable("submit_weights")
        } else {
            self.chain.submit_weights(weights).await
        };
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    async fn weights_of(&self, uid: Uid) -> Result<Vec<(Uid, u16)>, ChainError> {
        if self.fault("weights") { unreachable("weights") } else { self.chain.weights_of(uid).await }
    }

    async fn serve_axon(&self, axon: Axon) -> Result<Block, ChainError> {
        self.chain.serve_axon(axon).await
    }
}

struct Bench {
    clock: DrivenClock,
    line: Arc<Line>,
    registry: Registry,
    mailboxes: Mailboxes,
    metagraph: watch::Receiver<Arc<Metagraph>>,
    network: LocalNetwork,
}

impl Bench {
    async fn start(config: ChainConfig) -> Self {
        let local = LocalChainConfig {
            commit_reveal: false,
            late_epoch_probability: 0.0,
            validators: SimulatedValidatorsConfig { copying: 0, random: 0, ..SimulatedValidatorsConfig::default() },
            ..LocalChainConfig::default()
        };
        let clock = DrivenClock::new(Duration::ZERO);
        let shared: SharedClock = Arc::new(clock.clone());
        let chain = LocalChain::start(&local, Netuid(1), shared.clone(), Seed(1), None).unwrap();
        let network = LocalNetwork::new(chain);
        let line = Arc::new(Line {
            chain: network.account(key(1)),
            faults: SyncMutex::default(),
            cut: watch::Sender::new(false),
            held: watch::Sender::new(false),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let (registry, pulse) = (Registry::new(), Pulse::new(&shared));
        let metrics = Metrics::new(&registry, &shared).unwrap();
        let calls = ChainCalls::new(line.clone(), shared, &config, metrics, Seed(1));
        let (publish, metagraph) = watch::channel(Arc::new(calls.metagraph().await.unwrap()));
        let mailboxes = Mailboxes::new(8, &registry).unwrap();
        mailboxes.attach(&SubtensorActor::new(calls, publish, pulse).start());
        settle().await;
        Self { clock, line, registry, mailboxes, metagraph, network }
    }

    /// Lets a second pass, and everybody do what they can.
    async fn second(&self) {
        self.clock.advance(Duration::from_secs(1));
        settle().await;
    }

    async fn seconds(&self, count: usize) {
        for _ in 0..count {
            self.second().await;
        }
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = family
            .get_metric()
            .iter()
            .find(|metric| {
                labels.iter().all(|(k, v)| metric.get_label().iter().any(|l| l.name() == *k && l.value() == *v))
            })
            .unwrap();
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    }

    fn calls(&self, call: &str, result: &str) -> f64 {
        self.metric("openvalidators_chain_calls_total", &[("call", call), ("result", result)])
    }

    fn submissions(&self, result: &str) -> f64 {
        self.metric("openvalidators_chain_submissions_total", &[("result", result)])
    }
}

async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn weights() -> SetWeights {
    SetWeights { uids: vec![Uid(1)], weights: vec![7], version_key: 0, salt: None }
}

async fn register(bench: &Bench) {
    let network = bench.network.clone();
    let registered = actix::spawn(async move { network.register(key(1), key(2)).await });
    settle().await;
    bench.second().await;
    assert_eq!(registered.await.unwrap(), Ok(Uid(1)));
}

#[actix::test]
async fn each_block_brings_a_metagraph() {
    let bench = Bench::start(ChainConfig::default()).await;
    assert_eq!(bench.metagraph.borrow().block, Block(0));
    for block in 1..=5 {
        bench.second().await;
        assert_eq!(bench.metagraph.borrow().block, Block(block));
        assert_eq!(bench.metric("openvalidators_chain_block", &[]), block as f64);
        assert_eq!(bench.metric("openvalidators_chain_metagraph_age_seconds", &[]), 0.0);
    }
}

#[actix::test]
async fn while_the_chain_is_gone_the_last_metagraph_stays_and_ages() {
    let bench = Bench::start(ChainConfig { read_attempts: 1, ..ChainConfig::default() }).await;
    bench.seconds(3).await;
    bench.line.cut.send_replace(true);
    bench.seconds(50).await;
    assert_eq!(bench.metagraph.borrow().block, Block(3));
    assert!(bench.metric("openvalidators_chain_metagraph_age_seconds", &[]) >= 50.0);
    assert!(bench.metric("openvalidators_chain_block_age_seconds", &[]) >= 50.0);
    let attempts = bench.calls("next_block", "unreachable");
    assert!((3.0..12.0).contains(&attempts), "{attempts} attempts in 50 s: the waits grow");

    bench.line.cut.send_replace(false);
    bench.seconds(61).await;
    assert!(bench.metagraph.borrow().block >= Block(100), "{}", bench.metagraph.borrow().block);
    assert!(bench.metric("openvalidators_chain_metagraph_age_seconds", &[]) < 2.0);
}

#[actix::test]
async fn reads_are_tried_again_and_submissions_are_not() {
    let bench = Bench::start(ChainConfig { read_attempts: 3, ..ChainConfig::default() }).await;
    register(&bench).await;
    bench.line.faults.lock().extend(["weights", "weights"]);
    let mailboxes = bench.mailboxes.clone();
    let row = actix::spawn(async move { mailboxes.read_weights.call(ReadWeights { uid: Uid(1) }).await });
    settle().await;
    bench.seconds(5).await;
    assert_eq!(row.await.unwrap().unwrap(), Ok(vec![]));
    assert_eq!((bench.calls("weights", "unreachable"), bench.calls("weights", "ok")), (2.0, 1.0));

    bench.line.faults.lock().extend(["weights"; 3]);
    let mailboxes = bench.mailboxes.clone();
    let row = actix::spawn(async move { mailboxes.read_weights.call(ReadWeights { uid: Uid(1) }).await });
    settle().await;
    bench.seconds(5).await;
    assert!(matches!(row.await.unwrap().unwrap(), Err(ChainError::Unreachable { .. })));

    bench.line.faults.lock().extend(["submit_weights"]);
    let answer = bench.mailboxes.set_weights.call(weights()).await.unwrap();
    assert!(matches!(answer, Err(ChainError::Unreachable { .. })));
    assert_eq!(bench.calls("submit_weights", "unreachable"), 1.0);
    assert_eq!(bench.submissions("unreachable"), 1.0);
}

#[actix::test]
async fn one_submission_is_in_flight_and_reads_go_past_it() {
    let bench = Bench::start(ChainConfig::default()).await;
    register(&bench).await;
    bench.seconds(5).await;
    bench.line.held.send_replace(true);
    let submissions: Vec<_> = (0..3)
        .map(|_| {
            let mailboxes = bench.mailboxes.clone();
            actix::spawn(async move { mailboxes.set_weights.call(weights()).await.unwrap() })
        })
        .collect();
    settle().await;
    assert_eq!(bench.line.in_flight.load(Ordering::SeqCst), 1);
    let row = bench.mailboxes.read_weights.call(ReadWeights { uid: Uid(1) }).await.unwrap();
    assert_eq!(row, Ok(vec![]), "a read does not wait for it");

    bench.line.held.send_replace(false);
    settle().await;
    bench.seconds(4).await;
    let mut answers = Vec::new();
    for submission in submissions {
        answers.push(submission.await.unwrap());
    }
    assert!(matches!(answers[0], Ok(Submission::Set { .. })), "{answers:?}");
    assert!(matches!(&answers[1], Err(ChainError::RefusedByPool { name, .. }) if name == "RateLimitExceeded"));
    assert_eq!(bench.line.most_in_flight.load(Ordering::SeqCst), 1);
    assert_eq!((bench.submissions("set"), bench.submissions("refused_by_pool")), (1.0, 2.0));
}

#[actix::test]
async fn a_submission_without_an_answer_ends_at_its_deadline() {
    let bench = Bench::start(ChainConfig { submit_timeout_seconds: 10.0, ..ChainConfig::default() }).await;
    register(&bench).await;
    bench.line.held.send_replace(true);
    let mailboxes = bench.mailboxes.clone();
    let submission = actix::spawn(async move { mailboxes.set_weights.call(weights()).await.unwrap() });
    settle().await;
    bench.seconds(9).await;
    assert!(!submission.is_finished());
    bench.seconds(2).await;
    let error = submission.await.unwrap().unwrap_err();
    assert!(matches!(&error, ChainError::Unreachable { reason, .. } if reason == "no answer within 10 s"), "{error}");
    assert!(bench.clock.now() >= Duration::from_secs(10));
}

#[actix::test]
async fn a_silent_chain_is_given_up_after_the_block_timeout() {
    let config = ChainConfig { block_timeout_seconds: 0.25, ..ChainConfig::default() };
    let bench = Bench::start(config).await;
    bench.clock.advance(Duration::from_millis(300));
    settle().await;
    assert_eq!(bench.calls("next_block", "unreachable"), 1.0);
}

#[actix::test]
async fn a_supervised_actor_follows_and_closes() {
    let clock = SystemClock::shared();
    let local = LocalChainConfig { block_seconds: 0.02, ..LocalChainConfig::default() };
    let chain = LocalChain::start(&local, Netuid(1), clock.clone(), Seed(1), None).unwrap();
    let account: Arc<dyn Chain> = Arc::new(LocalNetwork::new(chain).account(key(1)));
    let (registry, pulse) = (Registry::new(), Pulse::new(&clock));
    let metrics = Metrics::new(&registry, &clock).unwrap();
    let calls = ChainCalls::new(account, clock.clone(), &ChainConfig::default(), metrics, Seed(1));
    let (publish, mut metagraph) = watch::channel(Arc::new(calls.metagraph().await.unwrap()));
    let mailboxes = Mailboxes::new(4, &registry).unwrap();
    let attach = mailboxes.clone();
    let thread = ActorThread::start();
    let supervision = supervise(
        &thread,
        &mailboxes.inbox,
        RestartBudget::default(),
        &clock,
        &Shutdown::default(),
        move || {
            let actor = SubtensorActor::new(calls.clone(), publish.clone(), pulse.clone());
            async move { Ok(actor) }
        },
        move |actor| attach.attach(actor),
    );
    metagraph.wait_for(|seen| seen.block >= Block(3)).await.unwrap();
    let row = mailboxes.read_weights.call(ReadWeights { uid: Uid(1) }).await.unwrap();
    assert_eq!(row, Ok(vec![]));
    supervision.close().await;
    assert!(mailboxes.read_weights.call(ReadWeights { uid: Uid(1) }).await.is_err());
    // With the actor and its factory, the last sender of metagraphs is gone.
    while metagraph.changed().await.is_ok() {}
}
