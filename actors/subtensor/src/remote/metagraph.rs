//! The subnet at one block: columns of the runtime's own metagraph, and the rules from storage.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use openvalidators_messages::{
    Axon, Block, Hotkey, Hyperparameters, Metagraph, Netuid, Neuron, Uid, subtensor::ChainError,
};
use scale_decode::DecodeAsType;
use scale_info::{PortableRegistry, TypeDef};
use scale_value::Value;

use super::{
    epoch::{EpochPosition, by_modulo},
    runtime::{Item, Runtime},
    scale::{Fields, Unreadable, elements, some},
    state::{Items, State, unreadable},
    weights::commits_by_hash,
};
use crate::commit_reveal::Mechanism;

/// Most neurons of a subnet that are believed; the largest real ones have 1,024 (root aside).
pub(crate) const MAX_NEURONS: usize = 4_096;
/// Rao in a TAO, and in a unit of total stake.
const RAO_PER_TAO: f64 = 1e9;
/// The pallet's own, for a runtime that does not tell.
const ACTIVITY_CUTOFF: u64 = 5_000;
/// The whole, in the chain's 16-bit shares.
const U16_WHOLE: f64 = 65_535.0;

/// The columns that are used, by the field names of the runtime's `SelectiveMetagraph`. `rank` and `trust` are not: newer
/// runtimes leave them empty.
const COLUMNS: [&str; 13] = [
    "owner_hotkey",
    "hotkeys",
    "coldkeys",
    "axons",
    "active",
    "validator_permit",
    "last_update",
    "emission",
    "dividends",
    "incentives",
    "consensus",
    "block_at_registration",
    "total_stake",
];

/// Neurons before their rules: what the runtime's functions tell.
struct Members {
    neurons: Vec<Neuron>,
    owner: Option<Hotkey>,
}

/// Reads everything at the state's block.
pub(crate) async fn read(state: &State<'_>, mechanism: Mechanism) -> Result<Metagraph, ChainError> {
    const CALL: &str = "metagraph";
    let netuid = mechanism.netuid;
    let members = members(state, mechanism).await?;
    let subnet = [number(u64::from(netuid.0))];
    let indexed = [number(u64::from(mechanism.storage_index()))];
    let mut asked: Vec<Item<'_>> = [
        "Tempo",
        "MinAllowedWeights",
        "MaxWeightsLimit",
        "WeightsSetRateLimit",
        "WeightsVersionKey",
        "CommitRevealWeightsEnabled",
        "RevealPeriodEpochs",
        "ActivityCutoffFactorMilli",
        "ActivityCutoff",
        "SubnetOwnerHotkey",
        "LastEpochBlock",
        "SubnetEpochIndex",
    ]
    .into_iter()
    .map(|name| Item { name, keys: &subnet })
    .collect();
    asked.push(Item { name: "StakeThreshold", keys: &[] });
    asked.push(Item { name: "ValidatorTrust", keys: &indexed });
    asked.retain(|item| state.runtime.has_item(item.name));
    let items = state.items(&asked).await?;
    assemble(state, netuid, members, &items).map_err(|error| unreadable(CALL, error))
}

fn assemble(state: &State<'_>, netuid: Netuid, members: Members, items: &Items<'_>) -> Result<Metagraph, Unreadable> {
    let tempo = u64::from(items.get::<u16>("Tempo")?);
    let EpochPosition { last_epoch_block, epoch_index } = epoch_position(items, netuid, tempo, state.block)?;
    let commit_reveal = items.find("CommitRevealWeightsEnabled")?.unwrap_or_default();
    let hyperparameters = Hyperparameters {
        tempo,
        min_allowed_weights: items.get("MinAllowedWeights")?,
        // Newer runtimes have no such limit: it is the whole.
        max_weight_limit: items.find::<u16>("MaxWeightsLimit")?.map_or(1.0, share),
        weights_rate_limit: items.get("WeightsSetRateLimit")?,
        weights_version_key: items.get("WeightsVersionKey")?,
        commit_reveal,
        commit_by_hash: commit_reveal && commits_by_hash(&state.runtime),
        reveal_period_epochs: items.find("RevealPeriodEpochs")?.unwrap_or_default(),
        activity_cutoff: activity_cutoff(items, tempo)?,
        stake_threshold: tao(items.find::<u64>("StakeThreshold")?.unwrap_or_default()),
    };
    let Members { mut neurons, owner } = members;
    let trust: Vec<u16> = items.find("ValidatorTrust")?.unwrap_or_default();
    if trust.len() > MAX_NEURONS {
        return Err(Unreadable(format!("`ValidatorTrust` has {} entries", trust.len())));
    }
    for (neuron, trust) in neurons.iter_mut().zip(trust) {
        neuron.validator_trust = share(trust);
    }
    let owner = owner.or(items.find::<[u8; 32]>("SubnetOwnerHotkey")?.map(Hotkey));
    let owner_uid = neurons.iter().find(|neuron| Some(neuron.hotkey) == owner).map(|neuron| neuron.uid);
    let block = Block(state.block);
    Ok(Metagraph { netuid, block, last_epoch_block, epoch_index, hyperparameters, owner_uid, neurons })
}

/// In thousandths of the tempo where the runtime counts so (`get_activity_cutoff_blocks` of the pallet, 2026); the number of
/// blocks beside it means nothing any more then.
fn activity_cutoff(items: &Items<'_>, tempo: u64) -> Result<u64, Unreadable> {
    if let Some(factor) = items.find::<u32>("ActivityCutoffFactorMilli")? {
        return Ok((u64::from(factor).saturating_mul(tempo) / 1_000).max(1));
    }
    Ok(items.find::<u16>("ActivityCutoff")?.map_or(ACTIVITY_CUTOFF, u64::from))
}

/// By the runtime's own record where it keeps one.
pub(crate) fn epoch_position(
    items: &Items<'_>,
    netuid: Netuid,
    tempo: u64,
    block: u64,
) -> Result<EpochPosition, Unreadable> {
    let Some(last) = items.find::<u64>("LastEpochBlock")? else { return Ok(by_modulo(netuid, tempo, block)) };
    let index = items.find::<u64>("SubnetEpochIndex")?;
    Ok(EpochPosition {
        last_epoch_block: Block(last),
        epoch_index: index.unwrap_or_else(|| by_modulo(netuid, tempo, block).epoch_index),
    })
}

/// From the first function that this runtime has.
async fn members(state: &State<'_>, mechanism: Mechanism) -> Result<Members, ChainError> {
    const API: &str = "SubnetInfoRuntimeApi";
    let (runtime, netuid) = (&state.runtime, mechanism.netuid);
    let mut inputs = vec![number(u64::from(netuid.0))];
    let (selective, full) = if mechanism.index == 0 {
        ("get_selective_metagraph", "get_metagraph")
    } else {
        inputs.push(number(u64::from(mechanism.index)));
        ("get_selective_mechagraph", "get_mechagraph")
    };
    for (method, is_selective) in [(selective, true), (full, false)] {
        if !runtime.has_api(API, method) {
            continue;
        }
        let mut inputs = inputs.clone();
        if is_selective {
            inputs.push(Value::unnamed_composite(column_indices(runtime, API, method).into_iter().map(number)));
        }
        let (answer, ty) = state.call(API, method, inputs).await?;
        let types = runtime.metadata().types();
        let read = some(&answer, ty, types).and_then(|found| {
            let (bytes, ty) = found.ok_or_else(|| no_subnet(mechanism))?;
            columns(&Fields::of(bytes, ty, types)?, types)
        });
        return read.map_err(|error| unreadable(method, error));
    }
    let (api, method) = ("NeuronInfoRuntimeApi", "get_neurons_lite");
    if mechanism.index != 0 || !runtime.has_api(api, method) {
        let reason = format!("this runtime (spec {}) has no function that gives a metagraph", runtime.spec_version);
        return Err(unreadable("metagraph", Unreadable(reason)));
    }
    lite(state, netuid, api, method, inputs).await
}

fn no_subnet(Mechanism { netuid, index }: Mechanism) -> Unreadable {
    Unreadable(format!("the chain has no subnet {netuid} with a mechanism {index}: check chain.netuid"))
}

/// The runtime numbers the columns that can be selected as its struct orders them.
fn column_indices(runtime: &Runtime, api: &str, method: &str) -> Vec<u64> {
    let types = runtime.metadata().types();
    let output = runtime.metadata().runtime_api_trait_by_name(api).and_then(|api| api.method_by_name(method));
    let option = output.and_then(|method| types.resolve(method.output_ty()));
    let inner = option.and_then(|option| option.type_params.first()?.ty).and_then(|ty| types.resolve(ty.id));
    let Some(TypeDef::Composite(metagraph)) = inner.map(|ty| &ty.type_def) else { return Vec::new() };
    let used = |name: &Option<String>| name.as_deref().is_some_and(|name| COLUMNS.contains(&name));
    (0_u64..).zip(&metagraph.fields).filter(|(_, field)| used(&field.name)).map(|(index, _)| index).collect()
}

/// One neuron for each hotkey; a column of another length is refused.
fn columns(metagraph: &Fields<'_>, types: &PortableRegistry) -> Result<Members, Unreadable> {
    let hotkeys: Vec<[u8; 32]> = column(metagraph, "hotkeys", None)?;
    let n = Some(hotkeys.len());
    let (axons, ty) = metagraph.raw("axons")?;
    let (axons, ty) = some(axons, ty, types)?.ok_or_else(|| Unreadable("`axons` is left out".to_owned()))?;
    let (axon_type, axons) = elements(axons, ty, types, MAX_NEURONS)?;
    same_length("axons", axons.len(), n)?;
    // Runtimes may lack them, and nodes leave them out: nothing that must be known depends on them.
    let is_told =
        metagraph.raw("coldkeys").is_ok_and(|(bytes, ty)| some(bytes, ty, types).is_ok_and(|told| told.is_some()));
    let coldkeys: Option<Vec<[u8; 32]>> = is_told.then(|| column(metagraph, "coldkeys", n)).transpose()?;
    let stakes: Vec<u64> = column(metagraph, "total_stake", n)?;
    let permits: Vec<bool> = column(metagraph, "validator_permit", n)?;
    let active: Vec<bool> = column(metagraph, "active", n)?;
    let updates: Vec<u64> = column(metagraph, "last_update", n)?;
    let registered: Vec<u64> = column(metagraph, "block_at_registration", n)?;
    let incentives: Vec<u16> = column(metagraph, "incentives", n)?;
    let consensus: Vec<u16> = column(metagraph, "consensus", n)?;
    let dividends: Vec<u16> = column(metagraph, "dividends", n)?;
    let emission: Vec<u64> = column(metagraph, "emission", n)?;
    let neuron = |(uid, hotkey): (usize, &[u8; 32])| {
        Ok(Neuron {
            uid: uid_of(uid)?,
            hotkey: Hotkey(*hotkey),
            coldkey: coldkeys.as_ref().map(|coldkeys| Hotkey(coldkeys[uid])),
            axon: axon(&Fields::of(axons[uid], axon_type, types)?)?,
            stake: tao(stakes[uid]),
            validator_permit: permits[uid],
            active: active[uid],
            last_update: Block(updates[uid]),
            registered_at: Block(registered[uid]),
            incentive: share(incentives[uid]),
            consensus: share(consensus[uid]),
            dividends: share(dividends[uid]),
            validator_trust: 0.0,
            emission: emission[uid],
        })
    };
    let neurons = hotkeys.iter().enumerate().map(neuron).collect::<Result<_, Unreadable>>()?;
    Ok(Members { neurons, owner: metagraph.get("owner_hotkey").ok().map(Hotkey) })
}

fn column<T: DecodeAsType>(metagraph: &Fields<'_>, name: &str, n: Option<usize>) -> Result<Vec<T>, Unreadable> {
    let column: Vec<T> = metagraph.get(name)?;
    same_length(name, column.len(), n)?;
    Ok(column)
}

fn same_length(name: &str, found: usize, n: Option<usize>) -> Result<(), Unreadable> {
    if found > MAX_NEURONS || n.is_some_and(|n| n != found) {
        let n = n.map_or_else(|| format!("at most {MAX_NEURONS}"), |n| n.to_string());
        return Err(Unreadable(format!("`{name}` has {found} entries where {n} were expected")));
    }
    Ok(())
}

/// Rows instead of columns, for runtimes before the metagraph functions. Registration blocks lie in storage.
async fn lite(
    state: &State<'_>,
    netuid: Netuid,
    api: &str,
    method: &str,
    inputs: Vec<Value<()>>,
) -> Result<Members, ChainError> {
    let (answer, ty) = state.call(api, method, inputs).await?;
    let types = state.runtime.metadata().types();
    let untyped = types.resolve(ty).is_some_and(|ty| match &ty.type_def {
        TypeDef::Sequence(bytes) => types.resolve(bytes.type_param.id).is_some_and(|byte| byte.path.is_empty()),
        _ => false,
    });
    if untyped {
        let spec = state.runtime.spec_version;
        let reason =
            format!("runtime {spec} gives neurons as bytes that its metadata does not describe; it is too old");
        return Err(unreadable(method, Unreadable(reason)));
    }
    let rows = || -> Result<Vec<Neuron>, Unreadable> {
        let (row_type, rows) = elements(&answer, ty, types, MAX_NEURONS)?;
        (0..).zip(rows).map(|(place, row)| row_of(place, &Fields::of(row, row_type, types)?, types)).collect()
    };
    let mut neurons = rows().map_err(|error| unreadable(method, error))?;
    let keys: Vec<_> = neurons.iter().map(|row| [u64::from(netuid.0), u64::from(row.uid.0)].map(number)).collect();
    let items: Vec<_> = keys.iter().map(|keys| Item { name: "BlockAtRegistration", keys }).collect();
    let registered = state.items(&items).await?;
    for (place, neuron) in neurons.iter_mut().enumerate() {
        let block = registered.nth::<u64>(place).map_err(|error| unreadable(method, error))?;
        neuron.registered_at = Block(block.unwrap_or_default());
    }
    Ok(Members { neurons, owner: None })
}

fn row_of(place: usize, row: &Fields<'_>, types: &PortableRegistry) -> Result<Neuron, Unreadable> {
    let uid: u16 = row.get("uid")?;
    if usize::from(uid) != place {
        return Err(Unreadable(format!("the neuron at place {place} calls itself uid {uid}")));
    }
    let (axon_info, axon_type) = row.raw("axon_info")?;
    let stakes: Vec<([u8; 32], u64)> = row.get("stake")?;
    Ok(Neuron {
        uid: Uid(uid),
        hotkey: Hotkey(row.get("hotkey")?),
        coldkey: row.has("coldkey").then(|| row.get("coldkey").map(Hotkey)).transpose()?,
        axon: axon(&Fields::of(axon_info, axon_type, types)?)?,
        stake: tao(stakes.iter().fold(0, |sum, (_, stake)| sum.saturating_add(*stake))),
        validator_permit: row.get("validator_permit")?,
        active: row.get("active")?,
        last_update: Block(row.get("last_update")?),
        registered_at: Block(0),
        incentive: share(row.get("incentive")?),
        consensus: share(row.get("consensus")?),
        dividends: share(row.get("dividends")?),
        validator_trust: share(row.get("validator_trust")?),
        emission: row.get("emission")?,
    })
}

/// `None` for a neuron that never served, or whose address is none.
fn axon(info: &Fields<'_>) -> Result<Option<Axon>, Unreadable> {
    let (ip, port, ip_type): (u128, u16, u8) = (info.get("ip")?, info.get("port")?, info.get("ip_type")?);
    let ip = match ip_type {
        6 => Some(IpAddr::V6(Ipv6Addr::from(ip))),
        _ => u32::try_from(ip).ok().map(|ip| IpAddr::V4(Ipv4Addr::from(ip))),
    };
    let served = ip.filter(|ip| !ip.is_unspecified() && port != 0);
    let axon = |ip| {
        Ok(Axon { address: SocketAddr::new(ip, port), protocol: info.get("protocol")?, version: info.get("version")? })
    };
    served.map(axon).transpose()
}

fn uid_of(place: usize) -> Result<Uid, Unreadable> {
    u16::try_from(place).map(Uid).map_err(|_| Unreadable(format!("place {place} is no uid")))
}

pub(crate) fn number(number: u64) -> Value<()> {
    Value::u128(u128::from(number))
}

fn share(of_65535: u16) -> f64 {
    f64::from(of_65535) / U16_WHOLE
}

fn tao(rao: u64) -> f64 {
    rao as f64 / RAO_PER_TAO
}
