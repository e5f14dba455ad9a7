use std::{io::Write, process::Stdio};

use openvalidators_messages::{Axon, Block, Hotkey, Hyperparameters, Netuid, Neuron, Uid, weights::ScoreRow};
use prometheus::{Encoder, TextEncoder, proto::MetricType};

use super::*;
use crate::testing::{step, steps, unsettled};

fn made() -> (Registry, ReportingMetrics) {
    let registry = Registry::new();
    let build = BuildInfo {
        version: "0.1.0".into(),
        spec_version: "1020".into(),
        revision: "abc".into(),
        rustc: "1.95".into(),
    };
    let metrics = ReportingMetrics::new(&registry, &build).unwrap();
    (registry, metrics)
}

fn text(registry: &Registry) -> String {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn assert_lines(registry: &Registry, expected: &[&str]) {
    let text = text(registry);
    for line in expected {
        assert!(text.lines().any(|found| found == *line), "`{line}` is not in\n{text}");
    }
}

fn hotkey(uid: u16) -> Hotkey {
    let mut bytes = [uid as u8; 32];
    bytes[0] = (uid >> 8) as u8 ^ uid as u8;
    Hotkey(bytes)
}

fn neuron(uid: u16) -> Neuron {
    Neuron::newcomer(Uid(uid), hotkey(uid), Some(Axon { address: ([127, 0, 0, 1], 1).into(), protocol: 4, version: 1 }))
}

pub fn metagraph(uids: &[u16]) -> Metagraph {
    Metagraph {
        netuid: Netuid(1),
        block: Block(1),
        last_epoch_block: Block(0),
        epoch_index: 0,
        hyperparameters: Hyperparameters {
            tempo: 360,
            min_allowed_weights: 1,
            max_weight_limit: 1.0,
            weights_rate_limit: 100,
            weights_version_key: 0,
            commit_reveal: false,
            commit_by_hash: false,
            reveal_period_epochs: 1,
            activity_cutoff: 5_000,
            stake_threshold: 0.0,
        },
        owner_uid: None,
        neurons: uids.iter().map(|uid| neuron(*uid)).collect(),
    }
}

/// Everybody has one.
pub fn scores_of(uids: &[u16]) -> ScoreTable {
    let row =
        |uid: &u16| ScoreRow { hotkey: hotkey(*uid), score: 0.5, asked: 4, answered: 3, rewarded: 1, scored_at: 0.0 };
    ScoreTable { sequence: Sequence(1), rows: uids.iter().map(row).collect() }
}

fn scores() -> ScoreTable {
    let row = |uid: u8, score| ScoreRow {
        hotkey: Hotkey([uid; 32]),
        score,
        asked: 4,
        answered: 3,
        rewarded: 1,
        scored_at: 0.0,
    };
    ScoreTable { sequence: Sequence(1), rows: vec![row(1, 0.75), row(9, 0.5)] }
}

#[test]
fn counters_exist_at_zero_from_the_start() {
    let (registry, _) = made();
    assert_lines(
        &registry,
        &[
            "openvalidators_steps_total{name=\"augment\",result=\"scored\"} 0",
            "openvalidators_steps_total{name=\"answer\",result=\"unscored\"} 0",
            "openvalidators_completions_total{outcome=\"bad_body\"} 0",
            "openvalidators_steps_without_best_total 0",
            "openvalidators_build_info{revision=\"abc\",rustc=\"1.95\",spec_version=\"1020\",version=\"0.1.0\"} 1",
        ],
    );
}

#[test]
fn steps_are_counted_once_each() {
    let (registry, metrics) = made();
    metrics.observe(&steps(1..=2));
    metrics.observe(&[step(2), unsettled(3)]);
    assert_lines(
        &registry,
        &[
            "openvalidators_steps_total{name=\"followup\",result=\"scored\"} 2",
            "openvalidators_steps_total{name=\"followup\",result=\"unscored\"} 1",
            "openvalidators_completions_total{outcome=\"answered\"} 3",
            "openvalidators_completions_total{outcome=\"timed_out\"} 3",
            "openvalidators_completion_seconds_count 3",
            "openvalidators_reward_count{name=\"followup\"} 2",
            "openvalidators_reward_spread_sum{model=\"dpo_reward_model\"} 1",
            "openvalidators_filter_completions_total{filter=\"blacklist_filter\",result=\"passed\"} 2",
            "openvalidators_filter_completions_total{filter=\"blacklist_filter\",result=\"blocked\"} 2",
            "openvalidators_reported_sequence 3",
            "openvalidators_last_step_timestamp_seconds 1795339003",
        ],
    );
}

#[test]
fn a_uid_shows_its_present_holder_only() {
    let (registry, metrics) = made();
    metrics.show_uids(&metagraph(&[0, 1]), &scores());
    let one = ss58::encode(&Hotkey([1; 32]));
    assert_lines(
        &registry,
        &[
            "openvalidators_uid_score{uid=\"1\"} 0.75",
            "openvalidators_uid_success_ratio{uid=\"1\"} 0.75",
            "openvalidators_uid_incentive_ratio{uid=\"1\"} 0",
            &format!("openvalidators_uid_info{{hotkey=\"{one}\",uid=\"1\"}} 1"),
        ],
    );
    assert!(!text(&registry).contains("uid_score{uid=\"0\"}"), "no score is not a score of 0");
    metrics.show_uids(&metagraph(&[0]), &scores());
    assert!(!text(&registry).contains("uid=\"1\""), "a uid that is gone leaves nothing");
}

#[test]
fn trouble_lasts_until_a_success() {
    let (registry, metrics) = made();
    assert_eq!(metrics.check(), Ok(()));
    metrics.observe_trouble(Some("the disk is full".into()));
    assert_eq!(metrics.clone().check(), Err("the disk is full".into()));
    metrics.observe_trouble(None);
    assert_eq!(metrics.check(), Ok(()));
    assert_lines(&registry, &["openvalidators_reporting_errors_total 1"]);
}

/// Everything that can be exported, exported.
fn full() -> Registry {
    let (registry, metrics) = made();
    metrics.observe(&steps(1..=2));
    metrics.show_uids(&metagraph(&[0, 1]), &scores());
    registry
}

#[test]
fn names_and_help_follow_the_conventions() {
    let families = full().gather();
    assert!(families.len() > 25, "{} families", families.len());
    for family in families {
        let name = family.name();
        assert!(name.starts_with("openvalidators_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        assert!(family.help().len() > 10, "{name} is not explained");
        let is_counter = family.get_field_type() == MetricType::COUNTER;
        assert_eq!(is_counter, name.ends_with("_total"), "{name}");
        for unit in ["_ms", "_milliseconds", "_minutes", "_percent", "_kb", "_mb", "_gauge", "_histogram", "_counter"] {
            assert!(!name.contains(unit), "{name}");
        }
    }
}

#[test]
fn promtool_finds_nothing_to_say() {
    let promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("skipped: promtool is not on PATH (Debian: apt-get install --no-install-recommends prometheus)");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text(&full()).as_bytes()).unwrap();
    let found = promtool.wait_with_output().unwrap();
    let words = [found.stdout, found.stderr].concat();
    assert!(found.status.success() && words.is_empty(), "{}", String::from_utf8_lossy(&words));
}
