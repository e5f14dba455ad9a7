//! What an operator gets wrong: each is a clear error before anything starts, and nothing is lost.

use std::{net::TcpListener, path::Path, process::Command};

use crate::program::{Program, binary, models, output, stderr};

/// Runs with these arguments and expects it not to start, saying all of `words`.
fn refused(args: &[&str], words: &[&str]) {
    let output = output(args);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for word in words {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
}

fn run_in(state: &Path, args: &[&str], words: &[&str]) {
    let state = state.to_str().unwrap();
    let mut all = vec!["run", "--state-dir", state, "--steps", "1", "--set", "reporting.metrics.address=127.0.0.1:0"];
    all.extend(args);
    refused(&all, words);
}

#[test]
fn configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let path = file.to_str().unwrap();
    let with = |text: &str, words: &[&str]| {
        std::fs::write(&file, text).unwrap();
        refused(&["run", "--config", path, "--check-config"], words);
    };
    with("[prompts]\nconcurent_forwards = 2", &["prompts.concurent_forwards", "mine.toml", "concurrent_forwards"]);
    with("[prompts]\nconcurrent_forwards = \"two\"", &["prompts.concurrent_forwards", "mine.toml", "expected"]);
    with("[prompts]\nconcurrent_forwards = 0", &["prompts.concurrent_forwards", "between 1 and", "mine.toml"]);
    with("[weights]\nmoving_average_alpha = 2.0", &["weights.moving_average_alpha", "at most 1", "mine.toml"]);
    with("seed = ", &["mine.toml", "line 1"]);
    // What is not refused would run for ever: it is only checked.
    let refused = |args: &[&str], words| refused(&[&["run", "--check-config"], args].concat(), words);
    refused(&["--config", "nowhere.toml"], &["nowhere.toml"]);
    refused(&["--set", "seed"], &["KEY=VALUE"]);
    refused(&["--wandb.weights_step_length", "5"], &["--wandb.weights_step_length", "never read it"]);
    refused(&["--chain", "example.org:1"], &["local://"]);
}

/// Every layer, read back through the binary itself.
#[test]
fn the_configuration_in_force_can_be_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "seed = 7\n[prompts]\nanswer_sample_size = 9\nconcurrent_forwards = 2").unwrap();
    let printed = binary()
        .args(["run", "--print-config", "--neuron.num_concurrent_forwards", "5", "--config"])
        .arg(&file)
        .env("OPENVALIDATORS_SET__PROMPTS__ANSWER_SAMPLE_SIZE", "11")
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", stderr(&printed));
    let config: toml::Table = String::from_utf8(printed.stdout).unwrap().parse().unwrap();
    assert_eq!(config["seed"].as_integer(), Some(7), "the file");
    assert_eq!(config["prompts"]["answer_sample_size"].as_integer(), Some(11), "the environment over the file");
    assert_eq!(config["prompts"]["concurrent_forwards"].as_integer(), Some(5), "the flag over the file");
    assert_eq!(config["prompts"]["followup_sample_size"].as_integer(), Some(6), "the default");
}

#[test]
fn corpus() {
    models();
    let (state, texts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = format!("prompts.sources.mine={{ kind = \"directory\", path = {:?} }}", texts.path());
    let told = texts.path().to_str().unwrap();
    run_in(state.path(), &["--set", &source], &[told]);
    std::fs::write(texts.path().join("bad.jsonl"), "{\"text\": \"One. Two.\"}\n{broken\n").unwrap();
    run_in(state.path(), &["--set", &source], &["bad.jsonl", "2"]);
    let missing = "prompts.sources.mine={ kind = \"directory\", path = \"/nowhere/at/all\" }";
    run_in(state.path(), &["--set", missing], &["/nowhere/at/all"]);
}

#[test]
fn models_that_are_missing_or_damaged() {
    let (state, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = format!("models.folder={:?}", cache.path());
    let hub = format!("models.hugging_face_cache={:?}", cache.path().join("hub"));
    let offline = ["--set", &folder, "--set", &hub, "--set", "models.offline=true"];
    run_in(state.path(), &offline, &["SmolLM2-135M-Instruct", "models fetch"]);
    let file = cache.path().join("SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, b"not a model").unwrap();
    run_in(state.path(), &offline, &[file.to_str().unwrap(), "found a file of 11 bytes"]);
    run_in(state.path(), &["--set", "rewards.dpo.model=other"], &["rewards.dpo.model", "SmolLM2-135M-Instruct"]);
}

/// It used to be found by the first step, and by every step after it.
#[test]
fn models_of_the_wrong_kind() {
    models();
    let state = tempfile::tempdir().unwrap();
    let encoder = ["rewards.dpo.model", "`all-MiniLM-L6-v2`", "is an encoder", "must be a causal model"];
    run_in(state.path(), &["--set", "rewards.dpo.model=all-MiniLM-L6-v2"], &encoder);
    let causal = ["rewards.relevance.stages", "`SmolLM2-135M-Instruct`", "is a causal model", "must be an encoder"];
    let stage = r#"rewards.relevance.stages=[{model="SmolLM2-135M-Instruct",measure="cosine",threshold=0.3}]"#;
    run_in(state.path(), &["--set", stage], &causal);
}

#[test]
fn a_state_directory_of_somebody_else() {
    let state = tempfile::tempdir().unwrap();
    let (_, status) = Program::start(state.path(), &["--steps", "1"]).finish();
    assert!(status.success());
    let chain = std::fs::read(state.path().join("local-chain.json")).unwrap();
    // Another subnet's.
    run_in(state.path(), &["--set", "chain.netuid=5"], &["netuid", "5", state.path().to_str().unwrap()]);
    // Another version's: SQLite keeps the schema version at byte 60.
    let ledger = state.path().join(openvalidators_ledger::LEDGER_FILE);
    let mut bytes = std::fs::read(&ledger).unwrap();
    bytes[60..64].copy_from_slice(&999_u32.to_be_bytes());
    std::fs::write(&ledger, &bytes).unwrap();
    run_in(state.path(), &[], &["999", "version"]);
    assert_eq!(std::fs::read(&ledger).unwrap(), bytes, "a refused ledger is left as it was");
    assert_eq!(std::fs::read(state.path().join("local-chain.json")).unwrap(), chain, "and so is the chain");
}

#[test]
fn a_second_process_and_a_port_in_use() {
    let (state, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = Program::start(state.path(), &[]);
    first.until("step");
    run_in(state.path(), &[], &[state.path().to_str().unwrap()]);
    first.until("step");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run_in(other.path(), &["--set", &format!("reporting.metrics.address={address}")], &[&address, "in use"]);
}

/// The soft limit is raised to the hard one, and one that is too low for a full subnet is told in words.
#[test]
fn too_few_open_files() {
    let folder = tempfile::tempdir().unwrap();
    let limited = "ulimit -Sn 256 && ulimit -Hn 512 && exec \"$0\" \"$@\"";
    let models = format!("models.folder={:?}", folder.path());
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_openvalidators"), "run", "--state-dir"])
        .arg(folder.path())
        .args(["--set", &models, "--set", "models.offline=true", "--set", "reporting.metrics.off=true"])
        .output()
        .unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for word in ["may open 512 files", "1024 miners", "LimitNOFILE"] {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
}
