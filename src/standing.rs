//! Our place on the subnet: that there is one before anything starts, and that it stays.

use std::{future::Future, sync::Arc};

use openvalidators_keys::ss58;
use openvalidators_messages::{Hotkey, Metagraph, Uid, subtensor::ChainError};
use openvalidators_subtensor::ChainConfig;
use tokio::sync::watch;

/// The part that cannot go on once our place is lost; it has an exit code of its own.
pub const PART: &str = "this validator";

/// Our hotkey has no place on the subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the hotkey {hotkey} is not registered on subnet {netuid} of {network}. Register it (btcli subnets register --netuid \
     {netuid}), or name the hotkey that is registered with --wallet.name and --wallet.hotkey"
)]
pub struct NotRegistered {
    /// Its address.
    pub hotkey: String,
    /// The subnet.
    pub netuid: u16,
    /// The chain, as it is configured.
    pub network: String,
}

/// Our place.
///
/// # Errors
/// When there is none.
pub fn place(metagraph: &Metagraph, ours: &Hotkey, chain: &ChainConfig) -> Result<Uid, NotRegistered> {
    metagraph.uid_of(ours).ok_or_else(|| NotRegistered {
        hotkey: ss58::encode(ours),
        netuid: chain.netuid,
        network: chain.endpoint.to_string(),
    })
}

/// Resolves once our place is gone, with what is to be told. What one metagraph shows is read again at once: a node that is
/// confused for a moment ends nothing.
pub async fn lost<Reading>(
    mut metagraph: watch::Receiver<Arc<Metagraph>>,
    ours: Hotkey,
    read_again: impl Fn() -> Reading,
) -> String
where
    Reading: Future<Output = Result<Metagraph, ChainError>>,
{
    let mut place = None;
    loop {
        let now = metagraph.borrow_and_update().clone();
        match now.uid_of(&ours) {
            Some(uid) => place = Some(uid),
            None => match read_again().await {
                Ok(again) if again.uid_of(&ours).is_none() => return words(&again, &ours, place),
                Ok(_) => tracing::warn!(block = %now.block, "a node left us out of the subnet for a moment"),
                Err(error) => tracing::warn!(block = %now.block, %error, "a node leaves us out of the subnet"),
            },
        }
        if metagraph.changed().await.is_err() {
            // Nobody follows the chain any more: the program ends for that.
            std::future::pending::<()>().await;
        }
    }
}

fn words(metagraph: &Metagraph, ours: &Hotkey, place: Option<Uid>) -> String {
    let (hotkey, Metagraph { block, netuid, .. }) = (ss58::encode(ours), metagraph);
    let holder = place.and_then(|uid| Some((uid, ss58::encode(&metagraph.neuron(uid)?.hotkey))));
    let since = holder.map_or_else(String::new, |(uid, holder)| format!("; uid {uid} is held by {holder} now"));
    format!(
        "the hotkey {hotkey} has lost its place on subnet {netuid} (block {block}{since}): register it anew before a start"
    )
}

#[cfg(test)]
mod tests;
