//! One WebSocket to one of several nodes, and when to leave it.
//!
//! A request is answered, refused or unanswered; there are no subscriptions, so nothing can go silent behind a socket
//! that looks alive. A node is left when a request to it fails or times out, and when it shows no new head for too long,
//! whatever its socket says. A node that was left is asked last until some time has passed.

use std::{sync::Arc, time::Duration};

use jsonrpsee::{
    core::{
        client::{ClientT, Error},
        params::ArrayParams,
    },
    ws_client::{PingConfig, WsClient, WsClientBuilder},
};
use openvalidators_messages::subtensor::ChainError;
use openvalidators_runtime::{SharedClock, within};
use prometheus::IntCounter;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The largest message taken from a node. The metadata of subtensor has 0.7 MB, a metagraph of 1,024 neurons less.
const MAX_ANSWER_BYTES: u32 = 16 << 20;
/// The largest message sent; weights for 4,096 uids have 33 kB.
const MAX_REQUEST_BYTES: u32 = 1 << 20;
/// Requests under way at once.
const MAX_REQUESTS: usize = 16;
/// How much of a node's own words goes into an error.
const MAX_REASON_CHARS: usize = 300;
/// No chain makes blocks faster; a head beyond that is a lie, or another chain.
const MAX_BLOCKS_PER_SECOND: u64 = 20;
/// Blocks a head may jump by in any case: nodes differ by a few.
const MAX_JUMP_BLOCKS: u64 = 100;
/// JSON-RPC: the node does not have this method.
const METHOD_NOT_FOUND: i32 = -32601;
/// JSON-RPC: the node is in trouble of its own, or has too many callers.
const INTERNAL_ERROR: i32 = -32603;
const SERVER_ERRORS: std::ops::RangeInclusive<i32> = -32099..=-32000;

/// How patient to be with a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a connection, until the node has told its first block.
    pub(crate) connect: Duration,
    /// For one answer.
    pub(crate) answer: Duration,
    /// Between two pings; a node that answers none within two intervals is gone.
    pub(crate) ping: Duration,
    /// Between two looks at the head.
    pub(crate) poll: Duration,
    /// Without a new head, before the node counts as stuck.
    pub(crate) progress: Duration,
    /// How long a node that failed is asked last.
    pub(crate) offline: Duration,
}

/// The nodes, in the operator's order, and the one that is asked now.
pub(crate) struct Connection {
    nodes: Vec<String>,
    clock: SharedClock,
    patience: Patience,
    state: tokio::sync::Mutex<State>,
    progress: parking_lot::Mutex<Progress>,
    /// Times a node was left.
    pub(crate) changes: IntCounter,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    /// Until when each node is asked last, by [`openvalidators_runtime::Clock::now`].
    offline_until: Vec<Duration>,
    /// What all nodes must agree on: the hash of block 0.
    genesis: Option<[u8; 32]>,
    /// Counts the links, to tell a failure of this one from a failure of the one before.
    links: u64,
}

#[derive(Clone)]
struct Link {
    id: u64,
    node: usize,
    client: Arc<WsClient>,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    /// The newest head any node showed, and when.
    head: u64,
    at: Duration,
}

/// Why a request has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RpcError {
    /// No answer. What was asked may have been done.
    #[error("{0}")]
    Unreachable(String),
    /// The node said no.
    #[error("the node answered {code}: {message}{}", if data.is_empty() { String::new() } else { format!(" ({data})") })]
    Refused {
        /// JSON-RPC's, or the node's own.
        code: i32,
        /// In its words.
        message: String,
        /// More of its words; often empty.
        data: String,
    },
    /// It said something else than was asked.
    #[error("{0}")]
    Unreadable(String),
}

// === impl Patience ===

impl Default for Patience {
    /// For chains with a block every 12 seconds.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(8),
            answer: seconds(8),
            ping: seconds(20),
            poll: seconds(2),
            progress: seconds(60),
            offline: seconds(120),
        }
    }
}

// === impl Connection ===

impl Connection {
    /// Connects to nothing yet. `changes` counts the times a node is left.
    pub(crate) fn new(nodes: Vec<String>, clock: SharedClock, patience: Patience, changes: IntCounter) -> Self {
        let state = State { offline_until: vec![Duration::ZERO; nodes.len()], ..State::default() };
        let progress = Progress { head: 0, at: clock.now() };
        Self { nodes, clock, patience, state: state.into(), progress: progress.into(), changes }
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Asks the node in use, connecting first where needed. One attempt.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, method: &str, params: &[Value]) -> Result<T, RpcError> {
        let link = self.link().await?;
        let answer = ask(&link.client, &self.clock, self.patience.answer, method, params).await;
        match &answer {
            Err(RpcError::Unreachable(reason)) => self.leave(&link, &format!("{method}: {reason}")).await,
            Err(error @ RpcError::Refused { code, .. }) if *code == INTERNAL_ERROR || SERVER_ERRORS.contains(code) => {
                self.leave(&link, &format!("{method}: {error}")).await;
            }
            _ => {}
        }
        answer
    }

    /// The hash of block 0, which every node must have in common with the first.
    pub(crate) async fn genesis(&self) -> Result<[u8; 32], RpcError> {
        self.link().await?;
        let genesis = self.state.lock().await.genesis;
        genesis.ok_or_else(|| RpcError::Unreachable("no node has told its first block".to_owned()))
    }

    /// Takes note of a head. When it is not new, and none was for too long, the node is left: the next request goes to
    /// another.
    pub(crate) async fn saw_head(&self, head: u64) -> Result<(), RpcError> {
        let now = self.clock.now();
        let reason = {
            let mut progress = self.progress.lock();
            let waited = now.saturating_sub(progress.at);
            let plausible = MAX_JUMP_BLOCKS + waited.as_secs().saturating_mul(MAX_BLOCKS_PER_SECOND);
            if progress.head > 0 && head > progress.head.saturating_add(plausible) {
                format!("head {head} is {} blocks beyond the last one seen", head - progress.head)
            } else if head > progress.head {
                *progress = Progress { head, at: now };
                return Ok(());
            } else if waited > self.patience.progress {
                // The next node has as long to show what it can.
                progress.at = now;
                format!("no head after {} for {:.0} s", progress.head, waited.as_secs_f64())
            } else {
                return Ok(());
            }
        };
        let link = self.state.lock().await.link.clone();
        if let Some(link) = link {
            self.leave(&link, &reason).await;
        }
        Err(RpcError::Unreachable(reason))
    }

    async fn link(&self) -> Result<Link, RpcError> {
        let mut state = self.state.lock().await;
        if let Some(link) = state.link.clone() {
            if link.client.is_connected() {
                return Ok(link);
            }
            self.forget(&mut state, &link, "the connection was closed");
        }
        let now = self.clock.now();
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|node| (state.offline_until[*node] > now).then_some(state.offline_until[*node]));
        let mut failures = Vec::new();
        for node in order {
            match self.connect(node, state.genesis).await {
                Ok((client, genesis)) => {
                    tracing::info!(node = %self.nodes[node], "connected to the chain");
                    state.links += 1;
                    state.genesis = Some(genesis);
                    let link = Link { id: state.links, node, client: Arc::new(client) };
                    state.link = Some(link.clone());
                    return Ok(link);
                }
                Err(reason) => {
                    state.offline_until[node] = self.clock.now() + self.patience.offline;
                    failures.push(format!("{}: {reason}", self.nodes[node]));
                }
            }
        }
        Err(RpcError::Unreachable(format!("no node could be reached ({})", failures.join("; "))))
    }

    async fn connect(&self, node: usize, known: Option<[u8; 32]>) -> Result<(WsClient, [u8; 32]), String> {
        let ping = self.patience.ping;
        let builder = WsClientBuilder::new()
            .max_request_size(MAX_REQUEST_BYTES)
            .max_response_size(MAX_ANSWER_BYTES)
            .max_frame_size(MAX_ANSWER_BYTES)
            .max_concurrent_requests(MAX_REQUESTS)
            // It counts attempts: one, and no redirection.
            .max_redirections(1)
            // The deadlines are this side's clock's; the library's own only backs them up.
            .connection_timeout(self.patience.connect * 2)
            .request_timeout(self.patience.answer * 2)
            .enable_ws_ping(PingConfig::new().ping_interval(ping).inactive_limit(ping * 2).max_failures(1));
        let greet = async {
            let client = builder.build(&self.nodes[node]).await.map_err(|error| short(&error))?;
            let first = [0.into()];
            let genesis = ask::<String>(&client, &self.clock, self.patience.answer, "chain_getBlockHash", &first).await;
            let genesis = genesis.and_then(|genesis| hash(&genesis)).map_err(|error| error.to_string())?;
            Ok::<_, String>((client, genesis))
        };
        let greeted = within(&*self.clock, self.patience.connect, greet).await.map_err(|late| late.to_string())?;
        let (client, genesis) = greeted?;
        match known {
            Some(known) if known != genesis => Err(format!(
                "its chain begins with block 0x{}, that of the others with 0x{}: list nodes of one network only",
                hex::encode(genesis),
                hex::encode(known)
            )),
            _ => Ok((client, genesis)),
        }
    }

    async fn leave(&self, link: &Link, reason: &str) {
        let mut state = self.state.lock().await;
        self.forget(&mut state, link, reason);
    }

    fn forget(&self, state: &mut State, link: &Link, reason: &str) {
        if state.link.as_ref().is_some_and(|current| current.id == link.id) {
            tracing::warn!(node = %self.nodes[link.node], reason, "leaving this node");
            self.changes.inc();
            state.link = None;
            state.offline_until[link.node] = self.clock.now() + self.patience.offline;
        }
    }
}

async fn ask<T: DeserializeOwned>(
    client: &WsClient,
    clock: &SharedClock,
    limit: Duration,
    method: &str,
    params: &[Value],
) -> Result<T, RpcError> {
    let mut list = ArrayParams::new();
    for param in params {
        list.insert(param).map_err(|error| RpcError::Unreadable(error.to_string()))?;
    }
    match within(&**clock, limit, client.request(method, list)).await {
        Err(late) => Err(RpcError::Unreachable(late.to_string())),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Error::Call(error))) => Err(RpcError::Refused {
            code: error.code(),
            message: short(error.message()),
            data: error.data().map(|data| short(data.get().trim_matches('"'))).unwrap_or_default(),
        }),
        Ok(Err(Error::ParseError(error))) => Err(RpcError::Unreadable(short(&error))),
        Ok(Err(error)) => Err(RpcError::Unreachable(short(&error))),
    }
}

/// 32 bytes in hexadecimal, `0x` in front.
pub(crate) fn hash(text: &str) -> Result<[u8; 32], RpcError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim_start_matches("0x"), &mut bytes)
        .map_err(|error| RpcError::Unreadable(format!("no block hash: {error}")))?;
    Ok(bytes)
}

/// Bytes in hexadecimal, `0x` in front.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, RpcError> {
    let digits = text.strip_prefix("0x").ok_or_else(|| RpcError::Unreadable("bytes without their 0x".to_owned()))?;
    hex::decode(digits).map_err(|error| RpcError::Unreadable(error.to_string()))
}

/// Bytes as nodes take them.
pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> Value {
    Value::String(format!("0x{}", hex::encode(bytes)))
}

fn short(reason: impl ToString) -> String {
    reason.to_string().chars().take(MAX_REASON_CHARS).collect()
}

// === impl RpcError ===

impl RpcError {
    /// As the failure of a read. A node that refuses may just not have the block yet, so that counts as out of reach.
    pub(crate) fn during(self, call: &str) -> ChainError {
        let (call, reason) = (call.to_owned(), self.to_string());
        match self {
            Self::Unreachable(_) => ChainError::Unreachable { call, reason },
            Self::Refused { code, .. } if code != METHOD_NOT_FOUND => ChainError::Unreachable { call, reason },
            Self::Refused { .. } | Self::Unreadable(_) => ChainError::BadAnswer { call, reason },
        }
    }
}
