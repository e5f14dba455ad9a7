//! The network to validate: the chain, our place on it, and on the local network also its miners.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use openvalidators_keys::HotkeySigner;
use openvalidators_messages::Hotkey;
use openvalidators_runtime::{Seed, SharedClock};
use openvalidators_subtensor::{Chain, Endpoint, local::LocalNetwork};

use crate::{
    config::Config,
    localnet::{Localnet, admit_validator},
};

/// Our hotkey on local networks, when no wallet is named: a public development key, the same on every start, so that a state
/// directory keeps its owner.
const LOCAL_VALIDATOR_URI: &str = "//openvalidators//validator";

/// A network we are registered on.
pub struct Network {
    /// The chain, seen by our hotkey.
    pub chain: Arc<dyn Chain>,
    /// The same as its operator sees it, where it is a local one.
    network: Option<LocalNetwork>,
    /// What the local network's miners are, for the summary alone; empty when they run elsewhere.
    pub kinds: BTreeMap<Hotkey, String>,
    /// The miners, where this process runs them.
    localnet: Option<Localnet>,
}

/// Our key on the local network.
///
/// # Errors
/// Never for the constant it is made from.
pub fn local_signer() -> anyhow::Result<Arc<HotkeySigner>> {
    Ok(Arc::new(HotkeySigner::from_uri(LOCAL_VALIDATOR_URI).context("the local validator's key")?))
}

impl Network {
    /// The real network that the configuration names; nothing when it names a local one. Connects to nothing yet: our hotkey
    /// must have a place there already ([`crate::standing`]).
    #[must_use]
    pub fn remote(
        config: &Config,
        signer: &Arc<HotkeySigner>,
        clock: &SharedClock,
        metrics: &openvalidators_subtensor::Metrics,
    ) -> Option<Self> {
        let chain = Arc::new(config.chain.remote_chain(signer.clone(), clock, metrics)?);
        Some(Self { chain, network: None, kinds: BTreeMap::new(), localnet: None })
    }

    /// Starts the local network or joins the one the configuration names, and registers our hotkey there.
    ///
    /// # Errors
    /// When the chain cannot be started or reached, or the miners cannot listen.
    pub async fn local(
        config: &Config,
        signer: &Arc<HotkeySigner>,
        seed: Seed,
        clock: &SharedClock,
    ) -> anyhow::Result<Self> {
        let network = config
            .chain
            .local_network(clock, seed, Some(&config.state_dir))
            .with_context(|| format!("starting the local chain of {}", config.state_dir.display()))?;
        admit_validator(&network, signer.hotkey(), config.localnet.validator_stake)
            .await
            .with_context(|| format!("registering this validator on the chain at {}", config.chain.endpoint))?;
        let localnet = match config.chain.endpoint {
            Endpoint::InProcess => Some(
                Localnet::start(&config.localnet, &network, seed, clock).await.context("starting the local miners")?,
            ),
            Endpoint::LocalServer(_) | Endpoint::Nodes(_) => None,
        };
        let kinds = localnet.iter().flat_map(|localnet| localnet.roster().iter());
        let kinds = kinds.map(|entry| (entry.hotkey, entry.kind.to_string())).collect();
        let chain = Arc::new(network.account(signer.hotkey()));
        Ok(Self { chain, network: Some(network), kinds, localnet })
    }

    /// Waits until a chain that runs in this process has ended by a fault of its own: it does not come back, unlike one
    /// elsewhere.
    pub async fn chain_ended(&self) {
        match &self.network {
            Some(network) => network.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Stops what runs in this process.
    pub async fn stop(self) {
        if let Some(localnet) = self.localnet {
            localnet.stop().await;
        }
    }
}
