//! What the manual says, held to the binary: every flag of openvalidators 1.2.0 by its effect, every command by being run.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use openvalidators::{cli, config::reference_flags};

use crate::program::{binary, models, output, stderr};

/// What is set where a flag takes a value, and what shows in `--print-config` where that differs.
const VALUES: [(&str, &str, &str); 35] = [
    ("netuid", "7", "7"),
    ("neuron.name", "mine", "state/mine"),
    ("neuron.device", "cpu:1", "cpu:1"),
    ("neuron.num_concurrent_forwards", "3", "3"),
    ("neuron.moving_average_alpha", "0.25", "0.25"),
    ("neuron.followup_timeout", "7.5", "7.5"),
    ("neuron.followup_sample_size", "9", "9"),
    ("neuron.answer_timeout", "8.5", "8.5"),
    ("neuron.answer_sample_size", "11", "11"),
    ("neuron.num_followup_steps", "2", "2"),
    ("neuron.events_retention_size", "3 GB", "3 GB"),
    ("neuron.vpermit_tao_limit", "512", "512.0"),
    ("gating.model_name", "EleutherAI/gpt-neo-125m", "gpt-neo-125m"),
    ("gating.learning_rate", "0.5", "0.5"),
    ("gating.momentum", "0.5", "0.5"),
    ("reward.dpo_weight", "1.0", "1.0"),
    ("reward.reciprocate_weight", "1.0", "1.0"),
    ("reward.rlhf_weight", "1.0", "1.0"),
    ("reward.dahoas_weight", "1.0", "1.0"),
    ("reward.prompt_based_weight", "1.0", "1.0"),
    ("wandb.project_name", "1", "1"),
    ("wandb.entity", "mine", "mine"),
    ("wandb.run_step_length", "7", "7"),
    ("wandb.notes", "true", "true"),
    ("wallet.name", "true", "true"),
    ("wallet.hotkey", "1", "1"),
    ("wallet.path", "/srv/wallets", "/srv/wallets"),
    ("subtensor.network", "test", "test"),
    ("subtensor.chain_endpoint", "wss://mine:443", "wss://mine:443"),
    ("logging.logging_dir", "/srv/logs", "/srv/logs"),
    ("axon.ip", "127.0.0.2", "127.0.0.2"),
    ("axon.port", "9000", "9000"),
    ("axon.external_ip", "198.51.100.7", "198.51.100.7"),
    ("axon.external_port", "9001", "9001"),
    ("axon.maximum_concurrent_rpcs", "12", "12"),
];

/// What else is needed for a configuration that makes sense.
fn beside(name: &str) -> &'static [&'static str] {
    match name {
        "subtensor.network" | "subtensor.chain_endpoint" => &["--netuid", "5"],
        _ if name.starts_with("reward.") && name != "reward.dpo_weight" => &["--reward.dpo_weight", "0"],
        _ => &[],
    }
}

fn printed(args: &[&str]) -> toml::Table {
    let printed = binary().args(["run", "--print-config"]).args(args).output().unwrap();
    assert!(printed.status.success(), "{args:?}: {}", stderr(&printed));
    String::from_utf8(printed.stdout).unwrap().parse().unwrap()
}

fn at(config: &toml::Table, key: &str) -> Option<toml::Value> {
    let mut parts = key.split('.');
    let first = config.get(parts.next()?)?.clone();
    parts.try_fold(first, |value, part| value.get(part).cloned())
}

/// Each flag of the table, through the binary: its keys hold what it says, and are otherwise not so.
#[test]
fn every_flag_of_the_reference_shows_in_the_configuration_in_force() {
    let values: BTreeMap<&str, (&str, &str)> =
        VALUES.iter().map(|(name, value, shown)| (*name, (*value, *shown))).collect();
    let default = printed(&[]);
    for row in reference_flags::rows().iter().filter(|row| !row.keys.is_empty()) {
        let (flag, name) = (row.spellings[0].as_str(), row.spellings[0].trim_start_matches('-'));
        let mut args = vec![flag];
        let shown =
            row.takes_value.then(|| *values.get(name).unwrap_or_else(|| panic!("no value is tried for {flag}")));
        args.extend(shown.map(|(value, _)| value));
        args.extend(beside(name));
        let config = printed(&args);
        let texts: Vec<_> = row.keys.iter().map(|key| at(&config, key)).collect();
        match shown {
            Some((_, shown)) => {
                let first = texts[0].clone().unwrap_or_else(|| panic!("{flag}: {} is not shown", row.keys[0]));
                let text = first.as_str().map_or_else(|| first.to_string(), str::to_owned);
                assert_eq!(text, shown, "{flag}");
            }
            None => {
                for (key, value) in row.keys.iter().zip(&texts) {
                    let is_meant = value.as_ref().is_some_and(|value| match value {
                        toml::Value::Boolean(on) => row.does.contains(&format!("{key} = {on}")) || !on,
                        toml::Value::String(word) => {
                            row.does.contains(&format!("{key} = \"{word}\"")) || name.contains("mock")
                        }
                        _ => name.contains("mock"),
                    });
                    assert!(is_meant, "{flag}: {key} is {value:?}, and should be so that {}", row.does);
                }
            }
        }
        // A flag that says what is so anyway shows nothing.
        let same = ["wandb.off", "neuron.nsfw_off", "mock", "subtensor._mock", "reward.dpo_weight", "wallet._mock"];
        assert_eq!(same.contains(&name), row.keys.iter().all(|key| at(&default, key) == at(&config, key)), "{flag}");
    }
}

#[test]
fn an_unknown_flag_names_the_nearest_known_one() {
    for (typed, meant) in [
        ("--neuron.num_concurent_forwards", "--neuron.num_concurrent_forwards"),
        ("--neuron.answer_timout", "--neuron.answer_timeout"),
        ("--walet.name", "--wallet.name"),
        ("--state-dirr", "--state-dir"),
    ] {
        let refused = output(&["run", typed, "1"]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr(&refused).contains(meant), "{}", stderr(&refused));
    }
}

/// A block of a page between fences that begin with `sh`.
struct Block {
    page: String,
    runs: bool,
    text: String,
}

fn blocks() -> Vec<Block> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<PathBuf> =
        std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|kind| kind == "md"));
    pages.push(root.join("README.md"));
    pages.sort();
    let mut blocks: Vec<Block> = Vec::new();
    for page in pages {
        let (text, mut inside) = (std::fs::read_to_string(&page).unwrap(), false);
        for line in text.lines() {
            match line.trim_start().strip_prefix("```") {
                Some(_) if inside => inside = false,
                Some(kind @ ("sh" | "sh run")) => {
                    inside = true;
                    let (page, runs) = (page.display().to_string(), kind == "sh run");
                    blocks.push(Block { page, runs, text: String::new() });
                }
                Some(_) | None if !inside => {}
                _ => {
                    let block = blocks.last_mut().unwrap();
                    block.text += line.trim_start();
                    block.text += "\n";
                }
            }
        }
    }
    blocks
}

/// The words of a command, as far as a shell would give them to it.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#' | '|' | '&' | '>' | ';', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words.retain(|word| word != "2>");
    words
}

/// What stands for what is the reader's.
fn filled_in(word: &str) -> String {
    match word {
        "N" | "U" => "1".to_owned(),
        "ADDRESS" | "IP:PORT" | "HOST:PORT" => "127.0.0.1:9944".to_owned(),
        _ => word.to_owned(),
    }
}

/// How commands of blocks marked `sh` begin, and where they are run instead, or why nowhere. What is not here must be run.
const ELSEWHERE: [(&str, &str); 33] = [
    ("openvalidators query --config configs/testnet.toml", "tests/journey.rs"),
    ("openvalidators doctor --config mine.toml", "tests/journey.rs"),
    ("openvalidators wallet check", "tests/journey.rs"),
    ("openvalidators run --subtensor.network test", "tests/journey.rs"),
    ("openvalidators update check", "tests/update.rs"),
    ("openvalidators update apply --guard", "tests/upgrade.rs"),
    ("openvalidators update rollback", "tests/update.rs"),
    ("openvalidators import --from", "the tests of src/import"),
    (
        "openvalidators prompts sample --config configs/finney.toml",
        "it needs the internet; tests/hub.rs has the doubles",
    ),
    ("openvalidators run --steps 36", "tests/datasets.rs"),
    ("openvalidators dataset", "tests/datasets.rs"),
    ("openvalidators analyze", "tests/datasets.rs"),
    ("openvalidators what-if", "tests/datasets.rs"),
    ("openvalidators run --set inference.device=cuda:0", "a machine with a GPU"),
    ("openvalidators run", "tests/run.rs"),
    ("echo 'warn,openvalidators_weights=debug'", "tests/program.rs"),
    ("cd dashboards/prometheus && prometheus", "tests/dashboards.rs"),
    ("prometheus-alertmanager", "tests/alerts.rs"),
    ("btcli ", "it needs a coldkey and the internet"),
    ("scripts/release", "tests/release.rs"),
    ("bash .ci/run", "CI"),
    ("cargo ", "building and testing: CI"),
    ("OPENVALIDATORS_WRITE_MANUAL=1 cargo test", "it writes these pages; CI holds them to the code"),
    ("SYNCS=10000 cargo test", "it takes an hour"),
    ("scripts/cuda-toolkit.sh", "a machine with a GPU"),
    ("source ~/cuda/env.sh", "a machine with a GPU"),
    ("openvalidators score --device cuda:0", "a machine with a GPU"),
    ("text-embeddings-router", "a server elsewhere"),
    ("vllm serve", "a server elsewhere"),
    ("for model in", "a server elsewhere"),
    ("cp -r tests/fixtures/parity/models", "a server elsewhere"),
    ("sed -i", "a server elsewhere"),
    ("OPENVALIDATORS_TEST_VLLM", "a server elsewhere"),
];

/// A command that is new in the manual is run, or says where it is.
#[test]
fn every_command_of_the_manual_is_run_somewhere() {
    let mut used = BTreeSet::new();
    for Block { page, text, .. } in blocks().into_iter().filter(|block| !block.runs) {
        for line in text.replace("\\\n", " ").lines().filter(|line| !line.trim().is_empty() && *line != "done") {
            let reason = ELSEWHERE.iter().find(|(beginning, _)| line.starts_with(beginning));
            let (beginning, _) = reason.unwrap_or_else(|| {
                panic!("{page}: `{line}`: mark its block `sh run`, or say in ELSEWHERE where it runs")
            });
            used.insert(*beginning);
        }
    }
    let unused: Vec<_> = ELSEWHERE.iter().filter(|(beginning, _)| !used.contains(beginning)).collect();
    assert!(unused.is_empty(), "the manual has none of {unused:?}");
}

/// A page must not name a flag that does not exist.
#[test]
fn every_command_of_the_manual_is_one() {
    let mut known = 0;
    for Block { page, text, .. } in blocks() {
        for line in text.replace("\\\n", " ").lines() {
            let words = words(line);
            let begins =
                words.iter().position(|word| word == "openvalidators" || word == "target/release/openvalidators");
            let Some(begins) = begins.filter(|&at| at == 0 || words[..at].iter().all(|word| word.contains('='))) else {
                continue;
            };
            let words: Vec<_> = words[begins..].iter().map(|word| filled_in(word)).collect();
            // Three dots stand for what another page says.
            if words.len() == 1 || line.contains('…') {
                continue;
            }
            if let Err(error) = cli::command().try_get_matches_from(&words) {
                use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
                assert!(matches!(error.kind(), DisplayHelp | DisplayVersion), "{page}: `{line}`: {error}");
            }
            known += 1;
        }
    }
    assert!(known > 20, "only {known} commands are found");
}

#[test]
fn what_the_manual_says_can_be_run_runs() {
    models();
    let program = Path::new(env!("CARGO_BIN_EXE_openvalidators")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut run = 0;
    for Block { page, text, .. } in blocks().into_iter().filter(|block| block.runs) {
        let folder = tempfile::tempdir().unwrap();
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs"), folder.path().join("configs")).unwrap();
        let mut shell = Command::new("sh");
        let ended = shell.args(["-e", "-c", &text]).current_dir(folder.path()).env("PATH", &path).output().unwrap();
        assert!(
            ended.status.success(),
            "{page}:\n{text}\n{}{}",
            String::from_utf8_lossy(&ended.stdout),
            stderr(&ended)
        );
        run += 1;
    }
    assert!(run >= 2);
}

/// All four swapped: no model is loaded, and no miner is asked, though the local network's are there.
#[test]
fn mocks_take_the_place_of_models_and_miners() {
    let (state, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = [
        format!("models.folder={:?}", empty.path()),
        format!("models.hugging_face_cache={:?}", empty.path()),
        "models.offline=true".to_owned(),
        "reporting.metrics.off=true".to_owned(),
    ];
    let ended = binary()
        .args(["run", "--quiet", "--steps", "2", "--mock", "--neuron.mock_dataset", "--neuron.mock_gating_model"])
        .args(["--neuron.mock_dendrite_pool", "--neuron.mock_reward_models", "--state-dir"])
        .arg(state.path())
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", stderr(&ended));
    let reader = openvalidators_ledger::Reader::open(state.path()).unwrap();
    let steps = reader.read_steps(openvalidators_messages::Sequence(0), 10).unwrap();
    assert!(steps.len() >= 2, "{}", stderr(&ended));
    for step in steps {
        let completions = &step.record.completions;
        let words: BTreeSet<&str> = step.record.prompt.split_whitespace().collect();
        let is_of_the_prompt = |text: &str| text.split_whitespace().all(|word| words.contains(word));
        assert!(completions.iter().all(|one| one.is_success() && is_of_the_prompt(&one.text)), "{completions:?}");
    }
}

/// What is logged tells of the filter in force; `--log` has the last word.
#[test]
fn the_flags_of_logging_set_the_filter() {
    let (folder, wallets) = (tempfile::tempdir().unwrap(), crate::wallet::wallets());
    let logged = |flags: &[&str]| {
        let folder = format!("models.folder={:?}", folder.path());
        let ended = binary()
            .args(["run", "--steps", "1", "--set", &folder, "--set", "models.offline=true", "--set"])
            .args(["reporting.metrics.off=true", "--wallet.name", "cold", "--wallet.hotkey", "plain", "--wallet.path"])
            .arg(wallets.path())
            .arg("--state-dir")
            .arg(wallets.path().join("state"))
            .args(["--set", &format!("models.hugging_face_cache={:?}", wallets.path())])
            .args(flags)
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(2), "it has no models: {}", stderr(&ended));
        stderr(&ended).contains("opened the hotkey")
    };
    assert!(!logged(&[]));
    assert!(logged(&["--logging.debug"]) && logged(&["--logging.trace"]));
    assert!(logged(&["--set", "logging.filter=info"]));
    assert!(!logged(&["--logging.debug", "--log", "warn"]));
}
