//! The same reads and transactions by the real chain's metadata, where a directory of recordings is named.
//!
//! `SUBTENSOR_METADATA` holds files `NAME_specNUMBER_v16.scale`: what `state_call` of `Metadata_metadata_at_version(16)`
//! gives at a node of mainnet or of a devnet, without its option and length.

use std::{path::PathBuf, sync::Arc};

use openvalidators_messages::{Block, Uid, subtensor::Submission};
use serde_json::json;

use super::{
    NETUID, chain,
    node::{NodeDouble, Played},
    reading::columns,
    submitting::{QUICK, weights},
};
use crate::{Chain, remote::epoch::by_modulo};

const DIRECTORY: &str = "SUBTENSOR_METADATA";

/// Each recording; none, with a printed reason, where there is no directory.
pub(crate) fn recordings() -> Vec<Arc<Played>> {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        println!("skipped: {DIRECTORY} names no directory of recorded metadata");
        return Vec::new();
    };
    let files = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = files
        .filter_map(|file| {
            let spec = file.file_stem()?.to_str()?.split("_spec").nth(1)?.split('_').next()?.parse().ok()?;
            Some(Played::new(spec, std::fs::read(&file).unwrap()))
        })
        .collect();
    assert!(!found.is_empty(), "{} holds no NAME_specNUMBER_v16.scale", directory.display());
    found
}

#[tokio::test]
async fn the_real_runtimes_are_read_and_written() {
    for runtime in recordings() {
        let node = NodeDouble::start(runtime, QUICK).await;
        let netuid = u64::from(NETUID.0);
        {
            let mut world = node.world.lock();
            world.answers.insert("get_selective_metagraph", columns());
            world.storage.push(("CommitRevealWeightsEnabled", vec![netuid], json!(false)));
            world.storage.push(("Tempo", vec![netuid], json!(99)));
            world.storage.push(("Weights", vec![netuid, 0], json!([[1, 65_535]])));
        }
        let chain = chain(&[&node]);
        let metagraph = chain.metagraph().await.unwrap();
        assert_eq!(metagraph.neurons.len(), 3);
        assert!((metagraph.neurons[0].stake - 1_500.0).abs() < 1e-9);
        assert_eq!(metagraph.last_epoch_block, by_modulo(NETUID, 99, metagraph.block.0).last_epoch_block);
        assert_eq!(metagraph.hyperparameters.min_allowed_weights, 1_024, "the metadata's default");
        assert_eq!(chain.weights_of(Uid(0)).await.unwrap(), [(Uid(1), 65_535)]);

        assert!(matches!(chain.submit_weights(&weights()).await.unwrap(), Submission::Set { .. }));
        node.world.lock().storage[0].2 = json!(true);
        assert!(matches!(chain.submit_weights(&weights()).await.unwrap(), Submission::Committed { .. }));
        node.world.lock().fails_with = Some("SettingWeightsTooFast");
        let error = chain.submit_weights(&weights()).await.unwrap_err().to_string();
        assert!(error.contains("SettingWeightsTooFast"), "{error}");
        let address = "198.51.100.7:8091".parse().unwrap();
        let axon = openvalidators_messages::Axon { address, protocol: 4, version: 10_005_000 };
        assert!(chain.serve_axon(axon).await.unwrap() > Block(20));
        let calls: Vec<_> = node.world.lock().taken.iter().map(|taken| taken.call.clone()).collect();
        let commit = "commit_timelocked_mechanism_weights";
        assert_eq!(calls, ["set_mechanism_weights", commit, commit, "serve_axon"]);
    }
}
