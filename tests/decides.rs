//! Does the scoring decide? What a validator is for: miners that do the task end up with more weight than those that do
//! not, and better ones with more than worse ones. The judge is the row of weights that the chain holds.

use std::{collections::BTreeMap, fmt::Write, time::Instant};

use crate::program::Program;

/// One network, one set of texts, one set of random choices each.
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
/// Settled steps of one run: three forwards.
const STEPS: &str = "9";
/// Steps cost the control nothing but the wait for miners; these see several epochs, so that weights are set.
const CONTROL_STEPS: &str = "45";
/// From best to worst.
const TIERS: [&str; 3] = ["good", "fair", "poor"];
/// Whoever is no honest miner.
const BAD: [&str; 10] =
    ["lazy", "echo", "copycat", "keyword_spammer", "slow", "hanging", "garbage", "oversized", "wrong_json", "refusing"];

/// Settings that make a run affordable. What is asked, how it is scored and what comes of it is left alone.
const SETTINGS: [&str; 9] = [
    // Everybody is asked in every step: few steps are enough to meet everybody often.
    "prompts.augment_sample_size=32",
    "prompts.followup_sample_size=32",
    "prompts.answer_sample_size=32",
    // Scoring costs what is read: short texts, short conversations.
    "prompts.context_limit_bytes=1200",
    "prompts.num_followup_steps=1",
    // While some forwards wait for miners that never answer, others use the device.
    "prompts.concurrent_forwards=3",
    // An epoch takes five seconds.
    "chain.local.block_seconds=0.25",
    "localnet.oversized_bytes=1048576",
    "reporting.dont_save_events=true",
];

/// The rewards replaced by a constant, and no filter: nothing is left that could decide.
const CONTROL: [&str; 6] = [
    "rewards.weights.dpo_reward_model=0.0",
    "rewards.weights.constant_reward_model=1.0",
    "rewards.relevance.enabled=false",
    "rewards.diversity.enabled=false",
    "rewards.blacklist.enabled=false",
    "rewards.task_validator.enabled=false",
];

/// Mean weight by kind, of one run or of many.
type Weights = BTreeMap<String, f64>;

#[test]
fn honest_miners_outweigh_bad_ones_and_rank_by_tier_and_without_rewards_they_do_not() {
    let runs = SEEDS.map(|seed| run(seed, STEPS, &[]));
    let mean = mean(&runs);
    let table = table(&runs, &mean);
    println!("{table}");
    for (seed, weights) in SEEDS.iter().zip(&runs) {
        outweigh(weights).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}\n{table}"));
    }
    decides(&mean).unwrap_or_else(|wrong| panic!("{wrong}\n{table}"));

    let control = run(SEEDS[0], CONTROL_STEPS, &CONTROL);
    let table = self::table(std::slice::from_ref(&control), &control);
    println!("{table}");
    assert!(control.values().any(|weight| *weight > 0.0), "the control sets weights too\n{table}");
    assert!(decides(&control).is_err(), "this test passes without any scoring, so it shows nothing\n{table}");
}

/// The whole claim.
fn decides(weights: &Weights) -> Result<(), String> {
    outweigh(weights)?;
    for pair in TIERS.windows(2) {
        let (better, worse) = (weights[pair[0]], weights[pair[1]]);
        if better <= worse {
            return Err(format!("{} has {better:.0} and {} {worse:.0}", pair[0], pair[1]));
        }
    }
    Ok(())
}

/// Every honest tier has more than every bad kind.
fn outweigh(weights: &Weights) -> Result<(), String> {
    for (tier, bad) in TIERS.iter().flat_map(|tier| BAD.map(|bad| (*tier, bad))) {
        let (honest, other) = (weights[tier], weights[bad]);
        if honest <= other {
            return Err(format!("{tier} has {honest:.0} and {bad} {other:.0}"));
        }
    }
    Ok(())
}

/// Validates a network of its own and gives the mean weight of each kind in our row on the chain.
fn run(seed: u64, steps: &str, settings: &[&str]) -> Weights {
    let (state, since) = (tempfile::tempdir().unwrap(), Instant::now());
    let seed = format!("seed={seed}");
    let settings = SETTINGS.iter().chain(settings).copied().chain([seed.as_str()]);
    let arguments: Vec<&str> = ["--steps", steps].into_iter().chain(settings.flat_map(|set| ["--set", set])).collect();
    let (lines, status) = Program::start(state.path(), &arguments).finish();
    assert!(status.success(), "{seed}: {status}");
    let summary = lines.iter().find(|line| line["event"] == "summary").unwrap();
    let mut kinds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for miner in summary["miners"].as_array().unwrap() {
        let weight = miner["weight"].as_f64().unwrap_or_else(|| panic!("{seed}: no weights on the chain: {summary}"));
        kinds.entry(miner["kind"].as_str().unwrap().to_owned()).or_default().push(weight);
    }
    let weights: Weights =
        kinds.into_iter().map(|(kind, weights)| (kind, weights.iter().sum::<f64>() / weights.len() as f64)).collect();
    println!("{seed}: {:.1} s, {weights:.0?}", since.elapsed().as_secs_f64());
    weights
}

fn mean(runs: &[Weights]) -> Weights {
    let of = |kind: &String| runs.iter().map(|weights| weights[kind]).sum::<f64>() / runs.len() as f64;
    runs[0].keys().map(|kind| (kind.clone(), of(kind))).collect()
}

fn table(runs: &[Weights], mean: &Weights) -> String {
    let mut table = format!("{:16}", "mean weight");
    SEEDS.iter().zip(runs).for_each(|(seed, _)| write!(table, "{:>8}", format!("seed {seed}")).unwrap());
    table.push_str("     all\n");
    for kind in TIERS.iter().chain(&BAD) {
        write!(table, "{kind:16}").unwrap();
        runs.iter().chain([mean]).for_each(|weights| write!(table, "{:>8.0}", weights[*kind]).unwrap());
        table.push('\n');
    }
    table
}
