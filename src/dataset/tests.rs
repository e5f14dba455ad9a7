//! Collecting and exporting, from files to files.

use std::{fs, path::Path};

use clap::Parser;
use openvalidators_tables::{StepRow, Store, StoreWriter};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::cli::{Cli, Task};

fn row(forward: i64, name: &str, prompt: &str, completions: &[(&str, f64)]) -> StepRow {
    let top = completions.iter().map(|(_, reward)| *reward).fold(0.0, f64::max);
    let best = completions.iter().find(|(_, reward)| *reward == top && top > 0.0);
    StepRow {
        run: "r".into(),
        forward: Some(forward),
        name: name.into(),
        timestamp: 1_795_339_015_000_000 + forward,
        prompt: prompt.into(),
        uids: (0..completions.len() as i64).collect(),
        completions: completions.iter().map(|(text, _)| (*text).to_owned()).collect(),
        rewards: completions.iter().map(|(_, reward)| Some(*reward)).collect(),
        best: best.map(|(text, _)| (*text).to_owned()),
        ..StepRow::default()
    }
}

/// Two forwards; the second asks what the first did.
fn store(folder: &TempDir) -> String {
    let path = folder.path().join("steps.parquet");
    let mut writer = StoreWriter::new(fs::File::create(&path).unwrap()).unwrap();
    for row in [
        row(1, "augment", "text one", &[("sum one", 0.5), ("", 0.0)]),
        row(1, "followup0", "ask", &[("q one", 0.4), ("bad", 0.0), ("", 0.0)]),
        row(1, "answer0", "answer q one", &[("a one", 0.9), ("meh", 0.85)]),
        row(2, "augment", "text two", &[("sum two", 0.25)]),
        row(2, "followup0", "ask", &[("I don't know", 0.8), ("q two", 0.3)]),
        row(2, "answer0", "answer q two", &[("", 0.0), ("nothing", 0.0)]),
    ] {
        writer.write(row).unwrap();
    }
    writer.finish().unwrap();
    path.display().to_string()
}

/// Runs a command as typed; `OUT` stands for a file in the folder.
fn run_typed(folder: &TempDir, typed: &str) -> anyhow::Result<String> {
    let store = store(folder);
    let words = typed.split_whitespace().map(|word| match word.strip_prefix("OUT/") {
        Some(name) => folder.path().join(name).display().to_string(),
        None => word.replace("STORE", &store),
    });
    let all = ["openvalidators".to_owned(), "dataset".to_owned()].into_iter().chain(words).collect::<Vec<_>>();
    let Task::Dataset(command) = Cli::parse_from(&all).command else { panic!("{all:?}") };
    run(&command)?;
    let output = all.windows(2).find(|pair| pair[0] == "--output" || pair[0] == "--export_path");
    Ok(fs::read_to_string(&output.unwrap()[1]).unwrap_or_default())
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_mining_exports_have_the_old_shapes() {
    let folder = TempDir::new().unwrap();
    let export = |rest: &str| run_typed(&folder, &format!("export {rest} --from STORE --quiet --force")).unwrap();
    let mining: Value = serde_json::from_str(&export("mining --output OUT/m.json")).unwrap();
    assert_eq!(mining, json!({ "ask": "I don't know", "answer q one": "a one" }), "the last one of a prompt");
    let scored: Value =
        serde_json::from_str(&export("scored_mining_dataset --duplicates first --output OUT/s.json")).unwrap();
    assert_eq!(scored, json!({ "ask": { "q one": 0.4 }, "answer q one": { "a one": 0.9 } }), "each by its own reward");
    let best: Value = serde_json::from_str(&export("mining --duplicates best --output OUT/b.json")).unwrap();
    assert_eq!(best["ask"], "I don't know");
    assert_eq!(
        export("scored-mining --format csv --output OUT/m.csv"),
        ",base_prompt,best_followup,followup_rewards,answer_prompt,best_answer,answer_rewards\n\
         0,ask,q one,0.4,answer q one,a one,0.9\n"
    );
    let openai = lines(&export("openai --output OUT/o.jsonl"));
    assert_eq!(openai.len(), 3);
    assert_eq!(openai[0], json!({ "prompt": "ask", "completion": "q one" }));
    let chat = lines(&export("chat --name answer --output OUT/c.jsonl"));
    let messages = json!([{ "role": "user", "content": "answer q one" }, { "role": "assistant", "content": "a one" }]);
    assert_eq!(chat, [json!({ "messages": messages })]);
}

#[test]
fn a_blacklist_and_a_least_reward_leave_out_and_say_so() {
    let folder = TempDir::new().unwrap();
    let list = folder.path().join("list");
    fs::write(&list, "I don't know\n\n").unwrap();
    let typed =
        format!("export mining --from STORE --blacklist {} --min-reward 0.5 --output OUT/m.json", list.display());
    let mining: Value = serde_json::from_str(&run_typed(&folder, &typed).unwrap()).unwrap();
    assert_eq!(mining, json!({ "answer q one": "a one" }));
    let about: Value = serde_json::from_slice(&fs::read(folder.path().join("m.json.about.json")).unwrap()).unwrap();
    let expected = json!({
        "a blacklisted completion": 1, "a reward below --min-reward": 1, "a step without a best completion": 1,
    });
    assert_eq!(about["left_out"], expected);
    assert!(about["read"].as_str().unwrap().starts_with("read 6 steps"), "{about}");
}

#[test]
fn pairs_keep_their_margin_and_judges_get_every_text() {
    let folder = TempDir::new().unwrap();
    let pairs = lines(&run_typed(&folder, "export dpo --from STORE --margin 0.2 --output OUT/d.jsonl").unwrap());
    let chosen: Vec<_> = pairs.iter().map(|pair| (pair["chosen"].clone(), pair["rejected"].clone())).collect();
    assert_eq!(chosen, [(json!("q one"), json!("bad")), (json!("I don't know"), json!("q two"))]);
    assert_eq!(pairs[0]["origin"]["uid"], 0);
    let rows = lines(&run_typed(&folder, "export reward-model --from STORE --output OUT/r.jsonl").unwrap());
    assert_eq!(rows.len(), 9, "empty completions are no examples");
    assert!(rows.iter().all(|row| row["reward"].is_number() && row["origin"]["run_id"] == "r"));
}

/// All steps about one text fall on one side.
#[test]
fn a_split_does_not_tear_a_context_apart() {
    let folder = TempDir::new().unwrap();
    run_typed(&folder, "export reward-model --from STORE --validation 0.5 --output OUT/r.jsonl").unwrap();
    let contexts = |side: &str| -> std::collections::BTreeSet<String> {
        let text = fs::read_to_string(folder.path().join(format!("r.{side}.jsonl"))).unwrap();
        lines(&text).iter().map(|row| row["origin"]["context"].as_str().unwrap().to_owned()).collect()
    };
    let (train, validation) = (contexts("train"), contexts("validation"));
    assert!(train.is_disjoint(&validation));
    assert_eq!(train.len() + validation.len(), 2);
}

#[test]
fn collecting_selects_deduplicates_and_serves_the_old_flags() {
    let folder = TempDir::new().unwrap();
    let typed = "collect --from STORE --from STORE --export_path OUT/all.csv --export_mining_dataset \
                 --export_mining_with_scoring_dataset --export_openai_dataset --quiet";
    let csv = run_typed(&folder, typed).unwrap();
    assert_eq!(csv.lines().count(), 1 + 6);
    let mining: Value =
        serde_json::from_slice(&fs::read(folder.path().join("mining_dataset_all.json")).unwrap()).unwrap();
    assert_eq!(mining["answer q one"], "a one");
    assert!(folder.path().join("scored_mining_dataset_all.json").exists());
    assert!(folder.path().join("openai_mining_dataset_openvalidators.jsonl").exists());
    run_typed(&folder, "collect --from STORE --name answer --output OUT/answers.parquet").unwrap();
    let mut answers = openvalidators_tables::Merged::new(vec![Box::new(
        Store::open(&folder.path().join("answers.parquet")).unwrap(),
    )]);
    let names: Vec<_> = std::iter::from_fn(|| answers.next_step().unwrap()).map(|row| row.name).collect();
    assert_eq!(names, ["answer0", "answer0"]);
}

#[test]
fn nothing_is_overwritten_and_what_cannot_be_is_explained() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("there.csv"), "mine").unwrap();
    let refused = |typed: &str| format!("{:#}", run_typed(&folder, typed).unwrap_err());
    assert!(refused("collect --from STORE --output OUT/there.csv").contains("--force"));
    assert_eq!(fs::read_to_string(folder.path().join("there.csv")).unwrap(), "mine");
    for (typed, expected) in [
        ("collect --from STORE --output OUT/x.xlsx", "must end with .parquet or .csv"),
        ("collect --from STORE --output OUT/x.csv --tags 1.2.0", "--tags chooses among the runs of --wandb"),
        ("collect --wandb a/b --output OUT/x.csv --download_all", "exclude one another"),
        ("collect --from /nowhere.log --output OUT/x.csv", "/nowhere.log"),
        ("collect --from /nowhere.wandb --output OUT/x.csv", "could not open /nowhere.wandb"),
        ("collect --from /nowhere.xlsx --output OUT/x.csv", "of no kind that is read"),
        ("export dpo --from STORE --format csv --output OUT/x", "--format csv is for mining"),
        ("export mining --from STORE --duplicates all --output OUT/x", "a prompt is a key"),
    ] {
        let error = refused(typed);
        assert!(error.contains(expected), "{typed}: {error}");
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "a failed command leaves no files: {left:?}");
    assert!(Path::new(&store(&folder)).exists());
}
