//! A validator of a real network, from its wallet to its weights: the binary with the flags of openvalidators 1.2.0, a node
//! that judges every transaction by metadata and signature, and local miners behind real sockets.

use std::time::{Duration, Instant};

use openvalidators::localnet::{LocalnetConfig, MinerMix, Miners};
use openvalidators_keys::ss58;
use openvalidators_ledger::Reader;
use openvalidators_messages::{Hotkey, ledger::Settlement};
use openvalidators_runtime::{Seed, SystemClock};
use openvalidators_subtensor::remote::testing::{Member, Subnet, SubnetNode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    program::{CONSTANT_REWARD, Program, binary, get, stderr},
    wallet::{ADDRESS, wallets},
};

const NETUID: u16 = 64;
const BLOCK_TIME: Duration = Duration::from_millis(500);
/// Fifteen seconds an epoch.
const TEMPO: u64 = 30;
/// Longest wait for the chain to show something, on cores that have much else to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// A subnet of real miners and, where it has a place, our hotkey.
struct Network {
    node: SubnetNode,
    _miners: Miners,
    wallets: TempDir,
    state: TempDir,
    _runtime: Runtime,
}

fn ours() -> Hotkey {
    ss58::decode(ADDRESS).unwrap()
}

impl Network {
    fn start(us: Option<Member>) -> Self {
        let runtime = Runtime::new().unwrap();
        let config = LocalnetConfig { miners: MinerMix { good: 4, ..MinerMix::NONE }, ..LocalnetConfig::default() };
        let miners = runtime.block_on(Miners::start(&config, Seed(64), &SystemClock::shared())).unwrap();
        let members = miners.as_slice().iter().map(|miner| Member::miner(miner.hotkey, miner.address()));
        let subnet = Subnet::new(NETUID, TEMPO, us.into_iter().chain(members).collect());
        let node = runtime.block_on(SubnetNode::start(subnet, BLOCK_TIME));
        let (wallets, state) = (wallets(), tempfile::tempdir().unwrap());
        Self { node, _miners: miners, wallets, state, _runtime: runtime }
    }

    /// As an operator types it, with this binary's name in front; and what makes a test short.
    fn arguments(&self) -> Vec<String> {
        let flags = format!(
            "--subtensor.chain_endpoint {} --netuid {NETUID} --wallet.name cold --wallet.hotkey plain --wallet.path {} \
             --neuron.followup_timeout 2 --neuron.answer_timeout 2 --neuron.num_followup_steps 1",
            self.node.url(),
            self.wallets.path().display(),
        );
        let settings = ["weights.min_scored=2", "weights.set_at_fraction=0.2", "weights.retry_after_blocks=2"];
        let settings = settings.iter().chain(&CONSTANT_REWARD).flat_map(|setting| ["--set", setting]);
        flags.split_whitespace().chain(settings).map(str::to_owned).collect()
    }

    fn validate(&self) -> Program {
        let arguments = self.arguments();
        Program::start_unhurried(self.state.path(), &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Looks again and again until the subnet shows it.
    fn until(&self, what: &str, seen: impl Fn(&mut Subnet) -> bool) {
        let since = Instant::now();
        while !self.node.subnet(&seen) {
            assert!(since.elapsed() < PATIENCE, "the chain did not show that {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn last_word(lines: &[Value]) -> String {
    lines.last().unwrap()["text"].as_str().unwrap().to_owned()
}

/// Weights arrive, are confirmed, and arrive again in the next epoch though the sockets were dropped in between.
#[test]
fn weights_reach_a_chain_of_nodes_epoch_after_epoch() {
    let network = Network::start(Some(Member::validator(ours(), 10_000)));
    let program = network.validate();
    let paid = |subnet: &Subnet| subnet.weights_of(&ours()).map(<[_]>::to_vec);
    network.until("weights were set", |subnet| paid(subnet).is_some());
    let (first, epoch, set_at) =
        network.node.subnet(|subnet| (paid(subnet).unwrap(), subnet.epoch_index(), subnet.members[0].last_update));
    // A miner earns what it is given; we are paid nothing by ourselves.
    assert!(first.len() >= 2 && first.iter().all(|(uid, weight)| (1..=4).contains(uid) && *weight > 0), "{first:?}");
    assert!(first.iter().any(|(_, weight)| *weight == u16::MAX), "{first:?}");

    let before = network.node.connections();
    for method in ["state_call", "chain_getHeader"] {
        network.node.drop_sockets(method, 1);
        std::thread::sleep(Duration::from_secs(3));
    }
    network.until("weights were set again", |subnet| {
        subnet.epoch_index() > epoch && subnet.members[0].last_update > set_at
    });
    assert!(network.node.connections() > before, "the sockets were dropped");
    // A confirmation is read back from the chain.
    let since = Instant::now();
    let confirmed = || {
        let intents = Reader::open(network.state.path()).unwrap().read_intents(100).unwrap();
        intents.iter().filter(|stored| matches!(stored.settlement, Settlement::Confirmed { .. })).count()
    };
    while confirmed() < 2 {
        assert!(since.elapsed() < PATIENCE, "two submissions are confirmed");
        std::thread::sleep(Duration::from_millis(200));
    }
    program.terminate();
    let (lines, status) = program.finish();
    assert!(status.success(), "{status}");
    assert_eq!(last_word(&lines), "stopped: asked by SIGTERM");
    for sent in network.node.sent() {
        assert_eq!((sent.call.as_str(), sent.signer), ("set_mechanism_weights", ours()));
        assert_eq!((sent.arguments["netuid"][0], sent.arguments["mecid"][0]), (u64::from(NETUID), 0));
    }
}

#[test]
fn who_is_not_registered_does_not_start() {
    let network = Network::start(None);
    let mut command = binary();
    command.arg("run").args(network.arguments()).arg("--state-dir").arg(network.state.path());
    let output = command.args(["--set", "reporting.metrics.address=127.0.0.1:0"]).output().unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(6), "{told}");
    for word in [ADDRESS, "not registered on subnet 64", "btcli subnets register"] {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
}

/// First a validator without a permit: it scores, sets nothing, and says why. Then another takes its place.
#[test]
fn without_a_permit_steps_are_scored_and_a_lost_place_is_the_end() {
    let network = Network::start(Some(Member { permit: false, ..Member::validator(ours(), 10_000) }));
    let mut program = network.validate();
    let metrics = program.metrics_address();
    program.until("step");
    // The moment of an epoch has passed.
    let head = network.node.head();
    network.until("an epoch has passed", |subnet| subnet.epoch_index() * TEMPO > head + TEMPO / 2);
    let (status, ready) = get(&metrics, "/ready");
    assert!(status == 503 && ready.contains("no validator permit"), "{ready}");
    let (_, text) = get(&metrics, "/metrics");
    assert!(text.contains("openvalidators_weights_waiting{reason=\"no_permit\"} 1"), "{text}");
    assert_eq!(network.node.sent(), [], "nothing is sent in vain");

    network.node.subnet(|subnet| subnet.members[0].hotkey = Hotkey([9; 32]));
    let (lines, status) = program.finish();
    assert_eq!(status.code(), Some(7), "{lines:?}");
    assert!(lines.iter().any(|line| line["event"] == "summary"), "it is closed in order");
    let told = last_word(&lines);
    assert!(told.contains(ADDRESS) && told.contains("lost its place on subnet 64"), "{told}");
}
