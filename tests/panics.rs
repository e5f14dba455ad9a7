//! A panic in every handler of every actor, and in what they do by themselves: seen from outside, in a build for tests
//! (`openvalidators_runtime::fault_point`).

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use openvalidators_runtime::PANIC_AT;
use serde_json::Value;

use crate::program::{Program, SHORT_DEADLINES, binary, models, side_by_side};

/// Runs side by side.
const AT_ONCE: usize = 2;
/// Longest until every panic of a run has happened.
const PATIENCE: Duration = Duration::from_secs(900);
/// Steps that must come after the last panic.
const STEPS_AFTER: usize = 3;

/// What panics in each run, and which time. An actor may fail three times in a run; after a fourth the program ends.
const SURVIVED: [&[&str]; 4] = [
    &[
        "ledger::LoadSnapshot=1",
        "ledger::ReadIntents=1",
        "ledger::RecordIntent=1",
        "gating::Route=2",
        "dendrite::Query=2",
        "prompts::Draw=1",
        "rewards::Score=2",
        "weights::ReadScores=1",
        "inference::Embed=2",
        "inference::Models=1",
        "subtensor::SetWeights=1",
        "reporting::follow=3",
    ],
    &[
        "ledger::Append=2",
        "ledger::StoreOutcome=2",
        "ledger::ReadSteps=9",
        "rewards::Apply=2",
        "gating::Apply=3",
        "weights::Apply=4",
        "inference::LogProb=2",
        "subtensor::follow=3",
    ],
    &[
        "ledger::SettleIntent=1",
        "ledger::SaveSnapshot=1",
        "ledger::SaveCursor=2",
        "subtensor::ReadWeights=1",
        "weights::attend=3",
        "inference::Classify=2",
        "inference::Generate=2",
        "gating::ReadHead=1",
        "device::turn=3",
    ],
    // A fresh actor that panics while it is made, too.
    &[
        "ledger::LoadCursor=1",
        "ledger::make=2",
        "rewards::Apply=1",
        "rewards::make=2",
        "weights::Apply=2",
        "weights::make=2",
        "gating::Apply=3",
        "gating::make=2",
        "prompts::Draw=1",
        "prompts::make=2",
        "dendrite::Query=2",
        "dendrite::make=2",
        "inference::Embed=1",
        "inference::make=2",
        "subtensor::follow=2",
        "subtensor::make=2",
        "reporting::follow=2",
        "reporting::make=2",
    ],
];

/// No subnet of this machine commits by hashes: `live.rs` kills validators around that.
const ELSEWHERE: [&str; 1] = ["subtensor::RevealWeights"];

/// Four panics one after the other: more than the budget of an actor.
const TOO_MANY: [&str; 3] = ["ledger::Append", "weights::Apply", "subtensor::follow"];

/// A run with these panics, and what it writes.
struct Panicking {
    program: Program,
    state: tempfile::TempDir,
    asked: Vec<String>,
}

impl Panicking {
    fn start(asked: &[&str]) -> Self {
        models();
        let state = tempfile::tempdir().unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/models");
        let classifier = format!("models.catalogue.tiny-classifier.directory={:?}", tiny.join("roberta_nsfw"));
        let generator = format!("models.catalogue.tiny-generator.directory={:?}", tiny.join("llama"));
        let settings = [
            "chain.local.block_seconds=0.3",
            "weights.snapshot_every_steps=3",
            "rewards.snapshot_every_steps=3",
            "reporting.metrics.address=127.0.0.1:0",
            "reporting.metrics.per_uid_seconds=5",
            // The gating head goes to wandb's log with each row of scores.
            "reporting.wandb.mode=offline",
            "reporting.wandb.scores_every_blocks=1",
            "reporting.wandb.track_gating_model=true",
            // Short enough for tokenizers of a few hundred pieces.
            "prompts.context_limit_bytes=600",
            "prompts.quote_limit_bytes=256",
            "prompts.quoted_total_bytes=600",
            "weights.min_scored=2",
            // Every kind of model, and none that takes long.
            "rewards.dpo.model=tiny-generator",
            "rewards.relevance.enabled=false",
            "rewards.diversity.enabled=false",
            "rewards.nsfw.enabled=true",
            "rewards.nsfw.model=tiny-classifier",
            "rewards.nsfw.boundary=1000.0",
            "rewards.shadows=[\"prompt_reward_model\"]",
            "rewards.prompt.model=tiny-generator",
            &classifier,
            &generator,
        ];
        let mut command = binary();
        command.args(["run", "--json", "--state-dir"]).arg(state.path().join("state"));
        command.args(SHORT_DEADLINES.iter().chain(&settings).flat_map(|setting| ["--set", setting]));
        command.env(PANIC_AT, asked.join(",")).stderr(fs::File::create(state.path().join("stderr")).unwrap());
        let asked = asked.iter().map(|asked| asked.split('=').next().unwrap().to_owned()).collect();
        Self { program: Program::of(command), state, asked }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.state.path().join("stderr")).unwrap()
    }

    /// Those that have not happened yet.
    fn missing(&self) -> Vec<String> {
        let stderr = self.stderr();
        let happened = |asked: &&String| stderr.contains(&format!("asked for by {PANIC_AT}: {asked}"));
        self.asked.iter().filter(|asked| !happened(asked)).cloned().collect()
    }

    fn fail(&self, what: &str) -> String {
        let kept = self.state.path().join("stderr");
        let text = fs::read_to_string(kept).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(40).collect();
        format!("{:?}: {what}:\n{}", self.asked, tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

/// What the ledger of a run must still be, whatever happened.
fn check_ledger(state: &Path, told: &[u64]) -> Result<(), String> {
    if !told.is_sorted_by(|a, b| a + 1 == *b) || told.first().is_some_and(|first| *first != 1) {
        return Err(format!("steps were told twice, out of order or not at all: {told:?}"));
    }
    let asked = binary().args(["ledger", "check", "--json", "--state-dir"]).arg(state).output().unwrap();
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    let line: Value =
        serde_json::from_str(said.lines().next().unwrap_or_default()).map_err(|error| error.to_string())?;
    if !asked.status.success() || line["latest"].as_u64() < told.last().copied() {
        return Err(format!("the ledger is not whole, or lacks a step that was told: {said}"));
    }
    Ok(())
}

fn sequence(line: &Value) -> Option<u64> {
    (line["event"] == "step").then(|| line["sequence"].as_u64()).flatten()
}

fn survive(asked: &&[&str]) -> Result<(), String> {
    let mut run = Panicking::start(asked);
    let (since, mut told, mut after) = (Instant::now(), Vec::new(), 0);
    while after < STEPS_AFTER {
        let Some(line) = run.program.line() else { return Err(run.fail("it ended")) };
        let Some(step) = sequence(&line) else { continue };
        told.push(step);
        match run.missing() {
            missing if missing.is_empty() => after += 1,
            missing if since.elapsed() > PATIENCE => return Err(run.fail(&format!("{missing:?} did not happen"))),
            _ => {}
        }
    }
    run.program.terminate();
    let state = run.state.path().join("state");
    let stderr = run.stderr();
    let failed = run.asked.iter().any(|asked| asked.starts_with("ledger::")) && !stderr.contains("actor failed");
    let fail = |what: &str| format!("{asked:?}: {what}\n{stderr}");
    let Panicking { program, state: _kept, .. } = run;
    let (lines, status) = program.finish();
    told.extend(lines.iter().filter_map(sequence));
    if failed || !status.success() {
        return Err(fail(&format!("it did not restart its actors and close in order: {status}")));
    }
    check_ledger(&state, &told).map_err(|error| fail(&error))
}

fn give_up(place: &&str) -> Result<(), String> {
    let mut run = Panicking::start(&[&format!("{place}=1")[..]; 4]);
    let mut told = Vec::new();
    while let Some(line) = run.program.line() {
        told.extend(sequence(&line));
    }
    let (state, stderr) = (run.state.path().join("state"), run.stderr());
    let Panicking { program, state: _kept, .. } = run;
    let (_, status) = program.finish();
    let fail = |what: &str| format!("{place}: {what}\n{stderr}");
    let part = place.split("::").next().unwrap();
    if status.code() != Some(1) || !stderr.contains("failed 4 times") || !stderr.contains(part) {
        return Err(fail(&format!("not an orderly end: {status}")));
    }
    check_ledger(&state, &told).map_err(|error| fail(&error))
}

#[test]
fn a_panic_anywhere_is_survived_and_loses_nothing_acknowledged() {
    let found = side_by_side(&SURVIVED, AT_ONCE, survive);
    let wrong: Vec<String> = found.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn an_actor_that_fails_again_and_again_ends_the_program_in_order() {
    let found = side_by_side(&TOO_MANY, AT_ONCE, give_up);
    let wrong: Vec<String> = found.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// A handler that is added is added to the list above.
#[test]
fn no_handler_escapes_the_list() {
    let actors = Path::new(env!("CARGO_MANIFEST_DIR")).join("actors");
    let mut handlers = BTreeSet::new();
    for actor in fs::read_dir(actors).unwrap() {
        let actor = actor.unwrap();
        let name = actor.file_name().into_string().unwrap();
        let Ok(source) = fs::read_to_string(actor.path().join("src/actor.rs")) else { continue };
        let messages = source.split("impl Handler<Envelope<").skip(1).filter_map(|rest| rest.split_once(">>"));
        handlers.extend(messages.map(|(message, _)| format!("{name}::{message}")));
        handlers.insert(format!("{name}::make"));
    }
    assert!(handlers.len() >= 9 + 25, "{handlers:?}");
    let listed = SURVIVED.concat().into_iter().map(|asked| asked.split('=').next().unwrap().to_owned());
    let listed: BTreeSet<String> = listed.collect();
    let loops = ["reporting::follow", "subtensor::follow", "weights::attend", "device::turn"].map(str::to_owned);
    let wanted = handlers.into_iter().filter(|handler| !ELSEWHERE.contains(&handler.as_str()));
    assert_eq!(listed, wanted.chain(loops).collect());
}
