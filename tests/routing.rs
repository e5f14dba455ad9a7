//! Routing by the encoder of openvalidators 1.2.0, GPT-Neo by its last token, and on from what 1.2.0 had learned.

use std::path::Path;

use openvalidators_ledger::Reader;
use openvalidators_messages::Sequence;
use serde_json::Value;

use crate::program::Program;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn program(state: &Path, steps: &str) -> Program {
    let folder = format!("models.catalogue.tiny-gpt-neo.directory={FIXTURES}/parity/models/gptneo");
    let settings = ["gating.model=tiny-gpt-neo", "gating.pooling=last_token", &folder, "chain.local.block_seconds=0.5"];
    let mut arguments = vec!["--steps", steps];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    Program::start(state, &arguments)
}

#[test]
fn prompts_are_read_by_the_last_token_of_a_gpt_neo_in_a_folder() {
    let state = tempfile::tempdir().unwrap();
    let (_, status) = program(state.path(), "3").finish();
    assert!(status.success());
    let steps = Reader::open(state.path()).unwrap().read_steps(Sequence(0), 9).unwrap();
    assert_eq!(steps.len(), 3);
    for step in &steps {
        let read = step.record.embedding.as_ref().unwrap();
        assert_eq!((read.encoder.as_str(), read.row.len()), ("tiny-gpt-neo/last_token", 32));
    }
    assert_ne!(steps[0].record.embedding, steps[1].record.embedding, "another prompt reads otherwise");
    let log = std::fs::read_to_string(state.path().join("completions.log")).unwrap();
    let losses: Vec<Option<f64>> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["record"]["extra"]["gating_loss"].as_f64())
        .collect();
    assert!(losses.len() == 3 && losses.iter().all(|loss| loss.is_some_and(|loss| loss >= 0.0)), "{losses:?}");

    // The same state goes on; nothing is learned anew.
    let (_, status) = program(state.path(), "1").finish();
    assert!(status.success());
    assert_eq!(Reader::open(state.path()).unwrap().latest().unwrap(), Sequence(4));
}
