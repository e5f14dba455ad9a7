use std::path::Path;

use openvalidators_messages::{
    Axon, Block, Hotkey, Netuid, Uid,
    subtensor::{ChainError, SetWeights, Submission},
};
use openvalidators_runtime::{Reason, Seed, SystemClock};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;
use crate::{
    chain::Chain,
    local::{LocalChainConfig, LocalClient, LocalNetwork, Request, SimulatedValidatorsConfig},
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn key(byte: u8) -> Hotkey {
    Hotkey([byte; 32])
}

fn quick() -> LocalChainConfig {
    LocalChainConfig {
        block_seconds: 0.02,
        tempo: 5,
        commit_reveal: false,
        late_epoch_probability: 0.0,
        validators: SimulatedValidatorsConfig { copying: 0, random: 0, ..SimulatedValidatorsConfig::default() },
        ..LocalChainConfig::default()
    }
}

struct Served {
    address: SocketAddr,
    chain: LocalChain,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), LocalServerError>>,
}

impl Served {
    async fn start(address: SocketAddr, file: Option<&Path>) -> Self {
        Self::with(&quick(), address, file).await
    }

    async fn with(config: &LocalChainConfig, address: SocketAddr, file: Option<&Path>) -> Self {
        let clock = SystemClock::shared();
        let chain = LocalChain::start(config, Netuid(1), clock.clone(), Seed(1), file).unwrap();
        let server = LocalServer::bind(address, chain.clone(), clock).await.unwrap();
        let (address, shutdown) = (server.address(), Shutdown::default());
        let task = tokio::spawn(server.run(shutdown.clone()));
        Self { address, chain, shutdown, task }
    }

    fn network(&self) -> LocalNetwork {
        network(self.address, 5_000)
    }

    async fn stop(self) {
        self.shutdown.request(Reason::Finished);
        self.task.await.unwrap().unwrap();
        self.chain.stop().await;
    }
}

fn network(address: SocketAddr, timeout_milliseconds: u64) -> LocalNetwork {
    let timeout = Duration::from_millis(timeout_milliseconds);
    LocalNetwork::new(LocalClient::new(address, SystemClock::shared(), timeout))
}

#[tokio::test]
async fn a_validator_finds_everything_behind_the_socket() {
    let served = Served::start(LOOPBACK, None).await;
    let network = served.network();
    let all = (1..=20).map(|byte| network.register(key(byte), key(100)));
    let uids: Vec<Uid> = futures::future::try_join_all(all).await.unwrap();
    assert_eq!(uids.len(), 20);
    network.set_stake(key(1), 1000.0).await.unwrap();
    let axon = Axon { address: "127.0.0.1:9000".parse().unwrap(), protocol: 4, version: 10_005_000 };
    network.serve_axon(key(2), axon).await.unwrap();

    let chain = network.account(key(1));
    let mut head = Block(0);
    while !chain.metagraph().await.unwrap().neurons[usize::from(uids[0].0)].validator_permit {
        head = chain.next_block(head).await.unwrap();
    }
    let weights = SetWeights { uids: vec![uids[1], uids[2]], weights: vec![2, 1], version_key: 0, salt: None };
    let Submission::Set { block } = chain.submit_weights(&weights).await.unwrap() else { panic!("committed") };
    assert!(block > head);
    assert_eq!(chain.weights_of(uids[0]).await.unwrap(), [(uids[1], 65535), (uids[2], 32768)]);
    let metagraph = chain.metagraph().await.unwrap();
    let miner = metagraph.uid_of(&key(2)).unwrap();
    assert_eq!(metagraph.neuron(miner).unwrap().axon, Some(axon));
    let failed = network.register(key(3), key(100)).await.unwrap_err();
    assert!(matches!(failed, ChainError::FailedInBlock { name, .. } if name == "HotKeyAlreadyRegisteredInSubNet"));
    served.stop().await;
}

#[tokio::test]
async fn a_chain_that_dies_comes_back_at_its_block() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain.json");
    let served = Served::start(LOOPBACK, Some(&path)).await;
    let (address, network) = (served.address, served.network());
    let uid = network.register(key(1), key(100)).await.unwrap();
    let known = network.next_block(Block(0)).await.unwrap();
    let waiting = tokio::spawn({
        let network = network.clone();
        async move {
            let mut head = known;
            loop {
                match network.next_block(head).await {
                    Ok(block) => head = block,
                    Err(error) => return error,
                }
            }
        }
    });
    served.stop().await;

    let error = waiting.await.unwrap();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
    let error = network.metagraph().await.unwrap_err();
    assert!(matches!(&error, ChainError::Unreachable { call, .. } if call == "metagraph"), "{error}");

    let served = Served::start(address, Some(&path)).await;
    let metagraph = network.metagraph().await.unwrap();
    assert_eq!(metagraph.uid_of(&key(1)), Some(uid));
    assert!(metagraph.block >= known);
    network.next_block(metagraph.block).await.unwrap();
    served.stop().await;
}

#[tokio::test]
async fn only_loopback_is_bound() {
    let clock = SystemClock::shared();
    let chain = LocalChain::start(&quick(), Netuid(1), clock.clone(), Seed(1), None).unwrap();
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let error = LocalServer::bind(everywhere, chain, clock).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("use 127.0.0.1"), "{error}");
}

/// Sends these bytes and reads until the server closes the connection.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // The server may close before it has read everything.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn nonsense_is_answered_and_the_server_lives() {
    let served = Served::start(LOOPBACK, None).await;
    for line in ["hello\n", "{}\n", "{\"version\":1,\"request\":\"stop\"}\n", "\n"] {
        let answer = raw(served.address, line.as_bytes()).await;
        assert!(answer.starts_with("{\"unread\""), "{line:?} was answered {answer:?}");
    }
    let answer = raw(served.address, b"{\"version\":9,\"request\":\"metagraph\"}\n").await;
    assert!(answer.contains("version 9"), "{answer}");
    let long = vec![b'x'; wire::MAX_REQUEST_BYTES + 2];
    let answer = raw(served.address, &long).await;
    assert!(answer.is_empty() || answer.contains("may have 65536 bytes"), "{answer}");
    assert!(served.network().metagraph().await.is_ok());
    served.stop().await;
}

#[tokio::test]
async fn callers_that_leave_free_their_places() {
    let slow = LocalChainConfig { block_seconds: 3600.0, ..quick() };
    let served = Served::with(&slow, LOOPBACK, None).await;
    let request = Request::NextBlock { after: Block(0) };
    let ask = serde_json::to_string(&Ask { version: wire::VERSION, request }).unwrap() + "\n";
    for _ in 0..MAX_CONNECTIONS + 20 {
        let mut socket = TcpStream::connect(served.address).await.unwrap();
        socket.write_all(ask.as_bytes()).await.unwrap();
    }
    assert!(served.network().metagraph().await.is_ok());
    served.stop().await;
}

/// A socket that answers every connection with these bytes, once it has read something, and then holds it open.
async fn impostor(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 1024]).await;
            let _ = socket.write_all(&answer).await;
            held.push(socket);
        }
    });
    address
}

#[tokio::test]
async fn a_chain_that_answers_badly_is_told_from_one_that_does_not_answer() {
    let silent = network(impostor(Vec::new()).await, 50).metagraph().await.unwrap_err();
    assert!(matches!(&silent, ChainError::Unreachable { reason, .. } if reason.contains("0.05 s")), "{silent}");

    let garbled = network(impostor(b"so long\n".to_vec()).await, 5_000).metagraph().await.unwrap_err();
    assert!(matches!(garbled, ChainError::BadAnswer { .. }), "{garbled}");

    let other = network(impostor(b"{\"answer\":{\"block\":5}}\n".to_vec()).await, 5_000);
    let other = other.metagraph().await.unwrap_err();
    assert!(matches!(other, ChainError::BadAnswer { .. }), "{other}");

    let endless = vec![b' '; wire::MAX_ANSWER_BYTES + 10];
    let endless = network(impostor(endless).await, 30_000).metagraph().await.unwrap_err();
    assert!(matches!(&endless, ChainError::BadAnswer { reason, .. } if reason.contains("4194304")), "{endless}");
}

#[test]
fn a_request_is_one_short_line() {
    let uids: Vec<u16> = (0..crate::local::MAX_UIDS).collect();
    let vector = crate::local::WeightVector { weights: vec![u16::MAX; uids.len()], uids, version_key: u64::MAX };
    let request = Request::SubmitWeights { hotkey: key(255), vector };
    let line = serde_json::to_string(&Ask { version: wire::VERSION, request }).unwrap();
    assert!(line.len() < wire::MAX_REQUEST_BYTES && !line.contains('\n'));
}
