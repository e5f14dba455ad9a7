//! Prompt sources of the whole program: what they give, what happens when one is not there, and where a restart reads on.

use std::path::Path;

use serde_json::Value;

use crate::program::{CONSTANT_REWARD, Program, output, stderr};

/// Nothing listens there.
const NOBODY: &str = "models.hugging_face_endpoint=http://127.0.0.1:9";
const WEB: &str = "prompts.sources.web={ kind = \"hugging_face\", dataset = \"owner/name\" }";

/// A folder of so many texts, and the setting that makes it a source.
fn folder(texts: usize) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let sentence = |number: usize| {
        format!("The harbour of town number {number} lay quiet under a thin fog in the early morning. ")
    };
    let line = |number| format!("{}\n", serde_json::json!({"text": sentence(number).repeat(20)}));
    std::fs::write(folder.path().join("towns.jsonl"), (0..texts).map(line).collect::<String>()).unwrap();
    let setting = format!("prompts.sources.mine={{ kind = \"directory\", path = {:?} }}", folder.path());
    (folder, setting)
}

#[test]
fn a_sample_shows_what_each_source_gives() {
    let (_folder, mine) = folder(20);
    let shown = output(&["prompts", "sample", "--count", "3", "--json", "--set", &mine]);
    assert!(shown.status.success(), "{}", stderr(&shown));
    let lines: Vec<Value> =
        String::from_utf8_lossy(&shown.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |source: &str| lines.iter().filter(|line| line["source"] == source).collect::<Vec<_>>();
    assert_eq!((lines.len(), of("embedded").len(), of("mine").len()), (6, 3, 3));
    assert!(of("mine").iter().all(|line| line["place"].as_str().unwrap().starts_with("mine:towns.jsonl:")));
}

#[test]
fn a_source_that_gives_nothing_is_told_with_its_reason() {
    let args = ["prompts", "sample", "--source", "web", "--patience", "5", "--set", WEB, "--set", NOBODY];
    let shown = output(&args);
    let told = String::from_utf8_lossy(&shown.stdout);
    assert_eq!(shown.status.code(), Some(1), "{told}");
    assert!(told.contains("web: 0 of 5 texts within 5 s: datasets/owner/name: "), "{told}");
    let unknown = output(&["prompts", "sample", "--source", "wbe", "--set", WEB]);
    assert!(stderr(&unknown).contains("`wbe`, which is no source: it is one of embedded, web"), "{}", stderr(&unknown));
}

/// Half of the forwards belong to a server that is not there.
#[test]
fn a_validator_goes_on_without_a_source_and_reads_on_after_a_restart() {
    let (state, (_folder, mine)) = (tempfile::tempdir().unwrap(), folder(500));
    let args = |steps| {
        ["--steps", steps, "--set", &mine, "--set", WEB, "--set", NOBODY, "--set", "prompts.shuffle_buffer=5"]
            .map(str::to_owned)
    };
    let mut before = 0;
    for steps in ["3", "6"] {
        let args = args(steps);
        // What the texts earn is no matter here.
        let unscored = CONSTANT_REWARD.iter().flat_map(|setting| ["--set", setting]);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(unscored).collect();
        let program = Program::start(state.path(), &args);
        let (_, status) = program.finish();
        assert!(status.success(), "{status}");
        let record = record(state.path());
        assert!(record > before, "{record} after {before}");
        before = record;
    }
}

/// The record at which the folder is read on.
fn record(state: &Path) -> u64 {
    let json = std::fs::read(state.join("prompts/mine.json")).unwrap();
    serde_json::from_slice::<Value>(&json).unwrap()["mark"]["record"].as_u64().unwrap()
}
