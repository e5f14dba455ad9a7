//! The SDK as a second reader of the local chain: bittensor 10.5.0 asks the node double for a subnet that the local chain has
//! run, by the metadata of real runtimes, and understands the same numbers as we do.

use std::{net::IpAddr, process::Command, time::Duration};

use openvalidators_keys::ss58;
use openvalidators_messages::{Axon, Hotkey, Metagraph, Netuid, Neuron, Uid};
use openvalidators_runtime::Seed;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    NETUID, chain,
    chopsticks::python,
    node::{NodeDouble, World},
    recorded::recordings,
};
use crate::{
    Chain,
    local::{Call, LocalChainConfig, Member, Rules, Served, SimulatedValidatorsConfig, Subnet, WeightVector},
};

const RAO_PER_TAO: u64 = 1_000_000_000;
const SEED: Seed = Seed(4);
/// Some epochs.
const BLOCKS: u64 = 95;
/// After the epoch that gives us a permit.
const VOTES_AT: u64 = 30;
/// Of a metagraph, what the local chain does not have: prices, pools, and how places are sold.
const ZEROS: [&str; 22] = [
    "network_registered_at",
    "subnet_emission",
    "alpha_in",
    "alpha_out",
    "tao_in",
    "alpha_out_emission",
    "alpha_in_emission",
    "tao_in_emission",
    "pending_alpha_emission",
    "pending_root_emission",
    "subnet_volume",
    "rho",
    "kappa",
    "burn",
    "difficulty",
    "min_difficulty",
    "max_difficulty",
    "min_burn",
    "max_burn",
    "adjustment_alpha",
    "adjustment_interval",
    "target_regs_per_interval",
];

/// What `subtensor_reads.py` prints.
#[derive(Deserialize)]
struct Reads {
    block: u64,
    neurons: usize,
    last_step: u64,
    owner: String,
    rows: Vec<Row>,
    columns: Vec<Row>,
    weights: Vec<Vec<(u16, u16)>>,
    stake_threshold_rao: u64,
    hyperparameters: Value,
}

/// A neuron; what is told in one of the two ways alone is optional.
#[derive(Debug, Deserialize)]
struct Row {
    hotkey: String,
    coldkey: String,
    stake_rao: u64,
    validator_permit: bool,
    active: bool,
    last_update: u64,
    registered_at: Option<u64>,
    incentive: f64,
    consensus: f64,
    dividends: f64,
    validator_trust: Option<f64>,
    emission_rao: u64,
    axon: Option<ReadAxon>,
}

#[derive(Debug, Deserialize)]
struct ReadAxon {
    ip: IpAddr,
    port: u16,
    version: u32,
    protocol: u8,
}

/// A subnet of the local chain after some epochs: our validator, simulated ones, miners that serve by IPv4, IPv6 and not at all.
fn subnet() -> (Rules, Subnet) {
    let config = LocalChainConfig {
        weights_version_key: 204,
        stake_threshold: 100.0,
        commit_reveal: false,
        validators: SimulatedValidatorsConfig { copying: 2, random: 2, ..SimulatedValidatorsConfig::default() },
        ..LocalChainConfig::default()
    };
    let rules = config.rules(NETUID).unwrap();
    let mut subnet = Subnet::genesis(&rules, SEED);
    let key = |byte| Hotkey([byte; 32]);
    let mut calls: Vec<_> = (1..=6).map(|byte| (key(byte), Call::Register { coldkey: key(byte + 100) })).collect();
    calls.push((key(1), Call::SetStake { rao: 12_345 * RAO_PER_TAO + 678_901_234 }));
    for (byte, address) in [(2, "203.0.113.7:8091"), (3, "[2001:db8::17]:9"), (4, "198.51.100.1:65535")] {
        let axon = Axon { address: address.parse().unwrap(), protocol: 4, version: 10_005_000 };
        calls.push((key(byte), Call::ServeAxon(axon)));
    }
    let done = subnet.next_block(&rules, SEED, &calls);
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    while subnet.block < BLOCKS {
        let vector = WeightVector { uids: vec![6, 7, 8], weights: vec![u16::MAX, 30_000, 1_000], version_key: 204 };
        let votes = (subnet.block == VOTES_AT).then(|| (key(1), Call::SetWeights(vector)));
        let done = subnet.next_block(&rules, SEED, votes.as_slice());
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }
    (rules, subnet)
}

/// Has the node tell of this subnet whatever clients ask: by function, by row, by column and by storage.
fn show(world: &mut World, rules: &Rules, subnet: &Subnet) {
    while world.head() < subnet.block {
        world.make_block();
    }
    let parameters = json!({
        "min_allowed_weights": rules.min_allowed_weights, "max_weights_limit": u16::MAX, "tempo": rules.yuma.tempo,
        "weights_version": rules.weights_version_key, "weights_rate_limit": rules.weights_rate_limit,
        "activity_cutoff": rules.yuma.activity_cutoff, "max_validators": rules.yuma.max_validators,
        "immunity_period": rules.immunity_blocks, "serving_rate_limit": rules.serving_rate_limit,
        "commit_reveal_weights_enabled": rules.yuma.commit_reveal, "commit_reveal_period": rules.reveal_period_epochs,
        "registration_allowed": true, "subnet_is_active": true, "yuma_version": 3,
    });
    for function in ["get_subnet_hyperparams", "get_subnet_hyperparams_v2"] {
        world.answers.insert(function, parameters.clone());
    }
    let columns = columns(rules, subnet, &parameters);
    let functions =
        ["get_metagraph", "get_mechagraph", "get_selective_metagraph", "get_selective_mechagraph", "get_subnet_state"];
    for function in functions {
        world.answers.insert(function, columns.clone());
    }
    world.answers.insert(
        "get_neurons_lite",
        (0_u16..).zip(&subnet.members).map(|(uid, member)| row(rules, subnet, uid, member)).collect(),
    );
    let netuid = u64::from(rules.netuid.0);
    let mut set = |item, keys: Vec<u64>, value: Value| world.storage.push((item, keys, value));
    set("Tempo", vec![netuid], json!(rules.yuma.tempo));
    set("MinAllowedWeights", vec![netuid], json!(rules.min_allowed_weights));
    set("WeightsSetRateLimit", vec![netuid], json!(rules.weights_rate_limit));
    set("WeightsVersionKey", vec![netuid], json!(rules.weights_version_key));
    set("CommitRevealWeightsEnabled", vec![netuid], json!(rules.yuma.commit_reveal));
    set("RevealPeriodEpochs", vec![netuid], json!(rules.reveal_period_epochs));
    set("ActivityCutoff", vec![netuid], json!(rules.yuma.activity_cutoff));
    set("StakeThreshold", vec![], json!((rules.yuma.stake_threshold * RAO_PER_TAO as f64) as u64));
    let trust: Vec<_> = subnet.members.iter().map(|member| member.validator_trust).collect();
    set("ValidatorTrust", vec![netuid], json!(trust));
    for (uid, member) in (0..).zip(&subnet.members) {
        set("Weights", vec![netuid, uid], json!(member.weights));
    }
}

fn key(hotkey: &Hotkey) -> Value {
    format!("0x{}", hex::encode(hotkey.0)).into()
}

fn axon(served: Option<Served>) -> Value {
    let Some(Served { axon: Axon { address, protocol, version }, block }) = served else { return Value::Null };
    let (ip, kind) = match address.ip() {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 4),
        IpAddr::V6(ip) => (u128::from(ip), 6),
    };
    json!({"block": block, "version": version, "ip": ip.to_string(), "port": address.port(), "ip_type": kind,
        "protocol": protocol})
}

fn columns(rules: &Rules, subnet: &Subnet, parameters: &Value) -> Value {
    let of = |what: &dyn Fn(&Member) -> Value| subnet.members.iter().map(what).collect::<Value>();
    let stakes = of(&|member| subnet.stakes.get(&member.hotkey).copied().unwrap_or_default().into());
    let nothing = of(&|_| Value::Null);
    let mut columns = json!({
        "netuid": rules.netuid.0, "name": "0x6c6f63616c", "symbol": "0xceb1", "block": subnet.block,
        "owner_hotkey": key(&subnet.owner), "owner_coldkey": key(&subnet.owner),
        "last_step": subnet.last_epoch_block, "blocks_since_last_step": subnet.block - subnet.last_epoch_block,
        "moving_price": 0, "num_uids": subnet.members.len(), "max_uids": rules.max_uids,
        "pow_registration_allowed": false, "max_regs_per_block": 1, "liquid_alpha_enabled": false,
        "alpha_high": 0, "alpha_low": 0, "bonds_moving_avg": 0,
        "hotkeys": of(&|member| key(&member.hotkey)), "coldkeys": of(&|member| key(&member.coldkey)),
        "identities": nothing, "axons": of(&|member| axon(member.axon)), "active": of(&|member| member.active.into()),
        "validator_permit": of(&|member| member.validator_permit.into()), "pruning_score": of(&|_| u16::MAX.into()),
        "last_update": of(&|member| member.last_update.into()), "emission": of(&|member| member.emission_rao.into()),
        "dividends": of(&|member| member.dividends.into()), "incentives": of(&|member| member.incentive.into()),
        "consensus": of(&|member| member.consensus.into()), "trust": [], "rank": [],
        "block_at_registration": of(&|member| member.registered_at.into()),
        "alpha_stake": stakes, "tao_stake": of(&|_| 0.into()), "total_stake": stakes,
        "tao_dividends_per_hotkey": [], "alpha_dividends_per_hotkey": [], "validators": [], "commitments": [],
    });
    let all = columns.as_object_mut().unwrap();
    all.extend(parameters.as_object().unwrap().clone());
    all.extend(ZEROS.iter().map(|name| ((*name).to_owned(), json!(0))));
    columns
}

fn row(rules: &Rules, subnet: &Subnet, uid: u16, member: &Member) -> Value {
    let stake = subnet.stakes.get(&member.hotkey).copied().unwrap_or_default();
    json!({
        "hotkey": key(&member.hotkey), "coldkey": key(&member.coldkey), "uid": uid, "netuid": rules.netuid.0,
        "active": member.active, "axon_info": axon(member.axon), "stake": [[key(&member.coldkey), stake]],
        "emission": member.emission_rao, "incentive": member.incentive, "consensus": member.consensus,
        "validator_trust": member.validator_trust, "dividends": member.dividends, "last_update": member.last_update,
        "validator_permit": member.validator_permit, "pruning_score": u16::MAX,
    })
}

fn assert_same(read: &Row, ours: &Neuron) {
    assert_eq!(ss58::decode(&read.hotkey).unwrap(), ours.hotkey);
    assert_eq!(Some(ss58::decode(&read.coldkey).unwrap()), ours.coldkey);
    let (exact, ours_exact) = (
        (read.validator_permit, read.active, read.last_update, read.emission_rao),
        (ours.validator_permit, ours.active, ours.last_update.0, ours.emission),
    );
    assert_eq!(exact, ours_exact, "uid {}", ours.uid);
    assert_eq!(read.registered_at.unwrap_or(ours.registered_at.0), ours.registered_at.0);
    // The same divisions of the same integers: not a bit between them.
    let numbers = [
        (read.stake_rao as f64 / RAO_PER_TAO as f64, ours.stake),
        (read.incentive, ours.incentive),
        (read.consensus, ours.consensus),
        (read.dividends, ours.dividends),
        (read.validator_trust.unwrap_or(ours.validator_trust), ours.validator_trust),
    ];
    for (theirs, ours_number) in numbers {
        assert_eq!(theirs.to_bits(), ours_number.to_bits(), "uid {}: {theirs} and {ours_number}", ours.uid);
    }
    let served = read.axon.as_ref().map(|axon| Axon {
        address: (axon.ip, axon.port).into(),
        protocol: axon.protocol,
        version: axon.version,
    });
    assert_eq!(served, ours.axon, "uid {}", ours.uid);
}

fn assert_equal(reads: &Reads, ours: &Metagraph) {
    assert_eq!(
        (reads.block, reads.neurons, reads.last_step),
        (ours.block.0, ours.neurons.len(), ours.last_epoch_block.0)
    );
    assert_eq!(
        Some(ss58::decode(&reads.owner).unwrap()),
        ours.owner_uid.map(|uid| ours.neurons[usize::from(uid.0)].hotkey)
    );
    assert_eq!((reads.rows.len(), reads.columns.len()), (ours.neurons.len(), ours.neurons.len()));
    for (place, neuron) in ours.neurons.iter().enumerate() {
        assert_same(&reads.rows[place], neuron);
        assert_same(&reads.columns[place], neuron);
    }
    let rules = &ours.hyperparameters;
    assert_eq!(reads.stake_threshold_rao as f64 / RAO_PER_TAO as f64, rules.stake_threshold);
    for (name, value) in [
        ("tempo", json!(rules.tempo)),
        ("min_allowed_weights", json!(rules.min_allowed_weights)),
        ("max_weight_limit", json!((rules.max_weight_limit * f64::from(u16::MAX)) as u64)),
        ("weights_version", json!(rules.weights_version_key)),
        ("weights_rate_limit", json!(rules.weights_rate_limit)),
        ("activity_cutoff", json!(rules.activity_cutoff)),
        ("commit_reveal_weights_enabled", json!(rules.commit_reveal)),
        ("commit_reveal_period", json!(rules.reveal_period_epochs)),
    ] {
        assert_eq!(reads.hyperparameters[name], value, "{name}");
    }
}

fn sdk_reads(node: &str, netuid: Netuid) -> Reads {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/subtensor_reads.py");
    let output = Command::new(python()).args([script, node, &netuid.to_string()]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_reads_the_same_metagraph_of_the_local_chain() {
    if !python().exists() {
        println!("skipped: no {}; tests/peers.sh makes it", python().display());
        return;
    }
    let (rules, subnet) = subnet();
    let ours = subnet.metagraph(&rules);
    // Numbers that could be taken for each other would prove nothing.
    assert!(ours.neurons.iter().any(|neuron| neuron.incentive > 0.0 && neuron.incentive < 1.0), "{ours:?}");
    assert!(ours.neurons.iter().any(|neuron| neuron.dividends > 0.0 && neuron.validator_trust > 0.0), "{ours:?}");
    for runtime in recordings() {
        let spec = runtime.spec_version;
        let node = NodeDouble::start(runtime, Duration::ZERO).await;
        show(&mut node.world.lock(), &rules, &subnet);
        let url = node.url();
        let reads = tokio::task::spawn_blocking(move || sdk_reads(&url, NETUID)).await.unwrap();
        assert_equal(&reads, &ours);
        for (uid, member) in (0..).zip(&subnet.members) {
            assert_eq!(reads.weights[usize::from(uid)], member.weights);
            let row = chain(&[&node]).weights_of(Uid(uid)).await.unwrap();
            assert_eq!(row.iter().map(|(uid, weight)| (uid.0, *weight)).collect::<Vec<_>>(), member.weights);
        }
        // These runtimes do not record their epochs: theirs come by the modulo rule, the local chain's do not.
        let read = chain(&[&node]).metagraph().await.unwrap();
        assert_eq!((read.netuid, read.block, read.owner_uid), (ours.netuid, ours.block, ours.owner_uid));
        assert_eq!((&read.neurons, &read.hyperparameters), (&ours.neurons, &ours.hyperparameters));
        println!(
            "spec {spec}: {} neurons at block {}, as the SDK, the local chain and this client tell them",
            reads.neurons, reads.block
        );
    }
}
