//! What the operator may set.

use std::collections::BTreeMap;

use openvalidators_messages::inference::ModelName;
use serde::{Deserialize, Serialize};

use crate::{
    placement::{DeviceName, Dtype, Placement},
    remote::RemoteConfig,
};

/// Settings of inference on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where networks compute, unless `placement` says otherwise.
    pub device: DeviceName,
    /// The numbers they compute in, unless `placement` says otherwise.
    pub dtype: Dtype,
    /// Models that go elsewhere or compute in other numbers.
    pub placement: BTreeMap<ModelName, Placement>,
    /// Threads that compute on the processor, divided evenly between the `cpu` devices in use; 0 is one for each core.
    pub threads: usize,
    /// Tokens computed together. More is no faster on a processor once a batch fills its caches, and takes more memory.
    pub batch_tokens: usize,
    /// Requests that may wait for a device; further callers wait for a place.
    pub queue_capacity: usize,
    /// Places in the actor's inbox: requests being tokenised, waiting for the device or computed.
    pub mailbox_capacity: usize,
    /// The longest row a model computes, prompt included, however long its context. A longer completion is cut; a prompt
    /// that leaves no room has no score. Bounds what one miner can make the device do.
    pub max_sequence_tokens: usize,
    /// Reads special tokens wherever a text spells them, as openvalidators 1.2.0 does: a miner then ends a text, or moves
    /// the place where a reward model looks, by writing `<|endoftext|>`. Off, what a miner writes is letters.
    pub interpret_special_tokens: bool,
    /// Models that servers elsewhere compute.
    pub remote: BTreeMap<ModelName, RemoteConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device: DeviceName::Cpu(0),
            dtype: Dtype::F32,
            placement: BTreeMap::new(),
            threads: 0,
            batch_tokens: 2_048,
            queue_capacity: 32,
            mailbox_capacity: 64,
            max_sequence_tokens: 2_048,
            interpret_special_tokens: false,
            remote: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_and_a_missing_one_the_default() {
        let error = serde_json::from_str::<Config>(r#"{"batch_token": 1}"#).unwrap_err().to_string();
        assert!(error.contains("batch_token"), "{error}");
        let config: Config = serde_json::from_str(r#"{"threads": 3}"#).unwrap();
        assert_eq!(config, Config { threads: 3, ..Config::default() });
    }
}
