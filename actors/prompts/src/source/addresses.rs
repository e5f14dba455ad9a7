//! Files of any server, from a list of their addresses: how RedPajama-Data-1T is published, whose repository on the hub
//! holds a program and no texts. Source: <https://github.com/togethercomputer/RedPajama-Data/tree/rp_v1>.

use std::{collections::BTreeSet, sync::Arc};

use openvalidators_hub::Datasets;
use sha2::{Digest, Sha256};

use super::{
    config::AddressesConfig,
    hugging_face::{Remote, RemoteShard},
    shards::{self, Listing, ReadError, ShardFile, Shards},
};

/// The list itself.
const LIST_LIMIT_BYTES: usize = 16 << 20;

/// Files at addresses.
pub struct Addresses {
    config: AddressesConfig,
    remote: Arc<Remote>,
}

// === impl Addresses ===

impl Addresses {
    /// Uses no network.
    pub fn new(config: &AddressesConfig, datasets: Arc<Datasets>) -> Self {
        Self { config: config.clone(), remote: Remote::new(datasets) }
    }
}

impl Shards for Addresses {
    fn identity(&self) -> String {
        let AddressesConfig { list, sha256, only, column, weight: _ } = &self.config;
        format!("addresses {list} {} {} {column}", sha256.as_deref().unwrap_or("*"), only.join(","))
    }

    fn list(&self, _: Option<&str>) -> Result<Listing, ReadError> {
        let AddressesConfig { list, sha256, only, .. } = &self.config;
        let text = self.remote.blocking.block_on(self.remote.datasets.text(list, LIST_LIMIT_BYTES))??;
        let found = format!("{:x}", Sha256::digest(&text));
        if let Some(expected) = sha256.as_ref().filter(|expected| !expected.eq_ignore_ascii_case(&found)) {
            return Err(ReadError::lasting(format!(
                "{list} has sha256 {found}, expected {expected}: it has changed; look at it and set the source's `sha256`"
            )));
        }
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with("http") && shards::is_readable(line));
        // In an order of our own, and each once.
        let all: BTreeSet<&str> = lines.collect();
        let is_wanted = |line: &&str| only.is_empty() || only.iter().any(|word| line.contains(word.as_str()));
        let shards: Vec<String> = all.iter().copied().filter(is_wanted).map(str::to_owned).collect();
        if shards.is_empty() {
            let start: String = text.chars().take(60).collect();
            return Err(ReadError::lasting(format!(
                "{list} names no file of texts that is wanted ({} in all); it starts with {start:?}",
                all.len()
            )));
        }
        Ok(Listing { version: found, shards, newer: None })
    }

    fn open(&self, _: &str, shard: &str) -> Result<Arc<dyn ShardFile>, ReadError> {
        let file = self.remote.blocking.block_on(self.remote.datasets.open_address(shard))??;
        Ok(Arc::new(RemoteShard { remote: self.remote.clone(), file }))
    }

    fn column(&self) -> &str {
        &self.config.column
    }
}
