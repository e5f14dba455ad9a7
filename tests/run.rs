//! Two forwards on the local network, with every kind of bad miner present.

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::Value;

use crate::program::{CONSTANT_REWARD, LocalnetProcess, Program, get, output};

/// The kinds of the default mix that send nothing of use: none of their bytes may earn anything.
const USELESS: &[&str] = &["hanging", "garbage", "oversized", "wrong_json", "refusing"];

#[test]
fn two_forwards_with_every_bad_miner_set_weights_and_leave_records() {
    let state = tempfile::tempdir().unwrap();
    let settings = [
        // Every step asks everybody, so that every kind is met.
        "prompts.augment_sample_size=16",
        "prompts.followup_sample_size=16",
        "prompts.answer_sample_size=16",
        "chain.local.block_seconds=0.5",
        // As mainnet has it.
        "chain.local.commit_reveal=true",
    ];
    let mut arguments = vec!["--steps", "18"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut program = Program::start(state.path(), &arguments);

    let address = program.metrics_address();
    let first = program.until("step");
    assert_eq!(first["step"], "augment");
    assert_eq!(first["asked"], 16);
    check_metrics(&address);
    let (status, health) = get(&address, "/health");
    assert_eq!(status, 200, "{health}");

    let (mut lines, status) = program.finish();
    assert!(status.success());
    lines.insert(0, first);
    let steps: Vec<&Value> = lines.iter().filter(|line| line["event"] == "step").collect();
    let sequences: Vec<u64> = steps.iter().map(|step| step["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (1..=18).collect::<Vec<_>>(), "every step is told once, in order");
    assert!(steps.iter().all(|step| step["unscored"].is_null()), "{steps:?}");
    assert!(
        lines
            .iter()
            .any(|line| line["text"].as_str().is_some_and(|text| text.starts_with("weights committed on chain"))),
        "weights must reach the chain"
    );

    let summary = lines.iter().find(|line| line["event"] == "summary").unwrap();
    let miners = summary["miners"].as_array().unwrap();
    assert_eq!(miners.len(), 16);
    for miner in miners {
        let kind = miner["kind"].as_str().unwrap();
        if USELESS.contains(&kind) {
            assert_eq!(miner["score"], 0.0, "{miner}");
        }
    }
    let kinds: BTreeSet<&str> = miners.iter().map(|miner| miner["kind"].as_str().unwrap()).collect();
    assert!(USELESS.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    assert!(miners.iter().any(|miner| miner["score"].as_f64().unwrap() > 0.0), "{miners:?}");
    // Only a commit that was revealed and accepted shows in the row the chain stores.
    assert!(miners.iter().any(|miner| miner["weight"].as_u64() == Some(65535)), "{miners:?}");
    check_event_log(state.path());
}

#[test]
fn sigterm_ends_in_order() {
    let state = tempfile::tempdir().unwrap();
    let mut program = Program::start(state.path(), &[]);
    program.until("step");
    program.terminate();
    let (lines, status) = program.finish();
    assert!(status.success(), "{status:?}");
    assert!(lines.iter().any(|line| line["event"] == "summary"));
    let last = lines.last().unwrap()["text"].as_str().unwrap();
    assert_eq!(last, "stopped: asked by SIGTERM");
}

/// Exit code 130: whoever asks twice does not wait for a chain that does not answer any more.
#[test]
fn a_second_signal_ends_at_once() {
    let (chain, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let localnet = LocalnetProcess::start(chain.path(), "127.0.0.1:0", &["chain.local.block_seconds=0.5"]);
    let mut arguments = vec!["--chain", localnet.address.as_str()];
    arguments.extend(CONSTANT_REWARD.iter().flat_map(|setting| ["--set", setting]));
    let mut program = Program::start(state.path(), &arguments);
    program.until("step");
    localnet.hold();
    program.terminate();
    program.note("stopping: asked by SIGTERM");
    program.terminate();
    let (lines, status) = program.finish();
    assert_eq!(status.code(), Some(130), "{lines:?}");
    let checked = output(&["ledger", "check", "--state-dir", state.path().to_str().unwrap()]);
    assert!(checked.status.success(), "the ledger is safe");
}

/// The text format holds, names have our prefix, and the real `promtool` finds nothing to say, where it is installed.
fn check_metrics(address: &str) {
    let (status, metrics) = get(address, "/metrics");
    assert_eq!(status, 200);
    for name in ["openvalidators_build_info", "openvalidators_mailbox_depth", "openvalidators_chain_block"] {
        assert!(metrics.contains(name), "{name} is missing");
    }
    let Ok(mut promtool) =
        Command::new("promtool").args(["check", "metrics"]).stdin(std::process::Stdio::piped()).spawn()
    else {
        println!("skipped: promtool is not installed (Debian package `prometheus`)");
        return;
    };
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), metrics.as_bytes()).unwrap();
    assert!(promtool.wait().unwrap().success(), "promtool objects to {metrics}");
}

/// One strict JSON object for each step.
fn check_event_log(state: &Path) {
    let log = std::fs::read_to_string(state.join("completions.log")).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 18);
    for event in &events {
        let extra = &event["record"]["extra"];
        assert_eq!(extra["uids"].as_array().unwrap().len(), extra["rewards"].as_array().unwrap().len());
        assert_eq!(extra["completions"].as_array().unwrap().len(), 16);
    }
}
