//! The client against a node double, and what only a node can do wrong.

mod chopsticks;
mod live;
mod memory;
mod misbehaving;
mod reading;
mod recorded;
mod sdk_reads;
mod second_reader;
mod spoilt;
mod submitting;

use std::{sync::Arc, time::Duration};

use openvalidators_keys::HotkeySigner;
use openvalidators_messages::Netuid;
use openvalidators_runtime::SystemClock;
use prometheus::IntCounter;

use super::{
    RemoteChain,
    connection::Patience,
    testing::{
        metadata,
        node::{self, NodeDouble},
    },
};
use crate::commit_reveal::Mechanism;

const NETUID: Netuid = Netuid(64);
const MECHANISM: Mechanism = Mechanism { netuid: NETUID, index: 0 };

/// Quick to lose patience; long enough for a machine that does other things too.
const IMPATIENT: Patience = Patience {
    connect: Duration::from_secs(10),
    answer: Duration::from_secs(10),
    ping: Duration::from_secs(20),
    poll: Duration::from_millis(5),
    progress: Duration::from_secs(60),
    offline: Duration::from_secs(60),
};

fn signer() -> Arc<HotkeySigner> {
    Arc::new(HotkeySigner::from_uri("//Alice").unwrap())
}

fn changes() -> IntCounter {
    IntCounter::new("changes", "nodes left").unwrap()
}

fn chain(nodes: &[&NodeDouble]) -> RemoteChain {
    chain_with(nodes, IMPATIENT)
}

fn chain_with(nodes: &[&NodeDouble], patience: Patience) -> RemoteChain {
    let nodes = nodes.iter().map(|node| node.url()).collect();
    RemoteChain::with_patience(nodes, MECHANISM, signer(), SystemClock::shared(), patience, changes())
}
