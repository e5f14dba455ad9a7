//! A device that hangs, and one whose memory never suffices for more than a row: seen from outside, in a build for tests
//! (`openvalidators_runtime::fault_point`).

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use openvalidators_ledger::Reader;
use openvalidators_messages::{Sequence, StepOutcome};
use openvalidators_runtime::{FAIL_AT, HANG_AT};
use serde_json::Value;

use crate::program::{LocalnetProcess, Program, binary, get};

/// How long the device hangs; `OPENVALIDATORS_HANG_SECONDS=60` for the aim's length.
const HANG_SECONDS: u64 = 15;
/// The turn of the device that hangs: some steps have been scored by then.
const HANG_TURN: u32 = 40;
/// Weights that must be set meanwhile, and steps that must be settled.
const WEIGHTS_MEANWHILE: usize = 2;
const STEPS_MEANWHILE: usize = 2;
/// Longest that metrics may take to answer while the device hangs, on cores that have much else to do.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(600);

/// Networks of random weights, read like any other: what is scored costs nothing.
fn settings() -> Vec<String> {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/models");
    let settings = [
        "rewards.dpo.model=tiny-generator",
        "rewards.relevance.enabled=false",
        // Short enough for a tokenizer of a few hundred pieces.
        "prompts.context_limit_bytes=600",
        "prompts.quote_limit_bytes=256",
        "prompts.quoted_total_bytes=600",
        "prompts.pause_longest_seconds=2",
        "weights.min_scored=2",
    ];
    let generator = format!("models.catalogue.tiny-generator.directory={:?}", tiny.join("llama"));
    settings.iter().map(|setting| (*setting).to_owned()).chain([generator]).collect()
}

fn replay(state: &Path, more: &[&str]) -> Value {
    let own = settings();
    let own = own.iter().flat_map(|setting| ["--set", setting]);
    let asked = binary().args(["replay", "--json", "--state-dir"]).arg(state).args(more).args(own).output().unwrap();
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(asked.status.success(), "{said} {}", String::from_utf8_lossy(&asked.stderr));
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

fn metric(address: &str, name: &str) -> f64 {
    let (_, page) = get(address, "/metrics");
    let lines = page.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn while_a_device_hangs_steps_are_unscored_and_network_and_chain_go_on() {
    let seconds = std::env::var("OPENVALIDATORS_HANG_SECONDS").map_or(HANG_SECONDS, |seconds| seconds.parse().unwrap());
    let (chain, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let localnet = LocalnetProcess::start(chain.path(), "127.0.0.1:0", &["chain.local.block_seconds=0.3"]);
    let mut settings = settings();
    settings.extend(
        ["rewards.score_timeout_seconds=2", "prompts.score_timeout_seconds=4", "gating.embed_timeout_seconds=1"]
            .map(str::to_owned),
    );
    let mut arguments = vec!["--chain", localnet.address.as_str()];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
    let (log, hang) = (chain.path().join("stderr"), format!("device::turn={HANG_TURN}={seconds}"));
    let mut program = Program::start_among(state.path(), &arguments, &[(HANG_AT, &hang)], &log);
    let address = program.metrics_address();
    let said = |what: &str| fs::read_to_string(&log).unwrap().contains(&format!("{HANG_AT}: device::turn {what}"));

    let since = Instant::now();
    while !said("hangs") {
        assert!(since.elapsed() < PATIENCE, "the device does not come to its turn");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (began, before) = (Instant::now(), metric(&address, "openvalidators_chain_block "));
    let mut slowest = Duration::ZERO;
    while !said("goes on") {
        let asked = Instant::now();
        assert_eq!(get(&address, "/health").0, 200, "a hang is not yet for a service manager to end");
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    let hung = began.elapsed().as_secs_f64();
    let blocks = metric(&address, "openvalidators_chain_block ") - before;
    // What was said until now, less what was said before it; and a step that is scored again.
    let (mut weights, mut unscored, mut asked_nobody, mut told) = (0, 0, 0, 0);
    loop {
        let line = program.line().expect("it goes on");
        weights += usize::from(line["text"].as_str().unwrap_or_default().starts_with("weights ") && unscored > 0);
        if line["event"] != "step" {
            continue;
        }
        told += 1;
        match line["unscored"].is_string() {
            true => {
                unscored += 1;
                asked_nobody += usize::from(line["answered"] == 0);
            }
            false if unscored > 0 => break,
            false => {}
        }
    }
    println!(
        "{hung:.1} s of a hanging device: {unscored} of {told} steps unscored, {weights} weights set, {blocks} blocks followed, \
         /health within {slowest:?}"
    );
    assert!(unscored >= STEPS_MEANWHILE && asked_nobody == 0, "miners were asked and answered: {asked_nobody}");
    assert!(weights >= WEIGHTS_MEANWHILE && blocks * 0.3 > hung / 2.0);
    assert!(slowest < ANSWERS_WITHIN, "{slowest:?}");
    program.terminate();
    assert!(program.finish().1.success());

    let steps = Reader::open(state.path()).unwrap().read_steps(Sequence(0), 1_000).unwrap();
    let without = steps.iter().filter(|step| matches!(step.outcome.as_deref(), Some(StepOutcome::Unscored { .. })));
    assert!(without.count() >= unscored, "an unscored step has no rewards, not zeros");
    assert_eq!(replay(state.path(), &[])["same"], true);
}

#[test]
fn out_of_memory_at_every_batch_scores_are_the_same() {
    let (state, log) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let settings = settings();
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting.as_str()]).collect();
    let fail = [(FAIL_AT, "device::batch=1")];
    let mut program = Program::start_among(state.path(), &arguments, &fail, log.path());
    let address = program.metrics_address();
    let mut scored: u32 = 0;
    while scored < 4 {
        let step = program.until("step");
        assert!(step["unscored"].is_null(), "{step}");
        scored += 1;
    }
    let failed = metric(&address, "openvalidators_inference_out_of_memory_total");
    program.terminate();
    assert!(program.finish().1.success());
    assert!(failed >= 2.0 * f64::from(scored), "{failed} batches did not fit");
    // By a device that has the memory.
    let again = replay(state.path(), &["--rescore"]);
    println!("{failed} batches out of memory, {}", again["rescored"]);
    assert_eq!(again["same"], true, "{again}");
    assert!(again["rescored"]["steps"].as_u64() >= Some(scored.into()), "{again}");
}
