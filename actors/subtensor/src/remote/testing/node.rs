//! A node of Bittensor's chain, as its clients see it: JSON-RPC over a WebSocket, encoded by whatever metadata it is given,
//! with the faults of real nodes at the test's command.
//!
//! It takes a transaction as a runtime does: decodes it by the metadata, rebuilds the signed payload from the parts, checks
//! signature, era and nonce, and refuses what does not fit. So the client's bytes are judged by code that did not write
//! them (`frame_decode::extrinsics::decode_extrinsic`, schnorrkel).

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use blake2::{Blake2b, Digest, digest::consts::U32};
use frame_decode::{
    extrinsics::decode_extrinsic,
    storage::{StorageTypeInfo, encode_storage_key},
};
use futures::{SinkExt, StreamExt};
use openvalidators_keys::verify;
use openvalidators_messages::Hotkey;
use openvalidators_runtime::{Clock, SystemClock};
use parity_scale_codec::{Decode, Encode};
use parking_lot::Mutex;
use scale_value::{Value as Scale, scale::decode_as_type};
use serde_json::{Value, json};
use subxt_metadata::Metadata;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::Message;

use super::{encode::encode, subnet::Subnet, v15};

pub(crate) const PALLET: &str = "SubtensorModule";
/// What it answers, as `rpc_methods` tells.
const METHODS: [&str; 15] = [
    "author_submitExtrinsic",
    "chain_getBlock",
    "chain_getBlockHash",
    "chain_getFinalizedHead",
    "chain_getHead",
    "chain_getHeader",
    "rpc_methods",
    "state_call",
    "state_getKeysPaged",
    "state_getMetadata",
    "state_getRuntimeVersion",
    "state_getStorage",
    "state_getStorageAt",
    "state_queryStorageAt",
    "system_accountNextIndex",
];

/// A running node. Dropped, it is gone.
pub(crate) struct NodeDouble {
    pub(crate) address: SocketAddr,
    pub(crate) world: Arc<Mutex<World>>,
    tasks: Vec<JoinHandle<()>>,
}

/// The chain, and what is wrong with the node.
pub(crate) struct World {
    pub(crate) genesis: [u8; 32],
    /// Runtimes by the first block that has them, ascending.
    pub(crate) runtimes: Vec<(u64, Arc<Played>)>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) pool: Vec<(Vec<u8>, Taken)>,
    /// The pool's transactions included.
    pub(crate) nonces: BTreeMap<[u8; 32], u64>,
    /// Answers of runtime functions by name, in JSON; `null` is `None`.
    pub(crate) answers: BTreeMap<&'static str, Value>,
    /// Stored values by item and keys.
    pub(crate) storage: Vec<(&'static str, Vec<u64>, Value)>,
    /// A subnet that does what transactions say; without one they succeed and change nothing.
    pub(crate) subnet: Option<Subnet>,
    /// What was sent and was well made.
    pub(crate) taken: Vec<Taken>,
    /// The module error of the next transaction inside its block.
    pub(crate) fails_with: Option<&'static str>,
    pub(crate) faults: Faults,
    /// Methods asked, in order.
    pub(crate) asked: Vec<String>,
    /// Connections taken.
    pub(crate) connections: u64,
}

#[derive(Default)]
pub(crate) struct Faults {
    /// Answers to sending: code, message, data.
    pub(crate) refuses: Option<(i32, &'static str, Value)>,
    /// Closes the socket instead of answering this method, so many times.
    pub(crate) drops: Option<(&'static str, u64)>,
    /// Answers this method with an error of this code.
    pub(crate) errs: Option<(&'static str, i32)>,
    /// Reads and never answers, nor sends anything else.
    pub(crate) half_open: bool,
    /// Takes transactions and forgets them.
    pub(crate) forgets: bool,
    /// Waits before each answer to this method.
    pub(crate) slow: Option<(&'static str, Duration)>,
    /// Answers this instead of the truth.
    pub(crate) lies: BTreeMap<&'static str, Value>,
    /// Blocks that are not final.
    pub(crate) unfinal: u64,
}

/// A runtime the node plays.
pub(crate) struct Played {
    pub(crate) spec_version: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) metadata: Metadata,
}

pub(crate) struct Block {
    pub(crate) hash: [u8; 32],
    pub(crate) parent: [u8; 32],
    extrinsics: Vec<Vec<u8>>,
    events: Vec<u8>,
}

/// A transaction that passed.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) call: String,
    pub(crate) arguments: BTreeMap<String, Scale<()>>,
    pub(crate) signer: Hotkey,
    pub(crate) nonce: u64,
}

// === impl Played ===

impl Played {
    pub(crate) fn new(spec_version: u32, bytes: Vec<u8>) -> Arc<Self> {
        let metadata = Metadata::decode_from(&bytes).unwrap();
        Arc::new(Self { spec_version, bytes, metadata })
    }

    /// As `Metadata_metadata_at_version` answers.
    fn metadata_of_version(&self, version: u8) -> Option<Vec<u8>> {
        match (version, self.bytes[4]) {
            (wanted, has) if wanted == has => Some(self.bytes.clone()),
            (15, _) => v15::of_v16(&self.bytes),
            _ => None,
        }
    }
}

// === impl NodeDouble ===

impl NodeDouble {
    /// A chain with a few blocks, and one more every `block_time`; none when it is zero.
    pub(crate) async fn start(runtime: Arc<Played>, block_time: Duration) -> Self {
        Self::start_at(runtime, block_time, "127.0.0.1:0").await
    }

    pub(crate) async fn start_at(runtime: Arc<Played>, block_time: Duration, address: &str) -> Self {
        let genesis = Block { hash: [7; 32], parent: [0; 32], extrinsics: Vec::new(), events: vec![0] };
        let world = World {
            genesis: genesis.hash,
            runtimes: vec![(0, runtime)],
            blocks: vec![genesis],
            pool: Vec::new(),
            nonces: BTreeMap::new(),
            answers: BTreeMap::new(),
            storage: Vec::new(),
            subnet: None,
            taken: Vec::new(),
            fails_with: None,
            faults: Faults::default(),
            asked: Vec::new(),
            connections: 0,
        };
        let world = Arc::new(Mutex::new(world));
        (0..20).for_each(|_| world.lock().make_block());
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = vec![tokio::spawn(accept(listener, world.clone()))];
        let node = Self { address, world, tasks };
        if block_time.is_zero() { node } else { node.with_blocks(block_time) }
    }

    /// One more block every `block_time` from now on.
    pub(crate) fn with_blocks(mut self, block_time: Duration) -> Self {
        let world = self.world.clone();
        self.tasks.push(tokio::spawn(async move {
            loop {
                SystemClock::new().sleep(block_time).await;
                world.lock().make_block();
            }
        }));
        self
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }
}

impl Drop for NodeDouble {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(listener: TcpListener, world: Arc<Mutex<World>>) {
    // Connections end with the node.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        world.lock().connections += 1;
        connections.spawn(serve(socket, world.clone()));
    }
}

async fn serve(socket: TcpStream, world: Arc<Mutex<World>>) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if world.lock().faults.half_open {
            // Not even pings are answered: nothing is read any more.
            std::future::pending::<()>().await;
        }
        let Message::Text(text) = message else { continue };
        let request: Value = serde_json::from_str(&text).unwrap();
        let method = request["method"].as_str().unwrap().to_owned();
        let slow = world.lock().faults.slow;
        if let Some((_, wait)) = slow.filter(|(slow, _)| *slow == method) {
            SystemClock::new().sleep(wait).await;
        }
        let answer = {
            let mut world = world.lock();
            world.asked.push(method.clone());
            if let Some((dropped, left)) = &mut world.faults.drops
                && *dropped == method
                && *left > 0
            {
                *left -= 1;
                // The transaction arrives, its answer does not.
                if method == "author_submitExtrinsic" {
                    let _ = world.answer(&method, &request["params"]);
                }
                return;
            }
            world.answer(&method, &request["params"])
        };
        let reply = match answer {
            Ok(result) => json!({"jsonrpc": "2.0", "id": request["id"], "result": result}),
            Err((code, message, data)) => {
                let error = json!({"code": code, "message": message, "data": data});
                json!({"jsonrpc": "2.0", "id": request["id"], "error": error})
            }
        };
        if socket.send(Message::Text(reply.to_string().into())).await.is_err() {
            return;
        }
    }
}

type Answer = Result<Value, (i32, String, Value)>;

// === impl World ===

impl World {
    pub(crate) fn head(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    /// The runtime after a block.
    fn runtime(&self, block: u64) -> Arc<Played> {
        self.runtimes.iter().rev().find(|(first, _)| *first <= block).unwrap().1.clone()
    }

    fn final_block(&self) -> u64 {
        self.head().saturating_sub(self.faults.unfinal)
    }

    /// Executes the pool.
    pub(crate) fn make_block(&mut self) {
        let number = self.blocks.len() as u64;
        let parent = self.blocks[self.blocks.len() - 1].hash;
        let runtime = self.runtime(number - 1);
        let (extrinsics, taken): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pool).into_iter().unzip();
        let mut events = Vec::new();
        for (place, taken) in taken.iter().enumerate() {
            let fails_with = self.fails_with.take();
            let applied = || self.subnet.as_mut().and_then(|subnet| subnet.apply(taken, number).err());
            let event = match fails_with.or_else(applied) {
                None => json!({"System": {"ExtrinsicSuccess": {}}}),
                Some(name) => {
                    let pallet = runtime.metadata.pallet_by_name(PALLET).unwrap();
                    let error = pallet.error_variants().unwrap().iter().find(|error| error.name == name).unwrap();
                    let module = json!({"index": pallet.error_index(), "error": [error.index]});
                    json!({"System": {"ExtrinsicFailed": {"dispatch_error": {"Module": module}}}})
                }
            };
            // Others' events stand before and between.
            events.push(json!({"phase": {"ApplyExtrinsic": place + 1}, "event": {"System": "CodeUpdated"}}));
            events.push(json!({"phase": {"ApplyExtrinsic": place}, "event": event}));
        }
        let ty = runtime.metadata.storage_info("System", "Events").unwrap().value_id;
        let events = encode(&Value::Array(events), ty, runtime.metadata.types());
        let hash = Blake2b::<U32>::digest((parent, number, &extrinsics).encode()).into();
        self.blocks.push(Block { hash, parent, extrinsics, events });
        if let Some(subnet) = &mut self.subnet {
            subnet.end_block(number);
            self.answers.insert("get_selective_metagraph", subnet.columns());
            self.answers.insert("get_neurons_lite", subnet.rows());
            self.storage = subnet.storage();
        }
    }

    fn answer(&mut self, method: &str, params: &Value) -> Answer {
        if let Some((_, code)) = self.faults.errs.filter(|(erring, _)| *erring == method) {
            return Err((code, "out of order".to_owned(), Value::Null));
        }
        if let Some(lie) = self.faults.lies.get(method) {
            return Ok(lie.clone());
        }
        let block = |place: usize| match params[place].as_str() {
            None => Ok(self.head()),
            Some(hash) => {
                let hash = hex::decode(hash.trim_start_matches("0x")).unwrap();
                let found = self.blocks.iter().position(|block| block.hash[..] == hash);
                found.map(|found| found as u64).ok_or((4_003, "Client error: UnknownBlock".to_owned(), Value::Null))
            }
        };
        match method {
            "system_chain" => Ok("Bittensor".into()),
            "rpc_methods" => Ok(json!({"methods": METHODS})),
            "chain_getBlockHash" | "chain_getHead" => {
                let number = params[0].as_u64().unwrap_or(self.head());
                Ok(self.blocks.get(number as usize).map_or(Value::Null, |block| hex(block.hash)))
            }
            "chain_getFinalizedHead" => Ok(hex(self.blocks[self.final_block() as usize].hash)),
            "chain_getHeader" => Ok(self.header(block(0)?)),
            "chain_getBlock" => {
                let number = block(0)?;
                let extrinsics: Vec<_> = self.blocks[number as usize].extrinsics.iter().map(hex).collect();
                Ok(json!({"block": {"header": self.header(number), "extrinsics": extrinsics}, "justifications": null}))
            }
            "state_getRuntimeVersion" => {
                let runtime = self.runtime(block(0)?);
                Ok(json!({"specName": "node-subtensor", "implName": "node-subtensor", "authoringVersion": 1,
                    "specVersion": runtime.spec_version, "implVersion": 1, "apis": [], "transactionVersion": 1}))
            }
            "state_call" => self.call(params[0].as_str().unwrap(), params[1].as_str().unwrap(), block(2)?),
            "state_getMetadata" => Ok(hex(&self.runtime(block(0)?).bytes)),
            "state_getStorage" | "state_getStorageAt" => {
                let number = block(1)?;
                let runtime = self.runtime(number);
                let none: Vec<u64> = Vec::new();
                let events = encode_storage_key("System", "Events", none, &runtime.metadata, runtime.metadata.types());
                if params[0] == hex(events.unwrap()) {
                    return Ok(hex(&self.blocks[number as usize].events));
                }
                // Of the time, too, nothing: this chain does not keep it.
                let known = self.stored(&runtime);
                Ok(params[0].as_str().and_then(|key| known.get(key)).map_or(Value::Null, |value| json!(value)))
            }
            "state_getKeysPaged" => {
                let (prefix, count) = (params[0].as_str().unwrap(), params[1].as_u64().unwrap());
                let after = params[2].as_str().unwrap_or_default();
                let known = self.stored(&self.runtime(block(3)?));
                let keys = known.into_keys().filter(|key| key.starts_with(prefix) && key.as_str() > after);
                Ok(keys.take(count as usize).collect())
            }
            "state_queryStorageAt" => {
                let number = block(1)?;
                let known = self.stored(&self.runtime(number));
                let keys = params[0].as_array().unwrap();
                let changes: Vec<_> = keys.iter().map(|key| json!([key, known.get(key.as_str().unwrap())])).collect();
                Ok(json!([{"block": hex(self.blocks[number as usize].hash), "changes": changes}]))
            }
            "system_accountNextIndex" => {
                let hotkey = openvalidators_keys::ss58::decode(params[0].as_str().unwrap()).unwrap();
                Ok(self.nonces.get(&hotkey.0).copied().unwrap_or_default().into())
            }
            "author_submitExtrinsic" => self.submit(params[0].as_str().unwrap()),
            _ => Err((-32_601, "Method not found".to_owned(), Value::Null)),
        }
    }

    fn header(&self, number: u64) -> Value {
        let block = &self.blocks[number as usize];
        let zeros = hex([0; 32]);
        json!({"parentHash": hex(block.parent), "number": format!("{number:#x}"), "stateRoot": zeros,
            "extrinsicsRoot": zeros, "digest": {"logs": []}})
    }

    fn call(&self, function: &str, arguments: &str, block: u64) -> Answer {
        let runtime = self.runtime(block);
        if function == "Metadata_metadata_at_version" {
            let wanted = hex::decode(&arguments[2..]).unwrap();
            return Ok(hex(runtime.metadata_of_version(wanted[0]).encode()));
        }
        let apis = runtime.metadata.runtime_api_traits();
        let found = apis.into_iter().find_map(|api| {
            let method = function.strip_prefix(api.name())?.strip_prefix('_')?;
            api.method_by_name(method)
        });
        let Some(method) = found else { return Err((4_003, format!("no function {function}"), Value::Null)) };
        // Both functions of metagraphs begin with a netuid; one has no answer for others, one an empty one.
        let is_of = |subnet: &Subnet| arguments[2..].starts_with(&hex::encode(subnet.netuid.to_le_bytes()));
        let elsewhere = self.subnet.as_ref().filter(|subnet| !is_of(subnet)).map(|_| match method.name() {
            "get_selective_metagraph" => Value::Null,
            _ => json!([]),
        });
        let answer = elsewhere.as_ref().or_else(|| self.answers.get(method.name()));
        let answer = answer.unwrap_or_else(|| panic!("no answer for {function}"));
        Ok(hex(encode(answer, method.output_ty(), runtime.metadata.types())))
    }

    /// Everything stored, by its key.
    fn stored(&self, runtime: &Played) -> BTreeMap<String, String> {
        let types = runtime.metadata.types();
        let entry = |(item, keys, value): &(&'static str, Vec<u64>, Value)| {
            let info = runtime.metadata.storage_info(PALLET, item).ok()?;
            let keys: Vec<_> = keys.iter().map(|key| Scale::u128(u128::from(*key))).collect();
            let key = encode_storage_key(PALLET, item, keys, &runtime.metadata, types).unwrap();
            Some((hex(key).as_str()?.to_owned(), hex(encode(value, info.value_id, types)).as_str()?.to_owned()))
        };
        self.storage.iter().filter_map(entry).collect()
    }

    fn submit(&mut self, text: &str) -> Answer {
        if let Some((code, message, data)) = self.faults.refuses.clone() {
            return Err((code, message.to_owned(), data));
        }
        let bytes = hex::decode(&text[2..]).unwrap();
        match self.judge(&bytes) {
            Ok(taken) => {
                if !self.faults.forgets {
                    *self.nonces.entry(taken.signer.0).or_default() += 1;
                    self.pool.push((bytes.clone(), taken.clone()));
                }
                self.taken.push(taken);
                Ok(hex(Blake2b::<U32>::digest(&bytes)))
            }
            Err(reason) => Err((1_010, "Invalid Transaction".to_owned(), reason.into())),
        }
    }

    /// As `UncheckedExtrinsic::check` and the extensions do.
    fn judge(&self, bytes: &[u8]) -> Result<Taken, String> {
        let runtime = self.runtime(self.head());
        let (metadata, types) = (&runtime.metadata, runtime.metadata.types());
        let decoded = decode_extrinsic(&mut &*bytes, metadata, types).map_err(|error| error.to_string())?;
        let part = |range: std::ops::Range<usize>| &bytes[range];
        let signature = decoded.signature_payload().ok_or("unsigned")?;
        // MultiAddress::Id and MultiSignature::Sr25519 are a byte and the rest.
        let (address, signed) = (part(signature.address_range()), part(signature.signature_range()));
        let signer = Hotkey(address[1..].try_into().map_err(|_| "no AccountId")?);
        let signed: [u8; 64] = signed[1..].try_into().map_err(|_| "no sr25519 signature")?;
        let extensions = decoded.transaction_extension_payload().ok_or("no extensions")?;
        let value = |name: &str| {
            let found = extensions.iter().find(|extension| extension.name() == name);
            found.map(|extension| part(extension.range())).unwrap_or_default()
        };
        let era = u16::from_le_bytes(value("CheckMortality").try_into().map_err(|_| "an immortal era")?);
        let period = 2_u64 << (era & 15);
        let phase = u64::from(era >> 4);
        let head = self.head();
        let born = (head.saturating_sub(phase) / period) * period + phase;
        let born_hash = self.blocks.get(born as usize).ok_or("Transaction has an ancient birth block")?.hash;
        let names = metadata.extrinsic().transaction_extensions_to_use_for_encoding();
        let implicit: Vec<u8> = names
            .flat_map(|extension| match extension.identifier() {
                "CheckSpecVersion" => runtime.spec_version.encode(),
                "CheckTxVersion" => 1_u32.encode(),
                "CheckGenesis" => self.genesis.encode(),
                "CheckMortality" => born_hash.encode(),
                "CheckMetadataHash" => vec![0],
                _ => Vec::new(),
            })
            .collect();
        let mut payload = [part(decoded.call_data_range()), part(extensions.range()), &implicit].concat();
        if payload.len() > 256 {
            payload = Blake2b::<U32>::digest(&payload).to_vec();
        }
        if !verify(&signer, &payload, &signed) {
            return Err("Transaction has a bad signature".to_owned());
        }
        let nonce = parity_scale_codec::Compact::<u64>::decode(&mut value("CheckNonce")).unwrap().0;
        if nonce != self.nonces.get(&signer.0).copied().unwrap_or_default() {
            return Err("Transaction is outdated".to_owned());
        }
        let argument = |argument: &frame_decode::extrinsics::NamedArg<'_, u32>| {
            let value = decode_as_type(&mut part(argument.range()), *argument.ty(), types).unwrap();
            (argument.name().to_owned(), value.remove_context())
        };
        let arguments = decoded.call_data().map(argument).collect();
        Ok(Taken { call: decoded.call_name().to_owned(), arguments, signer, nonce })
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> Value {
    format!("0x{}", hex::encode(bytes)).into()
}
