//! The numbers are those of the reference's `plotting.py` (pandas 2.0.3, plotly 5.14.1, networkx 3.1), recorded in
//! `tests/fixtures/plotting.json` with the rows they were made of, by `record_plotting.py` beside it.

use serde_json::Value;

use super::*;
use crate::{Column, Shadow, event};

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../tests/fixtures/plotting.json")).unwrap()
}

/// The figures of the recorded rows, which are wide.
fn figures(options: Options) -> Vec<Figure> {
    let mut figures = Figures::new(options);
    for (number, wide) in (0..).zip(fixture()["rows"].as_array().unwrap()) {
        let mut wide = wide.as_object().unwrap().clone();
        for prompt in ["base_prompt", "answer_prompt"] {
            wide.insert(prompt.to_owned(), "p".into());
        }
        let seconds = wide["_timestamp"].as_f64().unwrap() / 1e6;
        event::read(&wide, "r", seconds, number).unwrap().iter().for_each(|row| figures.add(row));
    }
    figures.finish()
}

fn figure(options: Options, id: &str) -> Figure {
    figures(options).into_iter().find(|figure| figure.id == id).unwrap()
}

/// The traces that the reference made, by the keys asked for.
fn recorded(name: &str) -> Vec<Value> {
    fixture()[name].as_array().unwrap().clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

fn ys(series: &Series) -> Vec<f64> {
    series.y.iter().map(|y| y.unwrap()).collect()
}

#[track_caller]
fn close(left: &[f64], right: &[f64]) {
    assert_eq!(left.len(), right.len(), "{left:?} {right:?}");
    for (left, right) in left.iter().zip(right) {
        assert!((left - right).abs() < 1e-12, "{left} {right}");
    }
}

#[test]
fn throughput_is_the_references() {
    for (minutes, name) in [(10, "throughput"), (30, "throughput_30")] {
        let found = figure(Options { interval_minutes: minutes, ..Options::default() }, "throughput");
        let [trace] = &recorded(name)[..] else { panic!() };
        let times: Vec<_> =
            strings(&trace["x"]).iter().map(|time| crate::moment::parse(time).unwrap() as f64).collect();
        assert_eq!(found.series[0].x, times);
        // A wide row of the reference is one log; here it is a followup and an answer.
        close(&ys(&found.series[0]), &numbers(&trace["y"]).iter().map(|logs| logs * 2.0).collect::<Vec<_>>());
    }
}

#[test]
fn diversity_is_the_references() {
    let found = figure(Options::default(), "uid_diversity");
    let scatters: Vec<_> = recorded("uid_diversity").into_iter().filter(|trace| trace["type"] == "scatter").collect();
    assert_eq!(found.series[0].y.len(), scatters.len());
    for trace in scatters {
        let uid = trace["customdata"][0][0].as_i64().unwrap();
        let reward = trace["customdata"][0][8].as_f64().unwrap();
        let label = format!("uid {uid}, mean reward {reward:.3}");
        let at = found.series[0].labels.iter().position(|found| *found == label).expect(&label);
        let sizes = numbers(&trace["size"]);
        close(
            &[found.series[0].x[at], ys(&found.series[0])[at], found.series[0].sizes[at]],
            &[trace["x"][0].as_f64().unwrap(), trace["y"][0].as_f64().unwrap(), sizes[0]],
        );
    }
}

#[test]
fn completion_rates_are_the_references() {
    let regex = Some(regex::Regex::new("a (river|hill)").unwrap());
    for (options, name) in [
        (Options { top: Some(3), ..Options::default() }, "completion_rates"),
        (Options { regex, ..Options::default() }, "completion_rates_regex"),
    ] {
        let found = figure(options, "completion_rates");
        let recorded = recorded(name);
        assert_eq!(found.series.len(), recorded.len());
        for (series, trace) in found.series.iter().zip(recorded) {
            let text = trace["customdata"][0][0].as_str().unwrap().replace("<br>", " ");
            assert!(series.name.ends_with(&text), "{} {text}", series.name);
            let times: Vec<_> =
                strings(&trace["x"]).iter().map(|time| crate::moment::parse(time).unwrap() as f64).collect();
            assert_eq!(series.x, times);
            close(&ys(series), &numbers(&trace["y"]));
        }
    }
}

#[test]
fn completion_rewards_are_the_references() {
    let found = figure(Options { top: Some(2), ..Options::default() }, "completion_rewards");
    let scatters: Vec<_> =
        recorded("completion_rewards").into_iter().filter(|trace| trace["type"] == "scatter").collect();
    assert_eq!(found.series.len(), scatters.len());
    for (series, trace) in found.series.iter().zip(scatters) {
        close(&ys(series), &numbers(&trace["y"]));
        let uids = trace["customdata"].as_array().unwrap().iter().map(|point| format!("uid {}", point[1]));
        assert_eq!(series.labels, uids.collect::<Vec<_>>());
    }
}

#[test]
fn leaderboards_are_the_references() {
    let by_size = Options { by: By::Completion, agg: Agg::Size, ..Options::default() };
    for (options, name) in [
        (Options::default(), "leaderboard"),
        (Options { agg: Agg::Max, top: Some(3), ..Options::default() }, "leaderboard_max"),
        (by_size, "leaderboard_completion"),
    ] {
        let found = figure(options, "leaderboard");
        let recorded = recorded(name);
        let values: Vec<f64> = recorded.iter().flat_map(|trace| numbers(&trace["x"])).collect();
        let names: Vec<String> = recorded.iter().flat_map(|trace| strings(&trace["y"])).collect();
        close(&ys(&found.series[0]), &values);
        let names: Vec<String> = names.iter().map(|name| completions::shown(name)).collect();
        assert_eq!(found.series[0].labels, names);
    }
}

#[test]
fn calls_are_the_references() {
    let found = figure(Options { top: Some(4), ..Options::default() }, "dendrite_rates");
    for (series, trace) in found.series.iter().zip(recorded("dendrite_rates")) {
        assert_eq!(series.name, trace["name"].as_str().unwrap());
        assert_eq!(series.labels, strings(&trace["y"]));
        close(&ys(series), &numbers(&trace["x"]));
    }
}

/// Groups have the same members; their numbers and places mean nothing.
#[test]
fn groups_of_the_network_are_the_references() {
    let members = |labels: Vec<i64>| {
        let mut labels = labels;
        labels.sort_unstable();
        labels
    };
    let found = figure(Options::default(), "network_embedding");
    let uid = |label: &String| label.split([' ', ':']).nth(1).unwrap().parse().unwrap();
    let mut found: Vec<_> =
        found.series.iter().map(|series| members(series.labels.iter().map(uid).collect())).collect();
    let recorded = recorded("network");
    let uids = |trace: &Value| {
        trace["customdata"].as_array().unwrap().iter().map(|point| point[0].as_i64().unwrap()).collect()
    };
    let mut expected: Vec<_> = recorded.iter().map(|trace| members(uids(trace))).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// Two miners whose most frequent texts differ, and who share their second one.
#[test]
fn a_network_of_more_texts_joins_more_miners() {
    let groups = |network_texts| {
        let mut figures = Figures::new(Options { network_texts, ..Options::default() });
        for (uid, texts) in [(1, ["a", "a", "c"]), (2, ["b", "b", "c"]), (3, ["d", "d", "e"])] {
            for text in texts {
                let completions = vec![text.to_owned()];
                figures.add(&StepRow { name: "followup0".into(), uids: vec![uid], completions, ..StepRow::default() });
            }
        }
        let network = figures.finish().into_iter().find(|figure| figure.id == "network_embedding").unwrap();
        network.series.into_iter().map(|series| (series.name, series.labels)).collect::<Vec<_>>()
    };
    let all = ["uid 1: a", "uid 2: b", "uid 3: d"].map(str::to_owned).to_vec();
    assert_eq!(groups(1), [("Other".to_owned(), all)]);
    let joined = ["uid 1: c", "uid 2: c"].map(str::to_owned).to_vec();
    assert_eq!(groups(2), [("Group 1".to_owned(), joined), ("Other".to_owned(), vec!["uid 3: d".to_owned()])]);
}

#[test]
fn models_are_correlated_and_filters_counted() {
    let mut figures = Figures::new(Options::default());
    let column = |name, raw: [f64; 3]| Column { name, raw: raw.map(Some).to_vec(), normalized: vec![] };
    figures.add(&StepRow {
        name: "answer0".into(),
        uids: vec![1, 2, 3],
        completions: vec!["a".into(), "b".into(), "c".into()],
        rewards: vec![Some(1.0), Some(2.0), Some(3.0)],
        columns: vec![
            column("dpo_reward_model", [-1e9, 0.0, 1e9]),
            column("rlhf_reward_model", [3.0, 2.0, 1.0]),
            column("nsfw_filter", [1.0, 0.0, 1.0]),
        ],
        ..StepRow::default()
    });
    let all = figures.finish();
    let figure = |id: &str| all.iter().find(|figure| figure.id == id).unwrap();
    let correlations = &figure("correlations").series;
    let dpo = correlations.iter().find(|series| series.name == "dpo_reward_model").unwrap();
    assert_eq!(dpo.labels, ["dpo_reward_model", "rlhf_reward_model", "nsfw_filter", "final reward"]);
    close(&ys(dpo), &[1.0, -1.0, 0.0, 1.0]);
    close(&ys(&figure("filter_pass_rates").series[0]), &[2.0 / 3.0]);
}

#[test]
fn candidates_are_averaged_over_the_steps_that_say_something() {
    let captures = [("firewall_filter".to_owned(), 0.4), ("nsfw_filter".to_owned(), 0.3)].into();
    let mut figures = Figures::new(Options { captures, ..Options::default() });
    for (correlation, failed) in [(Some(0.5), false), (Some(1.0), false), (None, true)] {
        let (name, seconds) = ("firewall_filter".to_owned(), Some(2.0));
        let shadows = vec![Shadow { name, correlation, seconds, failed, blocked: correlation.map(|_| 0.1) }];
        figures.add(&StepRow { name: "answer0".into(), shadows, ..StepRow::default() });
    }
    let figure = figures.finish().into_iter().find(|figure| figure.id == "shadows").unwrap();
    let numbers: Vec<f64> = figure.series.iter().map(|series| series.y[0].unwrap()).collect();
    close(&numbers, &[0.75, 0.1, 0.4, 2.0, 3.0, 1.0]);
}

#[test]
fn copies_routes_and_changes_are_found() {
    let mut figures = Figures::new(Options { interval_minutes: 1, ..Options::default() });
    let text = "the same long sentence, word for word, from both of them";
    for step in 0..4_i64 {
        figures.add(&StepRow {
            name: "augment".into(),
            topic: Some("rivers".into()),
            timestamp: step * 60_000_000,
            uids: vec![9, 4, 5],
            completions: vec![text.into(), text.into(), format!("something of its own, which is number {step}")],
            rewards: vec![Some(0.5), Some(if step < 2 { 0.0 } else { 1.0 }), None],
            completion_times: vec![Some(1.0), Some(3.0), None],
            ..StepRow::default()
        });
    }
    let all = figures.finish();
    let figure = |id: &str| all.iter().find(|figure| figure.id == id).unwrap();
    assert_eq!(figure("copycats").series[0].labels, ["4 and 9"]);
    assert_eq!(ys(&figure("copycats").series[0]), [4.0]);
    assert_eq!(figure("gating_routes").series[0].labels, ["4", "5", "9"]);
    let comparison = &figure("comparison").series;
    assert_eq!((&comparison[2].labels[0], ys(&comparison[2])[0]), (&"4".to_owned(), 1.0));
    assert_eq!(figure("latency").series[0].labels, ["9", "4"], "quickest first");
}

#[test]
fn nothing_makes_figures_without_series() {
    let all = Figures::new(Options::default()).finish();
    assert_eq!(all.len(), 16);
    assert!(all.iter().all(|figure| figure.series.is_empty()), "{all:?}");
}
