//! wandb online as a whole: the program from outside, and a server on this machine that keeps what it is sent.

use std::{collections::BTreeMap, path::Path};

use openvalidators_reporting::wandb::server_double::{Double, Fault, KEY, OWNER};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::program::{CONSTANT_REWARD, Program};

/// Starts with wandb online; its log goes into a file of the state directory.
fn online(state: &Path, double: &Double, key: &str, arguments: &[&str], settings: &[&str]) -> Program {
    let quick = [
        "reporting.wandb.mode=online",
        "reporting.drain_seconds=60",
        "chain.local.block_seconds=0.5",
        // Three steps a forward.
        "prompts.num_followup_steps=1",
    ];
    let settings = quick.iter().chain(settings).flat_map(|setting| ["--set", setting]);
    let arguments: Vec<&str> = arguments.iter().copied().chain(settings).collect();
    let server = double.url();
    let variables = [("WANDB_BASE_URL", server.as_str()), ("WANDB_API_KEY", key)];
    Program::start_among(state, &arguments, &variables, &state.join(LOG))
}

const LOG: &str = "told.log";

fn log(state: &Path) -> String {
    std::fs::read_to_string(state.join(LOG)).unwrap()
}

/// Runs until it complains, a step longer, and ends it; gives how many steps there are then, and the log.
fn complains(state: &Path, double: &Double, key: &str, settings: &[&str]) -> (u64, String) {
    let mut program = online(state, double, key, &[], settings);
    while !log(state).contains(COMPLAINT) {
        program.until("step");
    }
    program.until("step");
    program.terminate();
    let (_, status) = program.finish();
    let log = log(state);
    assert!(status.success(), "{log}");
    assert_eq!(log.matches(COMPLAINT).count(), 1, "{log}");
    (events(state).len() as u64, log)
}

const COMPLAINT: &str = "rows do not reach wandb;";

/// The event of each step by its place in the ledger.
fn events(state: &Path) -> BTreeMap<u64, Value> {
    let log = std::fs::read_to_string(state.join("completions.log")).unwrap();
    let event = |line: &str| serde_json::from_str::<Value>(line).unwrap()["record"]["extra"].clone();
    log.lines().map(event).map(|event| (event["sequence"].as_u64().unwrap(), event)).collect()
}

/// The rows of steps at the server, by their place in the ledger, each once.
fn rows(double: &Double) -> BTreeMap<u64, Value> {
    let mut rows = BTreeMap::new();
    for run in double.state.lock().runs.values() {
        assert_eq!((run.overwritten, run.gaps), (0, 0));
        for row in run.history.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            if let Some(sequence) = row["sequence"].as_u64() {
                assert_eq!(rows.insert(sequence, row), None, "step {sequence} is there twice");
            }
        }
    }
    rows
}

#[test]
fn what_reaches_the_server_is_what_happened() {
    let (runtime, state) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let double = runtime.block_on(Double::start());
    let settings = [
        "reporting.wandb.run_step_length=1",
        "reporting.wandb.scores_every_blocks=1",
        "reporting.wandb.track_gating_model=true",
        "reporting.wandb.hardware_seconds=1",
    ];
    let (lines, status) = online(state.path(), &double, KEY, &["--steps", "6"], &settings).finish();
    assert!(status.success(), "{}", log(state.path()));
    let said = |words: &str| {
        lines.iter().filter(|line| line["text"].as_str().is_some_and(|text| text.contains(words))).count()
    };
    assert_eq!(said("wandb: rows go to project openvalidators of the owner of the API key"), 1, "{lines:?}");

    let (events, rows) = (events(state.path()), rows(&double));
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), (1..=6).collect::<Vec<_>>());
    for (sequence, row) in &rows {
        let event = &events[sequence];
        for (name, value) in event.as_object().unwrap() {
            let name = if name == "step" { "forward_step" } else { name };
            assert_eq!(&row[name], value, "{name} of step {sequence}");
        }
    }
    assert!(rows.values().any(|row| row["gating_loss"].is_f64()), "the head learned");
    let state = double.state.lock();
    assert!(state.runs.len() >= 2, "a run holds one forward: {:?}", state.runs.keys());
    for (name, run) in &state.runs {
        assert!(name.starts_with(&format!("{OWNER}/openvalidators/")) && run.exit_code == Some(0), "{name}: {run:?}");
        assert!(run.tags.as_array().unwrap().iter().any(|tag| tag == "local"), "{}", run.tags);
    }
    let all = || state.runs.values().flat_map(|run| run.history.iter().chain(&run.events));
    for words in ["neuron_weights", "block_seconds", "system.proc.memory.rssMB"] {
        assert!(all().any(|line| line.contains(words)), "{words}");
    }
    let head = state.artifacts.values().find(|version| version.is_committed).unwrap();
    assert!(head.made_with["artifactCollectionName"].as_str().unwrap().ends_with("_gating_linear_layer"));
}

/// Each start meets other trouble. Steps are taken all the same, and in the end every row is there that may be.
#[test]
fn trouble_is_told_once_and_the_validator_goes_on() {
    let (runtime, state) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let double = runtime.block_on(Double::start());
    double.state.lock().writable = Some(OWNER);
    let wrong = "f".repeat(40);
    let (first, told) = complains(state.path(), &double, &wrong, &CONSTANT_REWARD);
    assert!(told.contains("The API key is not accepted") && !told.contains(&wrong), "{told}");
    assert!(double.state.lock().runs.is_empty());

    let stranger: Vec<_> = CONSTANT_REWARD.into_iter().chain(["reporting.wandb.entity=opentensor-dev"]).collect();
    let (second, told) = complains(state.path(), &double, KEY, &stranger);
    assert!(told.contains("permission denied") && told.contains("reporting.wandb.entity"), "{told}");
    assert_eq!(
        rows(&double).into_keys().collect::<Vec<_>>(),
        (1..=first).collect::<Vec<_>>(),
        "those of the first life"
    );

    double.fail([Fault::Status(503), Fault::DropBefore]);
    let (_, status) = online(state.path(), &double, KEY, &["--steps", "6"], &CONSTANT_REWARD).finish();
    assert!(status.success(), "{}", log(state.path()));
    let all = events(state.path()).len() as u64;
    // The second life's wait on the disk.
    let there: Vec<u64> = (1..=first).chain(second + 1..=all).collect();
    assert_eq!(rows(&double).into_keys().collect::<Vec<_>>(), there, "{}", log(state.path()));
}
