//! The SDK's own codec as a second writer of our transactions: same calls, nonce and era, same call bytes and bytes to sign.
//!
//! Where bittensor 10.5.0 is installed, its codec (async-substrate-interface 2.2.1) is asked for each runtime: the invented
//! ones, and the recorded ones where they are named (`recorded.rs`). What it said is kept in a fixture for everybody else;
//! with `RECORD=1`, the SDK and the recordings at hand, the fixture is written anew.

use std::{process::Command, sync::Arc, time::Duration};

use frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed};
use openvalidators_keys::HotkeySigner;
use openvalidators_messages::{Axon, Uid, subtensor::SetWeights};
use parity_scale_codec::{Decode, Encode};
use scale_info::TypeDef;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::{
        extrinsic::{Call, Context},
        runtime::Runtime,
        serve_axon,
        weights::{commit_hash, commit_timelocked, reveal, set},
    },
    NETUID,
    chopsticks::python,
    metadata::{self, NEW_SPEC, OLD_SPEC},
    node::{NodeDouble, Played},
    recorded::recordings,
    signer,
};
use crate::commit_reveal::{HashReveal, Mechanism, TimelockedCommit};

const RECORDED: &str = include_str!("../../../../../tests/fixtures/bittensor/extrinsics_v10.5.0.json");
/// Four by the old invented runtime, five by the newer one: always compared.
const INVENTED_CALLS: usize = 9;
/// The runtime whose fee extension is called `ChargeTransactionPaymentWrapper`.
const NEWER_FEES: &str = "new";
/// Four weight calls, each plain and of a mechanism, and `serve_axon`.
const REAL_CALLS: usize = 9;

/// What the SDK makes of a call.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Written {
    runtime: String,
    spec_version: u32,
    call: String,
    arguments: Value,
    /// Pallet, call and arguments.
    call_data: String,
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
fn ours(written: &Written, runtime: &Runtime) -> Call {
    let said = &written.arguments;
    let mechanism = Mechanism { netuid: NETUID, index: said["mecid"].as_u64().unwrap_or_default() as u8 };
    let number = |name: &str| said[name].as_u64().unwrap();
    let vector = |uids: &str, weights: &str| SetWeights {
        uids: words(&said[uids]).into_iter().map(Uid).collect(),
        weights: words(&said[weights]),
        version_key: number("version_key"),
        salt: None,
    };
    match written.call.as_str() {
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
        "commit_timelocked_weights" | "commit_timelocked_mechanism_weights" => {
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

/// A runtime that is recorded or invented, by the name in the fixture.
fn runtimes() -> Vec<(String, Arc<Played>)> {
    let invented = [("old", OLD_SPEC, metadata::old()), (NEWER_FEES, NEW_SPEC, metadata::new())];
    let invented = invented.map(|(name, spec, bytes)| (name.to_owned(), Played::new(spec, bytes)));
    let real = recordings().into_iter().map(|played| (format!("spec{}", played.spec_version), played));
    invented.into_iter().chain(real).collect()
}

/// The same runtime before there were mechanisms: this client then sends the plain calls.
fn without_mechanisms(bytes: &[u8]) -> Vec<u8> {
    let mut prefixed = RuntimeMetadataPrefixed::decode(&mut &*bytes).unwrap();
    let types = match &mut prefixed.1 {
        RuntimeMetadata::V15(metadata) => &mut metadata.types,
        RuntimeMetadata::V16(metadata) => &mut metadata.types,
        other => panic!("metadata of version {}", other.version()),
    };
    for ty in &mut types.types {
        if let TypeDef::Variant(calls) = &mut ty.ty.type_def {
            calls.variants.retain(|call| !call.name.ends_with("_mechanism_weights"));
        }
    }
    prefixed.encode()
}

fn compare(written: &Written, played: &Played) {
    let bytes = if written.call.contains("mechanism") { &played.bytes } else { &without_mechanisms(&played.bytes) };
    let runtime = Runtime::new(written.spec_version, 1, bytes).unwrap();
    let context = Context { nonce: 5, genesis: [7; 32], born_at: 1_000, born_hash: [0x21; 32] };
    let (call, what) = (ours(written, &runtime), format!("{} of {}", written.call, written.runtime));
    assert_eq!(call.name, written.call);
    let payload = call.payload(&runtime, &context).unwrap();
    // This codec does not know the newer name of the fee extension, and leaves the tip out of what it signs: by such a runtime
    // the node double alone judges our signatures.
    if written.runtime != NEWER_FEES {
        assert_eq!(format!("0x{}", hex::encode(payload)), written.payload, "{what}");
    }
    // A transaction ends with its call.
    let sent = call.sign(&runtime, &context, &HotkeySigner::from_uri("//Alice").unwrap()).unwrap();
    assert!(hex::encode(sent).ends_with(written.call_data.trim_start_matches("0x")), "{what}");
}

#[test]
fn the_sdk_signed_the_same_bytes() {
    let recorded: Vec<Written> = serde_json::from_str(RECORDED).unwrap();
    let mut compared = 0;
    for (name, played) in runtimes() {
        for written in recorded.iter().filter(|written| written.runtime == name) {
            compare(written, &played);
            compared += 1;
        }
    }
    assert_eq!(compared, INVENTED_CALLS + recordings().len() * REAL_CALLS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_signs_the_same_bytes() {
    if !python().exists() {
        println!("skipped: no {}; tests/peers.sh makes it", python().display());
        return;
    }
    let (mut nodes, mut arguments) = (Vec::new(), Vec::new());
    let runtimes = runtimes();
    for (name, played) in &runtimes {
        let node = NodeDouble::start(played.clone(), Duration::ZERO).await;
        arguments.push(format!("{name}={}={}", played.spec_version, node.url()));
        nodes.push(node);
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/extrinsics.py");
    let run = move || Command::new(python()).arg(script).args(arguments).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written: Vec<Written> = serde_json::from_slice(&output.stdout).unwrap();
    for written in &written {
        let (_, played) = runtimes.iter().find(|(name, _)| *name == written.runtime).unwrap();
        compare(written, played);
    }
    if std::env::var_os("RECORD").is_some() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/extrinsics_v10.5.0.json");
        std::fs::write(fixture, serde_json::to_string_pretty(&written).unwrap() + "\n").unwrap();
        return;
    }
    let mut recorded: Vec<Written> = serde_json::from_str(RECORDED).unwrap();
    recorded.retain(|case| runtimes.iter().any(|(name, _)| *name == case.runtime));
    assert_eq!(written, recorded, "the fixture is what the SDK says");
    println!("{} calls of {} runtimes, as the SDK writes and signs them", written.len(), runtimes.len());
}
