//! Heads, blocks, and the state as it is at one of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use openvalidators_messages::subtensor::ChainError;
use scale_decode::DecodeAsType;
use scale_value::Value;
use serde::Deserialize;

use super::{
    connection::{Connection, RpcError, bytes, hash, hex},
    runtime::{Item, Runtime, Runtimes},
    scale::Unreadable,
};

/// Most items read in one request.
pub(crate) const MAX_ITEMS: usize = 4_096 + 32;

/// Where `Timestamp::Now` is stored: the hashes (XXH64, twice) of the two names, which Substrate fixes for every chain.
const TIMESTAMP_NOW: &str = "0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb";

/// One block and its runtime: everything read through it is of that block.
pub(crate) struct State<'a> {
    connection: &'a Connection,
    pub(crate) block: u64,
    pub(crate) hash: [u8; 32],
    pub(crate) runtime: Arc<Runtime>,
}

/// Values of storage items at one block.
pub(crate) struct Items<'a> {
    runtime: &'a Runtime,
    keys: Vec<Vec<u8>>,
    names: Vec<&'static str>,
    values: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

/// What is used of a block's header.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    pub(crate) parent_hash: String,
    number: String,
}

#[derive(Deserialize)]
struct Changes {
    changes: Vec<(String, Option<String>)>,
}

// === impl Header ===

impl Header {
    /// The block's height.
    pub(crate) fn number(&self) -> Result<u64, RpcError> {
        u64::from_str_radix(self.number.trim_start_matches("0x"), 16)
            .map_err(|error| RpcError::Unreadable(format!("block number `{}`: {error}", self.number)))
    }
}

/// The height of the newest block the node knows.
pub(crate) async fn head_number(connection: &Connection) -> Result<u64, RpcError> {
    let head = connection.ask::<Header>("chain_getHeader", &[]).await?.number()?;
    connection.saw_head(head).await?;
    Ok(head)
}

/// When the newest block was made, by the pallet `Timestamp` that every such chain has: milliseconds since 1970.
pub(crate) async fn timestamp(connection: &Connection) -> Result<Option<Duration>, RpcError> {
    let Some(stored) = connection.ask::<Option<String>>("state_getStorage", &[TIMESTAMP_NOW.into()]).await? else {
        return Ok(None);
    };
    let bytes = bytes(&stored)?;
    let millis: [u8; 8] = bytes.as_slice().try_into().map_err(|_| {
        RpcError::Unreadable(format!("the chain's time has {} bytes where 8 were expected", bytes.len()))
    })?;
    Ok(Some(Duration::from_millis(u64::from_le_bytes(millis))))
}

/// The header of a block.
pub(crate) async fn header(connection: &Connection, block: &[u8; 32]) -> Result<Header, RpcError> {
    let header = connection.ask::<Option<Header>>("chain_getHeader", &[hex(block)]).await?;
    header.ok_or_else(|| RpcError::Unreachable(format!("the node does not have block 0x{} yet", hex::encode(block))))
}

/// The hash of a block, by its height.
pub(crate) async fn hash_of(connection: &Connection, block: u64) -> Result<[u8; 32], RpcError> {
    let answer: Option<String> = connection.ask("chain_getBlockHash", &[block.into()]).await?;
    hash(&answer.ok_or_else(|| RpcError::Unreachable(format!("the node does not have block {block} yet")))?)
}

/// The newest block that cannot be undone: its height and hash.
pub(crate) async fn finalized(connection: &Connection) -> Result<(u64, [u8; 32]), RpcError> {
    let hash = hash(&connection.ask::<String>("chain_getFinalizedHead", &[]).await?)?;
    let number = header(connection, &hash).await?.number()?;
    Ok((number, hash))
}

// === impl State ===

impl<'a> State<'a> {
    /// The newest block's.
    pub(crate) async fn at_head(connection: &'a Connection, runtimes: &Runtimes) -> Result<Self, ChainError> {
        let call = "the head";
        let newest: String =
            connection.ask("chain_getBlockHash", &[]).await.map_err(|error: RpcError| error.during(call))?;
        let hash = hash(&newest).map_err(|error| error.during(call))?;
        Self::at(connection, runtimes, hash).await
    }

    /// A block's.
    pub(crate) async fn at(
        connection: &'a Connection,
        runtimes: &Runtimes,
        hash: [u8; 32],
    ) -> Result<Self, ChainError> {
        let number = async { header(connection, &hash).await?.number() };
        let block = number.await.map_err(|error| error.during("the header"))?;
        connection.saw_head(block).await.map_err(|error| error.during("the head"))?;
        let runtime = runtimes.at(connection, &hash).await?;
        Ok(Self { connection, block, hash, runtime })
    }

    /// Calls a function of the runtime; returns its answer and that answer's type.
    pub(crate) async fn call(
        &self,
        api: &str,
        method: &str,
        inputs: Vec<Value<()>>,
    ) -> Result<(Vec<u8>, u32), ChainError> {
        let (inputs, output) = self.runtime.api(api, method, inputs).map_err(|error| unreadable(method, error))?;
        let params = [format!("{api}_{method}").into(), hex(inputs), hex(self.hash)];
        let answer = self.connection.ask::<String>("state_call", &params).await;
        let answer = answer.and_then(|answer| bytes(&answer)).map_err(|error| error.during(method))?;
        Ok((answer, output))
    }

    /// Reads items of the pallet in one request.
    pub(crate) async fn items(&self, items: &[Item<'_>]) -> Result<Items<'_>, ChainError> {
        const CALL: &str = "storage";
        let keys = items.iter().map(|item| self.runtime.storage_key(item)).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|error| unreadable(CALL, error))?;
        if keys.len() > MAX_ITEMS {
            return Err(unreadable(CALL, Unreadable(format!("{} items where {MAX_ITEMS} are the most", keys.len()))));
        }
        let params = [keys.iter().map(hex).collect(), hex(self.hash)];
        let answer = self.connection.ask::<Vec<Changes>>("state_queryStorageAt", &params).await;
        let mut values = HashMap::new();
        for (key, value) in answer.map_err(|error| error.during(CALL))?.into_iter().flat_map(|set| set.changes) {
            let decoded = bytes(&key).and_then(|key| Ok((key, value.as_deref().map(bytes).transpose()?)));
            let (key, value) = decoded.map_err(|error| error.during(CALL))?;
            values.insert(key, value);
        }
        let names = items.iter().map(|item| item.name).collect();
        Ok(Items { runtime: &self.runtime, keys, names, values })
    }
}

/// An answer that could not be read.
pub(crate) fn unreadable(call: &str, error: Unreadable) -> ChainError {
    ChainError::BadAnswer { call: call.to_owned(), reason: error.0 }
}

// === impl Items ===

impl Items<'_> {
    /// The first item of this name, or its default.
    pub(crate) fn get<T: DecodeAsType>(&self, name: &str) -> Result<T, Unreadable> {
        self.find(name)?.ok_or_else(|| Unreadable(format!("`{name}` is not set and has no default")))
    }

    /// The same; nothing when it was not asked for, or is not set and has no default.
    pub(crate) fn find<T: DecodeAsType>(&self, name: &str) -> Result<Option<T>, Unreadable> {
        match self.names.iter().position(|asked| *asked == name) {
            Some(place) => self.nth(place),
            None => Ok(None),
        }
    }

    /// By its place in the request.
    pub(crate) fn nth<T: DecodeAsType>(&self, place: usize) -> Result<Option<T>, Unreadable> {
        let (Some(key), Some(name)) = (self.keys.get(place), self.names.get(place)) else { return Ok(None) };
        self.runtime.stored(name, self.values.get(key).and_then(|value| value.as_deref()))
    }
}
