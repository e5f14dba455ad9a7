//! A real runtime behind a node of its own, where one is named.
//!
//! `SUBTENSOR_CHAIN_SPEC` is a raw chain spec of subtensor, and a node is started and prepared from it (`chopsticks.rs`).
//! `SUBTENSOR_NODE` is the WebSocket address of a node that runs already and may be written to, with a subnet
//! `SUBTENSOR_NETUID` on which the development key `//Charlie` is registered and has a permit, and nothing limits how often
//! weights are set and axons served.

use std::{sync::Arc, time::Duration};

use openvalidators_keys::HotkeySigner;
use openvalidators_messages::{
    Axon, Netuid, Uid,
    subtensor::{ChainError, RevealWeights, SetWeights, Submission},
};
use openvalidators_runtime::SystemClock;

use super::{changes, chopsticks::Chopsticks};
use crate::{Chain, commit_reveal::Mechanism, remote::RemoteChain};

/// The subnet's tempo is to be shorter.
const MOST_REVEALS: usize = 20;

#[tokio::test]
async fn a_real_runtime_takes_our_transactions() {
    if let Ok(node) = std::env::var("SUBTENSOR_NODE") {
        let netuid = std::env::var("SUBTENSOR_NETUID").unwrap_or_default().parse().unwrap_or(2);
        take(node, netuid).await;
    }
    let Some(node) = Chopsticks::start().await else { return };
    take(node.url(), node.netuid).await;
    println!("once more with commit-reveal");
    node.commit_reveal_on();
    take(node.url(), node.netuid).await;
}

async fn take(node: String, netuid: u16) {
    let signer = Arc::new(HotkeySigner::from_uri("//Charlie").unwrap());
    let hotkey = signer.hotkey();
    let mechanism = Mechanism { netuid: Netuid(netuid), index: 0 };
    let progress = Duration::from_secs(600);
    let chain = RemoteChain::new(vec![node], mechanism, signer, SystemClock::shared(), progress, changes());

    // Runtimes before March 2025 give neurons as bytes that their metadata does not describe.
    let before = chain.metagraph().await;
    let uids: Vec<_> = match &before {
        Ok(metagraph) => metagraph.neurons.iter().map(|neuron| neuron.uid).collect(),
        Err(error) => {
            println!("metagraph: {error}");
            vec![Uid(0), Uid(1), Uid(2)]
        }
    };
    let uid = before.as_ref().ok().and_then(|metagraph| metagraph.uid_of(&hotkey)).unwrap_or(Uid(1));

    let address = "203.0.113.99:8099".parse().unwrap();
    let served = chain.serve_axon(Axon { address, protocol: 4, version: 10_005_000 }).await;
    println!("serve_axon: {served:?}");
    served.unwrap();

    let mut weights = vec![1_000; uids.len()];
    weights[0] = u16::MAX;
    let sent = SetWeights { uids: uids.clone(), weights: weights.clone(), version_key: 0, salt: Some(vec![7; 8]) };
    let submission = chain.submit_weights(&sent).await.unwrap();
    println!("submit_weights: {submission:?}");
    // Old runtimes with commit-reveal on.
    if matches!(submission, Submission::Committed { .. }) {
        reveal(&chain, sent).await;
    }
    let row = chain.weights_of(uid).await.unwrap();
    assert_eq!(row, uids.into_iter().zip(weights).collect::<Vec<_>>());

    let wrong = SetWeights { uids: vec![Uid(4_000)], weights: vec![1], version_key: 0, salt: None };
    let refused = chain.submit_weights(&wrong).await.unwrap_err();
    println!("an unknown uid: {refused:?}");

    if let (Ok(before), Ok(after)) = (&before, chain.metagraph().await) {
        assert!(after.block > before.block);
        let neuron = after.neuron(uid).unwrap();
        assert_eq!(neuron.axon.map(|axon| axon.address), Some(address));
        println!("{neuron:?}");
    }
}

/// Reveals as soon as the chain lets us: each attempt that comes too early is a block further.
async fn reveal(chain: &RemoteChain, SetWeights { uids, weights, version_key, salt }: SetWeights) {
    let said = RevealWeights { uids, weights, version_key, salt: salt.unwrap() };
    for _ in 0..MOST_REVEALS {
        match chain.reveal_weights(&said).await {
            Ok(block) => {
                println!("revealed in block {block}");
                return;
            }
            Err(ChainError::FailedInBlock { block, name, .. }) if name == "RevealTooEarly" => {
                println!("block {block}: {name}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("not revealed within {MOST_REVEALS} blocks");
}
