//! The records of a real run: whole, copied, and made again bit for bit.

use std::path::Path;

use serde_json::Value;

use crate::program::{CONSTANT_REWARD, Program, binary};

/// Runs a subcommand over a state directory, under the settings of the run; its JSON lines, exit code and last words.
fn ask(state: &Path, args: &[&str]) -> (Vec<Value>, i32, String) {
    let constant = CONSTANT_REWARD.iter().flat_map(|setting| ["--set", setting]);
    let output = binary().args(args).arg("--json").args(constant).arg("--state-dir").arg(state).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (lines, output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_a_run_recorded_is_whole_and_can_be_made_again() {
    let state = tempfile::tempdir().unwrap();
    let mut settings = vec!["chain.local.block_seconds=0.5", "weights.snapshot_every_steps=5"];
    settings.extend(CONSTANT_REWARD);
    let fast: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let (lines, status) = Program::start(state.path(), &[&["--steps", "18"], &fast[..]].concat()).finish();
    assert!(status.success());
    // Killed, so that a fold goes on from a kept state, too.
    let mut program = Program::start(state.path(), &fast);
    program.until("step");
    program.kill();

    let (checked, code, _) = ask(state.path(), &["ledger", "check"]);
    assert_eq!((checked[0]["whole"].as_bool(), code), (Some(true), 0), "{checked:?}");
    let latest = checked[0]["latest"].as_u64().unwrap();
    assert!(latest > 18 && checked[0]["digests"] == latest, "{checked:?}");

    let (replayed, code, _) = ask(state.path(), &["replay"]);
    assert_eq!((&replayed[0]["same"], code), (&Value::Bool(true), 0), "{replayed:?}");
    assert_eq!((&replayed[0]["first"], &replayed[0]["steps"]), (&1.into(), &latest.into()));
    assert!(replayed[0]["states"].as_u64() >= Some(2) && replayed[0]["intents"].as_u64() >= Some(1), "{replayed:?}");
    let (replayed, ..) = ask(state.path(), &["replay", "--step", "7..9"]);
    assert_eq!((&replayed[0]["same"], &replayed[0]["steps"]), (&Value::Bool(true), &3.into()));
    let (differs, code, _) = ask(state.path(), &["replay", "--set", "weights.moving_average_alpha=0.06"]);
    assert_eq!((&differs[0]["same"], code), (&Value::Bool(false), 1));
    let difference = differs[0]["difference"].as_str().unwrap();
    assert!(
        difference.contains("the state that `weights` kept") || difference.contains("moving average of uid"),
        "{difference}"
    );
    let (_, code, error) = ask(state.path(), &["replay", "--step", "9999"]);
    assert!(code != 0 && error.contains("step 9999 has not happened"), "{error}");

    explain_the_best(state.path(), &lines);
    copy(state.path(), latest);
}

/// What 1.2.0 had learned is in no step: without the state an import began with, `replay` made other averages again.
#[test]
fn what_followed_an_import_can_be_made_again() {
    const FROM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/migration");
    let state = tempfile::tempdir().unwrap();
    let (imported, code, error) = ask(state.path(), &["import", "--from", FROM]);
    assert_eq!((imported[0]["findings"][0]["taken"].as_bool(), code), (Some(true), 0), "{error}");
    let mut settings = vec!["chain.local.block_seconds=0.5", "weights.snapshot_every_steps=1"];
    settings.extend(CONSTANT_REWARD);
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let (_, status) = Program::start(state.path(), &[&["--steps", "3"], &settings[..]].concat()).finish();
    assert!(status.success());
    let (replayed, code, _) = ask(state.path(), &["replay"]);
    assert_eq!((&replayed[0]["same"], code), (&Value::Bool(true), 0), "{replayed:?}");
    assert!(replayed[0]["states"].as_u64() >= Some(2), "averages with and of the import are met: {replayed:?}");
}

/// The one with the largest weight, from its queries to the vector on the chain.
fn explain_the_best(state: &Path, lines: &[Value]) {
    let (exported, code, _) = ask(state, &["ledger", "export", "--step", "1..2"]);
    assert_eq!((exported.iter().filter(|line| line["event"] == "step").count(), code), (2, 0));
    let intents: Vec<&Value> = exported.iter().filter(|line| line["event"] == "intent").collect();
    let intent = &intents.last().unwrap()["intent"];
    let place = intent["weights"].as_array().unwrap().iter().position(|weight| *weight == 65_535).unwrap();
    let uid = intent["uids"][place].to_string();
    let epoch = intent["epoch_index"].to_string();
    let (explained, code, error) = ask(state, &["explain", "--uid", &uid, "--epoch", &epoch]);
    assert_eq!(code, 0, "{error} {explained:?}");
    let explained = &explained[0];
    assert_eq!((&explained["weight"], &explained["difference"]), (&65_535.into(), &Value::Null), "{explained}");
    let steps = explained["steps"].as_array().unwrap();
    assert_eq!(steps.last().unwrap()["average"], explained["score"], "the last step gave the average");
    assert!(steps.iter().any(|step| step["reward"].as_f64() > Some(0.0)), "{steps:?}");
    assert!(lines.iter().any(|line| line["event"] == "summary"));
    let text = binary().args(["explain", "--uid", &uid, "--state-dir"]).arg(state).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("It adds up, to the last bit."), "{text}");
    let (_, code, error) = ask(state, &["explain", "--uid", &uid, "--epoch", "99999"]);
    assert!(code != 0 && error.contains("no weights of epoch 99999; it has some from epoch"), "{error}");
}

/// A copy is as good as the ledger, and overwrites nothing.
fn copy(state: &Path, latest: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (file, elsewhere) = (folder.path().join("backup.sqlite3"), folder.path().join("state"));
    let file = file.to_str().unwrap();
    assert_eq!(ask(state, &["ledger", "backup", file]).1, 0);
    assert!(ask(state, &["ledger", "backup", file]).2.contains("is there already"));
    assert!(ask(state, &["ledger", "restore", file]).2.contains("is there already"));
    let (restored, code, error) = ask(&elsewhere, &["ledger", "restore", file]);
    assert_eq!((&restored[0]["latest"], code), (&latest.into(), 0), "{error}");
    let (replayed, code, _) = ask(&elsewhere, &["replay"]);
    assert_eq!((&replayed[0]["same"], code), (&Value::Bool(true), 0), "{replayed:?}");
    let (size, code, _) = ask(&elsewhere, &["ledger", "size", "--days", "30"]);
    assert!(code == 0 && size[0]["forecast_bytes"].as_f64() > size[0]["used_bytes"].as_f64(), "{size:?}");
    std::fs::write(file, b"x").unwrap();
    let (_, code, error) = ask(&folder.path().join("other"), &["ledger", "restore", file]);
    assert!(code != 0 && error.contains("is no ledger"), "{error}");
}

#[test]
fn raw_scores_are_made_again_by_the_networks() {
    let state = tempfile::tempdir().unwrap();
    let settings =
        ["prompts.context_limit_bytes=600", "prompts.augment_sample_size=3", "prompts.followup_sample_size=3"];
    let short: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    assert!(Program::start(state.path(), &[&["--steps", "2"], &short[..]].concat()).finish().1.success());
    let rescore = |more: &[&str]| {
        let output =
            binary().args(["replay", "--rescore", "--json", "--state-dir"]).arg(state.path()).args(more).output();
        let output = output.unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    let (said, error, code) = rescore(&[]);
    assert_eq!(code, Some(0), "{said} {error}");
    let line: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((&line["same"], &line["rescored"]["steps"]), (&Value::Bool(true), &2.into()), "{line}");
    assert!(line["rescored"]["values"].as_u64() > Some(100), "{line}");
    // Another stack of rewards is not what was recorded.
    let (_, error, code) = rescore(&["--set", "rewards.relevance.enabled=false"]);
    assert!(code != Some(0) && error.contains("which this configuration does not use"), "{error}");
}
