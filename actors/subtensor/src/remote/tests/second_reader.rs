//! The SDK's own codec as a second writer of our transactions: same calls, nonce and era, same bytes to sign.
//!
//! `extrinsics.py` beside the fixture made it with bittensor 10.5.0's async-substrate-interface 2.2.1. The invented runtime
//! is always compared, the recorded ones where they are named (`recorded.rs`).

use openvalidators_messages::{Axon, Uid, subtensor::SetWeights};
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{
        extrinsic::{Call, Context},
        runtime::Runtime,
        serve_axon,
        weights::{commit_hash, commit_timelocked, reveal, set},
    },
    NETUID, metadata,
    recorded::recordings,
    signer,
};
use crate::commit_reveal::{HashReveal, Mechanism, TimelockedCommit};

const RECORDED: &str = include_str!("../../../../../tests/fixtures/bittensor/extrinsics_v10.5.0.json");

#[derive(Deserialize)]
struct Recorded {
    runtime: String,
    spec_version: u32,
    call: String,
    arguments: Value,
    /// As signed: hashed when it is longer than 256 bytes.
    payload: String,
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
}

fn words(value: &Value) -> Vec<u16> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The same call by this crate, from the same values.
fn ours(recorded: &Recorded, runtime: &Runtime) -> Call {
    let said = &recorded.arguments;
    let mechanism = Mechanism { netuid: NETUID, index: said["mecid"].as_u64().unwrap_or_default() as u8 };
    let number = |name: &str| said[name].as_u64().unwrap();
    let vector = |uids: &str, weights: &str| SetWeights {
        uids: words(&said[uids]).into_iter().map(Uid).collect(),
        weights: words(&said[weights]),
        version_key: number("version_key"),
        salt: None,
    };
    match recorded.call.as_str() {
        "set_weights" | "set_mechanism_weights" => set(runtime, mechanism, &vector("dests", "weights")).unwrap(),
        "reveal_weights" | "reveal_mechanism_weights" => {
            let SetWeights { uids, weights, version_key, .. } = vector("uids", "values");
            let salt = words(&said["salt"]);
            let revealed = HashReveal { hotkey: signer().hotkey(), mechanism, uids, weights, salt, version_key };
            reveal(runtime, &revealed).unwrap()
        }
        "commit_weights" | "commit_mechanism_weights" => {
            commit_hash(runtime, mechanism, bytes(&said["commit_hash"]).try_into().unwrap()).unwrap()
        }
        "commit_timelocked_mechanism_weights" => {
            let commit = TimelockedCommit {
                container: bytes(&said["commit"]),
                reveal_round: number("reveal_round"),
                version: number("commit_reveal_version") as u16,
            };
            commit_timelocked(runtime, mechanism, &commit).unwrap()
        }
        "serve_axon" => {
            let ip = std::net::Ipv4Addr::from(number("ip") as u32);
            let address = (ip, number("port") as u16).into();
            serve_axon(NETUID, Axon { address, protocol: 4, version: number("version") as u32 })
        }
        other => panic!("{other} is not sent here"),
    }
}

#[test]
fn the_sdk_signs_the_same_bytes() {
    let recorded: Vec<Recorded> = serde_json::from_str(RECORDED).unwrap();
    let real = recordings();
    let context = Context { nonce: 5, genesis: [7; 32], born_at: 1_000, born_hash: [0x21; 32] };
    let mut compared = 0;
    for case in &recorded {
        let invented = (case.runtime == "old").then(metadata::old);
        let found = real.iter().find(|played| played.spec_version == case.spec_version);
        let Some(bytes) = invented.or(found.map(|played| played.bytes.clone())) else { continue };
        let runtime = Runtime::new(case.spec_version, 1, &bytes).unwrap();
        let payload = ours(case, &runtime).payload(&runtime, &context).unwrap();
        assert_eq!(format!("0x{}", hex::encode(payload)), case.payload, "{} of {}", case.call, case.runtime);
        compared += 1;
    }
    assert!(compared >= 4, "the invented runtime's calls are always compared");
}
