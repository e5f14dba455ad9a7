//! From an empty directory to a report and data sets: the commands of `docs/analysis.md`, runs of the real wandb clients,
//! runs fetched from a wandb server.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use openvalidators_reporting::wandb::server_double::{Double, Fault, KEY, RunState};
use openvalidators_tables::{StepRow, StoreWriter};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::program::{binary, models, output, stderr};

const GUIDE: &str = include_str!("../docs/analysis.md");

/// Reads every data set of the tutorial as its users would, and says how many rows each has.
const READ_ALL: &str = r#"
import json, os, pandas
sides = [side for side in ("chat.train.jsonl", "chat.validation.jsonl") if os.path.getsize(side)]
print(json.dumps({
    "steps.parquet": len(pandas.read_parquet("steps.parquet")),
    "mining.json": len(json.load(open("mining.json"))),
    "openai.jsonl": len(pandas.read_json("openai.jsonl", lines=True)),
    "chat": sum(len(pandas.read_json(side, lines=True)) for side in sides),
    "rewards.jsonl": len(pandas.read_json("rewards.jsonl", lines=True)),
    "pairs.jsonl": len(pandas.read_json("pairs.jsonl", lines=True)),
}))
"#;

/// Three steps and a checkpoint, as openvalidators 1.2.0 logs them, without a server.
const LOG_OFFLINE: &str = r#"
import sys, wandb
run = wandb.init(project="openvalidators", dir=sys.argv[1], mode="offline", tags=["1.2.0"])
for k in range(3):
    run.log({"name": "augment", "prompt": f"é number {k}", "uids": [3, 7], "completions": ["a", ""], "rewards": [0.5, 0.0],
             "completion_times": [0.25, 12.0], "block": 100.0 + k, "step_length": 1.5, "best": "a",
             "dpo_reward_model": [-1.5, float("nan")], "nsfw_filter": None, "set_weights": None})
run.log({"step": 1, "block": 103, "neuron_weights": [0.0, 0.5], "neuron_hotkeys": ["a", "b"]})
run.finish()
print(run.id)
"#;

/// A Python of `tests/peers.sh`, or the words why it is not asked.
fn python(peer: &str) -> Result<PathBuf, String> {
    let folder = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
    let folder = folder.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers")));
    let program = folder.unwrap_or_default().join(peer).join("bin/python");
    if program.exists() {
        Ok(program)
    } else {
        Err(format!("skipped: no {}; tests/peers.sh makes it", program.display()))
    }
}

fn said(output: Output) -> String {
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The code of the guide in one language, block by block.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    GUIDE.split(&*fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The tutorial, on fewer steps and with deadlines that make a run quick: what a reader types gives what is promised.
#[test]
fn the_commands_of_the_tutorial_give_a_report_and_five_data_sets() {
    models();
    let folder = tempfile::tempdir().unwrap();
    let mut typed = 0;
    for line in blocks("sh")[0].lines() {
        let command = line.split('#').next().unwrap();
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[0], "openvalidators", "{line}");
        let mut program = binary();
        program.current_dir(folder.path()).args(words[1..].iter().map(|word| if *word == "36" { "18" } else { word }));
        if words[1] == "run" {
            let quick = ["augment", "followup", "answer"].map(|kind| format!("prompts.{kind}_timeout_seconds=1.0"));
            program.arg("--quiet").args(["--set", "reporting.metrics.address=127.0.0.1:0"]);
            program.args(quick.iter().flat_map(|setting| ["--set", setting]));
        }
        let ran = program.output().unwrap();
        assert!(ran.status.success(), "{line}: {}", stderr(&ran));
        typed += 1;
    }
    assert!(typed >= 8, "{typed}");
    let there =
        |name: &str| fs::metadata(folder.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}")).len();
    let report = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(report.contains("<svg") && !report.contains("<script"), "it draws, and runs nothing");
    for name in ["steps.parquet", "mining.json", "openai.jsonl", "rewards.jsonl", "pairs.jsonl"] {
        assert!(there(name) > 0, "{name}");
    }
    // Two forwards, two contexts: both may fall on one side.
    assert!(there("chat.train.jsonl") + there("chat.validation.jsonl") > 0);

    let program = match python("tables") {
        Ok(program) => program,
        Err(why) => return println!("{why}"),
    };
    let run = |code: &str| said(Command::new(&program).args(["-c", code]).current_dir(folder.path()).output().unwrap());
    let rows: BTreeMap<String, u64> = serde_json::from_str(&run(READ_ALL)).unwrap();
    assert_eq!(rows["steps.parquet"], 18, "{rows:?}");
    assert!(rows.values().all(|rows| *rows > 0), "{rows:?}");
    // Each miner's mean reward, as three readers see it.
    for code in blocks("python") {
        assert!(run(&format!("{code}\nprint('read')")).contains("read"));
    }
    let [query] = blocks("sql")[..] else { panic!("one query") };
    assert!(
        run(&format!("import duckdb\nprint(len(duckdb.sql('''{query}''').fetchall()))")).trim().parse::<u64>().unwrap()
            > 0
    );
}

/// What pandas and Polars write of our table, with their compressions and kinds of columns, is read again.
#[test]
fn tables_that_passed_through_pandas_and_polars_are_read_again() {
    let program = match python("tables") {
        Ok(program) => program,
        Err(why) => return println!("{why}"),
    };
    let folder = tempfile::tempdir().unwrap();
    store(&folder.path().join("steps.parquet"), 3);
    let code = r#"
import pandas, polars, duckdb
pandas.read_parquet("steps.parquet").to_parquet("pandas.parquet")
polars.read_parquet("steps.parquet").write_parquet("polars.parquet")
duckdb.sql("COPY (SELECT * FROM 'steps.parquet') TO 'duckdb.parquet'")
"#;
    said(Command::new(&program).args(["-c", code]).current_dir(folder.path()).output().unwrap());
    let csv = |name: &str| {
        let (from, to) = (folder.path().join(name), folder.path().join(format!("{name}.csv")));
        said(output(&["dataset", "collect", "--from", from.to_str().unwrap(), "--output", to.to_str().unwrap()]));
        fs::read_to_string(to).unwrap()
    };
    let ours = csv("steps.parquet");
    assert_eq!(ours.lines().count(), 1 + 3);
    for name in ["pandas.parquet", "polars.parquet", "duckdb.parquet"] {
        assert_eq!(csv(name), ours, "{name}");
    }
}

fn offline_runs_are_read(peer: &str) {
    let program = match python(peer) {
        Ok(program) => program,
        Err(why) => return println!("{why}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let mut logging = Command::new(program);
    logging.env("HOME", folder.path()).env_remove("WANDB_API_KEY").args(["-c", LOG_OFFLINE]).arg(folder.path());
    let logged = said(logging.output().unwrap());
    let id = logged.lines().last().unwrap().trim();
    let (runs, csv) = (folder.path().join("wandb"), folder.path().join("steps.csv"));
    let collect = |from: &Path| {
        let (from, to) = (from.to_str().unwrap(), csv.to_str().unwrap());
        let said = said(output(&["dataset", "collect", "--from", from, "--output", to, "--force"]));
        (said, fs::read_to_string(&csv).unwrap())
    };
    let (summary, rows) = collect(&runs);
    assert!(summary.contains("3 steps, 6 completions; skipped 1 (a checkpoint, not a step"), "{summary}");
    let [_, first, ..] = rows.lines().collect::<Vec<_>>()[..] else { panic!("{rows}") };
    assert!(first.starts_with(id) && first.contains("é number 0") && first.contains("\"[-1.5, None]\""), "{first}");

    // A client that was killed while it wrote.
    let mut log = fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().path().join(format!("run-{id}.wandb")));
    let log = log.find(|path| path.exists()).unwrap();
    let bytes = fs::read(&log).unwrap();
    let last_row = bytes.windows(8).position(|window| window == b"number 2").unwrap();
    fs::write(&log, &bytes[..last_row]).unwrap();
    let (summary, _) = collect(&log);
    assert!(summary.contains("2 steps, 4 completions; skipped 1 (a last record that was cut off"), "{summary}");
}

#[test]
fn offline_runs_of_the_newest_wandb_client_are_read() {
    offline_runs_are_read("wandb");
}

#[test]
fn offline_runs_of_the_wandb_client_of_openvalidators_1_2_0_are_read() {
    offline_runs_are_read("wandb15");
}

fn row(at: i64) -> StepRow {
    StepRow {
        run: "exported".into(),
        name: "augment".into(),
        timestamp: 1_795_339_000_000_000 + at * 1_000_000,
        block: Some(at),
        prompt: format!("prompt {at}"),
        uids: vec![1, 2],
        completions: vec!["a".into(), "b \"é\"\n".into()],
        rewards: vec![Some(0.25), None],
        best: Some("a".into()),
        ..StepRow::default()
    }
}

fn store(path: &Path, rows: i64) {
    let mut writer = StoreWriter::new(fs::File::create(path).unwrap()).unwrap();
    (0..rows).for_each(|at| writer.write(row(at)).unwrap());
    writer.finish().unwrap();
}

/// A row as the server has it: of 1.2.0, or of the schema before.
fn served(at: i64, old: bool) -> String {
    let StepRow { name, block, prompt, uids, completions, best, .. } = row(at);
    let time = 1_795_339_000.0 + at as f64;
    let rewards = json!([0.25, "NaN"]);
    let row = match old {
        false => json!({
            "_step": at, "_timestamp": time, "name": name, "block": block, "prompt": prompt, "uids": uids,
            "completions": completions, "rewards": rewards, "best": best, "set_weights": null,
        }),
        true => json!({
            "_step": at, "_timestamp": time, "block": block, "base_prompt": prompt, "followup_uids": uids,
            "followup_completions": completions, "followup_rewards": rewards, "best_followup": best,
            "answer_prompt": format!("{prompt} a"), "answer_uids": uids, "answer_completions": completions,
            "answer_rewards": rewards, "best_answer": best, "all_completions": completions,
        }),
    };
    row.to_string()
}

/// A project of three runs: a long one of 1.2.0, an older one in the wide schema, and one half of which is exported.
fn project(double: &Double) {
    let run = |rows: Vec<String>, version: &str| RunState {
        history: rows,
        tags: json!([version, "netuid_1"]),
        exit_code: Some(0),
        ..RunState::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let exported = folder.path().join("exported.parquet");
    store(&exported, 6);
    let mut state = double.state.lock();
    let long = run((1_000..1_250).map(|at| served(at, false)).enumerate().map(renumbered).collect(), "1.2.0");
    let wide = run((0..4).map(|at| served(at, true)).collect(), "1.0.4");
    let half = run((0..9).map(|at| served(at, false)).collect(), "1.2.0");
    state.runs.insert("team/project/long".to_owned(), long);
    state.runs.insert("team/project/wide".to_owned(), wide);
    state.runs.insert("team/project/half".to_owned(), half);
    state.exports.insert("team/project/half".to_owned(), (vec![fs::read(&exported).unwrap()], 6));
}

/// `_step` counts the rows of a run from 0.
fn renumbered((at, row): (usize, String)) -> String {
    let mut row: Value = serde_json::from_str(&row).unwrap();
    row["_step"] = at.into();
    row.to_string()
}

/// `dataset collect` against the double, as its owner's program would ask wandb.
fn collect(double: &Double, folder: &Path, key: Option<&str>, args: &[&str]) -> Output {
    let mut command = binary();
    command.current_dir(folder).env("HOME", folder).env_remove("NETRC").env_remove("WANDB_API_KEY");
    command.env("WANDB_BASE_URL", double.url().as_str().trim_end_matches('/'));
    command.envs(key.map(|key| ("WANDB_API_KEY", key)));
    command.args(["dataset", "collect"]).args(args).output().unwrap()
}

#[test]
fn runs_of_wandb_are_fetched_in_pages_and_exports_in_either_schema() {
    let runtime = Runtime::new().unwrap();
    let double = runtime.block_on(Double::start());
    project(&double);
    let folder = tempfile::tempdir().unwrap();
    let all = said(collect(&double, folder.path(), Some(KEY), &["--wandb", "team/project", "--output", "all.csv"]));
    // 250 long rows, 4 wide ones of two steps each, 6 exported rows and 3 live ones.
    assert!(all.contains("read 267 steps"), "{all}");
    let rows = fs::read_to_string(folder.path().join("all.csv")).unwrap();
    assert!(rows.contains("wide,") && rows.contains("long,") && rows.contains("half,"));
    assert_eq!(double.requested("export"), 1);
    assert!(!folder.path().join("all.csv.downloads").exists(), "nothing is left beside the output");

    let tagged = ["--wandb", "team/project", "--tags", "1.2.0,netuid_1", "--output", "tagged.csv"];
    let tagged = said(collect(&double, folder.path(), Some(KEY), &tagged));
    assert!(tagged.contains("read 259 steps"), "{tagged}");
    let one =
        said(collect(&double, folder.path(), Some(KEY), &["--wandb", "team/project/wide", "--output", "one.csv"]));
    assert!(one.contains("read 8 steps"), "{one}");
    let none = ["--wandb", "team/project", "--since", "2030-01-01", "--output", "none.csv"];
    let none = stderr(&collect(&double, folder.path(), Some(KEY), &none));
    assert!(none.contains("none of the 3 runs of team/project with any tag was active then"), "{none}");
}

#[test]
fn a_download_that_was_broken_off_goes_on_where_it_stood() {
    let runtime = Runtime::new().unwrap();
    let double = runtime.block_on(Double::start());
    project(&double);
    let folder = tempfile::tempdir().unwrap();
    let args = ["--wandb", "team/project/long", "--output", "long.parquet"];
    // Whose key, the run, its keys, its exports, the first page; asked to come again; refused.
    double.fail([Fault::None; 5]);
    double.fail([Fault::Busy("0.05"), Fault::Status(403)]);
    let broken = collect(&double, folder.path(), Some(KEY), &args);
    assert!(!broken.status.success());
    let words = stderr(&broken);
    assert!(words.contains("long.parquet.downloads, and the same command goes on from there"), "{words}");
    assert_eq!(double.requested("failed 429"), 1);
    assert!(!folder.path().join("long.parquet").exists());
    // What a crash leaves behind the last whole page is cut off.
    let rows = folder.path().join("long.parquet.downloads/long.jsonl");
    let mut torn = fs::read(&rows).unwrap();
    torn.extend_from_slice(b"{\"_step\": 100, \"_timest");
    fs::write(&rows, torn).unwrap();

    let done = said(collect(&double, folder.path(), Some(KEY), &args));
    assert!(done.contains("read 250 steps, 500 completions\n"), "{done}");
    let pages: Vec<Value> = double
        .state
        .lock()
        .requests
        .iter()
        .filter(|(name, _)| name == "HistoryPage")
        .map(|(_, asked)| asked["minStep"].clone())
        .collect();
    assert_eq!(pages, [0, 100, 200]);

    // Kept on purpose, only what is new is fetched.
    let kept = ["--wandb", "team/project/long", "--downloads", "kept", "--output", "kept.csv", "--force"];
    said(collect(&double, folder.path(), Some(KEY), &kept));
    let before = double.requested("HistoryPage");
    double
        .state
        .lock()
        .runs
        .get_mut("team/project/long")
        .unwrap()
        .history
        .push(renumbered((250, served(2_000, false))));
    let more = said(collect(&double, folder.path(), Some(KEY), &kept));
    assert!(more.contains("read 251 steps"), "{more}");
    assert_eq!(double.requested("HistoryPage"), before + 1);
}

#[test]
fn what_wandb_refuses_is_told_with_its_remedy() {
    let runtime = Runtime::new().unwrap();
    let double = runtime.block_on(Double::start());
    project(&double);
    let folder = tempfile::tempdir().unwrap();
    let refused = |key: Option<&str>, args: &[&str]| {
        let output = collect(&double, folder.path(), key, args);
        assert!(!output.status.success(), "{args:?}");
        stderr(&output)
    };
    let args = ["--wandb", "team/project", "--output", "x.csv"];
    let none = refused(None, &args);
    assert!(none.contains("there is no API key for 127.0.0.1: set WANDB_API_KEY"), "{none}");
    let wrong = refused(Some(&KEY.replace('0', "f")), &args);
    assert!(wrong.contains("The API key is not accepted: check WANDB_API_KEY"), "{wrong}");
    let unknown = refused(Some(KEY), &["--wandb", "team/nothing", "--output", "x.csv"]);
    assert!(unknown.contains("wandb shows no project team/nothing to this key"), "{unknown}");
    let tag = refused(Some(KEY), &["--wandb", "team/project", "--tags", "9.9.9", "--output", "x.csv"]);
    assert!(tag.contains("team/project has no run with the tags 9.9.9"), "{tag}");
    let name = refused(Some(KEY), &["--wandb", "team", "--output", "x.csv"]);
    assert!(name.contains("expected ENTITY/PROJECT or ENTITY/PROJECT/RUN"), "{name}");
    assert!(refused(Some(KEY), &["--output", "x.csv"]).contains("--from"));
    drop(double);
    let gone = Command::new(env!("CARGO_BIN_EXE_openvalidators"))
        .args(["dataset", "collect"])
        .args(args)
        .envs([("WANDB_BASE_URL", "http://127.0.0.1:9"), ("WANDB_API_KEY", KEY)])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let words = stderr(&gone);
    assert!(words.contains("asking whose the API key is") && words.contains("(after 3 attempts)"), "{words}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}
