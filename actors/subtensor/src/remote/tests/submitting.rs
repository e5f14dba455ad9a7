//! Transactions: what they say, and every way they end. The double checks the signature of each.

use std::{net::SocketAddr, time::Duration};

use openvalidators_messages::{
    Axon, Block, Uid,
    subtensor::{ChainError, RevealWeights, SetWeights, Submission},
};
use scale_value::Value as Scale;
use serde_json::{Value, json};

use super::{
    MECHANISM, NETUID, chain,
    metadata::{self, NEW_SPEC},
    node::{NodeDouble, Played, Taken},
    reading::{columns, new_node, old_node},
    signer,
};
use crate::{Chain, commit_reveal::HashReveal, remote::epoch::by_modulo};

pub(crate) const QUICK: Duration = Duration::from_millis(15);

pub(crate) fn weights() -> SetWeights {
    SetWeights { uids: vec![Uid(1), Uid(2)], weights: vec![65_535, 77], version_key: 204, salt: None }
}

fn numbers(numbers: &[u64]) -> Scale<()> {
    Scale::unnamed_composite(numbers.iter().map(|number| Scale::u128(u128::from(*number))))
}

fn number(taken: &Taken, argument: &str) -> u128 {
    // NetUid is a struct around its number.
    let value = &taken.arguments[argument];
    match value.as_u128() {
        Some(number) => number,
        None => format!("{value}").trim_matches(|end: char| !end.is_ascii_digit()).parse().unwrap(),
    }
}

fn name(error: &ChainError) -> &str {
    match error {
        ChainError::RefusedByPool { name, .. } | ChainError::FailedInBlock { name, .. } => name,
        other => panic!("{other}"),
    }
}

fn commit_reveal_on(node: &NodeDouble) {
    let mut world = node.world.lock();
    world.storage.retain(|(item, ..)| *item != "CommitRevealWeightsEnabled");
    world.storage.push(("CommitRevealWeightsEnabled", vec![u64::from(NETUID.0)], json!(true)));
}

#[tokio::test]
async fn weights_are_set_by_the_call_of_each_runtime() {
    let node = new_node(QUICK).await;
    let chain = chain(&[&node]);
    let Submission::Set { block } = chain.submit_weights(&weights()).await.unwrap() else { panic!() };
    assert!(block > Block(20));
    // A second one has the next nonce.
    chain.submit_weights(&weights()).await.unwrap();
    let taken = node.world.lock().taken.clone();
    assert_eq!(taken.iter().map(|taken| taken.nonce).collect::<Vec<_>>(), [0, 1]);
    let first = &taken[0];
    assert_eq!((first.call.as_str(), first.signer), ("set_mechanism_weights", signer().hotkey()));
    assert_eq!((number(first, "netuid"), number(first, "mecid"), number(first, "version_key")), (64, 0, 204));
    assert_eq!(first.arguments["dests"], numbers(&[1, 2]));
    assert_eq!(first.arguments["weights"], numbers(&[65_535, 77]));

    let node = old_node(QUICK).await;
    super::chain(&[&node]).submit_weights(&weights()).await.unwrap();
    let taken = node.world.lock().taken.clone();
    assert_eq!((taken[0].call.as_str(), taken[0].arguments.len()), ("set_weights", 4));
}

#[tokio::test]
async fn a_subnet_with_commit_reveal_gets_a_timelocked_commit() {
    let node = new_node(QUICK).await;
    commit_reveal_on(&node);
    let submission = chain(&[&node]).submit_weights(&weights()).await.unwrap();
    // The double's epoch 4 lasts until block 11 + 99; the period is one epoch.
    let Submission::Committed { reveal_epoch, .. } = submission else { panic!("{submission:?}") };
    assert_eq!(reveal_epoch, 5);
    let taken = node.world.lock().taken[0].clone();
    assert_eq!(taken.call, "commit_timelocked_mechanism_weights");
    assert_eq!((number(&taken, "commit_reveal_version"), number(&taken, "mecid")), (4, 0));
    // Rounds of quicknet by the clock: years after its start, and some 93 blocks ahead.
    assert!(number(&taken, "reveal_round") > 10_000_000);
    let text = format!("{}", taken.arguments["commit"]);
    assert!(text.split(',').count() > 200, "a container of bytes: {text}");
}

#[tokio::test]
async fn a_hash_that_nothing_could_reveal_is_not_committed() {
    let node = old_node(QUICK).await;
    commit_reveal_on(&node);
    let error = chain(&[&node]).submit_weights(&weights()).await.unwrap_err().to_string();
    assert!(error.contains("commits as hashes alone"), "{error}");
    assert!(node.world.lock().taken.is_empty());
}

#[tokio::test]
async fn a_hash_is_committed_and_revealed() {
    let node = old_node(QUICK).await;
    commit_reveal_on(&node);
    let chain = chain(&[&node]);
    assert!(chain.metagraph().await.unwrap().hyperparameters.commit_by_hash);
    let salt: Vec<u16> = (1..=8).collect();
    let SetWeights { uids, weights, version_key, .. } = weights();
    let said = RevealWeights { uids: uids.clone(), weights: weights.clone(), version_key, salt: salt.clone() };
    let vector = SetWeights { uids, weights, version_key, salt: Some(salt) };
    let Submission::Committed { block, reveal_epoch } = chain.submit_weights(&vector).await.unwrap() else { panic!() };
    assert_eq!(reveal_epoch, by_modulo(NETUID, 10, block.0).epoch_index + 1);
    chain.reveal_weights(&said).await.unwrap();
    let reveal = HashReveal::new(signer().hotkey(), MECHANISM, said).unwrap();
    let taken = node.world.lock().taken.clone();
    assert_eq!(taken.iter().map(|taken| taken.call.as_str()).collect::<Vec<_>>(), ["commit_weights", "reveal_weights"]);
    let hash: Vec<_> = reveal.commit_hash().iter().map(|byte| u64::from(*byte)).collect();
    assert_eq!(taken[0].arguments["commit_hash"], numbers(&hash));
    let salt: Vec<_> = reveal.salt.iter().map(|word| u64::from(*word)).collect();
    assert_eq!(taken[1].arguments["salt"], numbers(&salt));
}

#[tokio::test]
async fn an_axon_is_served() {
    let node = new_node(QUICK).await;
    let chain = chain(&[&node]);
    let axon = |address: SocketAddr| Axon { address, protocol: 4, version: 10_005_000 };
    chain.serve_axon(axon("198.51.100.7:8091".parse().unwrap())).await.unwrap();
    chain.serve_axon(axon("[2001:db8::7]:8092".parse().unwrap())).await.unwrap();
    let taken = node.world.lock().taken.clone();
    let said = |taken: &Taken| {
        ["ip", "port", "ip_type", "protocol", "version", "placeholder2"].map(|argument| number(taken, argument))
    };
    assert_eq!(said(&taken[0]), [0xc633_6407, 8_091, 4, 4, 10_005_000, 0]);
    assert_eq!(said(&taken[1]), [0x2001_0db8_0000_0000_0000_0000_0000_0007, 8_092, 6, 4, 10_005_000, 0]);
}

#[tokio::test]
async fn inclusion_is_not_success() {
    for node in [new_node(QUICK).await, old_node(QUICK).await] {
        node.world.lock().fails_with = Some("NeuronNoValidatorPermit");
        let error = chain(&[&node]).submit_weights(&weights()).await.unwrap_err();
        let ChainError::FailedInBlock { call, block, name } = &error else { panic!("{error}") };
        assert!(call.ends_with("_weights") && *block > Block(20) && name == "NeuronNoValidatorPermit", "{error}");
    }
}

#[tokio::test]
async fn the_pools_refusals_have_their_names() {
    let node = new_node(Duration::ZERO).await;
    let chain = chain(&[&node]);
    for (code, message, data, expected) in [
        (1_010, "Invalid Transaction", json!("Custom error: 6"), "RateLimitExceeded"),
        (1_010, "Invalid Transaction", json!("Custom error: 1"), "StakeAmountTooLow"),
        (1_010, "Invalid Transaction", json!("Custom error: 255"), "Custom(255)"),
        (1_010, "Invalid Transaction", json!("Transaction is outdated"), "Stale"),
        (1_010, "Invalid Transaction", json!("Transaction has an ancient birth block"), "AncientBirthBlock"),
        (1_010, "Invalid Transaction", json!("Inability to pay some fees (e.g. account balance too low)"), "Payment"),
        (1_012, "Transaction is temporarily banned", Value::Null, "TemporarilyBanned"),
        (1_014, "Priority is too low: (1 vs 2)", json!("The transaction has too low priority"), "PriorityTooLow"),
        (1_016, "Immediately Dropped", Value::Null, "ImmediatelyDropped"),
    ] {
        node.world.lock().faults.refuses = Some((code, message, data));
        let error = chain.submit_weights(&weights()).await.unwrap_err();
        assert!(matches!(error, ChainError::RefusedByPool { .. }), "{error}");
        assert_eq!(name(&error), expected);
    }
    // What is no refusal of the transaction says nothing about it.
    node.world.lock().faults.refuses = Some((-32_603, "Internal error", Value::Null));
    let error = chain.submit_weights(&weights()).await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_transaction_that_vanishes_ends_with_its_era() {
    let node = new_node(QUICK).await;
    node.world.lock().faults.forgets = true;
    let error = chain(&[&node]).submit_weights(&weights()).await.unwrap_err();
    assert_eq!(name(&error), "EraExpired");
    assert_eq!(node.world.lock().taken.len(), 1, "sent once");
}

#[tokio::test]
async fn a_lost_answer_to_the_sending_is_not_a_lost_transaction() {
    let node = new_node(QUICK).await;
    node.world.lock().faults.drops = Some(("author_submitExtrinsic", 1));
    let submission = chain(&[&node]).submit_weights(&weights()).await.unwrap();
    assert!(matches!(submission, Submission::Set { .. }));
    let world = node.world.lock();
    assert_eq!((world.taken.len(), world.connections), (1, 2), "not sent again, and found over a new connection");
}

#[tokio::test]
async fn success_waits_until_the_block_is_final() {
    let node = new_node(QUICK).await;
    node.world.lock().faults.unfinal = 4;
    let Submission::Set { block } = chain(&[&node]).submit_weights(&weights()).await.unwrap() else { panic!() };
    let world = node.world.lock();
    assert!(world.head() >= block.0 + 4, "block {block} is told at head {}", world.head());
}

#[tokio::test]
async fn an_upgrade_between_two_transactions_is_followed() {
    let node = old_node(QUICK).await;
    let chain = chain(&[&node]);
    chain.submit_weights(&weights()).await.unwrap();
    {
        let mut world = node.world.lock();
        let next = world.head() + 1;
        world.runtimes.push((next, Played::new(NEW_SPEC, metadata::new())));
        world.answers.insert("get_selective_metagraph", columns());
        world.make_block();
    }
    node.world.lock().fails_with = Some("SettingWeightsTooFast");
    let error = chain.submit_weights(&weights()).await.unwrap_err();
    assert_eq!(name(&error), "SettingWeightsTooFast", "its number is another one in the new runtime");
    let calls: Vec<_> = node.world.lock().taken.iter().map(|taken| taken.call.clone()).collect();
    assert_eq!(calls, ["set_weights", "set_mechanism_weights"]);
}

#[tokio::test]
async fn two_submissions_at_once_take_turns() {
    let node = new_node(QUICK).await;
    let chain = chain(&[&node]);
    let (left, right) = (weights(), weights());
    let both = futures::join!(chain.submit_weights(&left), chain.submit_weights(&right));
    let (Ok(Submission::Set { block: first }), Ok(Submission::Set { block: second })) = both else {
        panic!("{both:?}")
    };
    assert!(second > first, "the second was sent after the first was settled");
    assert_eq!(node.world.lock().taken.iter().map(|taken| taken.nonce).collect::<Vec<_>>(), [0, 1]);
}
