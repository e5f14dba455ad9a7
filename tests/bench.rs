//! `bench scoring` from outside: what an operator runs to see whether a machine keeps up, and what tells that a device
//! computes a batch as it computes single rows.

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
