//! The real clients, newest and the one that openvalidators 1.2.0 pinned, as judges. `tests/peers.sh` installs them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use openvalidators_runtime::{SystemClock, on_worker};
use serde_json::{Value, json};

use super::{
    artifact::tests::head,
    journal::{FINISHED, tests::journal, tests::rows},
    record::Item,
    runs,
    server_double::{Double, KEY, OWNER, RunState},
    uploader::{Pace, tests::uploader},
};
use crate::testing::{step, steps};

/// Logs the rows of a file with the real client, each as one `log` call, and the gating head as the reference does.
const LOG_ROWS: &str = r#"
import json, sys, wandb
about, rows = json.load(open(sys.argv[1]))
run = wandb.init(project=about["project"], config=about["config"], tags=about["tags"], notes=about["notes"], dir=sys.argv[2])
for row in rows:
    run.log({key: value for key, value in row.items() if not key.startswith("_")})
artifact = wandb.Artifact(about["artifact"], type="model")
artifact.add_file(sys.argv[3], name=about["artifact"] + ".safetensors")
run.log_artifact(artifact)
run.finish()
"#;

/// Reads every row of a project's runs with the given tag, by the public API.
const READ_ROWS: &str = r#"
import json, sys, wandb
runs = wandb.Api(timeout=60).runs(sys.argv[1], filters={"tags": {"$in": [sys.argv[2]]}})
read = [[run.id, run.state, run.tags, dict(run.config), list(run.scan_history())] for run in runs]
json.dump(read, open(sys.argv[3], "w"))
"#;

/// The folder of a peer's programs, or the words why it is not asked.
fn programs(peer: &str) -> Result<PathBuf, String> {
    let folder = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
    let folder = folder.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers")));
    let programs = folder.unwrap_or_default().join(peer).join("bin");
    if programs.join("wandb").exists() {
        Ok(programs)
    } else {
        Err(format!("skipped: no {}; tests/peers.sh makes it", programs.join("wandb").display()))
    }
}

/// Runs one of the real client's programs against the double; its words, where it fails.
async fn real(mut command: Command, double: &Double, home: &Path) {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home);
    command.env("WANDB_BASE_URL", double.url().as_str().trim_end_matches('/')).env("WANDB_API_KEY", KEY);
    let output = on_worker(move || command.current_dir("/tmp").output().unwrap()).await;
    let said = [output.stdout, output.stderr].map(|words| String::from_utf8_lossy(&words).into_owned()).concat();
    assert!(output.status.success(), "{said}");
}

/// A run of a few forwards, with a prompt longer than a block of the log.
fn write_run(folder: &Path, offline: bool) -> Vec<Value> {
    let mut journal = journal(folder, offline, 1_500);
    let mut long = step(13);
    let mut record = (*long.record).clone();
    record.prompt = "é \"quoted\" \\ \n".repeat(5_000);
    long.record = record.into();
    journal.append(&steps(1..=12)).unwrap();
    journal.append(&[long]).unwrap();
    let scores = vec![Item::new("step", "1"), Item::new("block", "1234567"), Item::new("neuron_weights", "[0.5,0.25]")];
    journal.append_row(scores).unwrap();
    assert!(journal.append_head(&head(1.0)).unwrap());
    journal.append_stats(vec![Item::new("cpu", "12.5")]).unwrap();
    journal.append(&steps(14..=20)).unwrap();
    journal.finish(FINISHED).unwrap();
    rows(folder).remove(0).0
}

/// By what the numbers are: clients write `0` for `0.0`, and `1.79e+09`.
fn alike(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(values) => values.iter().map(alike).collect(),
        Value::Object(values) => values.iter().map(|(key, value)| (key.clone(), alike(value))).collect(),
        other => other.clone(),
    }
}

/// An object without what two uploads need not have in common.
fn without(value: &Value, names: &[&str]) -> BTreeMap<String, Value> {
    let values = value.as_object().cloned().unwrap_or_default();
    let kept = values.into_iter().filter(|(name, _)| !names.contains(&&**name));
    kept.map(|(name, value)| (name, alike(&value))).collect()
}

const TIMES: [&str; 3] = ["_timestamp", "_runtime", "_wandb"];

/// What an upload left, comparable with any other: rows, configuration, tags, notes, summary, exit code.
#[derive(Debug, PartialEq)]
struct Left {
    rows: Vec<BTreeMap<String, Value>>,
    config: BTreeMap<String, Value>,
    tags: Value,
    notes: Value,
    summary: BTreeMap<String, Value>,
    exit_code: Option<i64>,
}

impl Left {
    fn of(run: &RunState, names: &[&str]) -> Self {
        let parsed =
            |text: &String| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let mut config = without(&parsed(&run.config), &["_wandb"]);
        for setting in config.values_mut() {
            // The old client adds a description, which nobody wrote.
            *setting = setting["value"].clone();
        }
        let mut summary = without(&parsed(&run.summary), &TIMES);
        // The newest client leaves them out, the old one does not.
        summary.retain(|_, value| !value.is_null());
        Self {
            rows: run.history.iter().map(|line| without(&parsed(line), names)).collect(),
            config,
            tags: run.tags.clone(),
            notes: run.notes.clone(),
            summary,
            exit_code: run.exit_code,
        }
    }
}

/// The one artifact that is whole at the server: what it was made with, its files, and what its manifest says of them.
fn artifact(double: &Double) -> (Vec<Value>, BTreeMap<String, Vec<u8>>, Value) {
    let state = double.state.lock();
    let whole: Vec<_> = state.artifacts.values().filter(|version| version.is_committed).collect();
    let [version] = &whole[..] else { panic!("{:?}", state.artifacts) };
    let names = ["projectName", "artifactTypeName", "artifactCollectionName", "digest", "aliases"];
    // The old client says which collection it means in the aliases alone.
    let made_with = |name| match version.made_with[name].clone() {
        Value::Null => version.made_with["artifactCollectionNames"][0].clone(),
        found => found,
    };
    let mut manifest = version.manifest.clone();
    for entry in manifest["contents"].as_object_mut().unwrap().values_mut() {
        // Where it lay on the machine, and what the old client does not know.
        for name in ["local_path", "skip_cache", "birthArtifactID"] {
            entry.as_object_mut().unwrap().remove(name);
        }
    }
    (names.map(made_with).to_vec(), version.files.clone(), manifest)
}

/// What `wandb sync` of that client makes of our log is what we wrote.
async fn sync_uploads_what_we_wrote(peer: &str) {
    let programs = match programs(peer) {
        Ok(programs) => programs,
        Err(why) => return eprintln!("{why}"),
    };
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let written = write_run(folder.path(), true);
    let run = runs::list(folder.path()).unwrap().remove(0);
    let mut command = Command::new(programs.join("wandb"));
    command.arg("sync").arg(&run.path);
    real(command, &double, folder.path()).await;
    let (name, held) = double.only_run();
    assert_eq!(name, format!("{OWNER}/openvalidators/{}", run.id));
    let left = Left::of(&held, &[]);
    let ours: Vec<_> = written.iter().map(|row| without(row, &[])).collect();
    assert_eq!(left.rows, ours);
    assert_eq!((left.tags, left.notes), (json!(["5Fhotkey", "0.1.0", "netuid_1"]), json!("my notes")));
    assert_eq!(left.config["neuron"], json!({ "moving_average_alpha": 0.05 }));
    assert_eq!((&left.summary["sequence"], left.exit_code), (&json!(20.0), Some(0)));
    let (about, files, _) = artifact(&double);
    let of_run = double.state.lock().artifacts.values().all(|version| version.made_with["runName"] == run.id);
    assert!(of_run, "the artifact is one of the run");
    assert_eq!((&about[1], &about[2]), (&json!("model"), &json!("facebook_bart_gating_linear_layer")));
    let kept = std::fs::read_dir(run.path.join("artifacts")).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = kept.map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(files.into_values().collect::<Vec<_>>(), kept);
    assert!(run.synced().exists(), "it is done, and the client says so as we do");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_wandb_sync_uploads_what_we_wrote() {
    sync_uploads_what_we_wrote("wandb").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wandb_sync_of_openvalidators_1_2_0_uploads_what_we_wrote() {
    sync_uploads_what_we_wrote("wandb15").await;
}

/// What we leave at the server is what `wandb sync` of our log leaves, and what the client leaves that logs the same rows.
async fn we_leave_what_the_real_client_leaves(peer: &str) {
    let programs = match programs(peer) {
        Ok(programs) => programs,
        Err(why) => return eprintln!("{why}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let wandb = folder.path().join("wandb");
    let written = write_run(&wandb, false);
    let run = runs::list(&wandb).unwrap().remove(0);
    let uploaded = async |double: &Double, names: &[&str]| Left::of(&double.only_run().1, names);

    let synced = Double::start().await;
    let mut command = Command::new(programs.join("wandb"));
    command.args(["sync", "--include-online"]).arg(&run.path);
    real(command, &synced, folder.path()).await;
    std::fs::remove_file(run.synced()).unwrap();

    let logged = Double::start().await;
    let (input, script) = (folder.path().join("rows.json"), folder.path().join("log_rows.py"));
    let about = super::journal::tests::about();
    let about = json!({
        "project": about.project, "config": about.config, "tags": about.tags, "notes": about.notes,
        "artifact": crate::wandb::artifact::name(&about.gating_model),
    });
    let kept = std::fs::read_dir(run.path.join("artifacts")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&input, json!([about, written]).to_string()).unwrap();
    std::fs::write(&script, LOG_ROWS).unwrap();
    let mut command = Command::new(programs.join("python"));
    let theirs = tempfile::tempdir().unwrap();
    command.arg(&script).arg(&input).arg(theirs.path()).arg(kept);
    real(command, &logged, folder.path()).await;

    let ours = Double::start().await;
    let pace = Pace { request_bytes: 20_000, tick: std::time::Duration::from_millis(5), ..Pace::default() };
    let mut uploader = uploader(folder.path(), ours.url(), pace, SystemClock::shared());
    uploader.flush().await;

    assert_eq!(uploaded(&ours, &[]).await, uploaded(&synced, &[]).await, "as wandb sync");
    assert_eq!(uploaded(&ours, &TIMES).await, uploaded(&logged, &TIMES).await, "as run.log");
    assert_eq!(artifact(&ours), artifact(&synced), "the artifact, as wandb sync");
    assert_eq!(artifact(&ours), artifact(&logged), "the artifact, as run.log_artifact");
    let asked = |double: &Double, name| {
        let state = double.state.lock();
        let found = state.requests.iter().find(|(found, _)| found == name).map(|(_, variables)| variables.clone());
        found.unwrap_or_else(|| {
            panic!("{name} of {:?}", state.requests.iter().map(|(name, _)| name).collect::<Vec<_>>())
        })
    };
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let (of_ours, of_theirs) = (asked(&ours, "UpsertBucket"), asked(&logged, "UpsertBucket"));
    assert_eq!(keys(&of_ours), keys(&of_theirs), "the same variables");
    for name in ["project", "notes", "tags", "groupName", "displayName", "state", "summaryMetrics"] {
        assert_eq!(of_ours[name], of_theirs[name], "{name}");
    }
    assert_eq!(ours.requested("Viewer"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn we_leave_what_the_newest_client_leaves() {
    we_leave_what_the_real_client_leaves("wandb").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_leave_what_the_client_of_openvalidators_1_2_0_leaves() {
    we_leave_what_the_real_client_leaves("wandb15").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_api_reads_back_what_we_uploaded() {
    let programs = match programs("wandb") {
        Ok(programs) => programs,
        Err(why) => return eprintln!("{why}"),
    };
    let (double, folder) = (Double::start().await, tempfile::tempdir().unwrap());
    let wandb = folder.path().join("wandb");
    let written = write_run(&wandb, false);
    let run = runs::list(&wandb).unwrap().remove(0);
    uploader(folder.path(), double.url(), Pace::default(), SystemClock::shared()).flush().await;

    let (script, read) = (folder.path().join("read_rows.py"), folder.path().join("read.json"));
    std::fs::write(&script, READ_ROWS).unwrap();
    let mut command = Command::new(programs.join("python"));
    command.arg(&script).arg(format!("{OWNER}/openvalidators")).arg("netuid_1").arg(&read);
    real(command, &double, folder.path()).await;
    let read: Value = serde_json::from_slice(&std::fs::read(read).unwrap()).unwrap();
    assert_eq!(read.as_array().unwrap().len(), 1);
    let [id, state, tags, config, rows] = &read[0].as_array().unwrap()[..] else { panic!("{read}") };
    assert_eq!((id, state), (&json!(run.id), &json!("finished")));
    assert_eq!(tags, &json!(["5Fhotkey", "0.1.0", "netuid_1"]));
    assert_eq!(config["neuron"], json!({ "moving_average_alpha": 0.05 }));
    let rows: Vec<_> = rows.as_array().unwrap().iter().map(|row| without(row, &[])).collect();
    let ours: Vec<_> = written.iter().map(|row| without(row, &[])).collect();
    assert_eq!(rows, ours);
}
