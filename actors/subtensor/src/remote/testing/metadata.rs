//! Two runtimes of one invented chain: the shapes of subtensor's, at two of its ages, small enough to be written down.
//! Between them lies everything an upgrade may change: indices, fields, calls, extensions, the epoch rule.
//!
//! Recorded metadata of the real chain is read where a directory of it is named (`recorded.rs`).

// Only their types are used.
#![allow(dead_code, non_camel_case_types, clippy::enum_variant_names)]

use frame_metadata::{
    RuntimeMetadataPrefixed,
    v15::{
        CustomMetadata, ExtrinsicMetadata, OuterEnums, PalletCallMetadata, PalletErrorMetadata, PalletEventMetadata,
        PalletMetadata, PalletStorageMetadata, RuntimeApiMetadata, RuntimeApiMethodMetadata,
        RuntimeApiMethodParamMetadata, RuntimeMetadataV15, SignedExtensionMetadata, StorageEntryMetadata,
        StorageEntryModifier, StorageEntryType, StorageHasher,
    },
};
use parity_scale_codec::{Compact, Encode};
use scale_info::{
    MetaType, Path, Type, TypeInfo,
    build::{Fields, Variants},
    meta_type,
};

/// Like mainnet's before its metagraph functions: rows of neurons, the modulo rule, no mechanisms.
pub(crate) const OLD_SPEC: u32 = 200;
/// Like mainnet's in 2026: columns to choose from, recorded epochs, mechanisms, timelocked commits.
pub(crate) const NEW_SPEC: u32 = 425;

#[derive(TypeInfo)]
struct AccountId32([u8; 32]);

#[derive(TypeInfo)]
enum MultiAddress {
    Id(AccountId32),
    Raw(Vec<u8>),
}

#[derive(TypeInfo)]
enum MultiSignature {
    Ed25519([u8; 64]),
    Sr25519([u8; 64]),
}

#[derive(TypeInfo)]
struct AxonInfo {
    block: u64,
    version: u32,
    ip: u128,
    port: u16,
    ip_type: u8,
    protocol: u8,
    placeholder1: u8,
    placeholder2: u8,
}

#[derive(TypeInfo)]
struct ModuleError {
    index: u8,
    error: [u8; 4],
}

#[derive(TypeInfo)]
enum TokenError {
    FundsUnavailable,
}

#[derive(TypeInfo)]
enum DispatchError {
    Other,
    BadOrigin,
    Module(ModuleError),
    Token(TokenError),
}

#[derive(TypeInfo)]
enum SystemEvent {
    ExtrinsicSuccess { dispatch_info: u64 },
    ExtrinsicFailed { dispatch_error: DispatchError, dispatch_info: u64 },
    CodeUpdated,
}

#[derive(TypeInfo)]
enum Phase {
    ApplyExtrinsic(u32),
    Finalization,
    Initialization,
}

#[derive(TypeInfo)]
struct EventRecord<Event: TypeInfo + 'static> {
    phase: Phase,
    event: Event,
    topics: Vec<[u8; 32]>,
}

#[derive(TypeInfo)]
enum Mode {
    Disabled,
    Enabled,
}

/// As the Polkadot SDK describes it: 255 variants for what are two bytes.
struct Era;
#[derive(TypeInfo)]
struct CheckMortality(Era);
#[derive(TypeInfo)]
struct CheckNonce(Compact<u32>);
#[derive(TypeInfo)]
struct ChargeTransactionPayment(Compact<u64>);
#[derive(TypeInfo)]
struct CheckMetadataHash {
    mode: Mode,
}
#[derive(TypeInfo)]
struct NoData;

impl TypeInfo for Era {
    type Identity = Self;

    fn type_info() -> Type {
        let immortal = Variants::new().variant("Immortal", |variant| variant.index(0));
        let variants = (1..=255_u8).fold(immortal, |variants, index| {
            let name: &'static str = Box::leak(format!("Mortal{index}").into_boxed_str());
            variants
                .variant(name, |variant| variant.index(index).fields(Fields::unnamed().field(|field| field.ty::<u8>())))
        });
        let path = Path::from_segments(["sp_runtime", "generic", "era", "Era"]).unwrap();
        Type::builder().path(path).variant(variants)
    }
}

mod old {
    use super::*;

    #[derive(TypeInfo)]
    pub(super) enum Call {
        #[codec(index = 0)]
        set_weights { netuid: u16, dests: Vec<u16>, weights: Vec<u16>, version_key: u64 },
        #[codec(index = 4)]
        serve_axon {
            netuid: u16,
            version: u32,
            ip: u128,
            port: u16,
            ip_type: u8,
            protocol: u8,
            placeholder1: u8,
            placeholder2: u8,
        },
        #[codec(index = 96)]
        commit_weights { netuid: u16, commit_hash: [u8; 32] },
        #[codec(index = 97)]
        reveal_weights { netuid: u16, uids: Vec<u16>, values: Vec<u16>, salt: Vec<u16>, version_key: u64 },
    }

    #[derive(TypeInfo)]
    pub(super) enum RuntimeCall {
        #[codec(index = 7)]
        SubtensorModule(Call),
    }

    #[derive(TypeInfo)]
    pub(super) enum Event {
        WeightsSet(u16, u16),
    }

    #[derive(TypeInfo)]
    pub(super) enum RuntimeEvent {
        System(SystemEvent),
        #[codec(index = 7)]
        SubtensorModule(Event),
    }

    #[derive(TypeInfo)]
    pub(super) enum Error {
        NeuronNoValidatorPermit,
        SettingWeightsTooFast,
        NoWeightsCommitFound,
        InvalidRevealCommitHashNotMatch,
        ExpiredWeightCommit,
        RevealTooEarly,
    }

    #[derive(TypeInfo)]
    pub(super) struct NeuronInfoLite {
        hotkey: AccountId32,
        coldkey: AccountId32,
        uid: Compact<u16>,
        active: bool,
        axon_info: AxonInfo,
        stake: Vec<(AccountId32, Compact<u64>)>,
        emission: Compact<u64>,
        incentive: Compact<u16>,
        consensus: Compact<u16>,
        validator_trust: Compact<u16>,
        dividends: Compact<u16>,
        last_update: Compact<u64>,
        validator_permit: bool,
    }
}

mod new {
    use super::*;

    /// A type of its own for what was a plain number.
    #[derive(TypeInfo)]
    pub(super) struct NetUid(u16);

    #[derive(TypeInfo)]
    pub(super) enum Call {
        #[codec(index = 1)]
        set_weights { netuid: NetUid, dests: Vec<u16>, weights: Vec<u16>, version_key: u64 },
        #[codec(index = 5)]
        serve_axon {
            netuid: NetUid,
            version: u32,
            ip: u128,
            port: u16,
            ip_type: u8,
            protocol: u8,
            placeholder1: u8,
            placeholder2: u8,
        },
        #[codec(index = 119)]
        set_mechanism_weights { netuid: NetUid, mecid: u8, dests: Vec<u16>, weights: Vec<u16>, version_key: u64 },
        #[codec(index = 115)]
        commit_mechanism_weights { netuid: NetUid, mecid: u8, commit_hash: [u8; 32] },
        #[codec(index = 118)]
        commit_timelocked_mechanism_weights {
            netuid: NetUid,
            mecid: u8,
            commit: Vec<u8>,
            reveal_round: u64,
            commit_reveal_version: u16,
        },
    }

    #[derive(TypeInfo)]
    pub(super) enum RuntimeCall {
        #[codec(index = 9)]
        SubtensorModule(Call),
    }

    #[derive(TypeInfo)]
    pub(super) enum Event {
        SomethingElse,
        WeightsSet(NetUid, u16),
    }

    #[derive(TypeInfo)]
    pub(super) enum RuntimeEvent {
        System(SystemEvent),
        #[codec(index = 9)]
        SubtensorModule(Event),
    }

    #[derive(TypeInfo)]
    pub(super) enum Error {
        SomethingElse,
        SettingWeightsTooFast,
        NeuronNoValidatorPermit,
    }

    #[derive(TypeInfo)]
    pub(super) struct SelectiveMetagraph {
        netuid: Compact<u16>,
        name: Option<Vec<Compact<u8>>>,
        owner_hotkey: Option<AccountId32>,
        hotkeys: Option<Vec<AccountId32>>,
        coldkeys: Option<Vec<AccountId32>>,
        axons: Option<Vec<AxonInfo>>,
        active: Option<Vec<bool>>,
        validator_permit: Option<Vec<bool>>,
        last_update: Option<Vec<Compact<u64>>>,
        emission: Option<Vec<Compact<u64>>>,
        dividends: Option<Vec<Compact<u16>>>,
        incentives: Option<Vec<Compact<u16>>>,
        consensus: Option<Vec<Compact<u16>>>,
        trust: Option<Vec<Compact<u16>>>,
        rank: Option<Vec<Compact<u16>>>,
        block_at_registration: Option<Vec<Compact<u64>>>,
        total_stake: Option<Vec<Compact<u64>>>,
    }
}

/// Storage of both ages, and the newer one's.
fn storage(new: bool) -> Vec<StorageEntryMetadata> {
    let netuid = || if new { meta_type::<new::NetUid>() } else { meta_type::<u16>() };
    let map = |name, hashers, key, value, default| {
        entry(name, StorageEntryType::Map { hashers, key, value }, StorageEntryModifier::Default, default)
    };
    let by_netuid = |name, value, default| map(name, vec![StorageHasher::Identity], netuid(), value, default);
    let mut items = vec![
        by_netuid("Tempo", meta_type::<u16>(), 360_u16.encode()),
        by_netuid("MinAllowedWeights", meta_type::<u16>(), 1_024_u16.encode()),
        by_netuid("WeightsSetRateLimit", meta_type::<u64>(), 100_u64.encode()),
        by_netuid("WeightsVersionKey", meta_type::<u64>(), 0_u64.encode()),
        by_netuid("CommitRevealWeightsEnabled", meta_type::<bool>(), true.encode()),
        by_netuid("SubnetOwnerHotkey", meta_type::<AccountId32>(), [0_u8; 32].encode()),
        by_netuid("BlocksSinceLastStep", meta_type::<u64>(), 0_u64.encode()),
        map("RevealPeriodEpochs", vec![StorageHasher::Twox64Concat], netuid(), meta_type::<u64>(), 1_u64.encode()),
        by_netuid("ValidatorTrust", meta_type::<Vec<u16>>(), vec![0]),
        map(
            "Weights",
            vec![StorageHasher::Identity, StorageHasher::Identity],
            meta_type::<(u16, u16)>(),
            meta_type::<Vec<(u16, u16)>>(),
            vec![0],
        ),
        map(
            "BlockAtRegistration",
            vec![StorageHasher::Identity, StorageHasher::Identity],
            meta_type::<(u16, u16)>(),
            meta_type::<u64>(),
            0_u64.encode(),
        ),
        by_netuid("ActivityCutoff", meta_type::<u16>(), 5_000_u16.encode()),
        plain("StakeThreshold", meta_type::<u64>(), 0_u64.encode()),
    ];
    if new {
        items.push(by_netuid("LastEpochBlock", meta_type::<u64>(), 0_u64.encode()));
        items.push(by_netuid("SubnetEpochIndex", meta_type::<u64>(), 0_u64.encode()));
        items.push(by_netuid("PendingEpochAt", meta_type::<u64>(), 0_u64.encode()));
        items.push(by_netuid("ActivityCutoffFactorMilli", meta_type::<u32>(), 13_889_u32.encode()));
        items.push(plain("CommitRevealWeightsVersion", meta_type::<u16>(), 4_u16.encode()));
    } else {
        items.push(by_netuid("MaxWeightsLimit", meta_type::<u16>(), 1_000_u16.encode()));
    }
    items
}

/// The older runtime, as a node sends it.
pub(crate) fn old() -> Vec<u8> {
    let api = api(
        "NeuronInfoRuntimeApi",
        "get_neurons_lite",
        &[("netuid", meta_type::<u16>())],
        meta_type::<Vec<old::NeuronInfoLite>>(),
    );
    let fees = vec![extension("ChargeTransactionPayment", meta_type::<ChargeTransactionPayment>(), meta_type::<()>())];
    encode(
        pallets::<old::Call, old::Event, old::Error, EventRecord<old::RuntimeEvent>>(7, storage(false)),
        meta_type::<old::RuntimeCall>(),
        meta_type::<old::RuntimeEvent>(),
        fees,
        vec![api],
    )
}

/// The newer runtime, as a node sends it.
pub(crate) fn new() -> Vec<u8> {
    let api = api(
        "SubnetInfoRuntimeApi",
        "get_selective_metagraph",
        &[("netuid", meta_type::<new::NetUid>()), ("metagraph_indexes", meta_type::<Vec<u16>>())],
        meta_type::<Option<new::SelectiveMetagraph>>(),
    );
    let fees = vec![
        extension("ChargeTransactionPaymentWrapper", meta_type::<ChargeTransactionPayment>(), meta_type::<()>()),
        extension("CheckShieldedTxValidity", meta_type::<NoData>(), meta_type::<()>()),
    ];
    encode(
        pallets::<new::Call, new::Event, new::Error, EventRecord<new::RuntimeEvent>>(9, storage(true)),
        meta_type::<new::RuntimeCall>(),
        meta_type::<new::RuntimeEvent>(),
        fees,
        vec![api],
    )
}

/// A chain that is not subtensor.
pub(crate) fn foreign() -> Vec<u8> {
    let mut pallets = pallets::<old::Call, old::Event, old::Error, EventRecord<old::RuntimeEvent>>(7, Vec::new());
    pallets.retain(|pallet| pallet.name == "System");
    encode(pallets, meta_type::<old::RuntimeCall>(), meta_type::<old::RuntimeEvent>(), Vec::new(), Vec::new())
}

fn pallets<Call, Event, Error, Record>(index: u8, storage: Vec<StorageEntryMetadata>) -> Vec<PalletMetadata>
where
    Call: TypeInfo + 'static,
    Event: TypeInfo + 'static,
    Error: TypeInfo + 'static,
    Record: TypeInfo + 'static,
{
    let events = plain("Events", meta_type::<Vec<Record>>(), vec![0]);
    vec![
        PalletMetadata {
            name: "System",
            storage: Some(PalletStorageMetadata { prefix: "System", entries: vec![events] }),
            calls: None,
            event: Some(PalletEventMetadata { ty: meta_type::<SystemEvent>() }),
            constants: Vec::new(),
            error: None,
            index: 0,
            docs: Vec::new(),
        },
        PalletMetadata {
            name: "SubtensorModule",
            storage: Some(PalletStorageMetadata { prefix: "SubtensorModule", entries: storage }),
            calls: Some(PalletCallMetadata { ty: meta_type::<Call>() }),
            event: Some(PalletEventMetadata { ty: meta_type::<Event>() }),
            constants: Vec::new(),
            error: Some(PalletErrorMetadata { ty: meta_type::<Error>() }),
            index,
            docs: Vec::new(),
        },
    ]
}

fn encode(
    pallets: Vec<PalletMetadata>,
    call: MetaType,
    event: MetaType,
    fees: Vec<SignedExtensionMetadata>,
    apis: Vec<RuntimeApiMetadata>,
) -> Vec<u8> {
    let none = meta_type::<()>;
    let mut signed_extensions = vec![
        extension("CheckNonZeroSender", meta_type::<NoData>(), none()),
        extension("CheckSpecVersion", meta_type::<NoData>(), meta_type::<u32>()),
        extension("CheckTxVersion", meta_type::<NoData>(), meta_type::<u32>()),
        extension("CheckGenesis", meta_type::<NoData>(), meta_type::<[u8; 32]>()),
        extension("CheckMortality", meta_type::<CheckMortality>(), meta_type::<[u8; 32]>()),
        extension("CheckNonce", meta_type::<CheckNonce>(), none()),
        extension("CheckWeight", meta_type::<NoData>(), none()),
    ];
    signed_extensions.extend(fees);
    signed_extensions.push(extension(
        "CheckMetadataHash",
        meta_type::<CheckMetadataHash>(),
        meta_type::<Option<[u8; 32]>>(),
    ));
    let extrinsic = ExtrinsicMetadata {
        version: 4,
        address_ty: meta_type::<MultiAddress>(),
        call_ty: call,
        signature_ty: meta_type::<MultiSignature>(),
        extra_ty: none(),
        signed_extensions,
    };
    let enums = OuterEnums { call_enum_ty: call, event_enum_ty: event, error_enum_ty: meta_type::<DispatchError>() };
    let custom = CustomMetadata { map: std::collections::BTreeMap::new() };
    RuntimeMetadataPrefixed::from(RuntimeMetadataV15::new(pallets, extrinsic, none(), apis, enums, custom)).encode()
}

fn extension(identifier: &'static str, ty: MetaType, additional_signed: MetaType) -> SignedExtensionMetadata {
    SignedExtensionMetadata { identifier, ty, additional_signed }
}

fn api(
    name: &'static str,
    method: &'static str,
    inputs: &[(&'static str, MetaType)],
    output: MetaType,
) -> RuntimeApiMetadata {
    let inputs = inputs.iter().map(|(name, ty)| RuntimeApiMethodParamMetadata { name: *name, ty: *ty }).collect();
    let method = RuntimeApiMethodMetadata { name: method, inputs, output, docs: Vec::new() };
    RuntimeApiMetadata { name, methods: vec![method], docs: Vec::new() }
}

fn plain(name: &'static str, value: MetaType, default: Vec<u8>) -> StorageEntryMetadata {
    entry(name, StorageEntryType::Plain(value), StorageEntryModifier::Default, default)
}

fn entry(
    name: &'static str,
    ty: StorageEntryType,
    modifier: StorageEntryModifier,
    default: Vec<u8>,
) -> StorageEntryMetadata {
    StorageEntryMetadata { name, modifier, ty, default, docs: Vec::new() }
}
