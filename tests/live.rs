//! A validator of a real network, from its wallet to its weights: the binary with the flags of openvalidators 1.2.0, a node
//! that judges every transaction by metadata and signature, and local miners behind real sockets.

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use openvalidators::localnet::{LocalnetConfig, MinerMix, Miners};
use openvalidators_keys::ss58;
use openvalidators_ledger::Reader;
use openvalidators_messages::{
    Hotkey,
    ledger::{Settlement, StoredIntent},
};
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
/// For a miner's answer: a process of Python takes its time where there is much else to do.
const TIMEOUT_SECONDS: u32 = 5;
/// Longest wait for the chain to show something, on cores that have much else to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// A subnet of real miners and, where it has a place, our hotkey.
pub struct Network {
    pub node: SubnetNode,
    /// Where a validator reaches it.
    pub url: String,
    /// Where our axon listens.
    pub axon: u16,
    miners: Option<Miners>,
    pub wallets: TempDir,
    state: TempDir,
    runtime: Runtime,
}

pub fn ours() -> Hotkey {
    ss58::decode(ADDRESS).unwrap()
}

impl Network {
    pub fn start(us: Option<Member>) -> Self {
        Self::of(us, false)
    }

    /// By the older runtime, whose commits are hashes.
    fn start_old(us: Option<Member>) -> Self {
        Self::of(us, true)
    }

    fn of(us: Option<Member>, is_old: bool) -> Self {
        let runtime = Runtime::new().unwrap();
        let config = LocalnetConfig { miners: MinerMix { good: 4, ..MinerMix::NONE }, ..LocalnetConfig::default() };
        let miners = runtime.block_on(Miners::start(&config, Seed(64), &SystemClock::shared())).unwrap();
        let members = miners.as_slice().iter().map(|miner| Member::miner(miner.hotkey, miner.address())).collect();
        Self { miners: Some(miners), ..Self::among(runtime, us, members, is_old) }
    }

    /// Of miners that somebody else has started.
    pub fn among(runtime: Runtime, us: Option<Member>, miners: Vec<Member>, is_old: bool) -> Self {
        let subnet = Subnet::new(NETUID, TEMPO, us.into_iter().chain(miners).collect());
        let node = runtime.block_on(async {
            if is_old {
                SubnetNode::start_old(subnet, BLOCK_TIME).await
            } else {
                SubnetNode::start(subnet, BLOCK_TIME).await
            }
        });
        let (wallets, state) = (wallets(), tempfile::tempdir().unwrap());
        let axon = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = node.url();
        Self { axon, node, url, miners: None, wallets, state, runtime }
    }

    /// Which chain and whose hotkey, as an operator types it.
    fn whereabouts(&self) -> String {
        let (url, wallets) = (&self.url, self.wallets.path().display());
        format!(
            "--subtensor.chain_endpoint {url} --netuid {NETUID} --wallet.name cold --wallet.hotkey plain --wallet.path {wallets} \
             --set dendrite.allow_private_addresses=true"
        )
    }

    /// The flags of openvalidators 1.2.0, and what makes a test short.
    fn arguments(&self) -> Vec<String> {
        let flags = format!(
            "{} --axon.ip 127.0.0.1 --axon.port {} --axon.external_ip 198.51.100.7 --axon.external_port 9 \
             --neuron.followup_timeout {TIMEOUT_SECONDS} --neuron.answer_timeout {TIMEOUT_SECONDS} \
             --neuron.num_followup_steps 1",
            self.whereabouts(),
            self.axon,
        );
        // Without the guard, which would wait a tempo before the first weights.
        let settings = [
            "weights.min_scored=2",
            "weights.set_at_fraction=0.2",
            "weights.retry_after_blocks=2",
            "weights.same_key_guard=false",
            // Half a second is a block here, and nobody reaches the internet.
            "weights.submission_lifetime_blocks=8",
            "weights.chain_timeout_seconds=20",
            "chain.submit_timeout_seconds=60.0",
            "chain.block_timeout_seconds=60.0",
            "prompts.augment_timeout_seconds=4.0",
            "prompts.only=embedded",
        ];
        let settings = settings.iter().chain(&CONSTANT_REWARD).flat_map(|setting| ["--set", setting]);
        flags.split_whitespace().chain(settings).map(str::to_owned).collect()
    }

    pub fn validate(&self) -> Program {
        self.validate_with(&[])
    }

    /// With more flags.
    pub fn validate_with(&self, more: &[&str]) -> Program {
        let mut arguments = self.arguments();
        arguments.extend(more.iter().map(|&flag| flag.to_owned()));
        Program::start_unhurried(self.state.path(), &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Waits until the ledger's n-th intent has come so far.
    pub fn intent(&self, number: u64, has_come: impl Fn(&Settlement) -> bool) -> StoredIntent {
        let since = Instant::now();
        loop {
            let intents = Reader::open(self.state.path()).ok().and_then(|reader| reader.read_intents(100).ok());
            let found = intents.into_iter().flatten().find(|stored| stored.id.0 == number);
            match found {
                Some(stored) if has_come(&stored.settlement) => return stored,
                other => assert!(since.elapsed() < PATIENCE, "intent {number} has come to {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Nobody listens any more where the miners did.
    pub fn lose_miners(&mut self) {
        self.miners = None;
    }

    /// Looks again and again until the subnet shows it.
    pub fn until(&self, what: &str, seen: impl Fn(&mut Subnet) -> bool) {
        let since = Instant::now();
        while !self.node.subnet(&seen) {
            assert!(since.elapsed() < PATIENCE, "the chain did not show that {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Waits for a block that was made after the latest change: a node answers as of a block.
pub fn await_block(node: &SubnetNode) {
    let (since, head) = (Instant::now(), node.head());
    while node.head() == head {
        assert!(since.elapsed() < PATIENCE, "no block after {head}");
        std::thread::sleep(Duration::from_millis(20));
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

    // Whoever asks the chain finds us, and there is somebody.
    let axon: SocketAddr = "198.51.100.7:9".parse().unwrap();
    network.until("our axon is served", |subnet| subnet.members[0].axon == Some(axon));
    let (status, refusal) = get(&format!("127.0.0.1:{}", network.axon), "/Prompting");
    assert!(status == 404 && refusal.contains("Available synapses ['Synapse']"), "{status} {refusal}");

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
    let (served, sent): (Vec<_>, Vec<_>) = network.node.sent().into_iter().partition(|sent| sent.call == "serve_axon");
    assert_eq!(served.len(), 1, "said once");
    for sent in sent {
        assert_eq!((sent.call.as_str(), sent.signer), ("set_mechanism_weights", ours()));
        assert_eq!((sent.arguments["netuid"][0], sent.arguments["mecid"][0]), (u64::from(NETUID), 0));
    }
}

/// The test plays the beacon: a commit is settled when the chain holds its weights, and counts as lost when it does not.
#[test]
fn a_commit_is_settled_by_what_the_chain_holds_after_the_reveal() {
    let network = Network::start(Some(Member::validator(ours(), 10_000)));
    network.node.subnet(|subnet| (subnet.commit_reveal, subnet.tempo) = (true, 20));
    let mut program = network.validate();
    let metrics = program.metrics_address();
    let first = network.intent(1, |settlement| matches!(settlement, Settlement::Committed { .. }));
    let row = first.intent.uids.iter().map(|uid| uid.0).zip(first.intent.weights.iter().copied()).collect();
    let committed = network.node.sent().into_iter().filter(|sent| sent.call.starts_with("commit_timelocked")).count();
    assert_eq!(committed, 1, "{:?}", network.node.sent());
    assert!(network.node.subnet(|subnet| subnet.weights_of(&ours()).is_none()), "nobody can read it yet");

    let Settlement::Committed { reveal_epoch, .. } = first.settlement else { unreachable!() };
    network.until("the reveal is due", |subnet| subnet.epoch_index() >= reveal_epoch);
    network.node.subnet(|subnet| subnet.reveal(&ours(), row));
    network.intent(1, |settlement| matches!(settlement, Settlement::Confirmed { .. }));
    // The beacon is silent from now on. Other weights than those of the second commit are no proof of it.
    network.node.subnet(|subnet| subnet.reveal(&ours(), vec![(1, 1)]));
    network.intent(2, |settlement| matches!(settlement, Settlement::Failed { .. }));
    let (_, text) = get(&metrics, "/metrics");
    assert!(text.contains("openvalidators_weights_lost_commits_total 1"), "{text}");
    network.intent(3, |settlement| *settlement != Settlement::Open);
    program.terminate();
    assert!(program.finish().1.success());
}

/// What reveals a hash is in the ledger before the commit: the life after a `kill -9` reveals it, once.
#[test]
fn a_commit_by_hash_is_revealed_by_the_life_after_a_kill() {
    let network = Network::start_old(Some(Member::validator(ours(), 10_000)));
    // An epoch of a minute: the second life has time to begin.
    network.node.subnet(|subnet| (subnet.commit_reveal, subnet.tempo) = (true, 120));
    let program = network.validate();
    let first = network.intent(1, |settlement| matches!(settlement, Settlement::Committed { .. }));
    program.kill();
    let salt: Vec<_> = first.intent.salt.iter().flatten().map(|word| u64::from(*word)).collect();
    assert_eq!(salt.len(), 8);
    let calls = |name: &str| network.node.sent().into_iter().filter(|sent| sent.call == name).collect::<Vec<_>>();
    assert_eq!((calls("commit_weights").len(), calls("reveal_weights").len()), (1, 0));
    assert!(network.node.subnet(|subnet| subnet.weights_of(&ours()).is_none()), "nobody can read it yet");

    let program = network.validate();
    network.intent(1, |settlement| matches!(settlement, Settlement::Confirmed { .. }));
    let row: Vec<_> = first.intent.uids.iter().map(|uid| uid.0).zip(first.intent.weights.iter().copied()).collect();
    assert_eq!(network.node.subnet(|subnet| subnet.weights_of(&ours()).map(<[_]>::to_vec)), Some(row));
    let reveals = calls("reveal_weights");
    assert_eq!(reveals.iter().filter(|sent| sent.arguments["salt"] == salt).count(), 1, "{reveals:?}");
    program.terminate();
    assert!(program.finish().1.success());
}

#[test]
fn a_miner_is_asked_by_its_uid() {
    let network = Network::start(Some(Member::validator(ours(), 10_000)));
    let hotkey = network.node.subnet(|subnet| ss58::encode(&subnet.members[3].hotkey));
    let ask = |uid: &str| {
        let mut command = binary();
        command.args(["query", "--uid", uid, "--prompt", "Why is the sky blue?", "--timeout", "30", "--json"]);
        command.args(network.whereabouts().split_whitespace()).output().unwrap()
    };
    let output = ask("3");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    assert_eq!((&told["outcome"], &told["hotkey"]), (&"answered".into(), &hotkey.into()), "{told}");
    for (uid, words) in [("0", "uid 0 of subnet 64 serves no axon"), ("5", "subnet 64 has 5 places")] {
        let output = ask(uid);
        assert!(output.status.code() == Some(2) && stderr(&output).contains(words), "{}", stderr(&output));
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

/// Exit code 5: another start would find the same chain, so a service manager makes none.
#[test]
fn a_chain_that_cannot_be_used_has_an_exit_code_of_its_own() {
    let mut network = Network::start(Some(Member::validator(ours(), 10_000)));
    let refused = |network: &Network, netuid: u16, words: [&str; 2]| {
        let (mut arguments, state) = (network.arguments(), tempfile::tempdir().unwrap());
        let place = arguments.iter().position(|argument| argument == "--netuid").unwrap();
        arguments[place + 1] = netuid.to_string();
        let mut command = binary();
        command.arg("run").args(arguments).arg("--state-dir").arg(state.path());
        let output = command.args(["--set", "reporting.metrics.address=127.0.0.1:0"]).output().unwrap();
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(5), "{told}");
        for word in words {
            assert!(told.contains(word), "`{word}` is not in: {told}");
        }
    };
    refused(&network, NETUID + 1, ["no subnet 65", "check chain.netuid"]);
    // "meta" and a version that is not made yet, as a runtime gives its metadata.
    network.node.lie("state_call", "0x01146d65746163".into());
    refused(&network, NETUID, ["the runtime's metadata", "metadata that this version cannot read"]);
    let foreign = network.runtime.block_on(SubnetNode::start_foreign(BLOCK_TIME));
    network.url = foreign.url();
    refused(&network, NETUID, ["this is not Bittensor's chain", "check chain.endpoint"]);
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
    assert!(network.node.sent().iter().all(|sent| sent.call == "serve_axon"), "no weights are sent in vain");

    network.node.subnet(|subnet| subnet.members[0].hotkey = Hotkey([9; 32]));
    let (lines, status) = program.finish();
    assert_eq!(status.code(), Some(7), "{lines:?}");
    assert!(lines.iter().any(|line| line["event"] == "summary"), "it is closed in order");
    let told = last_word(&lines);
    assert!(told.contains(ADDRESS) && told.contains("lost its place on subnet 64"), "{told}");
}
