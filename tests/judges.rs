//! Candidates on live traffic, from outside: miners of the local network judge each other, and nothing that counts changes.

use serde_json::Value;

use crate::program::{Program, get, output, stderr};

/// Only miners that do the task, in three tiers.
const MINERS: [&str; 12] = [
    "localnet.miners.good=4",
    "localnet.miners.fair=4",
    "localnet.miners.poor=4",
    "localnet.miners.slow=0",
    "localnet.miners.lazy=0",
    "localnet.miners.echo=0",
    "localnet.miners.copycat=0",
    "localnet.miners.keyword_spammer=0",
    "localnet.miners.hanging=0",
    "localnet.miners.garbage=0",
    "localnet.miners.oversized=0",
    "localnet.miners.wrong_json=0",
];

const JUDGES: [&str; 4] = [
    "localnet.miners.refusing=0",
    "rewards.shadows=[\"network_reward_model\",\"rank_normaliser\"]",
    "rewards.network.completions_per_step=6",
    "rewards.network.timeout_seconds=5.0",
];

/// As `bench adversary --candidates` writes it.
const BENCHMARK: &str = r#"{
  "version": 1, "settings": "of another validator", "share": 0.15,
  "in_force": { "capture": {}, "rank_correlation": 0.9, "honest_zeroed": 0.0 },
  "candidates": {
    "network_reward_model": { "capture": { RATIOS }, "rank_correlation": 0.5, "honest_zeroed": 0.0 }
  }
}"#;

#[test]
fn miners_judge_each_other_as_a_shadow_and_rewards_stay_as_they_are() {
    let state = tempfile::tempdir().unwrap();
    let with: Vec<&str> = MINERS.iter().chain(&JUDGES).flat_map(|setting| ["--set", setting]).collect();
    let mut program = Program::start(state.path(), &[&["--steps", "9"][..], &with].concat());
    let address = program.metrics_address();
    for _ in 0..6 {
        program.until("step");
    }
    let (_, metrics) = get(&address, "/metrics");
    let (_, status) = program.finish();
    assert!(status.success());

    let number = |series: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{metrics}")).parse().unwrap()
    };
    let grades = number("openvalidators_rewards_judgements_total{result=\"grade\"}");
    assert!(grades >= 30.0, "miners answered with {grades} grades");
    assert!(number("openvalidators_rewards_judge_disagreement_count") > 5.0);
    assert!(number("openvalidators_rewards_shadow_seconds_count{shadow=\"network_reward_model\"}") >= 5.0);
    let agreement = number("openvalidators_rewards_shadow_correlation{shadow=\"network_reward_model\"}");
    assert!((-1.0..=1.0).contains(&agreement), "{agreement}");
    assert!(metrics.contains("openvalidators_rewards_judge_bias{hotkey="), "{metrics}");

    // The next life knows its judges before anybody judges again.
    let played = BENCHMARK.replace("RATIOS", r#""hang and drip": 0.0, "exact copycat": 0.75"#);
    let benchmark = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(benchmark.path(), played).unwrap();
    let benchmark = benchmark.path().to_str().unwrap();
    let shown = format!("rewards.shadow_benchmark={benchmark:?}");
    let mut program = Program::start(state.path(), &[&["--steps", "4", "--set", &shown][..], &with].concat());
    let address = program.metrics_address();
    program.until("step");
    let (_, remembered) = get(&address, "/metrics");
    let (_, status) = program.finish();
    assert!(status.success());
    let judges = remembered.matches("openvalidators_rewards_judge_bias{hotkey=").count();
    assert!(
        judges >= 8,
        "a step or two tell the bias of none, for that takes five judgements each:
{remembered}"
    );

    let ratio = r#"shadow_capture_ratio{shadow="network_reward_model",strategy="exact copycat"} 0.75"#;
    assert!(remembered.contains(ratio), "{remembered}");

    let state = state.path().to_str().unwrap();
    // Played again from the records: the same, with the settings of then.
    let replayed = output(&[&["replay", "--state-dir", state][..], &with].concat());
    assert!(replayed.status.success(), "{}", stderr(&replayed));

    let promoted = "rewards.weights={dpo_reward_model=0.0,network_reward_model=1.0}";
    let compared = output(&["what-if", "--from", state, "--json", "--with", promoted, "--set", &shown]);
    assert!(compared.status.success(), "{}", stderr(&compared));
    let told: Value = serde_json::from_slice(&compared.stdout).unwrap();
    let shadow = &told["shadows"][0];
    assert_eq!((&shadow["name"], &shadow["steps"]), (&"network_reward_model".into(), &13.into()), "{told}");

    assert_eq!(shadow["capture"], 0.75, "{told}");

    let figures = output(&["analyze", "--from", state, "--figure", "shadows", "--tables", "--benchmark", benchmark]);
    let said = String::from_utf8(figures.stdout).unwrap();
    assert!(said.contains("worst capture") && said.contains("0.75"), "{said}");
    assert!(said.contains("network_reward_model") && said.contains("rank_normaliser"), "{said}");
}
