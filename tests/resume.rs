//! `kill -9` in mid-run, and on again from the same state directory.

use std::collections::BTreeMap;

use openvalidators::config::Config;
use openvalidators_ledger::Reader;
use openvalidators_messages::{Hotkey, Sequence, StepOutcome};
use openvalidators_rewards::fold::{Rules, State};
use serde_json::Value;

use crate::program::Program;

/// Steps settled before the kill, and after it.
const BEFORE: u64 = 4;
const AFTER: u64 = 4;

#[test]
fn a_killed_validator_resumes_with_the_same_scores() {
    let state = tempfile::tempdir().unwrap();
    let fast_blocks = ["--set", "chain.local.block_seconds=0.5"];
    let mut program = Program::start(state.path(), &fast_blocks);
    let mut seen = 0;
    while seen < BEFORE {
        seen = program.until("step")["sequence"].as_u64().unwrap();
    }
    program.kill();
    let settled = Reader::open(state.path()).unwrap().latest().unwrap();
    assert!(settled.0 >= BEFORE, "what was told is durable");

    let steps = AFTER.to_string();
    let (lines, status) = Program::start(state.path(), &["--steps", &steps, fast_blocks[0], fast_blocks[1]]).finish();
    assert!(status.success());
    let sequences: Vec<u64> =
        lines.iter().filter(|line| line["event"] == "step").map(|line| line["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (settled.0 + 1..=settled.0 + AFTER).collect::<Vec<_>>(), "none lost, none doubled");

    // The scores in the summary are those of a run that was never killed: the fold of every step in the ledger.
    let expected = fold_by_hand(state.path());
    let summary = lines.iter().find(|line| line["event"] == "summary").unwrap();
    let mut told: Vec<f64> =
        summary["miners"].as_array().unwrap().iter().map(|m| m["score"].as_f64().unwrap()).collect();
    let mut expected: Vec<f64> = expected.into_values().filter(|score| *score != 0.0).collect();
    told.retain(|score| *score != 0.0);
    told.sort_by(f64::total_cmp);
    expected.sort_by(f64::total_cmp);
    assert_eq!(told.len(), expected.len());
    for (told, expected) in told.iter().zip(&expected) {
        assert!((told - expected).abs() < 1e-9, "{told} is not {expected}");
    }
    let log = std::fs::read_to_string(state.path().join("completions.log")).unwrap();
    let logged: Vec<u64> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["record"]["extra"]["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(logged, (1..=settled.0 + AFTER).collect::<Vec<_>>(), "the event log has every step once");
}

/// The moving average as the reference defines it, each reward by its importance, over outcomes folded anew from the raw records: a validator that lost its
/// normaliser or its history on the way would have stored others.
pub fn fold_by_hand(state: &std::path::Path) -> BTreeMap<Hotkey, f64> {
    const ALPHA: f64 = 0.05;
    const MAX_IMPORTANCE: f64 = 10.0;
    let reader = Reader::open(state).unwrap();
    let (rules, mut rewards) = (Rules::new(&Config::default().rewards), State::default());
    let mut scores = BTreeMap::new();
    let mut after = Sequence(0);
    loop {
        let steps = reader.read_steps(after, 32).unwrap();
        let Some(last) = steps.last() else { return scores };
        after = last.sequence;
        for step in &steps {
            let outcome = rewards.fold(&rules, step.sequence, &step.record);
            assert!(step.outcome.as_ref().is_some_and(|told| told.agrees_with(&outcome)), "step {}", step.sequence);
            let StepOutcome::Scored(scored) = &*outcome else { continue };
            for (asked, reward) in step.record.asked.iter().zip(&scored.rewards) {
                let score: &mut f64 = scores.entry(asked.hotkey).or_default();
                let share = ALPHA * asked.importance().min(MAX_IMPORTANCE);
                *score = share * f64::from(reward.get()) + (1.0 - share) * *score;
            }
        }
    }
}
