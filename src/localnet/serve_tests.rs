use std::time::Duration;

use openvalidators_messages::{Hotkey, Metagraph};
use openvalidators_runtime::{Reason, SystemClock, within};
use openvalidators_subtensor::local::LocalClient;
use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::localnet::admit_validator;

const VALIDATOR: Hotkey = Hotkey([7; 32]);

fn config(folder: &std::path::Path) -> ServeConfig {
    ServeConfig {
        netuid: Netuid(1),
        chain: LocalChainConfig { block_seconds: 0.02, ..LocalChainConfig::default() },
        localnet: LocalnetConfig::default(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        state_file: folder.join("chain.json"),
        seed: Seed(31),
    }
}

struct Served {
    network: LocalNetwork,
    roster: Roster,
    shutdown: Shutdown,
    serving: JoinHandle<Result<(), LocalnetError>>,
}

async fn served(config: ServeConfig) -> Served {
    let (shutdown, clock) = (Shutdown::default(), SystemClock::shared());
    let (tell, told) = oneshot::channel();
    let (until, serving_clock) = (shutdown.clone(), clock.clone());
    let serving = tokio::spawn(async move {
        serve(&config, serving_clock, until, |ready| tell.send((ready.address, ready.roster.clone())).unwrap()).await
    });
    let Ok((address, roster)) = told.await else { panic!("{:?}", serving.await) };
    let network = LocalNetwork::new(LocalClient::new(address, clock, Duration::from_secs(10)));
    Served { network, roster, shutdown, serving }
}

impl Served {
    async fn stop(self) -> Metagraph {
        let last = self.network.metagraph().await.unwrap();
        self.shutdown.request(Reason::Finished);
        within(&SystemClock::new(), Duration::from_secs(10), self.serving).await.unwrap().unwrap().unwrap();
        last
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validator_elsewhere_finds_the_network_and_finds_it_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = served(config(folder.path())).await;
    let validator = admit_validator(&first.network, VALIDATOR, 1_000.0).await.unwrap();
    let roster = first.roster.clone();
    let before = first.stop().await;
    assert_eq!(before.neuron(validator).unwrap().hotkey, VALIDATOR);

    let again = served(config(folder.path())).await;
    let kept = |roster: &Roster| roster.iter().map(|entry| (entry.uid, entry.hotkey, entry.kind)).collect::<Vec<_>>();
    assert_eq!(kept(&again.roster), kept(&roster));
    let addresses: Vec<_> = again.roster.iter().map(|entry| (entry.uid, entry.address)).collect();
    let after = again.stop().await;
    assert!(after.block > before.block);
    assert_eq!(after.neurons.len(), before.neurons.len());
    assert_eq!(after.neuron(validator).unwrap().stake, 1_000.0);
    for (uid, address) in addresses {
        assert_eq!(after.neuron(uid).unwrap().axon.unwrap().address, address);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_served_is_told_before_anything_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let refused = async |config: ServeConfig| {
        let never = |_: Ready<'_>| panic!("it is not ready");
        let error = serve(&config, SystemClock::shared(), Shutdown::default(), never).await.unwrap_err();
        error.to_string()
    };
    let elsewhere = ServeConfig { listen: "0.0.0.0:0".parse().unwrap(), ..config(folder.path()) };
    assert!(refused(elsewhere).await.contains("loopback"));
    let mut wrong = config(folder.path());
    wrong.localnet.oversized_bytes = 0;
    assert!(refused(wrong).await.contains("localnet.oversized_bytes is 0"));
    let mut nobody = config(folder.path());
    nobody.localnet.miners = crate::localnet::MinerMix::NONE;
    assert!(refused(nobody).await.contains("has 0 miners"));
}

#[tokio::test]
async fn asked_to_stop_while_it_starts_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::default();
    shutdown.request(Reason::Finished);
    let mut slow = config(folder.path());
    slow.chain.block_seconds = 60.0;
    let serving = serve(&slow, SystemClock::shared(), shutdown, |_| panic!("it is not ready"));
    within(&SystemClock::new(), Duration::from_secs(10), serving).await.unwrap().unwrap();
}
