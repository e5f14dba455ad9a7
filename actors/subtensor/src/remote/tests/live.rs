//! A real runtime behind a node of its own, where one is named.
//!
//! `SUBTENSOR_NODE` is the WebSocket address of a node that may be written to: chopsticks over a raw chain spec of
//! subtensor, for one, with a subnet `SUBTENSOR_NETUID` on which the development key `//Charlie` is registered and has a
//! permit, and nothing limits how often weights are set and axons served.

use std::{sync::Arc, time::Duration};

use openvalidators_keys::HotkeySigner;
use openvalidators_messages::{
    Axon, Hotkey, Netuid, Uid,
    subtensor::{ChainError, SetWeights, Submission},
};
use openvalidators_runtime::SystemClock;
use rand::{SeedableRng, rngs::StdRng};

use super::changes;
use crate::{
    Chain,
    commit_reveal::{HashReveal, Mechanism},
    remote::RemoteChain,
};

/// The subnet's tempo is to be shorter.
const MOST_REVEALS: usize = 20;

#[tokio::test]
async fn a_real_runtime_takes_our_transactions() {
    let Ok(node) = std::env::var("SUBTENSOR_NODE") else {
        println!("skipped: SUBTENSOR_NODE names no node");
        return;
    };
    let netuid = std::env::var("SUBTENSOR_NETUID").unwrap_or_default().parse().unwrap_or(2);
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
    let sent = SetWeights { uids: uids.clone(), weights: weights.clone(), version_key: 0 };
    match chain.submit_weights(&sent).await {
        Ok(submission) => {
            println!("submit_weights: {submission:?}");
            assert!(matches!(submission, Submission::Set { .. }));
        }
        // Old runtimes with commit-reveal on.
        Err(ChainError::BadAnswer { reason, .. }) if reason.contains("commits by hash alone") => {
            by_hash(&chain, &hotkey, mechanism, &sent).await;
        }
        Err(error) => panic!("{error}"),
    }
    let row = chain.weights_of(uid).await.unwrap();
    assert_eq!(row, uids.into_iter().zip(weights).collect::<Vec<_>>());

    let wrong = SetWeights { uids: vec![Uid(4_000)], weights: vec![1], version_key: 0 };
    let refused = chain.submit_weights(&wrong).await.unwrap_err();
    println!("an unknown uid: {refused:?}");

    if let (Ok(before), Ok(after)) = (&before, chain.metagraph().await) {
        assert!(after.block > before.block);
        let neuron = after.neuron(uid).unwrap();
        assert_eq!(neuron.axon.map(|axon| axon.address), Some(address));
        println!("{neuron:?}");
    }
}

/// Commits, and reveals as soon as the chain lets it: each attempt that comes too early is a block further.
async fn by_hash(chain: &RemoteChain, hotkey: &Hotkey, mechanism: Mechanism, weights: &SetWeights) {
    let reveal = HashReveal::new(*hotkey, mechanism, weights, &mut StdRng::seed_from_u64(1)).unwrap();
    println!("commit_hash: {:?}", chain.commit_hash(&reveal).await.unwrap());
    for _ in 0..MOST_REVEALS {
        match chain.reveal(&reveal).await {
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
