//! The miners' and the validator's places on the local chain.

use std::{io, net::SocketAddr};

use futures::future::try_join_all;
use openvalidators_messages::{Axon, Hotkey, Metagraph, Uid, subtensor::ChainError};
use openvalidators_subtensor::local::{LocalChainError, LocalNetwork, LocalServerError};

use crate::localnet::{
    kinds::{BadMix, MinerKind},
    miners::{Miner, Miners},
};

/// Miners admitted at once.
const ADMITTED_AT_ONCE: usize = 256;
/// Blocks waited for leave to serve an axon again: after a restart the chain's rate limit may be in the way.
const MAX_BLOCKS_TO_SERVE: usize = 64;
/// What an axon of the Python SDK calls its protocol.
const AXON_PROTOCOL: u8 = 4;

/// Who is who on the local network: for summaries and tests. The validator itself never sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    entries: Vec<RosterEntry>,
}

/// One miner's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RosterEntry {
    /// Its place.
    pub uid: Uid,
    /// Its key.
    pub hotkey: Hotkey,
    /// What it is.
    pub kind: MinerKind,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Why there is no local network.
#[derive(Debug, thiserror::Error)]
pub enum LocalnetError {
    /// A mix that makes no network.
    #[error(transparent)]
    Mix(#[from] BadMix),
    /// A setting that cannot be obeyed.
    #[error("localnet.{key} is {found}: {remedy}")]
    Config {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        remedy: &'static str,
    },
    /// No socket for a miner.
    #[error(
        "local miner {index} ({kind}) could not listen on a loopback port: {source}; is the limit of open files reached?"
    )]
    Listen {
        /// Its index.
        index: u16,
        /// What it is.
        kind: MinerKind,
        /// What the system said.
        source: io::Error,
    },
    /// The chain did not do what was asked.
    #[error("could not {attempt}: {source}")]
    Chain {
        /// What was attempted.
        attempt: String,
        /// The chain's answer.
        source: ChainError,
    },
    /// There are not enough places, and registrations push others out.
    #[error(
        "the local subnet is full, there is no place left for hotkey {hotkey}: raise chain.local.max_uids or start fewer miners"
    )]
    Crowded {
        /// Who found no place, or lost it again.
        hotkey: Hotkey,
    },
    /// The chain cannot start.
    #[error(transparent)]
    LocalChain(#[from] LocalChainError),
    /// The chain cannot be served.
    #[error(transparent)]
    LocalServer(#[from] LocalServerError),
}

/// Gives the validator a place and stake. Its permit follows at the next epoch. A validator that is there already keeps
/// its place.
///
/// # Errors
/// [`LocalnetError::Chain`].
pub async fn admit_validator(network: &LocalNetwork, hotkey: Hotkey, stake: f64) -> Result<Uid, LocalnetError> {
    let uid = register(network, &metagraph(network).await?, hotkey).await?;
    set_stake(network, hotkey, stake).await?;
    Ok(uid)
}

/// Registers all miners, in order of their index, and serves their axons. Those that are there already keep their
/// places and serve at their new addresses.
///
/// # Errors
/// [`LocalnetError::Chain`], [`LocalnetError::Crowded`].
pub async fn admit_miners(network: &LocalNetwork, miners: &Miners, stake: f64) -> Result<Roster, LocalnetError> {
    let before = metagraph(network).await?;
    let mut entries: Vec<RosterEntry> = Vec::new();
    for together in miners.as_slice().chunks(ADMITTED_AT_ONCE) {
        // They share a few blocks; with a chain in this process, uids follow the index.
        let admitted = together.iter().map(|miner| admit(network, &before, miner, stake));
        entries.extend(try_join_all(admitted).await?);
    }
    entries.sort_by_key(|entry| entry.uid);
    let after = metagraph(network).await?;
    match entries.iter().find(|entry| after.uid_of(&entry.hotkey) != Some(entry.uid)) {
        Some(lost) => Err(LocalnetError::Crowded { hotkey: lost.hotkey }),
        None => Ok(Roster { entries }),
    }
}

async fn admit(
    network: &LocalNetwork,
    before: &Metagraph,
    miner: &Miner,
    stake: f64,
) -> Result<RosterEntry, LocalnetError> {
    let (hotkey, address) = (miner.hotkey, miner.address());
    let uid = register(network, before, hotkey).await?;
    if stake > 0.0 {
        set_stake(network, hotkey, stake).await?;
    }
    serve_axon(network, hotkey, address).await?;
    Ok(RosterEntry { uid, hotkey, kind: miner.kind, address })
}

async fn metagraph(network: &LocalNetwork) -> Result<Metagraph, LocalnetError> {
    network.metagraph().await.map_err(failed("read the local subnet".to_owned()))
}

async fn register(network: &LocalNetwork, before: &Metagraph, hotkey: Hotkey) -> Result<Uid, LocalnetError> {
    if let Some(uid) = before.uid_of(&hotkey) {
        return Ok(uid);
    }
    // Each is its own coldkey: on a chain without money nobody else would own anything.
    network.register(hotkey, hotkey).await.map_err(|source| match refusal(&source) {
        Some("NoNeuronIdAvailable") => LocalnetError::Crowded { hotkey },
        _ => failed(format!("register {hotkey} on the local subnet"))(source),
    })
}

async fn set_stake(network: &LocalNetwork, hotkey: Hotkey, stake: f64) -> Result<(), LocalnetError> {
    network.set_stake(hotkey, stake).await.map(drop).map_err(failed(format!("stake {stake} TAO on {hotkey}")))
}

/// Serves, again after each block for as long as the rate limit says no.
async fn serve_axon(network: &LocalNetwork, hotkey: Hotkey, address: SocketAddr) -> Result<(), LocalnetError> {
    let version = openvalidators_dendrite::Config::default().declared_version;
    let axon = Axon { address, protocol: AXON_PROTOCOL, version };
    let failed = || failed(format!("serve the axon of {hotkey} at {address}"));
    for _ in 0..MAX_BLOCKS_TO_SERVE {
        let Err(source) = network.serve_axon(hotkey, axon).await else { return Ok(()) };
        match refusal(&source) {
            Some("ServingRateLimitExceeded") => {
                let head = metagraph(network).await?.block;
                network.next_block(head).await.map_err(failed())?;
            }
            // It was registered a moment ago: others of this very network have taken its place.
            Some("HotKeyNotRegisteredInNetwork") => return Err(LocalnetError::Crowded { hotkey }),
            _ => return Err(failed()(source)),
        }
    }
    network.serve_axon(hotkey, axon).await.map(drop).map_err(failed())
}

/// The chain's name for a no.
fn refusal(error: &ChainError) -> Option<&str> {
    match error {
        ChainError::RefusedByPool { name, .. } | ChainError::FailedInBlock { name, .. } => Some(name),
        ChainError::Unreachable { .. } | ChainError::BadAnswer { .. } => None,
    }
}

fn failed(attempt: String) -> impl FnOnce(ChainError) -> LocalnetError {
    move |source| LocalnetError::Chain { attempt, source }
}

// === impl Roster ===

impl Roster {
    /// All miners, by uid.
    pub fn iter(&self) -> impl Iterator<Item = &RosterEntry> {
        self.entries.iter()
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
