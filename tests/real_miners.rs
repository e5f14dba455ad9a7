//! The command line of openvalidators 1.2.0 against miners that nobody here wrote: axons of bittensor 10, each a process of
//! Python. `tests/peers.sh` installs it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use openvalidators_keys::HotkeySigner;
use openvalidators_messages::{Hotkey, ledger::Settlement};
use openvalidators_subtensor::remote::testing::{Member, Subnet};
use tokio::runtime::Runtime;

use crate::live::{Network, ours};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bittensor/synapse_miner.py");
/// Whom they refuse: nobody here.
const NOBODY: &str = "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y";

/// An axon that echoes the last message.
struct RealMiner {
    process: Child,
    hotkey: Hotkey,
    address: SocketAddr,
    /// Kept open: Python dies of writing to a closed one.
    _said: Option<BufReader<ChildStdout>>,
}

impl RealMiner {
    /// Waits until it listens.
    fn start(python: &PathBuf, uri: &str) -> Self {
        let mut command = Command::new(python);
        command.args([SCRIPT, uri, NOBODY]).stdout(Stdio::piped());
        let (hotkey, nowhere) = (HotkeySigner::from_uri(uri).unwrap().hotkey(), SocketAddr::from(([0; 4], 0)));
        let mut miner = Self { process: command.spawn().unwrap(), hotkey, address: nowhere, _said: None };
        let mut said = BufReader::new(miner.process.stdout.take().unwrap());
        while miner.address == nowhere {
            let mut line = String::new();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "the miner {uri} has ended");
            miner.address = line.trim().parse().unwrap_or(nowhere);
        }
        miner._said = Some(said);
        miner
    }
}

impl Drop for RealMiner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Through whole epochs, the socket to the chain dropped in between: weights arrive, and are confirmed. Every reward is the same,
/// so who is paid has answered.
#[test]
fn miners_of_the_real_sdk_are_paid_epoch_after_epoch() {
    let peers = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
    let peers = peers.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers"))).unwrap();
    let python = peers.join("sdk10/bin/python");
    if !python.exists() {
        println!("skipped: no {}; tests/peers.sh makes it", python.display());
        return;
    }
    let miners = ["//Bob", "//Dave"].map(|uri| RealMiner::start(&python, uri));
    let members = miners.iter().map(|miner| Member::miner(miner.hotkey, miner.address)).collect();
    let network = Network::among(Runtime::new().unwrap(), Some(Member::validator(ours(), 10_000)), members, false);
    let program = network.validate();
    let paid = |subnet: &Subnet| -> Vec<u16> {
        let row = subnet.weights_of(&ours()).unwrap_or_default();
        row.iter().filter(|(_, weight)| *weight > 0).map(|(uid, _)| *uid).collect()
    };
    network.until("both miners are paid", |subnet| paid(subnet) == [1, 2]);
    let epoch = network.node.subnet(|subnet| subnet.epoch_index());

    let before = network.node.connections();
    network.node.drop_sockets("state_call", 1);
    network.until("weights were set again", |subnet| subnet.epoch_index() > epoch + 1 && paid(subnet) == [1, 2]);
    for number in [1, 2] {
        network.intent(number, |settlement| matches!(settlement, Settlement::Confirmed { .. }));
    }
    assert!(network.node.connections() > before, "the socket was dropped");
    program.terminate();
    assert!(program.finish().1.success());
}
