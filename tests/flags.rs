//! Flags of openvalidators 1.2.0 that switch a behaviour: what they do to a validator that runs. What a flag sets is held by
//! `manual.rs`; what its key does in every case is tested in the crate that has the key.

use std::{
    collections::BTreeSet,
    io::Write,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use openvalidators_ledger::Reader;
use openvalidators_messages::{Column, Scoring, Sequence, ledger::StoredStep};
use openvalidators_subtensor::remote::testing::Member;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    live::{Network, ours},
    program::{CONSTANT_REWARD, Program, SHORT_DEADLINES, binary, get, models, output, side_by_side, stderr},
    wallet::wallets,
};

/// Nothing is computed and nobody is asked.
const MOCKS: [&str; 4] = [
    "--neuron.mock_dataset",
    "--neuron.mock_gating_model",
    "--neuron.mock_dendrite_pool",
    "--neuron.mock_reward_models",
];
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs to the end, and gives what is in the state directory.
fn ran(arguments: &[&str]) -> TempDir {
    let state = tempfile::tempdir().unwrap();
    ran_in(state.path(), arguments);
    state
}

fn ran_in(state: &Path, arguments: &[&str]) {
    let mut command = binary();
    command.args(["run", "--quiet", "--set", "reporting.metrics.off=true", "--state-dir"]).arg(state).args(arguments);
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{arguments:?}: {}", stderr(&ended));
}

fn with_mocks<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&MOCKS[..], more].concat()
}

fn steps(state: &Path) -> Vec<StoredStep> {
    Reader::open(state).unwrap().read_steps(Sequence(0), 500).unwrap()
}

/// The filters that stopped anybody.
fn stopping(state: &Path) -> BTreeSet<String> {
    let stops = |column: &Column| column.values.iter().flatten().any(|value| *value < 1.0);
    let mut stopping = BTreeSet::new();
    for step in steps(state) {
        let Scoring::Scored(raw) = &step.record.scoring else { continue };
        stopping.extend(raw.filters.iter().filter(|column| stops(column)).map(|column| column.name.to_string()));
    }
    stopping
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "it is not so that {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// `--neuron.dont_save_events`, `--neuron.disable_log_rewards`
#[test]
fn events_are_kept_without_rewards_or_not_at_all() {
    let event = |state: &TempDir| -> Value {
        let log = std::fs::read_to_string(state.path().join("completions.log")).unwrap();
        serde_json::from_str::<Value>(log.lines().next().unwrap()).unwrap()["record"]["extra"].clone()
    };
    let column = "constant_reward_model";
    assert!(event(&ran(&with_mocks(&["--steps", "3"])))[column].is_array());
    let without = event(&ran(&with_mocks(&["--steps", "3", "--neuron.disable_log_rewards"])));
    assert!(without[column].is_null() && without["rewards"].is_array(), "{without}");
    let none = ran(&with_mocks(&["--steps", "3", "--neuron.dont_save_events"]));
    assert!(!none.path().join("completions.log").exists());
}

/// `--wandb.offline`, `--wandb.off`
#[test]
fn wandb_keeps_rows_on_this_machine_or_none() {
    let logs = |state: &TempDir| -> Vec<PathBuf> {
        let Ok(runs) = std::fs::read_dir(state.path().join("wandb")) else { return Vec::new() };
        runs.map(|run| run.unwrap().path()).filter(|run| run.display().to_string().contains("offline-run-")).collect()
    };
    assert_eq!(logs(&ran(&with_mocks(&["--steps", "3", "--wandb.offline"]))).len(), 1);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("mine.toml");
    std::fs::write(&config, "[reporting.wandb]\nmode = \"offline\"\n").unwrap();
    let config = config.display().to_string();
    assert_eq!(logs(&ran(&with_mocks(&["--steps", "3", "--config", &config]))).len(), 1);
    assert_eq!(logs(&ran(&with_mocks(&["--steps", "3", "--config", &config, "--wandb.off"]))).len(), 0);
}

/// `--neuron.disable_set_weights`: where weights are set without it, none are with it, and the reason is told.
#[test]
fn weights_are_left_alone() {
    let quick = ["--set", "chain.local.block_seconds=0.1", "--set", "weights.min_scored=1"];
    let head = |address: &str| -> f64 {
        let (_, page) = get(address, "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix("openvalidators_chain_block "));
        line.map_or(0.0, |value| value.parse().unwrap())
    };
    let start = |state: &Path, more: &[&str]| {
        let mut program = Program::start(state, &with_mocks(&[&quick[..], more].concat()));
        let address = program.metrics_address();
        (program, address)
    };
    let intents = |state: &Path| Reader::open(state).map_or(0, |reader| reader.read_intents(10).unwrap().len());
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_program, address) = start(with.path(), &[]);
    until("weights are set", || intents(with.path()) >= 2);
    let by_then = head(&address);
    assert!(by_then > 0.0, "the page has the block");
    let (_program, address) = start(without.path(), &["--neuron.disable_set_weights"]);
    until("the chain has come further", || head(&address) > by_then + 40.0);
    assert_eq!(intents(without.path()), 0);
    let (_, page) = get(&address, "/metrics");
    assert!(page.contains("openvalidators_weights_waiting{reason=\"disabled\"} 1"), "{page}");
}

/// `--neuron.axon_off`: nothing is served, and the chain is not told where.
#[test]
fn no_axon_is_served() {
    let network = Network::start(Some(Member::validator(ours(), 10_000)));
    let mut program = network.validate_with(&["--neuron.axon_off"]);
    program.until("step");
    network.until("weights were set", |subnet| subnet.weights_of(&ours()).is_some());
    assert!(network.node.sent().iter().all(|sent| sent.call != "serve_axon"));
    assert!(TcpStream::connect(("127.0.0.1", network.axon)).is_err(), "nobody listens there");
    program.terminate();
    assert!(program.finish().1.success());
}

/// `--neuron.num_followup_steps`, the sample sizes, `--neuron.num_concurrent_forwards`, `--neuron.name`
#[test]
fn forwards_have_the_shape_that_is_asked_for() {
    let state = tempfile::tempdir().unwrap();
    let shape =
        ["--neuron.num_followup_steps", "2", "--neuron.followup_sample_size", "3", "--neuron.answer_sample_size"];
    let more = ["4", "--neuron.num_concurrent_forwards", "3", "--neuron.name", "mine", "--steps", "60"];
    ran_in(state.path(), &with_mocks(&[&shape[..], &more].concat()));
    let steps = steps(&state.path().join("mine"));
    let names: BTreeSet<String> = steps.iter().map(|step| step.record.name.to_string()).collect();
    let wanted = ["answer0", "answer1", "augment", "followup0", "followup1"];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    for step in &steps {
        let asked = if step.record.name.to_string().starts_with("answer") { 4 } else { 3 };
        assert_eq!(step.record.asked.len(), asked, "{}", step.record.name);
    }
    // One forward begins before another has ended.
    let forwards: Vec<u64> = steps.iter().map(|step| step.record.step.forward.0).collect();
    let changes = forwards.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let different = forwards.iter().collect::<BTreeSet<_>>().len();
    assert!(changes > different, "{forwards:?}");
}

/// `--wallet._mock`, `--subtensor._mock`, `--mock`: a local network, whatever the file names.
#[test]
fn a_file_of_a_real_network_runs_a_local_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("real.toml");
    let real = "[chain]\nendpoint = [\"ws://127.0.0.1:9\"]\nnetuid = 5\nread_attempts = 1\n[wallet]\nname = \"no\"\nhotkey = \"body\"\n";
    std::fs::write(&config, real).unwrap();
    let config = config.display().to_string();
    for flags in [&["--mock"][..], &["--wallet._mock", "--subtensor._mock"]] {
        let arguments = with_mocks(&[&["--steps", "2", "--config", &config], flags].concat());
        assert!(steps(ran(&arguments).path()).len() >= 2);
    }
    let without =
        output(&[&["run", "--config", &config, "--neuron.disable_set_weights", "--steps", "1"], &MOCKS[..]].concat());
    assert_eq!(without.status.code(), Some(3), "the wallet is asked for: {}", stderr(&without));
}

/// `--neuron.mock_dataset`: the embedded passages, and no other source is as much as opened.
#[test]
fn a_mocked_dataset_opens_no_other() {
    let state = tempfile::tempdir().unwrap();
    let web = "prompts.sources.web={ kind = \"directory\", path = \"/nowhere/at/all\" }";
    ran_in(state.path(), &with_mocks(&["--steps", "2", "--set", web]));
    assert!(steps(state.path()).iter().all(|step| step.record.source.starts_with("embedded")));
    let others = [&["run", "--set", "reporting.metrics.off=true", "--set", web], &MOCKS[1..]].concat();
    assert!(stderr(&output(&others)).contains("/nowhere/at/all"), "without it the folder is missed");
}

/// `--no_prompt`: at a terminal, an encrypted hotkey is asked about, and with the flag it is not.
#[test]
fn nobody_is_asked_for_a_password() {
    let wallets = wallets();
    let check = |flag: &str| {
        let command = format!(
            "{} wallet check --wallet.name cold --wallet.hotkey ansible --wallet.path {} {flag}",
            env!("CARGO_BIN_EXE_openvalidators"),
            wallets.path().display()
        );
        // script(1) gives it a terminal.
        let mut terminal = std::process::Command::new("script");
        terminal.args(["-qec", &command, "/dev/null"]).env_remove("OPENVALIDATORS_WALLET_PASSWORD");
        let spawned = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                println!("skipped: script(1) is not here ({error}): Debian package bsdutils");
                return None;
            }
        };
        // Wrong each time that it asks.
        let _ = child.stdin.take().unwrap().write_all(b"wrong\nwrong\nwrong\n");
        let ended = child.wait_with_output().unwrap();
        Some(String::from_utf8_lossy(&ended.stdout).into_owned())
    };
    let (Some(asked), Some(unasked)) = (check(""), check("--no_prompt")) else { return };
    assert!(asked.contains("does not open the hotkey"), "{asked}");
    assert!(!unasked.contains("does not open the hotkey") && unasked.contains("takes a password"), "{unasked}");
}

/// `--neuron.use_custom_gating_model`: prompts are read by another pooling, and by the default's without it.
#[test]
fn prompts_are_read_with_the_pooling_of_a_sentence_model() {
    models();
    let encoder = |more: &[&str]| {
        let mocks = ["--neuron.mock_dataset", "--neuron.mock_dendrite_pool", "--neuron.mock_reward_models"];
        let state = ran(&[&mocks[..], &["--steps", "9"], more].concat());
        let embedded = |step: &StoredStep| Some(step.record.embedding.as_ref()?.encoder.clone());
        steps(state.path()).iter().find_map(embedded).expect("routing reads prompts")
    };
    assert_eq!(encoder(&[]), "all-MiniLM-L6-v2/mean_normalised");
    assert_eq!(encoder(&["--neuron.use_custom_gating_model"]), "all-MiniLM-L6-v2/mean_of_windows");
}

/// `--neuron.nsfw_off`: the classifier that is not here is not missed.
#[test]
fn a_filter_that_is_off_needs_no_model() {
    let (folder, hub) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut settings = vec![
        "rewards.nsfw.enabled=true".to_owned(),
        format!("models.folder={:?}", folder.path()),
        format!("models.hugging_face_cache={:?}", hub.path()),
        "models.offline=true".to_owned(),
        "reporting.metrics.off=true".to_owned(),
    ];
    settings.extend(CONSTANT_REWARD.map(str::to_owned));
    let run = |flags: &[&str]| {
        let state = tempfile::tempdir().unwrap();
        let mut command = binary();
        command.args(["run", "--quiet", "--steps", "1", "--neuron.mock_dataset", "--neuron.mock_gating_model"]);
        command.args(["--neuron.mock_dendrite_pool"]).args(flags).arg("--state-dir").arg(state.path());
        // A flag is stronger than a file, and weaker than --set.
        let file = state.path().join("mine.toml");
        std::fs::write(&file, settings.iter().map(|setting| format!("{setting}\n")).collect::<String>()).unwrap();
        command.arg("--config").arg(file).output().unwrap()
    };
    let missed = run(&[]);
    assert_eq!(missed.status.code(), Some(2), "{}", stderr(&missed));
    let off = run(&["--neuron.nsfw_off"]);
    assert!(off.status.success(), "{}", stderr(&off));
}

/// `--neuron.blacklist_off`, `--neuron.relevance_off`, `--neuron.diversity_off`: miners who echo, and who say the same again and
/// again, are stopped by each filter, and by none that is off.
#[test]
fn a_filter_that_is_off_passes_everything() {
    models();
    const FILTERS: [(&str, &str); 3] = [
        ("--neuron.blacklist_off", "blacklist_filter"),
        ("--neuron.relevance_off", "relevance_filter"),
        ("--neuron.diversity_off", "diversity_reward_model"),
    ];
    let flags: Vec<Option<&str>> = std::iter::once(None).chain(FILTERS.map(|(flag, _)| Some(flag))).collect();
    let miners =
        ["good=1", "fair=0", "poor=0", "slow=0", "lazy=3", "echo=2", "copycat=0", "keyword_spammer=0", "hanging=0"];
    let miners = miners.iter().chain(&["garbage=0", "oversized=0", "wrong_json=0", "refusing=0"]);
    let miners: Vec<String> = miners.map(|mix| format!("localnet.miners.{mix}")).collect();
    let sizes = ["prompts.augment_sample_size=6", "prompts.followup_sample_size=6", "prompts.answer_sample_size=6"];
    let blocked = side_by_side(&flags, 2, |flag| {
        let reward = ["rewards.weights.dpo_reward_model=0.0", "rewards.weights.constant_reward_model=1.0"];
        let settings = miners.iter().map(String::as_str).chain(sizes).chain(reward).chain(SHORT_DEADLINES);
        let arguments: Vec<&str> = ["--neuron.mock_dataset", "--neuron.mock_gating_model", "--steps", "3"]
            .into_iter()
            .chain(settings.flat_map(|setting| ["--set", setting]))
            .chain(*flag)
            .collect();
        stopping(ran(&arguments).path())
    });
    let (with, without) = blocked.split_first().unwrap();
    for ((flag, column), without) in FILTERS.iter().zip(without) {
        assert!(with.contains(*column), "{column} stops somebody: {with:?}");
        assert!(!without.contains(*column), "{flag}: {without:?}");
        assert_eq!(without.len(), with.len() - 1, "the others are on: {without:?}");
    }
}

/// `--neuron.task_validator_off`: completions with the labels of every task.
#[test]
fn labels_of_other_tasks_are_let_through() {
    let texts = tempfile::tempdir().unwrap();
    let text = "Question: what is it? Summary: it is a town by the sea. Answer: yes, it is indeed a town. ".repeat(20);
    std::fs::write(texts.path().join("labels.txt"), text).unwrap();
    let source = format!("prompts.sources.mine={{ kind = \"directory\", path = {:?} }}", texts.path());
    let run = |off: &[&str]| {
        let filters = ["--neuron.blacklist_off", "--neuron.relevance_off", "--neuron.diversity_off"];
        let mocks = ["--neuron.mock_gating_model", "--neuron.mock_dendrite_pool", "--steps", "3"];
        let settings = ["rewards.weights.dpo_reward_model=0.0", "rewards.weights.constant_reward_model=1.0"];
        let settings = settings.iter().copied().chain([source.as_str(), "prompts.only=mine"]);
        let settings: Vec<&str> = settings.flat_map(|setting| ["--set", setting]).collect();
        stopping(ran(&[&filters[..], &mocks, &settings, off].concat()).path())
    };
    assert!(run(&[]).contains("task_validator_filter"));
    assert!(run(&["--neuron.task_validator_off"]).is_empty());
}
