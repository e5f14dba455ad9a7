//! Which call sets weights on this subnet, by the chain's own settings at the head.

use openvalidators_messages::{
    Block, Hotkey,
    subtensor::{ChainError, RevealWeights, SetWeights},
};
use openvalidators_runtime::SharedClock;
use rand::{SeedableRng, rngs::StdRng};
use scale_value::Value;

use super::{
    epoch::by_modulo,
    extrinsic::Call,
    metagraph::{epoch_position, number},
    runtime::{Item, Runtime},
    scale::Unreadable,
    state::{Items, State, unreadable},
};
use crate::commit_reveal::{EpochRule, HashReveal, Head, Mechanism, RevealSchedule, TimelockedCommit};

/// Mainnet's time from one block to the next, for runtimes that do not tell theirs.
const BLOCK_SECONDS: f64 = 12.0;
/// A call of one mechanism, and the plain one that means mechanism 0. The first is used where the runtime has it, as the
/// SDK does.
const SET: [&str; 2] = ["set_mechanism_weights", "set_weights"];
const COMMIT_TIMELOCKED: [&str; 2] = ["commit_timelocked_mechanism_weights", "commit_timelocked_weights"];
const COMMIT_HASH: [&str; 2] = ["commit_mechanism_weights", "commit_weights"];
const REVEAL: [&str; 2] = ["reveal_mechanism_weights", "reveal_weights"];

type Arguments = Vec<(&'static str, Value<()>)>;

/// A call to send, and what says when it is revealed if it is a commit.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) call: Call,
    pub(crate) epochs: Option<Epochs>,
}

/// The epochs of a subnet around a commit, as they are at the head.
#[derive(Debug)]
pub(crate) struct Epochs {
    rule: EpochRule,
    tempo: u16,
    /// The one that runs.
    index: u64,
    reveal_period: u64,
}

/// Whether this runtime takes commits as hashes alone.
pub(crate) fn commits_by_hash(runtime: &Runtime) -> bool {
    !COMMIT_TIMELOCKED.iter().any(|call| runtime.has_call(call))
}

/// Weights as they are, or where the subnet wants commits: timelocked, or as a hash where the runtime knows no better.
pub(crate) async fn plan(
    head: &State<'_>,
    mechanism: Mechanism,
    hotkey: Hotkey,
    weights: &SetWeights,
    clock: &SharedClock,
) -> Result<Plan, ChainError> {
    let keys = [number(u64::from(mechanism.netuid.0))];
    let of_subnet = [
        "CommitRevealWeightsEnabled",
        "Tempo",
        "RevealPeriodEpochs",
        "BlocksSinceLastStep",
        "LastEpochBlock",
        "PendingEpochAt",
        "SubnetEpochIndex",
    ];
    let mut items: Vec<_> = of_subnet.map(|name| Item { name, keys: &keys }).into();
    items.push(Item { name: "CommitRevealWeightsVersion", keys: &[] });
    items.retain(|item| head.runtime.has_item(item.name));
    let settings = head.items(&items).await?;
    let make = || {
        if !settings.find::<bool>("CommitRevealWeightsEnabled")?.unwrap_or_default() {
            return Ok(Plan { call: set(&head.runtime, mechanism, weights)?, epochs: None });
        }
        let epochs = Epochs::at(head, &settings, mechanism)?;
        let call = if commits_by_hash(&head.runtime) {
            hashed(&head.runtime, mechanism, hotkey, weights)?
        } else {
            timelocked(head, &settings, &epochs, mechanism, hotkey, weights, clock.unix().as_secs_f64())?
        };
        Ok(Plan { call, epochs: Some(epochs) })
    };
    make().map_err(|error| unreadable("submit_weights", error))
}

pub(crate) fn set(runtime: &Runtime, mechanism: Mechanism, weights: &SetWeights) -> Result<Call, Unreadable> {
    let arguments = vec![
        ("dests", numbers(weights.uids.iter().map(|uid| uid.0))),
        ("weights", numbers(weights.weights.iter().copied())),
        ("version_key", number(weights.version_key)),
    ];
    of_mechanism(runtime, SET, mechanism, arguments)
}

fn hashed(runtime: &Runtime, mechanism: Mechanism, hotkey: Hotkey, weights: &SetWeights) -> Result<Call, Unreadable> {
    let SetWeights { uids, weights, version_key, salt } = weights.clone();
    let salt = salt.ok_or_else(|| {
        Unreadable(format!(
            "the subnet takes commits as hashes alone (spec {}), and nothing was written down to reveal these weights with: \
             they are made anew",
            runtime.spec_version
        ))
    })?;
    let reveal = HashReveal::new(hotkey, mechanism, RevealWeights { uids, weights, version_key, salt });
    commit_hash(runtime, mechanism, reveal.map_err(|error| Unreadable(error.to_string()))?.commit_hash())
}

fn timelocked(
    head: &State<'_>,
    settings: &Items<'_>,
    epochs: &Epochs,
    mechanism: Mechanism,
    hotkey: Hotkey,
    weights: &SetWeights,
    unix_seconds: f64,
) -> Result<Call, Unreadable> {
    let runtime = &head.runtime;
    let wrong = |error: &dyn std::fmt::Display| Unreadable(error.to_string());
    let now = Head { block: Block(head.block), unix_seconds, block_seconds: block_seconds(runtime) };
    let Epochs { rule, tempo, reveal_period, .. } = *epochs;
    let schedule = RevealSchedule { rule, tempo, reveal_period_epochs: reveal_period };
    let point = schedule.reveal_point(&now).map_err(|error| wrong(&error))?;
    let version = settings.find("CommitRevealWeightsVersion")?.unwrap_or(4);
    // Who could repeat this stream could read the weights before their time.
    let mut secret = StdRng::try_from_os_rng().map_err(|error| wrong(&error))?;
    let commit = TimelockedCommit::new(hotkey, weights, version, point.round, &mut secret);
    let commit = commit.map_err(|error| wrong(&error))?;
    commit_timelocked(runtime, mechanism, &commit)
}

// === impl Epochs ===

impl Epochs {
    fn at(head: &State<'_>, settings: &Items<'_>, mechanism: Mechanism) -> Result<Self, Unreadable> {
        let tempo: u16 = settings.get("Tempo")?;
        let reveal_period = settings.find("RevealPeriodEpochs")?.unwrap_or(1);
        let rule = match settings.find::<u64>("LastEpochBlock")? {
            Some(last) => EpochRule::Counted {
                last_epoch: Block(last),
                pending_epoch: Block(settings.find("PendingEpochAt")?.unwrap_or_default()),
                blocks_since_last_step: settings.find("BlocksSinceLastStep")?.unwrap_or_default(),
            },
            None => EpochRule::Modulo { netuid: mechanism.netuid },
        };
        let index = epoch_position(settings, mechanism.netuid, u64::from(tempo), head.block)?.epoch_index;
        Ok(Self { rule, tempo, index, reveal_period })
    }

    /// The epoch that reveals a commit of this block, a few after the head.
    pub(crate) fn reveal_epoch(&self, block: Block) -> u64 {
        let tempo = u64::from(self.tempo);
        let epoch = match self.rule {
            EpochRule::Modulo { netuid } => by_modulo(netuid, tempo, block.0).epoch_index,
            // A commit in a block whose epoch is due counts for the epoch after it.
            EpochRule::Counted { last_epoch, pending_epoch, .. } => {
                let due =
                    block.0.saturating_sub(last_epoch.0) >= tempo || (pending_epoch.0 > 0 && block >= pending_epoch);
                self.index.saturating_add(u64::from(due))
            }
        };
        epoch.saturating_add(self.reveal_period)
    }
}

pub(crate) fn commit_timelocked(
    runtime: &Runtime,
    mechanism: Mechanism,
    commit: &TimelockedCommit,
) -> Result<Call, Unreadable> {
    let arguments = vec![
        ("commit", Value::from_bytes(&commit.container)),
        ("reveal_round", number(commit.reveal_round)),
        ("commit_reveal_version", number(u64::from(commit.version))),
    ];
    of_mechanism(runtime, COMMIT_TIMELOCKED, mechanism, arguments)
}

/// The commit of a hash, for runtimes and subnets that take no other.
pub(crate) fn commit_hash(runtime: &Runtime, mechanism: Mechanism, hash: [u8; 32]) -> Result<Call, Unreadable> {
    of_mechanism(runtime, COMMIT_HASH, mechanism, vec![("commit_hash", Value::from_bytes(hash))])
}

/// What was committed.
pub(crate) fn reveal(runtime: &Runtime, reveal: &HashReveal) -> Result<Call, Unreadable> {
    let arguments = vec![
        ("uids", numbers(reveal.uids.iter().map(|uid| uid.0))),
        ("values", numbers(reveal.weights.iter().copied())),
        ("salt", numbers(reveal.salt.iter().copied())),
        ("version_key", number(reveal.version_key)),
    ];
    of_mechanism(runtime, REVEAL, reveal.mechanism, arguments)
}

fn of_mechanism(
    runtime: &Runtime,
    [of_any, of_first]: [&'static str; 2],
    mechanism: Mechanism,
    mut arguments: Arguments,
) -> Result<Call, Unreadable> {
    arguments.push(("netuid", number(u64::from(mechanism.netuid.0))));
    if runtime.has_call(of_any) {
        arguments.push(("mecid", number(u64::from(mechanism.index))));
        return Ok(Call::new(of_any, arguments));
    }
    if mechanism.index != 0 {
        let spec = runtime.spec_version;
        return Err(Unreadable(format!("runtime {spec} has no {of_any}, and so no mechanism {}", mechanism.index)));
    }
    Ok(Call::new(of_first, arguments))
}

fn block_seconds(runtime: &Runtime) -> f64 {
    let milliseconds = runtime.constant::<u64>("Aura", "SlotDuration").filter(|slot| *slot > 0);
    milliseconds.map_or(BLOCK_SECONDS, |slot| slot as f64 / 1e3)
}

fn numbers(numbers: impl Iterator<Item = u16>) -> Value<()> {
    Value::unnamed_composite(numbers.map(|value| number(u64::from(value))))
}
