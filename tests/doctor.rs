//! `doctor` beside real faults: each is found, told with what to do, and turns the exit code.

use std::{net::TcpListener, path::Path, process::Stdio, time::Duration};

use openvalidators_keys::ss58;
use openvalidators_subtensor::remote::testing::{Member, Subnet, SubnetNode};
use serde_json::Value;

use crate::{
    program::{binary, models, stderr},
    wallet::{ADDRESS, wallets},
};

/// Runs it with settings under which nothing is wrong by itself, and these over them.
fn doctor(state: &Path, arguments: &[&str]) -> (i32, Vec<Value>) {
    let mut command = binary();
    command.args(["doctor", "--json", "--unit", "/nowhere", "--state-dir"]).arg(state);
    if !arguments.contains(&"--min-free-gb") {
        command.args(["--min-free-gb", "0.001"]);
    }
    command.args(["--set", "reporting.metrics.address=127.0.0.1:0", "--set", "models.offline=true"]).args(arguments);
    let ended = command.stdin(Stdio::null()).env_remove("OPENVALIDATORS_WALLET_PASSWORD").output().unwrap();
    let text = String::from_utf8_lossy(&ended.stdout);
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", stderr(&ended)));
    assert_eq!(told["healthy"], ended.status.code() == Some(0));
    (ended.status.code().unwrap(), told["findings"].as_array().unwrap().clone())
}

fn wrong(findings: &[Value]) -> Vec<&str> {
    let wrong = findings.iter().filter(|finding| finding["state"] == "wrong");
    wrong.map(|finding| finding["part"].as_str().unwrap()).collect()
}

/// This part, and no other, is wrong; it says this, and advises that.
fn finds(arguments: &[&str], part: &str, says: &str, remedy: &str) {
    let state = tempfile::tempdir().unwrap();
    let (code, findings) = doctor(state.path(), arguments);
    assert_eq!((code, wrong(&findings)), (8, vec![part]), "{findings:#?}");
    let found = findings.iter().find(|finding| finding["state"] == "wrong").unwrap();
    assert!(found["says"].as_str().unwrap().contains(says), "{found}");
    assert!(found["remedy"].as_str().unwrap().contains(remedy), "{found}");
}

#[test]
fn nothing_is_wrong_with_the_local_network() {
    models();
    let state = tempfile::tempdir().unwrap();
    let (code, findings) = doctor(state.path(), &[]);
    assert_eq!((code, wrong(&findings)), (0, vec![]), "{findings:#?}");
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "nothing is written");
    let text = binary().args(["doctor", "--min-free-gb", "1e9", "--set", "models.offline=true"]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("what to do") && text.contains("WRONG") && text.contains("to mend."), "{text}");
}

#[test]
fn each_fault_of_this_machine_is_found_with_its_remedy() {
    models();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("reporting.metrics.address={}", taken.local_addr().unwrap());
    finds(&["--set", &port], "ports", "is in use", "reporting.metrics.address");
    finds(&["--min-free-gb", "1e9"], "disk", "free at", "make room");
    let empty = tempfile::tempdir().unwrap();
    let (folder, hub) =
        (format!("models.folder={:?}", empty.path()), format!("models.hugging_face_cache={:?}", empty.path()));
    finds(&["--set", &folder, "--set", &hub], "models", "SmolLM2-135M-Instruct", "openvalidators models fetch");
    finds(&["--set", "prompts.concurrent_forwards=0"], "config", "concurrent_forwards", "mend it first");
    if !cfg!(feature = "cuda") {
        finds(&["--neuron.device", "cuda:0"], "device", "built without GPUs", "--features cuda");
    }
    let wandb = ["--set", "reporting.wandb.mode=online", "--set", "reporting.wandb.api_key_file=/nowhere"];
    finds(&wandb, "wandb", "/nowhere", "docs/reporting.md");
    let nobody = format!("local://{}", taken.local_addr().unwrap());
    drop(taken);
    finds(&["--subtensor.chain_endpoint", &nobody], "chain", "nobody at", "openvalidators localnet");
}

#[test]
fn a_ledger_of_another_subnet_is_found() {
    models();
    let state = tempfile::tempdir().unwrap();
    let identity = openvalidators_ledger::Identity {
        network: "local".to_owned(),
        netuid: openvalidators_messages::Netuid(1),
        hotkey: openvalidators_messages::Hotkey([1; 32]),
    };
    drop(openvalidators_ledger::Store::open(state.path(), &identity, 0).unwrap());
    let (code, findings) = doctor(state.path(), &["--netuid", "5"]);
    assert_eq!((code, wrong(&findings)), (8, vec!["ledger"]), "{findings:#?}");
    assert_eq!(doctor(state.path(), &[]).0, 0, "its own is fine");
}

#[test]
fn a_real_network_is_read_and_our_place_on_it_judged() {
    models();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ours = ss58::decode(ADDRESS).unwrap();
    let node = |members| runtime.block_on(SubnetNode::start(Subnet::new(64, 30, members), Duration::from_millis(500)));
    let (there, empty) = (node(vec![Member::validator(ours, 1_000_000_000_000)]), node(vec![]));
    let (state, wallets) = (tempfile::tempdir().unwrap(), wallets());
    let path = wallets.path().display().to_string();
    let at = |url: String, hotkey: &str, more: &[&str]| {
        let place = ["--subtensor.chain_endpoint", &url, "--netuid", "64", "--neuron.axon_off", "--set"];
        let wallet = ["--wallet.name", "cold", "--wallet.hotkey", hotkey, "--wallet.path", &path, "--no_prompt"];
        let patience = ["chain.read_attempts=1", "--set", "chain.read_timeout_seconds=5.0"];
        doctor(state.path(), &[&place[..], &patience, &wallet, more].concat())
    };
    let part = |findings: &[Value], part: &str| findings.iter().find(|finding| finding["part"] == part).cloned();

    let (_, findings) = at(there.url(), "plain", &[]);
    assert_eq!(part(&findings, "chain").unwrap()["state"], "good", "{findings:#?}");
    assert_ne!(part(&findings, "place").unwrap()["state"], "wrong", "{findings:#?}");
    assert!(part(&findings, "time").is_some(), "the chain's clock is looked at");

    let (code, findings) = at(empty.url(), "plain", &[]);
    assert_eq!((code, part(&findings, "place").unwrap()["state"].as_str()), (8, Some("wrong")));
    assert!(part(&findings, "place").unwrap()["remedy"].as_str().unwrap().contains("subnets register"));

    let password = wallets.path().join("password");
    std::fs::write(&password, "another").unwrap();
    let setting = format!("wallet.password_file={}", password.display());
    let (code, findings) = at(there.url(), "ansible", &["--set", &setting]);
    assert_eq!(code, 8);
    let told = findings.iter().find(|finding| finding["part"] == "wallet" && finding["state"] == "wrong").unwrap();
    assert!(told["says"].as_str().unwrap().contains("does not open the hotkey"), "{told}");

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, findings) = at(format!("ws://{nobody}"), "plain", &[]);
    assert_eq!((code, part(&findings, "chain").unwrap()["state"].as_str()), (8, Some("wrong")));
    assert!(part(&findings, "chain").unwrap()["remedy"].as_str().unwrap().contains("chain.endpoint"));
}
