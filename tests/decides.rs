//! Does the scoring decide? What a validator is for: miners that do the task end up with more weight than those that do
//! not, and better ones with more than worse ones. The judge is the row of weights that the chain holds.

use std::{collections::BTreeMap, fmt::Write, thread::available_parallelism, time::Instant};

use crate::program::{CONSTANT_REWARD, Program, side_by_side};

/// One network, one set of texts, one set of random choices each.
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
/// Settled steps of one run.
const STEPS: &str = "18";
/// From best to worst.
const TIERS: [&str; 3] = ["good", "fair", "poor"];
/// Whoever is no honest miner.
const BAD: [&str; 10] =
    ["lazy", "echo", "copycat", "keyword_spammer", "slow", "hanging", "garbage", "oversized", "wrong_json", "refusing"];

/// Settings that make a run affordable. Deadlines, miners, judges and scores are those of every user.
const SETTINGS: [&str; 8] = [
    // Everybody is asked in every step: few steps are enough to meet everybody often.
    "prompts.augment_sample_size=16",
    "prompts.followup_sample_size=16",
    "prompts.answer_sample_size=16",
    // Scoring costs what is read: short texts, and six short forwards about six of them instead of two long ones.
    "prompts.context_limit_bytes=900",
    "prompts.num_followup_steps=1",
    // While one forward waits for miners that never answer, the other uses the device; two runs share the cores.
    "prompts.concurrent_forwards=2",
    "inference.threads=1",
    // An epoch takes ten seconds.
    "chain.local.block_seconds=0.5",
];
/// Runs at once: each holds the models in memory.
const MOST_AT_ONCE: usize = 4;

/// The weights of the miners of each kind, of one run or of many.
type Weights = BTreeMap<String, Vec<f64>>;

#[test]
fn honest_miners_outweigh_bad_ones_and_rank_by_tier_and_without_rewards_they_do_not() {
    // The control is one run more, and the last to start: it costs nothing but the wait for miners.
    let runs: Vec<(u64, &[&str])> =
        SEEDS.iter().map(|seed| (*seed, &[][..])).chain([(SEEDS[0], &CONSTANT_REWARD[..])]).collect();
    let at_once = available_parallelism().map_or(1, usize::from).min(MOST_AT_ONCE);
    let mut rows = side_by_side(&runs, at_once, |(seed, settings)| run(*seed, settings));
    let control = rows.pop().unwrap();

    let mut all = Weights::new();
    rows.iter().flatten().for_each(|(kind, row)| all.entry(kind.clone()).or_default().extend(row));
    let table = table(&rows, &all, &control);
    println!("{table}");
    decides(&all).unwrap_or_else(|wrong| panic!("{wrong}\n{table}"));
    for (seed, row) in SEEDS.iter().zip(&rows) {
        no_luck(row).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}\n{table}"));
    }
    assert!(control.values().flatten().any(|weight| *weight > 0.0), "the control sets weights too\n{table}");
    assert!(decides(&control).is_err(), "this test passes without any scoring, so it shows nothing\n{table}");
}

/// The whole claim: every honest tier has more than every bad kind, and a better tier more than a worse one.
fn decides(weights: &Weights) -> Result<(), String> {
    let pairs = TIERS.iter().flat_map(|tier| BAD.map(|bad| (*tier, bad)));
    for (better, worse) in pairs.chain(TIERS.windows(2).map(|pair| (pair[0], pair[1]))) {
        let (more, less) = (mean(&weights[better]), mean(&weights[worse]));
        if more <= less {
            return Err(format!("{better} has {more:.0} and {worse} {less:.0}"));
        }
    }
    Ok(())
}

/// Two forwards are enough for each miner by itself: the unluckiest good one has more than the luckiest bad one.
fn no_luck(row: &Weights) -> Result<(), String> {
    let good = row["good"].iter().copied().fold(f64::INFINITY, f64::min);
    for (bad, weights) in BAD.iter().map(|bad| (bad, &row[*bad])) {
        if let Some(weight) = weights.iter().find(|weight| **weight >= good) {
            return Err(format!("a good miner has {good:.0} and a {bad} one {weight:.0}"));
        }
    }
    Ok(())
}

/// Validates a network of its own and gives our row on the chain.
fn run(seed: u64, settings: &[&str]) -> Weights {
    let (state, since) = (tempfile::tempdir().unwrap(), Instant::now());
    let seed = format!("seed={seed}");
    let settings = SETTINGS.iter().chain(settings).copied().chain([seed.as_str()]);
    let arguments: Vec<&str> = ["--steps", STEPS].into_iter().chain(settings.flat_map(|set| ["--set", set])).collect();
    let (lines, status) = Program::start_unhurried(state.path(), &arguments).finish();
    assert!(status.success(), "{seed}: {status}");
    let summary = lines.iter().find(|line| line["event"] == "summary").unwrap();
    let mut row = Weights::new();
    for miner in summary["miners"].as_array().unwrap() {
        let weight = miner["weight"].as_f64().unwrap_or_else(|| panic!("{seed}: no weights on the chain: {summary}"));
        row.entry(miner["kind"].as_str().unwrap().to_owned()).or_default().push(weight);
    }
    println!("{seed}: {:.1} s, {row:.0?}", since.elapsed().as_secs_f64());
    row
}

fn mean(weights: &[f64]) -> f64 {
    weights.iter().sum::<f64>() / weights.len() as f64
}

/// Mean weights by seed, then of all of them with the least and the most of one miner, then of the control.
fn table(rows: &[Weights], all: &Weights, control: &Weights) -> String {
    let mut table = format!("{:16}", "mean weight");
    SEEDS.iter().for_each(|seed| write!(table, "{:>8}", format!("seed {seed}")).unwrap());
    table.push_str("     all   least    most control\n");
    for kind in TIERS.iter().chain(&BAD) {
        write!(table, "{kind:16}").unwrap();
        rows.iter().chain([all]).for_each(|row| write!(table, "{:>8.0}", mean(&row[*kind])).unwrap());
        let least = all[*kind].iter().copied().fold(f64::INFINITY, f64::min);
        let most = all[*kind].iter().copied().fold(0.0, f64::max);
        writeln!(table, "{least:>8.0}{most:>8.0}{:>8.0}", mean(&control[*kind])).unwrap();
    }
    table
}
