//! One vocabulary for the local chain, whether it runs in this process or behind a socket.

use std::sync::Arc;

use async_trait::async_trait;
use openvalidators_messages::{
    Axon, Block, Hotkey, Metagraph, Uid,
    subtensor::{ChainError, SetWeights, Submission},
};
use serde::{Deserialize, Serialize};

use super::{
    calls::{Applied, Call, WeightVector},
    state::RAO_PER_TAO,
};
use crate::chain::Chain;

/// Something that answers for a local chain: [`super::LocalChain`] or [`super::LocalClient`].
#[async_trait]
pub trait Node: Send + Sync {
    /// Asks one thing. Nobody is asked who it is: the local chain trusts whoever reaches it, which is this process or a
    /// program on this machine.
    async fn ask(&self, request: Request) -> Result<Answer, ChainError>;

    /// Waits until the chain has ended for good. One in another process may be started again: it never does.
    async fn ended(&self) {
        std::future::pending().await
    }
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Waits for a block after this one.
    NextBlock {
        /// The newest block known to the asker.
        after: Block,
    },
    /// The subnet at the head.
    Metagraph,
    /// A row of stored weights.
    Weights {
        /// Whose.
        uid: Uid,
    },
    /// Weights, by the subnet's rule.
    SubmitWeights {
        /// For whom.
        hotkey: Hotkey,
        /// The weights.
        vector: WeightVector,
    },
    /// Any other transaction.
    Submit {
        /// For whom.
        hotkey: Hotkey,
        /// What.
        call: Call,
    },
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// To [`Request::NextBlock`].
    Block(Block),
    /// To [`Request::Metagraph`].
    Metagraph(Metagraph),
    /// To [`Request::Weights`].
    Weights(Vec<(Uid, u16)>),
    /// To the two kinds of submission: it succeeded inside this block.
    Included {
        /// Where.
        block: Block,
        /// What it did.
        applied: Applied,
    },
}

/// A local network as its operator sees it: anybody's transactions, without signatures or fees.
#[derive(Clone)]
pub struct LocalNetwork {
    node: Arc<dyn Node>,
}

/// A local chain as one hotkey sees it.
#[derive(Clone)]
pub struct LocalAccount {
    network: LocalNetwork,
    hotkey: Hotkey,
}

// === impl Request ===

impl Request {
    /// The name for errors and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NextBlock { .. } => "next_block",
            Self::Metagraph => "metagraph",
            Self::Weights { .. } => "weights",
            Self::SubmitWeights { .. } => "submit_weights",
            Self::Submit { call, .. } => call.name(),
        }
    }
}

// === impl LocalNetwork ===

impl LocalNetwork {
    /// The network behind a node.
    pub fn new(node: impl Node + 'static) -> Self {
        Self { node: Arc::new(node) }
    }

    /// The chain as this hotkey sees it.
    #[must_use]
    pub fn account(&self, hotkey: Hotkey) -> LocalAccount {
        LocalAccount { network: self.clone(), hotkey }
    }

    /// Gives a hotkey a place; on a full subnet the weakest neuron is replaced. Answers in the next block, so that many
    /// registrations at once share it.
    ///
    /// # Errors
    /// `HotKeyAlreadyRegisteredInSubNet`, `NoNeuronIdAvailable`, or no answer.
    pub async fn register(&self, hotkey: Hotkey, coldkey: Hotkey) -> Result<Uid, ChainError> {
        match self.submit(hotkey, Call::Register { coldkey }).await? {
            (_, Applied::Registered { uid }) => Ok(uid),
            (_, other) => Err(unexpected("burned_register", &other)),
        }
    }

    /// Sets a hotkey's stake, registered or not. A permit follows at the next epoch.
    ///
    /// # Errors
    /// No answer.
    pub async fn set_stake(&self, hotkey: Hotkey, tao: f64) -> Result<Block, ChainError> {
        // `as` saturates and takes NaN to 0.
        let rao = (tao * RAO_PER_TAO) as u64;
        Ok(self.submit(hotkey, Call::SetStake { rao }).await?.0)
    }

    /// Advertises where a hotkey listens.
    ///
    /// # Errors
    /// The pool's or the block's refusal, or no answer.
    pub async fn serve_axon(&self, hotkey: Hotkey, axon: Axon) -> Result<Block, ChainError> {
        Ok(self.submit(hotkey, Call::ServeAxon(axon)).await?.0)
    }

    /// The subnet at the head.
    ///
    /// # Errors
    /// No answer.
    pub async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        match self.node.ask(Request::Metagraph).await? {
            Answer::Metagraph(metagraph) => Ok(metagraph),
            other => Err(unexpected("metagraph", &other)),
        }
    }

    /// Waits for a block after this one and returns the newest.
    ///
    /// # Errors
    /// No answer.
    pub async fn next_block(&self, after: Block) -> Result<Block, ChainError> {
        match self.node.ask(Request::NextBlock { after }).await? {
            Answer::Block(block) => Ok(block),
            other => Err(unexpected("next_block", &other)),
        }
    }

    /// Waits until a chain in this process has ended by a fault of its own; one in another process never does.
    pub async fn ended(&self) {
        self.node.ended().await;
    }

    async fn submit(&self, hotkey: Hotkey, call: Call) -> Result<(Block, Applied), ChainError> {
        self.included(Request::Submit { hotkey, call }).await
    }

    async fn included(&self, request: Request) -> Result<(Block, Applied), ChainError> {
        let name = request.name();
        match self.node.ask(request).await? {
            Answer::Included { block, applied } => Ok((block, applied)),
            other => Err(unexpected(name, &other)),
        }
    }
}

// === impl Chain for LocalAccount ===

#[async_trait]
impl Chain for LocalAccount {
    async fn next_block(&self, after: Block) -> Result<Block, ChainError> {
        self.network.next_block(after).await
    }

    async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        self.network.metagraph().await
    }

    async fn submit_weights(&self, weights: &SetWeights) -> Result<Submission, ChainError> {
        let vector = WeightVector {
            uids: weights.uids.iter().map(|uid| uid.0).collect(),
            weights: weights.weights.clone(),
            version_key: weights.version_key,
        };
        let request = Request::SubmitWeights { hotkey: self.hotkey, vector };
        match self.network.included(request).await? {
            (block, Applied::Done) => Ok(Submission::Set { block }),
            (block, Applied::Committed { reveal_epoch }) => Ok(Submission::Committed { block, reveal_epoch }),
            (_, other) => Err(unexpected("submit_weights", &other)),
        }
    }

    async fn weights_of(&self, uid: Uid) -> Result<Vec<(Uid, u16)>, ChainError> {
        match self.network.node.ask(Request::Weights { uid }).await? {
            Answer::Weights(row) => Ok(row),
            other => Err(unexpected("weights", &other)),
        }
    }

    async fn serve_axon(&self, axon: Axon) -> Result<Block, ChainError> {
        self.network.serve_axon(self.hotkey, axon).await
    }
}

fn unexpected(call: &str, answer: &impl std::fmt::Debug) -> ChainError {
    // An answer to another question can be as large as a metagraph: its beginning says enough.
    let reason = format!("{answer:?}").chars().take(120).collect::<String>();
    ChainError::BadAnswer { call: call.to_owned(), reason: format!("an answer to another question: {reason}") }
}
