//! Bittensor's real chain, through a node's JSON-RPC.
//!
//! Nothing of the chain's layout is compiled in: calls, storage items, columns and errors are looked up by their names in
//! the metadata of the very runtime whose block is read or written to, and a block of another runtime brings its metadata
//! along. What a node answers is read within limits, by types that were weighed before.
//!
//! | file | holds |
//! |---|---|
//! | `connection.rs` | the WebSocket: deadlines, several nodes, leaving one |
//! | `scale.rs` | bytes to values by their types |
//! | `runtime.rs` | metadata, and the runtimes met |
//! | `state.rs` | heads, headers, storage and runtime calls at one block |
//! | `metagraph.rs`, `epoch.rs` | what is read of the subnet |
//! | `weights.rs` | which call sets weights here |
//! | `extrinsic.rs`, `submit.rs`, `outcome.rs` | a transaction, its life, and its end |
//!
//! subxt does most of this too. Of its parts, the reading of metadata and the laying out of bytes are used
//! (`subxt-metadata`, `frame-decode`); its client is not: it would bring its own notion of blocks, retries and time, twice
//! the packages, and subscriptions that can die unnoticed.

mod connection;
mod epoch;
mod extrinsic;
mod metagraph;
mod outcome;
mod runtime;
mod scale;
mod state;
mod submit;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod weights;

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use openvalidators_keys::HotkeySigner;
use openvalidators_messages::{
    Axon, Block, Metagraph, Netuid, Uid,
    subtensor::{ChainError, RevealWeights, SetWeights, Submission},
};
use openvalidators_runtime::SharedClock;
use prometheus::IntCounter;
use scale_value::Value;

use self::{
    connection::{Connection, Patience},
    extrinsic::Call,
    metagraph::number,
    runtime::{Item, Runtimes},
    scale::Unreadable,
    state::{State, head_number, unreadable},
};
use crate::{
    chain::Chain,
    commit_reveal::{HashReveal, Mechanism},
};

/// The chain as one hotkey sees it, through whichever node answers.
pub struct RemoteChain {
    connection: Connection,
    runtimes: Runtimes,
    signer: Arc<HotkeySigner>,
    mechanism: Mechanism,
    /// Held while a transaction is on its way: the nonce of a second one would depend on the first.
    submitting: tokio::sync::Mutex<()>,
}

// === impl RemoteChain ===

impl RemoteChain {
    /// Connects to nothing yet. `nodes` are WebSocket addresses, the first preferred; one that shows no new head for
    /// `progress` is left for the next, and `changes` counts that.
    #[must_use]
    pub fn new(
        nodes: Vec<String>,
        mechanism: Mechanism,
        signer: Arc<HotkeySigner>,
        clock: SharedClock,
        progress: Duration,
        changes: IntCounter,
    ) -> Self {
        let patience = Patience { progress, ..Patience::default() };
        Self::with_patience(nodes, mechanism, signer, clock, patience, changes)
    }

    fn with_patience(
        nodes: Vec<String>,
        mechanism: Mechanism,
        signer: Arc<HotkeySigner>,
        clock: SharedClock,
        patience: Patience,
        changes: IntCounter,
    ) -> Self {
        let connection = Connection::new(nodes, clock, patience, changes);
        let (runtimes, submitting) = (Runtimes::default(), tokio::sync::Mutex::default());
        Self { connection, runtimes, signer, mechanism, submitting }
    }

    async fn head(&self) -> Result<State<'_>, ChainError> {
        State::at_head(&self.connection, &self.runtimes).await
    }

    async fn submit(&self, call: &Call) -> Result<Block, ChainError> {
        submit::submit(&self.connection, &self.runtimes, &self.signer, call).await
    }
}

#[async_trait]
impl Chain for RemoteChain {
    async fn next_block(&self, after: Block) -> Result<Block, ChainError> {
        loop {
            let head = head_number(&self.connection).await.map_err(|error| error.during("next_block"))?;
            if head > after.0 {
                return Ok(Block(head));
            }
            self.connection.clock().sleep(self.connection.patience().poll).await;
        }
    }

    async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        metagraph::read(&self.head().await?, self.mechanism).await
    }

    async fn submit_weights(&self, weights: &SetWeights) -> Result<Submission, ChainError> {
        let _turn = self.submitting.lock().await;
        let head = self.head().await?;
        let (hotkey, clock) = (self.signer.hotkey(), self.connection.clock());
        let weights::Plan { call, epochs } = weights::plan(&head, self.mechanism, hotkey, weights, clock).await?;
        let block = self.submit(&call).await?;
        Ok(match epochs {
            Some(epochs) => Submission::Committed { block, reveal_epoch: epochs.reveal_epoch(block) },
            None => Submission::Set { block },
        })
    }

    async fn reveal_weights(&self, said: &RevealWeights) -> Result<Block, ChainError> {
        const CALL: &str = "reveal_weights";
        let _turn = self.submitting.lock().await;
        let reveal = HashReveal::new(self.signer.hotkey(), self.mechanism, said.clone());
        let reveal = reveal.map_err(|error| unreadable(CALL, Unreadable(error.to_string())))?;
        let call = weights::reveal(&self.head().await?.runtime, &reveal);
        self.submit(&call.map_err(|error| unreadable(CALL, error))?).await
    }

    async fn weights_of(&self, uid: Uid) -> Result<Vec<(Uid, u16)>, ChainError> {
        const CALL: &str = "weights";
        let head = self.head().await?;
        let keys = [self.mechanism.storage_index(), uid.0].map(u64::from).map(number);
        let items = head.items(&[Item { name: "Weights", keys: &keys }]).await?;
        let row: Vec<(u16, u16)> = items.get("Weights").map_err(|error| unreadable(CALL, error))?;
        if row.len() > metagraph::MAX_NEURONS {
            return Err(unreadable(CALL, Unreadable(format!("a row of {} weights", row.len()))));
        }
        Ok(row.into_iter().map(|(uid, weight)| (Uid(uid), weight)).collect())
    }

    async fn time(&self) -> Result<Option<Duration>, ChainError> {
        state::timestamp(&self.connection).await.map_err(|error| error.during("time"))
    }

    async fn serve_axon(&self, axon: Axon) -> Result<Block, ChainError> {
        let _turn = self.submitting.lock().await;
        self.submit(&serve_axon(self.mechanism.netuid, axon)).await
    }
}

fn serve_axon(netuid: Netuid, axon: Axon) -> Call {
    let (ip, ip_type) = match axon.address.ip() {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 4),
        IpAddr::V6(ip) => (u128::from(ip), 6),
    };
    Call::new(
        "serve_axon",
        [
            ("netuid", number(u64::from(netuid.0))),
            ("version", number(u64::from(axon.version))),
            ("ip", Value::u128(ip)),
            ("port", number(u64::from(axon.address.port()))),
            ("ip_type", number(ip_type)),
            ("protocol", number(u64::from(axon.protocol))),
            ("placeholder1", number(0)),
            ("placeholder2", number(0)),
        ],
    )
}
