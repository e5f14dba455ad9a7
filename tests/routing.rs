//! Routing by the encoders of openvalidators 1.2.0, GPT-Neo by its last token and a sentence model by the mean of its windows;
//! and what is shown of it.

use std::{collections::BTreeMap, path::Path};

use openvalidators_ledger::Reader;
use openvalidators_messages::{
    Sequence, Uid,
    inference::{ModelName, Pooling},
    prompts::topic,
};
use serde_json::Value;

use crate::program::{Program, get};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

const GPT_NEO: [&str; 2] = ["gptneo", "last_token"];
const SENTENCE_MODEL: [&str; 2] = ["distilroberta", "mean_of_windows"];

fn program(state: &Path, [encoder, pooling]: [&str; 2], steps: &str) -> Program {
    let folder = format!("models.catalogue.tiny-{encoder}.directory={FIXTURES}/parity/models/{encoder}");
    let (model, pooling) = (format!("gating.model=tiny-{encoder}"), format!("gating.pooling={pooling}"));
    let settings: [&str; 4] = [&model, &pooling, &folder, "chain.local.block_seconds=0.5"];
    let mut arguments = vec!["--steps", steps];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    Program::start(state, &arguments)
}

#[test]
fn prompts_are_read_by_both_encoders_of_1_2_0_from_folders() {
    let state = tempfile::tempdir().unwrap();
    let (_, status) = program(state.path(), GPT_NEO, "3").finish();
    assert!(status.success());
    let steps = Reader::open(state.path()).unwrap().read_steps(Sequence(0), 9).unwrap();
    assert_eq!(steps.len(), 3);
    for step in &steps {
        let read = step.record.embedding.as_ref().unwrap();
        assert_eq!((read.encoder.as_str(), read.row.len()), ("tiny-gptneo/last_token", 32));
    }
    assert_ne!(steps[0].record.embedding, steps[1].record.embedding, "another prompt reads otherwise");
    let log = std::fs::read_to_string(state.path().join("completions.log")).unwrap();
    let losses: Vec<Option<f64>> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["record"]["extra"]["gating_loss"].as_f64())
        .collect();
    assert!(losses.len() == 3 && losses.iter().all(|loss| loss.is_some_and(|loss| loss >= 0.0)), "{losses:?}");

    // The same state goes on; nothing is learned anew.
    let (_, status) = program(state.path(), GPT_NEO, "1").finish();
    assert!(status.success());
    assert_eq!(Reader::open(state.path()).unwrap().latest().unwrap(), Sequence(4));

    // Nor does a state that another encoder has taught stop anybody: routing learns anew, who was asked stays.
    let (_, status) = program(state.path(), SENTENCE_MODEL, "1").finish();
    assert!(status.success());
    let reader = Reader::open(state.path()).unwrap();
    let steps = reader.read_steps(Sequence(4), 9).unwrap();
    let read = steps[0].record.embedding.as_ref().unwrap();
    assert_eq!((steps.len(), read.encoder.as_str()), (1, "tiny-distilroberta/mean_of_windows"));
    let config = openvalidators_gating::Config {
        model: ModelName::new("tiny-distilroberta"),
        pooling: Pooling::MeanOfWindows,
        ..Default::default()
    };
    let snapshot = reader.load_snapshot(openvalidators_gating::OWNER).unwrap().unwrap();
    let routing = openvalidators_gating::snapshot::decode(&snapshot, &config.rules()).unwrap();
    assert_eq!((routing.memory().len(), routing.memory().width()), (1, read.row.len()));
    assert_eq!(routing.sequence(), Sequence(5));
    let asked: u64 = routing.coverage().values().map(|coverage| coverage.asked).sum();
    assert!(asked > steps[0].record.asked.len() as u64, "who was asked in the first four steps, too");
}

/// The network of `configs/specialists.toml`, for eleven steps: two of them are of one of the ten fields. That specialists are
/// sought out takes a few hundred (`docs/gating.md`); this is that it would be seen.
#[test]
fn whom_each_field_is_asked_is_in_the_summary_and_at_metrics() {
    const MINERS: f64 = 16.0;
    let state = tempfile::tempdir().unwrap();
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/specialists.toml");
    let settings = ["--config", config, "--steps", "12", "--set", "gating.warm_up_steps=8"];
    let mut program = Program::start(state.path(), &settings);
    let address = program.metrics_address();
    (0..11).for_each(|_| drop(program.until("step")));
    let (_, metrics) = get(&address, "/metrics");
    let series = |family: &str| metrics.lines().filter(|line| line.starts_with(family)).count();
    assert!((1..=30).contains(&series("openvalidators_gating_sought_out_ratio{topic=")), "{metrics}");
    let learned = r#"openvalidators_gating_steps_total{routing="learned"} "#;
    let learned = metrics.lines().find_map(|line| line.strip_prefix(learned)).unwrap();
    assert!(learned.parse::<f64>().unwrap() >= 1.0, "{learned} steps by what was learned");

    let (lines, status) = program.finish();
    assert!(status.success());
    let summary = lines.iter().find(|line| line["event"] == "summary").unwrap();
    let mut asked: BTreeMap<String, BTreeMap<Uid, u64>> = BTreeMap::new();
    for step in Reader::open(state.path()).unwrap().read_steps(Sequence(0), 99).unwrap() {
        let of_topic = asked.entry(topic(&step.record.source).unwrap().to_owned()).or_default();
        step.record.asked.iter().for_each(|asked| *of_topic.entry(asked.uid).or_default() += 1);
    }
    asked.retain(|_, uids| uids.values().sum::<u64>() >= 5);
    let topics = summary["topics"].as_array().unwrap();
    assert_eq!(topics.len(), asked.len(), "{summary}");
    for line in topics {
        let (uids, first) = (&asked[line["topic"].as_str().unwrap()], &line["sought_out"][0]);
        let (questions, most) = (uids.values().sum::<u64>(), *uids.values().max().unwrap());
        assert_eq!((line["questions"].as_u64(), first["asked"].as_u64()), (Some(questions), Some(most)), "{line}");
        assert_eq!(uids[&Uid(first["uid"].as_u64().unwrap() as u16)], most, "{line}");
        let ratio = most as f64 * MINERS / questions as f64;
        assert!((first["ratio"].as_f64().unwrap() - ratio).abs() < 1e-9, "{line}");
        assert!(["specialist: ", "fair", "poor"].iter().any(|kind| first["kind"].as_str().unwrap().starts_with(kind)));
    }
}
