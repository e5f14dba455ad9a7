use std::collections::HashSet;

use openvalidators_messages::Netuid;
use openvalidators_runtime::{Seed, SharedClock, SystemClock};
use openvalidators_subtensor::local::{LocalChain, LocalChainConfig};

use super::*;
use crate::localnet::{Localnet, LocalnetConfig, hotkey};

const SEED: Seed = Seed(21);
const VALIDATOR: Hotkey = Hotkey([7; 32]);

fn chain(max_uids: u16, clock: &SharedClock) -> LocalNetwork {
    let config = LocalChainConfig { block_seconds: 0.02, max_uids, ..LocalChainConfig::default() };
    LocalNetwork::new(LocalChain::start(&config, Netuid(1), clock.clone(), SEED, None).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validator_and_miners_get_their_places_and_addresses() {
    let clock = SystemClock::shared();
    let network = chain(256, &clock);
    let validator = admit_validator(&network, VALIDATOR, 1_000.0).await.unwrap();
    let config = LocalnetConfig { miner_stake: 2.0, ..LocalnetConfig::default() };
    let localnet = Localnet::start(&config, &network, SEED, &clock).await.unwrap();
    let metagraph = network.metagraph().await.unwrap();

    let neuron = metagraph.neuron(validator).unwrap();
    assert_eq!((neuron.hotkey, neuron.stake), (VALIDATOR, 1_000.0));
    assert!(localnet.roster().iter().all(|entry| entry.uid != validator));
    let kinds = config.miners.kinds(SEED).unwrap();
    let uids: HashSet<_> = localnet.roster().iter().map(|entry| entry.uid).collect();
    assert_eq!((uids.len(), kinds.len()), (16, 16));
    for (entry, (index, kind)) in localnet.roster().iter().zip((0..).zip(kinds)) {
        // Uids follow the index, and so the shuffled order of kinds.
        assert_eq!((entry.hotkey, entry.kind), (hotkey(SEED, index), kind));
        let neuron = metagraph.neuron(entry.uid).unwrap();
        assert_eq!((neuron.hotkey, neuron.stake), (entry.hotkey, 2.0));
        assert_eq!(neuron.axon.unwrap().address, entry.address);
    }
    localnet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn started_again_all_keep_their_places_and_serve_at_new_addresses() {
    let clock = SystemClock::shared();
    let network = chain(256, &clock);
    let config = LocalnetConfig::default();
    let validator = admit_validator(&network, VALIDATOR, 1.0).await.unwrap();
    let first = Localnet::start(&config, &network, SEED, &clock).await.unwrap();
    let (before, neurons) = (first.roster().clone(), network.metagraph().await.unwrap().neurons.len());
    // At once: the chain's rate limit for serving is in the way.
    let second = Localnet::start(&config, &network, SEED, &clock).await.unwrap();
    assert_eq!(admit_validator(&network, VALIDATOR, 5.0).await.unwrap(), validator);
    let metagraph = network.metagraph().await.unwrap();
    assert_eq!(metagraph.neurons.len(), neurons);
    assert_eq!(metagraph.neuron(validator).unwrap().stake, 5.0);
    for (old, new) in before.iter().zip(second.roster().iter()) {
        assert_eq!((old.uid, old.hotkey, old.kind), (new.uid, new.hotkey, new.kind));
        assert_ne!(old.address, new.address);
        assert_eq!(metagraph.neuron(new.uid).unwrap().axon.unwrap().address, new.address);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subnet_that_is_too_small_is_told_with_its_remedy() {
    let clock = SystemClock::shared();
    let network = chain(4, &clock);
    let error = Localnet::start(&LocalnetConfig::default(), &network, SEED, &clock).await.unwrap_err().to_string();
    assert!(error.contains("the local subnet is full") && error.contains("max_uids"), "{error}");
}

#[tokio::test]
async fn a_chain_that_does_not_answer_is_named() {
    let clock = SystemClock::shared();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let timeout = std::time::Duration::from_secs(1);
    let gone = openvalidators_subtensor::local::LocalClient::new(address, clock, timeout);
    let error = admit_validator(&LocalNetwork::new(gone), VALIDATOR, 1.0).await.unwrap_err().to_string();
    assert!(error.contains("could not read the local subnet") && error.contains(&address.to_string()), "{error}");
}
