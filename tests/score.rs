//! `score` from outside: files in, files out.

use std::{fs, io::Write, os::unix::fs::symlink, path::Path, process::Stdio};

use serde_json::Value;

use crate::program::{binary, output, stderr};

/// A folder of models: the tiny checkpoints of the parity fixtures in these roles.
fn models(roles: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/models");
    for (role, checkpoint) in roles {
        symlink(checkpoints.join(checkpoint), folder.path().join(role)).unwrap();
    }
    folder
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const STEPS: &str = r#"{"name": "augment", "prompt": "Summarise it.", "completions": ["The river carries light.", null, "The teacher measures bread."]}

{"name": "followup0", "prompt": "Ask.", "base_prompt": "The river.", "completions": ["What does the river carry?", "  ", null]}
{"name": "answer0", "prompt": "Answer.", "base_prompt": "What?", "completions": ["What does the river carry?", "It carries light and bread."]}
{"name": "augment", "prompt": "Summarise it.", "completions": ["What does the river carry?"]}
"#;

#[test]
fn a_file_is_scored_line_by_line_and_the_summary_names_who_was_left_out() {
    let models = models(&[("dpo", "gpt2"), ("reciprocate", "gptj_rm"), ("misspelt", "gptneo")]);
    let folder = tempfile::tempdir().unwrap();
    let (input, scores) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    fs::write(&input, STEPS).unwrap();
    let paths = [models.path(), &input, &scores].map(|path| path.to_str().unwrap());
    let run = output(&["score", "--models", paths[0], "--input", paths[1], "--output", paths[2]]);
    let said = stderr(&run);
    assert!(run.status.success(), "{said}");
    assert!(said.contains("4 lines, 9 completions (2 failed calls)"), "{said}");
    assert!(said.contains("rewards: dpo 0.5, reciprocate 0.5"), "{said}");
    assert!(said.contains("filters: blacklist_filter, task_validator_filter\n"), "{said}");
    assert!(said.contains("rlhf, dahoas, prompt, relevance_bert, relevance_mpnet, diversity, nsfw"), "{said}");
    assert!(said.contains("folders of no role: misspelt"), "{said}");

    let scores = lines(&fs::read_to_string(&scores).unwrap());
    assert_eq!(scores.len(), 4);
    let first = &scores[0];
    let keys: Vec<&String> = first.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["best", "filters", "models", "rewards"], "as a sorted map has them");
    assert_eq!(first["models"].as_object().unwrap().len(), 2);
    let dpo = &first["models"]["dpo_reward_model"];
    assert!(dpo["raw"][0].is_f64() && dpo["raw"][1].is_null(), "{dpo}");
    assert_eq!((&dpo["normalized"][1], &first["rewards"][1]), (&0.0.into(), &0.0.into()));
    assert_eq!(first["filters"]["blacklist_filter"]["raw"], serde_json::json!([1.0, null, 1.0]));
    // What was best in a followup is no answer, until the next augment.
    let best = scores[1]["best"].as_u64().unwrap() as usize;
    let blocked = |step: &Value| step["filters"]["blacklist_filter"]["raw"][0] == 0.0;
    assert_eq!((best, blocked(&scores[2]), blocked(&scores[3])), (0, true, false));
}

#[test]
fn lines_flow_through_standard_streams() {
    let models = models(&[("dpo", "gpt2")]);
    let mut command = binary();
    command.args(["score", "--quiet", "--input", "-", "--output", "-", "--models"]).arg(models.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(STEPS.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success() && stderr(&done).is_empty(), "{}", stderr(&done));
    assert_eq!(lines(&String::from_utf8(done.stdout).unwrap()).len(), 4);
}

#[test]
fn a_bad_line_is_named_and_what_was_scored_before_it_is_kept() {
    let models = models(&[("dpo", "gpt2")]);
    let folder = tempfile::tempdir().unwrap();
    let (input, scores) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    fs::write(&input, STEPS.replace("answer0", "reply")).unwrap();
    let paths = [models.path(), &input, &scores].map(|path| path.to_str().unwrap());
    let run = output(&["score", "--models", paths[0], "--input", paths[1], "--output", paths[2]]);
    assert_eq!(run.status.code(), Some(1));
    let said = stderr(&run);
    assert!(said.contains("in.jsonl, line 4, column") && said.contains("`reply` is no step name"), "{said}");
    assert_eq!(lines(&fs::read_to_string(&scores).unwrap()).len(), 2);
}

#[test]
fn what_cannot_be_scored_at_all_is_refused_before_a_model_is_loaded() {
    let models = models(&[("dpo", "gpt2"), ("reciprocate", "gptj_rm")]);
    let (empty, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let input = folder.path().join("in.jsonl");
    fs::write(&input, STEPS).unwrap();
    let [models, empty, input] = [models.path(), empty.path(), &input].map(|path| path.to_str().unwrap());
    for (args, reason) in [
        (["--models", empty, "--input", input, "--output", "-", "--weights", "dpo=1"], "holds no folder of a role"),
        (["--models", "/nowhere", "--input", input, "--output", "-", "--weights", "dpo=1"], "/nowhere"),
        (["--models", models, "--input", "/nowhere.jsonl", "--output", "-", "--weights", "dpo=1"], "/nowhere.jsonl"),
        (["--models", models, "--input", input, "--output", input, "--weights", "dpo=1"], "is the input"),
        (
            ["--models", models, "--input", input, "--output", "-", "--weights", "dpo=0.9"],
            "add up to 0.9; they must add up to 1",
        ),
        (
            ["--models", models, "--input", input, "--output", "-", "--weights", "dpo=0.5,rlhf=0.5"],
            "rlhf 0.5, but it has no folder",
        ),
        (["--models", models, "--input", input, "--output", "-", "--weights", "dpo=0.5,dpo=0.5"], "names dpo twice"),
        (["--models", models, "--input", input, "--output", "-", "--weights", "btlm=1"], "names `btlm`"),
        (["--models", models, "--input", input, "--output", "-", "--weights", "dpo"], "expected ROLE=SHARE"),
    ] {
        let run = output(&[&["score"], &args[..]].concat());
        let said = stderr(&run);
        assert!(run.status.code() == Some(2) && said.contains(reason), "{args:?}: {said}");
    }
    let kept = fs::read_to_string(input).unwrap();
    assert_eq!(kept, STEPS, "the input is as it was");
}
