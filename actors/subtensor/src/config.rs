//! The operator's settings of the chain.

use std::{path::Path, sync::Arc, time::Duration};

use openvalidators_keys::HotkeySigner;
use openvalidators_messages::Netuid;
use openvalidators_runtime::{Backoff, Seed, SharedClock};
use serde::{Deserialize, Serialize};

use crate::{
    commit_reveal::Mechanism,
    endpoint::{Endpoint, Node},
    local::{LocalChain, LocalChainConfig, LocalChainError, LocalClient, LocalNetwork},
    metrics::Metrics,
    remote::RemoteChain,
};

/// The local chain's file in a state directory.
pub const STATE_FILE: &str = "local-chain.json";

/// Which chain, and how patient to be with it. The defaults are the local network's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChainConfig {
    /// `local`: a chain inside this process. `local://127.0.0.1:9944`: a local chain's server on this machine. `finney`,
    /// `test`, `wss://HOST:PORT`: a node of a real network, or a list of its nodes, the first preferred.
    pub endpoint: Endpoint,
    /// The subnet.
    pub netuid: u16,
    /// Which of the subnet's mechanisms is validated; every subnet has mechanism 0, a local one no other.
    pub mechanism: u8,
    /// Deadline of one read.
    pub read_timeout_seconds: f64,
    /// Attempts of one read, with waits between them.
    pub read_attempts: usize,
    /// Deadline of one submission, until it is in a block. Submissions are never repeated here.
    pub submit_timeout_seconds: f64,
    /// How long to wait for the next block before the chain counts as unreachable.
    pub block_timeout_seconds: f64,
    /// The first wait after a failure; each further one is twice as long.
    pub retry_first_seconds: f64,
    /// The longest wait after a failure.
    pub retry_longest_seconds: f64,
    /// The local chain, where this process runs it.
    pub local: LocalChainConfig,
}

/// A setting that reaches no chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainConfigError {
    /// No endpoint.
    #[error(
        "chain.endpoint `{found}` is none: set `finney`, `test` or `wss://HOST:PORT` for a real network, `local` or \
         `local://127.0.0.1:PORT` for one on this machine ({reason})"
    )]
    Endpoint {
        /// What is set.
        found: String,
        /// Why it is none.
        reason: String,
    },
    /// No duration or count.
    #[error("chain.{key} is {found}: set {remedy}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        remedy: &'static str,
    },
}

/// The longest deadline or wait that can be set.
const MAX_SECONDS: f64 = 86_400.0;
/// The chain's `MAX_MECHANISM_COUNT_PER_SUBNET`, less one.
const MAX_MECHANISM: u8 = 15;
/// Most attempts of a read that can be set.
const MAX_READ_ATTEMPTS: usize = 100;

// === impl ChainConfig ===

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::InProcess,
            netuid: 1,
            mechanism: 0,
            read_timeout_seconds: 20.0,
            read_attempts: 4,
            submit_timeout_seconds: 60.0,
            block_timeout_seconds: 60.0,
            retry_first_seconds: 0.5,
            retry_longest_seconds: 30.0,
            local: LocalChainConfig::default(),
        }
    }
}

impl ChainConfig {
    /// Refuses what cannot work, before anything starts.
    ///
    /// # Errors
    /// The first setting that is out of its range, by its key.
    pub fn check(&self) -> Result<(), ChainConfigError> {
        let durations = [
            ("read_timeout_seconds", self.read_timeout_seconds),
            ("submit_timeout_seconds", self.submit_timeout_seconds),
            ("block_timeout_seconds", self.block_timeout_seconds),
            ("retry_first_seconds", self.retry_first_seconds),
            ("retry_longest_seconds", self.retry_longest_seconds),
        ];
        for (key, value) in durations {
            if !(value > 0.0 && value <= MAX_SECONDS) {
                let remedy = "more than 0 and at most 86400 seconds";
                return Err(ChainConfigError::Value { key, found: value.to_string(), remedy });
            }
        }
        if !(1..=MAX_READ_ATTEMPTS).contains(&self.read_attempts) {
            let (key, found) = ("read_attempts", self.read_attempts.to_string());
            return Err(ChainConfigError::Value { key, found, remedy: "1 to 100" });
        }
        if self.mechanism > MAX_MECHANISM || (self.mechanism > 0 && !self.endpoint.is_remote()) {
            let (key, found) = ("mechanism", self.mechanism.to_string());
            return Err(ChainConfigError::Value { key, found, remedy: "0 on a local network, at most 15 elsewhere" });
        }
        if self.endpoint == Endpoint::InProcess
            && let Err(error) = self.local.rules(Netuid(self.netuid))
        {
            return Err(ChainConfigError::Value {
                key: "local",
                found: error.to_string(),
                remedy: "the value it names",
            });
        }
        Ok(())
    }

    /// The local network these settings name: started in this process, with its state in `state_directory` if there is
    /// one, or reached through its socket. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the chain inside the process cannot start, or the chain is not a local one.
    pub fn local_network(
        &self,
        clock: &SharedClock,
        seed: Seed,
        state_directory: Option<&Path>,
    ) -> Result<LocalNetwork, LocalChainError> {
        match &self.endpoint {
            Endpoint::InProcess => {
                let file = state_directory.map(|directory| directory.join(STATE_FILE));
                let netuid = Netuid(self.netuid);
                LocalChain::start(&self.local, netuid, clock.clone(), seed, file.as_deref()).map(LocalNetwork::new)
            }
            Endpoint::LocalServer(address) => {
                let timeout = self.submit_timeout().max(self.read_timeout());
                Ok(LocalNetwork::new(LocalClient::new(*address, clock.clone(), timeout)))
            }
            Endpoint::Nodes(_) => Err(LocalChainError::NotLocal(self.endpoint.to_string())),
        }
    }

    /// The real chain these settings name, as this hotkey sees it; nothing when they name a local one. Connects to nothing
    /// yet. Nodes that are left are counted in `metrics`.
    #[must_use]
    pub fn remote_chain(
        &self,
        signer: Arc<HotkeySigner>,
        clock: &SharedClock,
        metrics: &Metrics,
    ) -> Option<RemoteChain> {
        let Endpoint::Nodes(nodes) = &self.endpoint else { return None };
        let nodes = nodes.iter().map(|node: &Node| node.address().to_owned()).collect();
        let mechanism = Mechanism { netuid: Netuid(self.netuid), index: self.mechanism };
        let (progress, changes) = (self.block_timeout(), metrics.node_changes.clone());
        Some(RemoteChain::new(nodes, mechanism, signer, clock.clone(), progress, changes))
    }

    pub(crate) fn read_timeout(&self) -> Duration {
        seconds(self.read_timeout_seconds)
    }

    pub(crate) fn submit_timeout(&self) -> Duration {
        seconds(self.submit_timeout_seconds)
    }

    pub(crate) fn block_timeout(&self) -> Duration {
        seconds(self.block_timeout_seconds)
    }

    pub(crate) fn backoff(&self, retries: usize) -> Backoff {
        let (first, longest) = (seconds(self.retry_first_seconds), seconds(self.retry_longest_seconds));
        Backoff { first, longest: longest.max(first), retries }
    }
}

/// Never panics, whatever was set: [`ChainConfig::check`] is what refuses.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.clamp(0.0, MAX_SECONDS)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_can_be_used_and_nonsense_cannot() {
        let config = ChainConfig::default();
        config.check().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ChainConfig>(&text).unwrap(), config);
        assert!(serde_json::from_str::<ChainConfig>("{\"endpoints\":\"local\"}").is_err());
        for (key, config) in [
            ("read_timeout_seconds", ChainConfig { read_timeout_seconds: f64::NAN, ..config.clone() }),
            ("block_timeout_seconds", ChainConfig { block_timeout_seconds: -1.0, ..config.clone() }),
            ("read_attempts", ChainConfig { read_attempts: 0, ..config.clone() }),
            ("tempo", ChainConfig { local: LocalChainConfig { tempo: 0, ..config.local.clone() }, ..config.clone() }),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
