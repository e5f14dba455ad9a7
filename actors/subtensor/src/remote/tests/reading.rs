//! What is read of a subnet, from either runtime, and what is refused.

use std::{net::SocketAddr, time::Duration};

use openvalidators_messages::{Block, Hotkey, Uid, subtensor::ChainError};
use serde_json::{Value, json};

use super::{
    NETUID, chain,
    metadata::{self, NEW_SPEC, OLD_SPEC},
    node::{NodeDouble, Played},
};
use crate::{Chain, remote::epoch::by_modulo};

pub(crate) fn axon(last: u8) -> Value {
    let ip = u32::from_be_bytes([203, 0, 113, last]);
    json!({"block": 5, "version": 10_005_000, "ip": ip, "port": 8091, "ip_type": 4, "protocol": 4})
}

fn key(byte: u8) -> Value {
    format!("0x{}", hex::encode([byte; 32])).into()
}

/// Three neurons: a validator, a miner, and one that never served.
pub(crate) fn columns() -> Value {
    json!({
        "netuid": NETUID.0, "owner_hotkey": key(1),
        "hotkeys": [key(1), key(2), key(3)], "coldkeys": [key(11), key(12), key(12)], "axons": [axon(1), axon(2), null],
        "active": [true, false, false], "validator_permit": [true, false, false],
        "last_update": [90, 80, 70], "emission": [5, 6, 7],
        "dividends": [65_535, 0, 0], "incentives": [0, 65_535, 0], "consensus": [0, 32_768, 0],
        // As newer runtimes answer: these columns are empty.
        "trust": [], "rank": [],
        "block_at_registration": [1, 2, 3], "total_stake": [1_500_000_000_000_u64, 0, 1],
    })
}

fn rows() -> Value {
    let row = |uid: u8, stake: u64, permit: bool| {
        json!({"hotkey": key(uid + 1), "coldkey": key(uid + 11), "uid": uid, "active": permit, "axon_info": axon(uid + 1),
            "stake": [[key(9), stake], [key(8), 1_000_000_000_u64]], "emission": 5, "incentive": 65_535, "consensus": 0,
            "validator_trust": 65_534, "dividends": 0, "last_update": 90, "validator_permit": permit})
    };
    json!([row(0, 41_000_000_000, true), row(1, 0, false)])
}

pub(crate) async fn new_node(block_time: Duration) -> NodeDouble {
    let node = NodeDouble::start(Played::new(NEW_SPEC, metadata::new()), block_time).await;
    {
        let mut world = node.world.lock();
        world.answers.insert("get_selective_metagraph", columns());
        let netuid = u64::from(NETUID.0);
        let mut set = |item, value: Value| world.storage.push((item, vec![netuid], value));
        set("Tempo", json!(99));
        set("LastEpochBlock", json!(11));
        set("SubnetEpochIndex", json!(4));
        set("CommitRevealWeightsEnabled", json!(false));
        set("WeightsVersionKey", json!(204));
        set("ValidatorTrust", json!([65_534, 0, 0]));
        world.storage.push(("StakeThreshold", vec![], json!(1_000_000_000_000_u64)));
        world.storage.push(("Weights", vec![netuid, 0], json!([[1, 65_535], [2, 300]])));
    }
    node
}

pub(crate) async fn old_node(block_time: Duration) -> NodeDouble {
    let node = NodeDouble::start(Played::new(OLD_SPEC, metadata::old()), block_time).await;
    {
        let mut world = node.world.lock();
        world.answers.insert("get_neurons_lite", rows());
        let netuid = u64::from(NETUID.0);
        world.storage.push(("Tempo", vec![netuid], json!(10)));
        world.storage.push(("CommitRevealWeightsEnabled", vec![netuid], json!(false)));
        world.storage.push(("BlockAtRegistration", vec![netuid, 1], json!(17)));
        world.storage.push(("SubnetOwnerHotkey", vec![netuid], key(2)));
    }
    node
}

#[tokio::test]
async fn columns_of_the_newer_runtime_are_read_at_one_block() {
    let node = new_node(Duration::ZERO).await;
    let metagraph = chain(&[&node]).metagraph().await.unwrap();
    assert_eq!((metagraph.netuid, metagraph.block, metagraph.epoch_index), (NETUID, Block(20), 4));
    assert_eq!(metagraph.last_epoch_block, Block(11));
    assert_eq!(metagraph.owner_uid, Some(Uid(0)));
    let rules = &metagraph.hyperparameters;
    assert_eq!((rules.tempo, rules.weights_version_key, rules.commit_reveal), (99, 204, false));
    // Not stored: the metadata's defaults.
    assert_eq!((rules.min_allowed_weights, rules.weights_rate_limit, rules.reveal_period_epochs), (1_024, 100, 1));
    assert!((rules.stake_threshold - 1_000.0).abs() < 1e-9 && (rules.max_weight_limit - 1.0).abs() < 1e-9);
    assert_eq!(rules.activity_cutoff, 13_889 * 99 / 1_000, "by the tempo: `ActivityCutoff` means nothing here");
    let [validator, miner, silent] = &metagraph.neurons[..] else { panic!("{metagraph:?}") };
    assert_eq!((validator.uid, validator.hotkey), (Uid(0), Hotkey([1; 32])));
    assert!(validator.validator_permit && validator.active && (validator.stake - 1_500.0).abs() < 1e-9);
    assert!((validator.validator_trust - 65_534.0 / 65_535.0).abs() < 1e-12);
    assert_eq!((validator.last_update, validator.registered_at, validator.emission), (Block(90), Block(1), 5));
    assert_eq!(miner.axon.unwrap().address, SocketAddr::from(([203, 0, 113, 2], 8091)));
    assert_eq!((miner.axon.unwrap().version, miner.axon.unwrap().protocol), (10_005_000, 4));
    assert!((miner.incentive - 1.0).abs() < 1e-12 && (miner.consensus - 32_768.0 / 65_535.0).abs() < 1e-12);
    assert_eq!(silent.axon, None);
    let owners = [11, 12, 12].map(|byte| Some(Hotkey([byte; 32])));
    assert_eq!([validator.coldkey, miner.coldkey, silent.coldkey], owners);
    let blocks: Vec<_> =
        node.world.lock().asked.iter().filter(|method| *method == "chain_getHeader").cloned().collect();
    assert_eq!(blocks.len(), 1, "everything is read at the one block whose header was asked for");
}

#[tokio::test]
async fn rows_of_the_older_runtime_give_the_same_kind_of_metagraph() {
    let node = old_node(Duration::ZERO).await;
    let metagraph = chain(&[&node]).metagraph().await.unwrap();
    assert_eq!(metagraph.neurons.len(), 2);
    assert_eq!(metagraph.owner_uid, Some(Uid(1)));
    let [validator, miner] = &metagraph.neurons[..] else { panic!() };
    assert!((validator.stake - 42.0).abs() < 1e-9, "the sum over its nominators: {}", validator.stake);
    assert_eq!((validator.registered_at, miner.registered_at), (Block(0), Block(17)));
    assert_eq!((validator.coldkey, miner.coldkey), (Some(Hotkey([11; 32])), Some(Hotkey([12; 32]))));
    let expected = by_modulo(NETUID, 10, 20);
    assert_eq!((metagraph.last_epoch_block, metagraph.epoch_index), (expected.last_epoch_block, expected.epoch_index));
    assert!((metagraph.hyperparameters.max_weight_limit - 1_000.0 / 65_535.0).abs() < 1e-12);
    assert_eq!(metagraph.hyperparameters.activity_cutoff, 5_000);
}

/// Nothing that must be known depends on who owns a hotkey.
#[tokio::test]
async fn a_node_that_leaves_coldkeys_out_is_read_all_the_same() {
    let node = new_node(Duration::ZERO).await;
    let mut columns = columns();
    columns["coldkeys"] = Value::Null;
    node.world.lock().answers.insert("get_selective_metagraph", columns);
    let metagraph = chain(&[&node]).metagraph().await.unwrap();
    assert_eq!(metagraph.neurons.len(), 3);
    assert!(metagraph.neurons.iter().all(|neuron| neuron.coldkey.is_none()));
}

#[tokio::test]
async fn a_row_of_weights_is_read() {
    let node = new_node(Duration::ZERO).await;
    let chain = chain(&[&node]);
    assert_eq!(chain.weights_of(Uid(0)).await.unwrap(), [(Uid(1), 65_535), (Uid(2), 300)]);
    assert_eq!(chain.weights_of(Uid(7)).await.unwrap(), []);
}

#[tokio::test]
async fn an_upgrade_in_mid_run_is_followed() {
    let node = old_node(Duration::ZERO).await;
    let chain = chain(&[&node]);
    assert_eq!(chain.metagraph().await.unwrap().neurons.len(), 2);
    {
        let mut world = node.world.lock();
        let next = world.head() + 1;
        world.runtimes.push((next, Played::new(NEW_SPEC, metadata::new())));
        world.answers.insert("get_selective_metagraph", columns());
        world.make_block();
    }
    let metagraph = chain.metagraph().await.unwrap();
    assert_eq!((metagraph.block, metagraph.neurons.len()), (Block(21), 3));
    // Each runtime's metadata is fetched once.
    chain.metagraph().await.unwrap();
    let calls = node.world.lock().asked.iter().filter(|method| *method == "state_call").count();
    assert_eq!(calls, 2 + 1 + 2 + 1 + 1, "two versions tried for each runtime, one metagraph each time");
}

#[tokio::test]
async fn answers_that_cannot_be_true_are_refused() {
    let long: Vec<_> = (0..5_000_u32).map(|n| format!("0x{:064x}", n)).collect();
    for (column, value, expected) in [
        ("total_stake", json!([1, 2]), "`total_stake` has 2 entries where 3"),
        ("axons", json!([]), "`axons` has 0 entries where 3"),
        ("last_update", json!(null), "`last_update`: the node left it out"),
        ("coldkeys", json!([key(11)]), "`coldkeys` has 1 entries where 3"),
        ("hotkeys", json!(long), "`hotkeys` has 5000 entries where at most 4096"),
    ] {
        let node = new_node(Duration::ZERO).await;
        let mut columns = columns();
        columns[column] = value;
        node.world.lock().answers.insert("get_selective_metagraph", columns);
        let error = chain(&[&node]).metagraph().await.unwrap_err();
        assert!(matches!(error, ChainError::BadAnswer { .. }) && error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_subnet_that_does_not_exist_is_told_with_the_remedy() {
    let node = new_node(Duration::ZERO).await;
    node.world.lock().answers.insert("get_selective_metagraph", Value::Null);
    let error = chain(&[&node]).metagraph().await.unwrap_err().to_string();
    assert!(error.contains("no subnet 64") && error.contains("chain.netuid"), "{error}");
}

#[tokio::test]
async fn a_chain_that_is_not_bittensors_is_told_with_the_remedy() {
    let node = NodeDouble::start(Played::new(1, metadata::foreign()), Duration::ZERO).await;
    let error = chain(&[&node]).metagraph().await.unwrap_err().to_string();
    assert!(error.contains("not Bittensor's chain") && error.contains("chain.endpoint"), "{error}");
}

#[tokio::test]
async fn bytes_that_claim_absurd_lengths_are_refused() {
    for answer in [
        // Some, netuid, no name, no owner, 2^30 − 1 hotkeys.
        "0x01000000 01feffffff".replace(' ', ""),
        "0x01".to_owned(),
        "0x".to_owned(),
        "0x02".to_owned(),
        format!("0x{}", "ff".repeat(100_000)),
        "no hexadecimal".to_owned(),
    ] {
        let node = new_node(Duration::ZERO).await;
        let chain = chain(&[&node]);
        chain.metagraph().await.unwrap();
        node.world.lock().faults.lies.insert("state_call", answer.clone().into());
        let error = chain.metagraph().await.unwrap_err();
        assert!(matches!(error, ChainError::BadAnswer { .. }), "{answer:.40}: {error}");
    }
}

#[tokio::test]
async fn the_time_of_the_newest_block_is_read_and_nonsense_refused() {
    let node = new_node(Duration::ZERO).await;
    let asked = async |stored: Value| {
        node.world.lock().faults.lies.insert("state_getStorage", stored);
        chain(&[&node]).time().await
    };
    assert_eq!(asked(json!("0xf4e997b69a010000")).await, Ok(Some(Duration::from_millis(1_764_000_000_500))));
    assert_eq!(asked(Value::Null).await, Ok(None), "a chain that keeps no time");
    for nonsense in [json!("0x00"), json!("now"), json!(7)] {
        let answer = asked(nonsense.clone()).await;
        assert!(matches!(answer, Err(ChainError::BadAnswer { .. })), "{nonsense}: {answer:?}");
    }
}
