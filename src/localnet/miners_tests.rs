use openvalidators_dendrite::{Config, Dendrite, Metrics};
use openvalidators_messages::{
    Axon as Advertised, Completion, ForwardId, QueryOutcome, StepId, Uid, dendrite::Query, gating::Routed,
};
use openvalidators_runtime::{Clock, SystemClock, within};
use prometheus::Registry;
use tokio::{io::AsyncReadExt, net::TcpStream, runtime::Handle};

use super::*;
use crate::localnet::kinds::{MinerMix, Tier};

const PROMPT: &str = "The carver pasted the drawing on cherry wood. The printer rubbed damp paper against the block. A second \
                      block held another colour. Two notches cut in the wood guided the sheet. The publisher paid the \
                      costs and chose the subject.\n\nSummarise the text in 4 sentences.";
const SEED: Seed = Seed(11);

/// What a validator asks with.
fn dendrite() -> Dendrite {
    let signer = Arc::new(HotkeySigner::from_uri("//Alice").unwrap());
    let config = Config { allow_private_addresses: true, ..Config::default() };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    Dendrite::new(signer, config, SystemClock::shared(), metrics, Handle::current()).unwrap()
}

fn routed(hotkey: Hotkey, address: SocketAddr) -> Routed {
    let axon = Advertised { address, protocol: 4, version: 10_005_000 };
    Routed { uid: Uid(0), hotkey, axon, propensity: 1.0, uniform_propensity: None }
}

async fn ask(miners: Vec<Routed>, timeout: Duration) -> Vec<Completion> {
    let step = StepId { forward: ForwardId(1), index: 0 };
    let (roles, messages) = (["user".to_owned()].into(), [PROMPT.to_owned()].into());
    dendrite().query(Query { step, miners, roles, messages, timeout }).await
}

async fn start(config: LocalnetConfig) -> Miners {
    Miners::start(&config, SEED, &SystemClock::shared()).await.unwrap()
}

/// A network of so many good miners.
async fn good(count: u16) -> Miners {
    start(LocalnetConfig { miners: MinerMix { good: count, ..MinerMix::NONE }, ..LocalnetConfig::default() }).await
}

fn all(miners: &Miners) -> Vec<Routed> {
    miners.as_slice().iter().map(|miner| routed(miner.hotkey, miner.address())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_does_on_the_wire_what_it_is_called() {
    use QueryOutcome::{Answered, BadBody, BadProtocol, Failed, Refused, TimedOut, TooLarge};
    let quick = LocalnetConfig {
        miners: MinerMix { specialist: 1, ..MinerMix::default() },
        slow_least_of_timeout: 0.0,
        slow_most_of_timeout: 0.02,
        ..LocalnetConfig::default()
    };
    let miners = start(quick).await;
    let completions = ask(all(&miners), Duration::from_secs(4)).await;
    let honest: Vec<_> = miners
        .as_slice()
        .iter()
        .filter_map(|miner| match miner.kind {
            MinerKind::Honest(tier) => Some(Author { seed: SEED, index: miner.index, tier }.complete(PROMPT)),
            _ => None,
        })
        .collect();
    let mut seen = Vec::new();
    for (miner, completion) in miners.as_slice().iter().zip(&completions) {
        let (outcome, text) = (completion.outcome, completion.text.as_str());
        let author = |tier| Author { seed: SEED, index: miner.index, tier }.complete(PROMPT);
        let right = match miner.kind {
            MinerKind::Honest(tier) => outcome == Answered && text == author(tier),
            MinerKind::Specialist(_) => {
                outcome == Answered && (text == author(Tier::Good) || text == author(Tier::Poor))
            }
            MinerKind::Slow => outcome == Answered && text == author(Tier::Good),
            MinerKind::Lazy => outcome == Answered && text.len() < 100,
            MinerKind::Echo => outcome == Answered && text == PROMPT,
            MinerKind::Copycat => outcome == Answered && honest.iter().any(|honest| honest == text),
            MinerKind::KeywordSpammer => outcome == Answered && text.matches("block").count() > 1,
            MinerKind::Hanging => outcome == TimedOut,
            MinerKind::Garbage => outcome == BadProtocol,
            MinerKind::Oversized => outcome == TooLarge,
            MinerKind::WrongJson => outcome == BadBody,
            MinerKind::Refusing => {
                (outcome, completion.status_code) == (Refused, 403)
                    || (outcome, completion.status_code) == (Failed, 503)
            }
        };
        assert!(right, "{}: {completion:?}", miner.kind);
        seen.push(miner.kind);
    }
    assert!(MinerKind::ALL.iter().all(|kind| seen.contains(kind)), "{seen:?}");
    miners.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_miner_takes_its_share_of_the_timeout_it_is_told() {
    let mix = MinerMix { slow: 1, ..MinerMix::NONE };
    for (share, outcome) in [(1.5, QueryOutcome::TimedOut), (0.5, QueryOutcome::Answered)] {
        let (slow_least_of_timeout, slow_most_of_timeout) = (share, share);
        let miners = mix.clone();
        let config = LocalnetConfig { miners, slow_least_of_timeout, slow_most_of_timeout, ..Default::default() };
        let miners = start(config).await;
        let completion = &ask(all(&miners), Duration::from_secs(2)).await[0];
        assert_eq!(completion.outcome, outcome, "{share} of the timeout");
        assert!(completion.elapsed_seconds >= 1.0, "{completion:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn miners_have_their_own_keys_and_verify_what_is_signed_for_them() {
    let miners = good(2).await;
    let [first, second] = all(&miners).try_into().unwrap();
    assert_ne!(first.hotkey, second.hotkey);
    assert_eq!(first.hotkey, hotkey(SEED, 0));
    assert_ne!(first.hotkey, hotkey(Seed(12), 0));
    let swapped = vec![routed(first.hotkey, second.axon.address), routed(second.hotkey, second.axon.address)];
    let completions = ask(swapped, Duration::from_secs(4)).await;
    assert_eq!((completions[0].outcome, completions[0].status_code), (QueryOutcome::Refused, 401));
    assert_eq!(completions[1].outcome, QueryOutcome::Answered);
}

#[tokio::test]
async fn a_panic_of_a_miner_fails_that_request_alone() {
    let request = AxonRequest {
        dendrite: hotkey(SEED, 0),
        roles: vec!["user".to_owned()],
        messages: vec![PROMPT.to_owned()],
        timeout: Duration::from_secs(1),
    };
    let failed = reply(|_, _| panic!("a miner fails"), SystemClock::shared(), request.clone()).await;
    assert!(matches!(failed, Reply::Status { code: 500, .. }), "{failed:?}");
    let plan = |prompt: &str, _| Planned { after: Duration::ZERO, reply: Reply::Completion(prompt.to_owned()) };
    let next = reply(plan, SystemClock::shared(), request).await;
    assert!(matches!(next, Reply::Completion(text) if text == PROMPT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miner_serves_a_bounded_number_of_connections() {
    let miners = good(2).await;
    let [crowded, other] = all(&miners).try_into().unwrap();
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(crowded.axon.address).await.unwrap());
    }
    let outcomes = ask(vec![crowded, other], Duration::from_secs(1)).await.into_iter().map(|one| one.outcome);
    assert_eq!(outcomes.collect::<Vec<_>>(), [QueryOutcome::TimedOut, QueryOutcome::Answered]);
    drop(idle);
    assert_eq!(ask(vec![crowded], Duration::from_secs(4)).await[0].outcome, QueryOutcome::Answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_lets_requests_in_hand_end_and_closes_every_socket() {
    let mix = MinerMix { slow: 1, hanging: 1, garbage: 1, ..MinerMix::NONE };
    let (slow_least_of_timeout, slow_most_of_timeout) = (0.05, 0.05);
    let config = LocalnetConfig { miners: mix, slow_least_of_timeout, slow_most_of_timeout, ..Default::default() };
    let miners = start(config).await;
    let asked: Vec<_> = miners.as_slice().iter().filter(|miner| miner.kind == MinerKind::Slow).collect();
    let asked = vec![routed(asked[0].hotkey, asked[0].address())];
    let addresses: Vec<_> = miners.as_slice().iter().map(Miner::address).collect();
    let asking = tokio::spawn(ask(asked, Duration::from_secs(10)));
    SystemClock::new().sleep(Duration::from_millis(250)).await;
    within(&SystemClock::new(), Duration::from_secs(5), miners.stop()).await.unwrap();
    assert_eq!(asking.await.unwrap()[0].outcome, QueryOutcome::Answered);
    for address in addresses {
        // The task that listens may need a moment to be dropped.
        let closed = async {
            while let Ok(mut socket) = TcpStream::connect(address).await {
                let _ = socket.read(&mut [0]).await;
            }
        };
        within(&SystemClock::new(), Duration::from_secs(5), closed).await.unwrap();
    }
}
