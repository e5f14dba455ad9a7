//! The chain's program at one block, as its metadata describes it: names to numbers, values to bytes and back.

use std::sync::Arc;

use frame_decode::{
    runtime_apis::encode_runtime_api_inputs,
    storage::{StorageTypeInfo, encode_storage_key},
};
use openvalidators_messages::subtensor::ChainError;
use parity_scale_codec::{Decode, Encode};
use scale_decode::DecodeAsType;
use scale_value::Value;
use serde::Deserialize;
use subxt_metadata::Metadata;

use super::{
    connection::{Connection, RpcError, bytes, hex},
    scale::{self, Unreadable, Weights},
};

/// The pallet of everything here.
pub(crate) const PALLET: &str = "SubtensorModule";
/// Versions of metadata that are asked for, best first; 14 is what `state_getMetadata` gives.
const METADATA_VERSIONS: [u32; 2] = [16, 15];
/// What nodes say of a function that a runtime does not have.
const ABSENT: &str = "is not found";
/// Runtimes that are kept: the one in use, and the one before it for blocks that are read late.
const KEPT_RUNTIMES: usize = 2;

/// One version of the chain's program.
pub(crate) struct Runtime {
    /// Raised by every upgrade.
    pub(crate) spec_version: u32,
    /// Raised when transactions are built differently.
    pub(crate) transaction_version: u32,
    metadata: Metadata,
    weights: Weights,
}

/// The runtimes that were met.
#[derive(Default)]
pub(crate) struct Runtimes {
    met: tokio::sync::Mutex<Vec<Arc<Runtime>>>,
}

/// A storage item and its keys.
pub(crate) struct Item<'a> {
    pub(crate) name: &'static str,
    pub(crate) keys: &'a [Value<()>],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionAnswer {
    spec_name: String,
    spec_version: u32,
    transaction_version: u32,
}

// === impl Runtimes ===

impl Runtimes {
    /// The runtime whose state is that of this block. Every use asks for the version first, so that an upgrade is
    /// followed with the block that brings it.
    pub(crate) async fn at(&self, connection: &Connection, block: &[u8; 32]) -> Result<Arc<Runtime>, ChainError> {
        let call = "the runtime's version";
        let version: VersionAnswer =
            connection.ask("state_getRuntimeVersion", &[hex(block)]).await.map_err(|error| error.during(call))?;
        let mut met = self.met.lock().await;
        if let Some(runtime) = met.iter().find(|runtime| runtime.spec_version == version.spec_version) {
            return Ok(runtime.clone());
        }
        let bytes = metadata(connection, block).await.map_err(|error| error.during("the runtime's metadata"))?;
        let name = &version.spec_name;
        let runtime = Runtime::new(version.spec_version, version.transaction_version, &bytes).map_err(|error| {
            let reason = format!("runtime {name} {}: {error}", version.spec_version);
            ChainError::BadAnswer { call: "the runtime's metadata".to_owned(), reason }
        })?;
        tracing::info!(spec_version = runtime.spec_version, "met a runtime");
        let runtime = Arc::new(runtime);
        met.insert(0, runtime.clone());
        met.truncate(KEPT_RUNTIMES);
        Ok(runtime)
    }
}

/// The newest version of metadata that the runtime has.
async fn metadata(connection: &Connection, block: &[u8; 32]) -> Result<Vec<u8>, RpcError> {
    for version in METADATA_VERSIONS {
        let params = ["Metadata_metadata_at_version".into(), hex(version.encode()), hex(block)];
        match connection.ask::<String>("state_call", &params).await {
            Ok(answer) => {
                let found = Option::<Vec<u8>>::decode(&mut &*bytes(&answer)?);
                if let Some(metadata) = found.map_err(|error| RpcError::Unreadable(error.to_string()))? {
                    return Ok(metadata);
                }
            }
            // Runtimes before 2023 do not have this function; any other refusal is the node's own trouble.
            Err(RpcError::Refused { message, data, .. })
                if [&message, &data].iter().any(|said| said.contains(ABSENT)) =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    bytes(&connection.ask::<String>("state_getMetadata", &[hex(block)]).await?)
}

// === impl Runtime ===

impl Runtime {
    /// From encoded metadata of any version that is in use.
    pub(crate) fn new(spec_version: u32, transaction_version: u32, metadata: &[u8]) -> Result<Self, Unreadable> {
        // Not `decode_from`: that of subxt-metadata 0.51 calls itself without end on bytes that begin with their own length.
        let metadata = Metadata::decode(&mut &*metadata)
            .map_err(|error| Unreadable(format!("metadata that this version cannot read: {error}")))?;
        if metadata.pallet_by_name(PALLET).is_none() {
            return Err(Unreadable(format!(
                "it has no pallet {PALLET}, so this is not Bittensor's chain: check chain.endpoint"
            )));
        }
        let weights = Weights::of(metadata.types());
        Ok(Self { spec_version, transaction_version, metadata, weights })
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Refuses a type that must not be read.
    pub(crate) fn check_type(&self, type_id: u32) -> Result<(), Unreadable> {
        self.weights.check(type_id)
    }

    /// Whether transactions can name this call.
    pub(crate) fn has_call(&self, call: &str) -> bool {
        self.metadata.pallet_by_name(PALLET).is_some_and(|pallet| pallet.call_variant_by_name(call).is_some())
    }

    /// Whether the state has this item.
    pub(crate) fn has_item(&self, item: &str) -> bool {
        self.metadata.storage_info(PALLET, item).is_ok()
    }

    /// The key of a storage item of the pallet.
    pub(crate) fn storage_key(&self, item: &Item<'_>) -> Result<Vec<u8>, Unreadable> {
        encode_storage_key(PALLET, item.name, item.keys.to_vec(), &self.metadata, self.metadata.types())
            .map_err(|error| Unreadable(format!("{PALLET}.{}: {error}", item.name)))
    }

    /// A stored value, or the item's default where nothing is stored; nothing when it has no default.
    pub(crate) fn stored<T: DecodeAsType>(&self, item: &str, bytes: Option<&[u8]>) -> Result<Option<T>, Unreadable> {
        let wrong = |error: Unreadable| Unreadable(format!("{PALLET}.{item}: {error}"));
        let info = self.metadata.storage_info(PALLET, item).map_err(|error| Unreadable(error.to_string()))?;
        self.check_type(info.value_id).map_err(wrong)?;
        let Some(bytes) = bytes.or(info.default_value.as_deref()) else { return Ok(None) };
        scale::whole(bytes, info.value_id, self.metadata.types()).map(Some).map_err(wrong)
    }

    /// A constant of any pallet, if it is there and of this type.
    pub(crate) fn constant<T: DecodeAsType>(&self, pallet: &str, name: &str) -> Option<T> {
        let constant = self.metadata.pallet_by_name(pallet)?.constant_by_name(name)?;
        self.check_type(constant.ty()).ok()?;
        scale::whole(constant.value(), constant.ty(), self.metadata.types()).ok()
    }

    /// Whether this runtime answers such a call.
    pub(crate) fn has_api(&self, api: &str, method: &str) -> bool {
        self.metadata.runtime_api_trait_by_name(api).is_some_and(|api| api.method_by_name(method).is_some())
    }

    /// The arguments of a runtime call as bytes, and the type of its answer.
    pub(crate) fn api(&self, api: &str, method: &str, inputs: Vec<Value<()>>) -> Result<(Vec<u8>, u32), Unreadable> {
        let wrong = |error: &dyn std::fmt::Display| Unreadable(format!("{api}.{method}: {error}"));
        let inputs = encode_runtime_api_inputs(api, method, inputs, &self.metadata, self.metadata.types())
            .map_err(|error| wrong(&error))?;
        let found = self.metadata.runtime_api_trait_by_name(api).and_then(|api| api.method_by_name(method));
        let output = found.ok_or_else(|| wrong(&"the runtime does not have it"))?.output_ty();
        self.check_type(output).map_err(|error| wrong(&error))?;
        Ok((inputs, output))
    }
}
