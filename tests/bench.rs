//! `bench scoring` from outside: what an operator runs to see whether a machine keeps up, and what tells that a device
//! computes a batch as it computes single rows.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use crate::program::{output, stderr};

const ORDERS: [&str; 3] = ["one by one", "batched", "shared: ours"];

#[test]
fn a_tiny_stack_is_measured_in_every_order_and_batches_equal_single_rows() {
    let run = output(&["bench", "scoring", "--device", "cpu", "--tiny", "--json"]);
    assert!(run.status.success(), "{}", stderr(&run));
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let difference = report["largest_difference"].as_f64().unwrap();
    assert!(difference > 0.0 && difference < 1e-4, "{difference}: compared, and equal but for rounding");
    assert!(report["steps_per_hour"].as_f64().unwrap() > 0.0);

    let lines = report["lines"].as_array().unwrap();
    let parts = ["dpo", "rlhf", "reciprocate", "relevance + diversity", "nsfw", "whole stack"];
    assert_eq!(lines.len(), parts.len() * ORDERS.len());
    for part in parts {
        let tokens = ORDERS.map(|order| {
            let line = lines.iter().find(|line| line["what"] == part && line["how"] == order).unwrap();
            line["tokens"].as_f64().unwrap()
        });
        // A marker before each prompt is all that rows share in a batch.
        let apart = tokens[0] - tokens[1];
        assert!((0.0..6.0).contains(&apart), "{part}: the same rows, together: {tokens:?}");
        let shares = !matches!(part, "rlhf" | "nsfw");
        assert!(if shares { tokens[2] < tokens[0] } else { tokens[2] == tokens[0] }, "{part}: {tokens:?}");
    }
}

#[test]
fn the_table_names_what_was_asked_for_and_nothing_else() {
    let run = output(&["bench", "scoring", "--tiny", "--only", "nsfw,rlhf", "--ours", "--peak-tflops", "0.1"]);
    assert!(run.status.success(), "{}", stderr(&run));
    let said = String::from_utf8(run.stdout).unwrap();
    let whats: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).collect();
    assert_eq!(whats, ["what", "nsfw", "rlhf", "whole stack"], "{said}");
    assert!(said.contains("steps an hour") && said.contains("products: 100 GFLOP/s"), "{said}");
}

/// Attackers that the reference pays nothing get nothing here, and who copies gets less than the copied: in a small subnet,
/// with the real models. The same command gives the same numbers.
#[test]
fn who_does_not_do_the_work_gets_less_than_who_does() {
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().join("said.json").display().to_string();
    let play = || {
        let size = ["--conversations", "2", "--steps", "40", "--uids", "24", "--asked", "8", "--shares", "0.25"];
        let which = ["--only", "stock phrase,exact copycat,hang", "--cache", &cache, "--json"];
        let run = output(&[&["bench", "adversary"][..], &size, &which].concat());
        assert!(run.status.success(), "{}", stderr(&run));
        serde_json::from_slice::<Value>(&run.stdout).unwrap()
    };
    let report = play();
    let games = report["games"].as_array().unwrap();
    let capture = |strategy: &str, rules: &str| {
        let game =
            games.iter().find(|game| game["strategy"] == strategy).unwrap_or_else(|| panic!("{strategy}: {report}"));
        game[rules]["capture"].as_f64().unwrap()
    };
    for strategy in ["stock phrase", "noisy stock phrase", "hang and drip"] {
        assert!(capture(strategy, "ours") < 0.1, "{strategy}: {report}");
    }
    assert!(capture("exact copycat", "ours") < capture("exact copycat", "reference"), "{report}");
    assert!(
        report["nobody"]["ours"]["rank_correlation"].as_f64().unwrap() > 0.5,
        "good miners rank above poor ones: {report}"
    );
    assert_eq!(play(), report, "by what the first run kept");
}

/// What the gate plays: every strategy in a small subnet, with the texts of `docs/adversary.md`.
const GATE: [&str; 12] = [
    "bench",
    "adversary",
    "--strategies-only",
    "--conversations=2",
    "--steps=40",
    "--uids=48",
    "--asked=16",
    "--shares=0.15,0.3",
    "--seed=20240",
    "--json",
    "--cache",
    "CACHE",
];

/// How much more than in the table a strategy may capture.
const CAPTURE_MARGIN: f64 = 0.1;
/// How much the rank correlation of honest miners may fall, and how many more of their texts may be zeroed.
const RANK_MARGIN: f64 = 0.1;
const ZEROED_MARGIN: f64 = 0.03;

/// A change of rewards, weights or models must not make any attack pay more than it did when the table was written. A better
/// table is written by
/// `OPENVALIDATORS_WRITE_GATE=1 cargo test -p openvalidators --test outside no_attack_pays_more`, and committed.
#[test]
fn no_attack_pays_more_than_in_the_committed_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adversary");
    let (table, kept) = (folder.join("gate.json"), folder.join("said.json"));
    let scratch = tempfile::tempdir().unwrap();
    let cache = scratch.path().join("said.json");
    // What the judge said of these texts, by digest of model and text: what it never saw it is asked.
    if kept.exists() {
        std::fs::copy(&kept, &cache).unwrap();
    }
    let arguments = GATE.map(|argument| if argument == "CACHE" { cache.to_str().unwrap() } else { argument });
    let run = output(&arguments);
    assert!(run.status.success(), "{}", stderr(&run));
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let found = gate(&report);
    if std::env::var_os("OPENVALIDATORS_WRITE_GATE").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&table, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
        std::fs::copy(&cache, &kept).unwrap();
        return;
    }
    let told = std::fs::read(&table)
        .unwrap_or_else(|error| panic!("{}: {error}; write it with OPENVALIDATORS_WRITE_GATE=1", table.display()));
    let told: BTreeMap<String, f64> = serde_json::from_slice(&told).unwrap();
    assert!(found.keys().eq(told.keys()), "other strategies than in {}: write it anew", table.display());
    let worse = found.iter().filter(|(name, found)| match name.as_str() {
        "honest rank correlation" => **found < told[*name] - RANK_MARGIN,
        "honest zeroed" => **found > told[*name] + ZEROED_MARGIN,
        _ => **found > told[*name] + CAPTURE_MARGIN,
    });
    let worse: Vec<String> = worse.map(|(name, found)| format!("{name}: {found:.3}, was {:.3}", told[name])).collect();
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

/// The numbers that are compared, by what they are.
fn gate(report: &Value) -> BTreeMap<String, f64> {
    let games = report["games"].as_array().unwrap();
    let capture = |game: &Value| {
        let name = format!("{} at {}", game["strategy"].as_str().unwrap(), game["share"]);
        (name, game["ours"]["capture"].as_f64().unwrap())
    };
    let mut found: BTreeMap<String, f64> = games.iter().map(capture).collect();
    let nobody = &report["nobody"]["ours"];
    found.insert("honest rank correlation".to_owned(), nobody["rank_correlation"].as_f64().unwrap());
    found.insert("honest zeroed".to_owned(), nobody["honest_zeroed"].as_f64().unwrap());
    found
}

#[test]
fn a_benchmark_that_cannot_be_played_says_why() {
    for (option, value, words) in [
        ("--only", "no such thing", "names no strategy; there are: stock phrase"),
        ("--shares", "1.5", "a share is above 0 and below 1"),
        ("--asked", "300", "from 1 to the number of uids, 256"),
        ("--conversations", "1", "so 2 or more"),
    ] {
        let refused = output(&["bench", "adversary", option, value]);
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(words), "{}", stderr(&refused));
    }
}
