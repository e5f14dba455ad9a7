//! Nodes that drop, hang, stand still, and lie.

use std::time::Duration;

use openvalidators_messages::{Block, subtensor::ChainError};
use openvalidators_runtime::{SystemClock, within};
use serde_json::json;

use super::{
    IMPATIENT, MECHANISM, chain, chain_with, changes,
    node::NodeDouble,
    reading::new_node,
    signer,
    submitting::{QUICK, weights},
};
use crate::{
    Chain,
    remote::{RemoteChain, connection::Patience},
};

#[tokio::test]
async fn the_next_block_is_waited_for() {
    let node = new_node(QUICK).await;
    let chain = chain(&[&node]);
    let mut block = Block(20);
    for _ in 0..3 {
        let next = chain.next_block(block).await.unwrap();
        assert!(next > block);
        block = next;
    }
}

#[tokio::test]
async fn a_dropped_socket_costs_one_read_and_no_restart() {
    let node = new_node(Duration::ZERO).await;
    let chain = chain(&[&node]);
    for method in ["state_call", "state_queryStorageAt", "chain_getHeader"] {
        node.world.lock().faults.drops = Some((method, 1));
        let error = chain.metagraph().await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
        chain.metagraph().await.unwrap();
    }
    assert_eq!(node.world.lock().connections, 4);
    assert_eq!(chain.connection.changes.get(), 3, "each was counted");
}

#[tokio::test]
async fn a_node_that_is_restarted_is_found_again() {
    let node = new_node(Duration::ZERO).await;
    let chain = chain(&[&node]);
    chain.metagraph().await.unwrap();
    let (address, runtime) = (node.address.to_string(), node.world.lock().runtimes[0].1.clone());
    drop(node);
    let error = chain.metagraph().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
    let _again = NodeDouble::start_at(runtime, QUICK, &address).await;
    chain.next_block(Block(20)).await.unwrap();
}

#[tokio::test]
async fn a_half_open_socket_is_left_for_the_next_node() {
    let (first, second) = (new_node(Duration::ZERO).await, new_node(QUICK).await);
    let chain = chain_with(&[&first, &second], Patience { answer: Duration::from_millis(500), ..IMPATIENT });
    chain.metagraph().await.unwrap();
    assert_eq!(second.world.lock().connections, 0, "the first in the operator's order is preferred");
    first.world.lock().faults.half_open = true;
    let error = chain.metagraph().await.unwrap_err().to_string();
    assert!(error.contains("no answer within 0.5 s"), "{error}");
    chain.metagraph().await.unwrap();
    // It stays with the second: the first is asked last for a while, though it could be connected to.
    first.world.lock().faults.half_open = false;
    second.world.lock().faults.drops = Some(("state_call", 0));
    chain.metagraph().await.unwrap();
    assert_eq!((first.world.lock().connections, second.world.lock().connections), (1, 1));
}

#[tokio::test]
async fn a_slow_node_is_left_too() {
    let (slow, quick) = (new_node(Duration::ZERO).await, new_node(Duration::ZERO).await);
    slow.world.lock().faults.slow = Some(("state_call", Duration::from_secs(20)));
    let chain = chain_with(&[&slow, &quick], Patience { answer: Duration::from_millis(500), ..IMPATIENT });
    chain.metagraph().await.unwrap_err();
    chain.metagraph().await.unwrap();
}

#[tokio::test]
async fn a_node_that_says_it_is_in_trouble_is_left() {
    for code in [-32_603, -32_005] {
        let (troubled, other) = (new_node(Duration::ZERO).await, new_node(Duration::ZERO).await);
        troubled.world.lock().faults.errs = Some(("state_call", code));
        let chain = chain(&[&troubled, &other]);
        let error = chain.metagraph().await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
        chain.metagraph().await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_stands_still_is_left_whatever_its_socket_says() {
    let (stuck, moving) = (new_node(Duration::ZERO).await, new_node(QUICK).await);
    let chain = chain_with(&[&stuck, &moving], Patience { progress: Duration::from_millis(500), ..IMPATIENT });
    chain.metagraph().await.unwrap();
    let error = chain.next_block(Block(20)).await.unwrap_err().to_string();
    assert!(error.contains("no head after 20"), "{error}");
    let next = chain.next_block(Block(20)).await.unwrap();
    assert!(next > Block(20));
}

#[tokio::test]
async fn when_every_node_fails_each_is_named() {
    let (first, second) = (new_node(Duration::ZERO).await, new_node(Duration::ZERO).await);
    let chain = chain(&[&first, &second]);
    let urls = [first.url(), second.url()];
    drop((first, second));
    let error = chain.metagraph().await.unwrap_err().to_string();
    assert!(urls.iter().all(|url| error.contains(url)), "{error}");
}

#[tokio::test]
async fn a_node_of_another_network_is_not_used() {
    let (first, other) = (new_node(Duration::ZERO).await, new_node(QUICK).await);
    {
        let mut world = other.world.lock();
        world.genesis = [9; 32];
        world.blocks[0].hash = [9; 32];
    }
    let chain = chain(&[&first, &other]);
    chain.metagraph().await.unwrap();
    drop(first);
    chain.metagraph().await.unwrap_err();
    let error = chain.metagraph().await.unwrap_err().to_string();
    assert!(error.contains("list nodes of one network only"), "{error}");
}

#[tokio::test]
async fn a_head_out_of_thin_air_is_refused() {
    let (liar, honest) = (new_node(Duration::ZERO).await, new_node(QUICK).await);
    let chain = chain(&[&liar, &honest]);
    chain.metagraph().await.unwrap();
    let header = json!({"parentHash": "0x00", "number": "0xffffffffffff", "digest": {"logs": []}});
    liar.world.lock().faults.lies.insert("chain_getHeader", header);
    let error = chain.next_block(Block(20)).await.unwrap_err().to_string();
    assert!(error.contains("blocks beyond the last one seen"), "{error}");
    let next = chain.next_block(Block(20)).await.unwrap();
    assert!(next < Block(10_000), "the lie is not remembered as a head: {next}");
}

#[tokio::test]
async fn a_node_that_takes_back_what_was_final_proves_nothing() {
    let node = new_node(QUICK).await;
    node.world.lock().faults.forgets = true;
    let chain = chain(&[&node]);
    let sent = weights();
    let submitting = chain.submit_weights(&sent);
    let reverting = async {
        while node.world.lock().taken.is_empty() {
            tokio::task::yield_now().await;
        }
        // Another history from here on.
        for block in &mut node.world.lock().blocks {
            block.hash[0] ^= 0xff;
            block.parent[0] ^= 0xff;
        }
    };
    let (answer, ()) = futures::join!(submitting, reverting);
    let error = answer.unwrap_err();
    // It may be in a block: not a refusal.
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("does not follow the final block"), "{error}");
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_connection() {
    let (huge, other) = (new_node(Duration::ZERO).await, new_node(Duration::ZERO).await);
    let chain = chain(&[&huge, &other]);
    chain.metagraph().await.unwrap();
    huge.world.lock().faults.lies.insert("state_call", format!("0x{}", "00".repeat(9 << 20)).into());
    let error = chain.metagraph().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error:.300}");
    chain.metagraph().await.unwrap();
}

#[tokio::test]
async fn a_node_without_tls_behind_wss_is_an_error() {
    let node = new_node(Duration::ZERO).await;
    let secure = node.url().replace("ws://", "wss://");
    let chain =
        RemoteChain::with_patience(vec![secure], MECHANISM, signer(), SystemClock::shared(), IMPATIENT, changes());
    let error = chain.metagraph().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("tls handshake"), "{error}");
    assert!(node.world.lock().asked.is_empty(), "nothing is said in the clear");
}

#[tokio::test]
async fn a_final_block_that_nobody_has_proves_nothing() {
    let (node, clock) = (new_node(QUICK).await, SystemClock::new());
    let chain = chain(&[&node]);
    let sent = weights();
    let submitting = async {
        let lying = async {
            while node.world.lock().taken.is_empty() {
                tokio::task::yield_now().await;
            }
            let hash = format!("0x{}", hex::encode([0x55; 32]));
            node.world.lock().faults.lies.insert("chain_getFinalizedHead", hash.into());
        };
        futures::join!(chain.submit_weights(&sent), lying).0
    };
    let answer = within(&clock, Duration::from_millis(600), submitting).await;
    assert!(answer.is_err(), "neither success nor failure, the caller's deadline ends it: {answer:?}");
}
