//! `doctor` beside real faults: each is found, told with what to do, and turns the exit code.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use openvalidators_keys::ss58;
use openvalidators_subtensor::remote::testing::{Member, Subnet, SubnetNode};
use serde_json::Value;

use crate::{
    live::await_block,
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
    for variable in ["OPENVALIDATORS_WALLET_PASSWORD", "WANDB_API_KEY", "WANDB_BASE_URL", "HF_ENDPOINT"] {
        command.env_remove(variable);
    }
    told(&command.env("NETRC", "/dev/null").stdin(Stdio::null()).output().unwrap())
}

fn told(ended: &Output) -> (i32, Vec<Value>) {
    let text = String::from_utf8_lossy(&ended.stdout);
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", stderr(ended)));
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

/// This part is a warning, the exit code is good; it says this, and advises that.
fn warns(arguments: &[&str], part: &str, says: &str, remedy: &str) {
    let state = tempfile::tempdir().unwrap();
    let (code, findings) = doctor(state.path(), arguments);
    assert_eq!((code, wrong(&findings)), (0, vec![]), "{findings:#?}");
    has(&findings, part, "warning", says, remedy);
}

fn has(findings: &[Value], part: &str, state: &str, says: &str, remedy: &str) {
    let is_it = |finding: &Value| {
        let holds = |key: &str, words: &str| finding[key].as_str().unwrap().contains(words);
        finding["part"] == part && finding["state"] == state && holds("says", says) && holds("remedy", remedy)
    };
    assert!(findings.iter().any(is_it), "{part} {state} `{says}` `{remedy}`: {findings:#?}");
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
fn what_is_no_hindrance_yet_is_a_warning() {
    models();
    warns(&["--set", "reporting.metrics.address=0.0.0.0:0"], "ports", "have no password", "loopback");
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("openvalidators.service");
    std::fs::write(&unit, "[Service]\nRestart=on-failure\n").unwrap();
    // The later one of a flag that is given twice would be refused.
    let unit = format!("--unit={}", unit.display());
    let mut command = binary();
    command.args(["doctor", "--json", &unit, "--min-free-gb", "0.001", "--state-dir"]).arg(folder.path());
    let settings = ["--set", "reporting.metrics.address=127.0.0.1:0", "--set", "models.offline=true"];
    let (code, findings) = told(&command.args(settings).output().unwrap());
    assert_eq!(code, 0);
    has(&findings, "service", "warning", "no WatchdogSec=", "systemctl daemon-reload");
    // Few open files: of this process, set by a shell around it.
    let few = "ulimit -Sn 256 && ulimit -Hn 512 && exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", few, env!("CARGO_BIN_EXE_openvalidators"), "doctor", "--json", "--unit", "/nowhere"]);
    let (_, findings) = told(&command.args(settings).arg("--state-dir").arg(folder.path()).output().unwrap());
    has(&findings, "open files", "warning", "may open 512 files", "LimitNOFILE");
}

#[test]
fn wandb_is_asked_before_anything_is_sent() {
    models();
    let (folder, online) = (tempfile::tempdir().unwrap(), ["--set", "reporting.wandb.mode=online"]);
    finds(&online, "wandb", "API key", "");
    let key = folder.path().join("key");
    std::fs::write(&key, "0123456789012345678901234567890123456789").unwrap();
    let key = format!("reporting.wandb.api_key_file={}", key.display());
    let nobody = "reporting.wandb.base_url=http://127.0.0.1:9";
    let there = [&online[..], &["--set", &key, "--set", nobody]].concat();
    warns(&there, "wandb", "does not answer", "reporting.wandb.base_url");
}

#[test]
fn models_that_do_not_fit_into_memory_are_told_before_they_are_loaded() {
    models();
    finds(&["--set", "inference.batch_tokens=1000000000"], "memory", "the models take", "smaller --profile");
}

/// Serves one page to whoever asks, with a date of its own.
fn server_of(date: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4_096]);
            let head = format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
        }
    });
    address
}

#[test]
fn a_clock_that_differs_from_the_server_of_models_is_told() {
    models();
    let online = |address: &str| {
        let endpoint = format!("models.hugging_face_endpoint={address}");
        ["--set".to_owned(), "models.offline=false".to_owned(), "--set".to_owned(), endpoint]
    };
    let of_old = online(&server_of("Thu, 01 Jan 2015 00:00:00 GMT"));
    finds(&of_old.each_ref().map(String::as_str), "time", "ahead of http://127.0.0.1", "NTP");
    let nobody = online("http://127.0.0.1:9");
    warns(&nobody.each_ref().map(String::as_str), "time", "gave no time", "HTTPS_PROXY");
}

/// A file system that nobody may write to, where the machine lets a test mount one.
#[test]
fn a_folder_that_cannot_be_written_is_found() {
    models();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "ro,size=8m", "tmpfs", &path]).output();
    if !mounted.is_ok_and(|ended| ended.status.success()) {
        return println!("skipped: this machine mounts nothing for a test");
    }
    let (code, findings) = doctor(&folder.path().join("state"), &[]);
    let unmounted = Command::new("umount").arg(&path).status();
    assert!(unmounted.unwrap().success());
    assert_eq!((code, wrong(&findings)), (8, vec!["disk"]), "{findings:#?}");
    has(&findings, "disk", "wrong", "nothing can be written there", "chown or chmod");
}

#[test]
fn a_damaged_ledger_is_found() {
    models();
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join(openvalidators_ledger::LEDGER_FILE), vec![7; 8_192]).unwrap();
    let (code, findings) = doctor(state.path(), &[]);
    assert_eq!((code, wrong(&findings)), (8, vec!["ledger"]), "{findings:#?}");
    has(&findings, "ledger", "wrong", "", "openvalidators ledger restore");
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
        let patience =
            ["chain.read_attempts=1", "--set", "chain.read_timeout_seconds=5.0", "--set", "prompts.only=embedded"];
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

    has(&findings, "wallet", "good", ADDRESS, "");

    let poor = node(vec![Member { permit: false, ..Member::validator(ours, 10_000) }]);
    let (code, findings) = at(poor.url(), "plain", &[]);
    assert_eq!(code, 0, "{findings:#?}");
    has(&findings, "place", "warning", "without a validator permit", "stake more");
    poor.subnet(|subnet| {
        subnet.members[0].permit = true;
        subnet.stake_threshold_rao = 20_000_000_000_000;
    });
    await_block(&poor);
    let (_, findings) = at(poor.url(), "plain", &[]);
    has(&findings, "place", "warning", "weights need 20000", "stake more");

    let unnamed = ["--subtensor.chain_endpoint", &there.url(), "--netuid", "64", "--neuron.axon_off"];
    let unnamed = [&unnamed[..], &["--set", "prompts.only=embedded"]].concat();
    let (_, findings) = doctor(state.path(), &unnamed);
    has(&findings, "wallet", "wrong", "none is named", "--wallet.name");
    assert_eq!(wrong(&findings), ["wallet"], "{findings:#?}");

    // The axon's port, in somebody's hands and in nobody's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let axon =
        ["--subtensor.chain_endpoint", &there.url(), "--netuid", "64", "--axon.ip", "127.0.0.1", "--axon.port", &port];
    let (_, findings) = doctor(state.path(), &axon);
    has(&findings, "ports", "wrong", "for the axon, is in use", "--axon.port");
    has(&findings, "ports", "warning", "no global address", "--axon.external_ip");

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
