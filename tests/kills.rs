//! `kill -9` of a validator at random points, beside a network that lives on: whatever it had said is there, once, and every
//! owner's state is the fold of the records, to the last bit.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use openvalidators::{cli::Settings, config::Config};
use openvalidators_gating as gating;
use openvalidators_ledger::{Reader, Store};
use openvalidators_messages::{
    Sequence, StepId, StepOutcome,
    ledger::{Snapshot, StoredStep},
};
use openvalidators_rewards as rewards;
use openvalidators_runtime::Seed;
use openvalidators_weights as weights;
use rand::Rng;

use crate::program::{LocalnetProcess, Program, get};

/// Kills in an ordinary run; `OPENVALIDATORS_KILLS` may ask for more.
const KILLS: u64 = 6;
/// A life goes on for at most so many steps, and then for a part of one.
const MOST_STEPS: usize = 3;
const LONGEST_REST: Duration = Duration::from_millis(600);
/// One kill in so many comes while it is still starting.
const STARTING_ONE_IN: u32 = 5;
const LONGEST_START: Duration = Duration::from_millis(800);
/// What being ready again may take on a machine of its own. Told and not asserted: tests share theirs.
const READY_AIM: Duration = Duration::from_secs(2);

/// Miners whose completions are a function of (seed, miner, prompt), and who answer at once.
const NETWORK: [&str; 9] = [
    "chain.local.block_seconds=0.5",
    "localnet.miners.good=3",
    "localnet.miners.slow=0",
    "localnet.miners.hanging=0",
    "localnet.miners.oversized=0",
    "localnet.miners.copycat=0",
    "localnet.miners.garbage=0",
    "localnet.miners.poor=3",
    "localnet.miners.echo=2",
];

/// Every owner has state that a lost or doubled step would show in: the normaliser, remembered completions, averages, routing.
const SETTINGS: [&str; 14] = [
    "rewards.weights.dpo_reward_model=0.0",
    "rewards.weights.constant_reward_model=1.0",
    "rewards.relevance.enabled=false",
    "rewards.snapshot_every_steps=3",
    "weights.snapshot_every_steps=2",
    "gating.snapshot_every_steps=4",
    "gating.warm_up_steps=10",
    "prompts.concurrent_forwards=2",
    "prompts.context_limit_bytes=600",
    "prompts.num_followup_steps=2",
    "prompts.augment_sample_size=4",
    "prompts.followup_sample_size=4",
    "prompts.answer_sample_size=4",
    "inference.threads=1",
];

/// The three owners of state, folded from the records alone.
struct Folded {
    rewards: rewards::fold::State,
    reward_rules: rewards::fold::Rules,
    scores: weights::scores::Scores,
    score_rules: weights::scores::FoldRules,
    gating: gating::state::State,
    gating_rules: gating::state::Rules,
    /// The latest step folded in.
    at: Sequence,
    ids: BTreeSet<StepId>,
    /// Every step as it was seen first: none may change later.
    seen: Vec<StoredStep>,
    /// Kept states that were compared.
    states: u64,
}

#[test]
fn killed_anywhere_a_validator_is_the_fold_of_its_records() {
    let kills = std::env::var("OPENVALIDATORS_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let (chain, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut localnet = LocalnetProcess::start(chain.path(), "127.0.0.1:0", &NETWORK);
    let address = localnet.address.clone();
    let mut arguments = vec!["--chain", &address];
    arguments.extend(SETTINGS.iter().flat_map(|setting| ["--set", setting]));

    let mut random = Seed(6).rng("kills", &[]);
    let (mut folded, mut ready, mut worked) = (Folded::new(), Vec::new(), Vec::new());
    let mut last_told = 0;
    for kill in 0..kills {
        let started = Instant::now();
        let mut program = Program::start(state.path(), &arguments);
        let is_starting = kill > 0 && random.random_ratio(1, STARTING_ONE_IN);
        let mut told = Vec::new();
        if is_starting {
            std::thread::sleep(random.random_range(Duration::ZERO..LONGEST_START));
        } else {
            let metrics = program.metrics_address();
            assert_eq!(get(&metrics, "/health").0, 200);
            ready.push(started.elapsed());
            worked.push(program.cpu_time());
            for _ in 0..random.random_range(0..=MOST_STEPS) {
                told.push(program.until("step"));
            }
            std::thread::sleep(random.random_range(Duration::ZERO..LONGEST_REST));
        }
        told.extend(program.kill_and_read());
        let steps = told.iter().filter(|line| line["event"] == "step");
        let told: Vec<u64> = steps.map(|step| step["sequence"].as_u64().unwrap()).collect();
        assert!(localnet.is_running(), "the network lives on");
        if !state.path().join("ledger.sqlite3").exists() {
            continue;
        }
        folded.go_on(state.path(), kill);
        let latest = folded.seen.len() as u64;
        assert!(
            told.iter().all(|place| (1..=latest).contains(place)),
            "told {told:?}, {latest} there after kill {kill}"
        );
        assert!(told.is_sorted_by(|a, b| a < b), "each told once: {told:?} of kill {kill}");
        last_told = told.last().copied().unwrap_or(last_told).max(last_told);
    }

    // What it says at an orderly end is the fold, too.
    let mut program = Program::start(state.path(), &arguments);
    program.until("step");
    program.terminate();
    assert!(program.finish().1.success());
    folded.go_on(state.path(), kills);
    let latest = folded.seen.len() as u64;
    assert_eq!(folded.at.0, latest, "every step has its outcome");
    let (at, of_end) = (Sequence(latest), Reader::open(state.path()).unwrap());
    for owner in [rewards::OWNER, weights::OWNER, gating::OWNER] {
        assert_eq!(of_end.load_snapshot(owner).unwrap().map(|kept| kept.sequence), Some(at), "{owner} kept its state");
    }
    ready.sort();
    worked.sort();
    let in_time = ready.iter().filter(|took| **took < READY_AIM).count();
    let told =
        |times: &[Duration]| format!("{:?} (median), {:?} (longest)", times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{kills} kills, {latest} steps (told up to {last_told}), {} kept states compared; ready after {}, {in_time} of {} within \
         {READY_AIM:?}, of it on a core {}",
        folded.states,
        told(&ready),
        ready.len(),
        told(&worked)
    );
    assert!(kills < KILLS || folded.states >= 3, "states were compared: {}", folded.states);
    drop(of_end);
    let torn = tear(state.path(), &folded);
    assert!(torn.contains(&format!("the state of {} at {latest}", weights::OWNER)), "{torn}");
}

/// Leaves what a build leaves that commits the place of the scores in one transaction and the scores in a second one, killed in
/// between. Gives what is said of it.
fn tear(state: &Path, folded: &Folded) -> String {
    let (mut before, mut torn) = (Folded::new(), folded.encoded(weights::OWNER));
    let whole = torn.state.clone();
    for step in &folded.seen {
        let earlier = before.encoded(weights::OWNER).state;
        if earlier != whole {
            torn.state = earlier;
        }
        before.fold(step, step.outcome.as_ref().unwrap());
    }
    assert_ne!(torn.state, whole, "some step moved a score");
    let identity = Reader::open(state).unwrap().identity().clone();
    Store::open(state, &identity, 0).unwrap().save_snapshot(weights::OWNER, &torn).unwrap();
    let found = std::panic::catch_unwind(|| Folded::new().go_on(state, 0));
    *found.expect_err("a torn state is found").downcast::<String>().unwrap()
}

// === impl Folded ===

impl Folded {
    fn new() -> Self {
        let settings = Settings { set: SETTINGS.map(str::to_owned).to_vec(), ..Settings::default() };
        let config = Config::load(&settings, &clap::ArgMatches::default(), None).unwrap();
        let gating_rules = config.gating.rules();
        Self {
            rewards: rewards::fold::State::default(),
            reward_rules: rewards::fold::Rules::new(&config.rewards),
            scores: weights::scores::Scores::default(),
            score_rules: weights::scores::FoldRules::from(&config.weights),
            gating: gating::state::State::new(&gating_rules.encoder),
            gating_rules,
            at: Sequence(0),
            ids: BTreeSet::new(),
            seen: Vec::new(),
            states: 0,
        }
    }

    /// Reads what is new, and folds it as far as it has outcomes.
    fn go_on(&mut self, state: &Path, kill: u64) {
        let reader = Reader::open(state).unwrap();
        let kept: Vec<(&str, Snapshot)> = [rewards::OWNER, weights::OWNER, gating::OWNER]
            .into_iter()
            .filter_map(|owner| Some((owner, reader.load_snapshot(owner).unwrap()?)))
            .collect();
        let steps = read_all(&reader);
        assert!(steps.len() >= self.seen.len(), "{} steps were there before kill {kill}", self.seen.len());
        for (before, now) in self.seen.iter().zip(&steps) {
            assert!(before.record == now.record, "step {} is another after kill {kill}", before.sequence);
            assert!(before.outcome.is_none() || before.outcome == now.outcome, "outcome of {}", before.sequence);
        }
        for step in &steps[self.seen.len()..] {
            assert!(self.ids.insert(step.record.step), "{} twice after kill {kill}", step.record.step);
        }
        for (place, step) in (1..).zip(&steps) {
            assert_eq!(step.sequence.0, place, "dense after kill {kill}");
            if step.sequence <= self.at {
                continue;
            }
            let Some(told) = &step.outcome else { break };
            assert_eq!(self.at.next(), step.sequence, "an outcome before it is missing after kill {kill}");
            self.fold(step, told);
            for (owner, kept) in kept.iter().filter(|(_, kept)| kept.sequence == step.sequence) {
                assert!(*kept == self.encoded(owner), "the state of {owner} at {} after kill {kill}", kept.sequence);
                self.states += 1;
            }
        }
        assert!(steps.len() as u64 - self.at.0 <= 1, "{} of {} have outcomes", self.at, steps.len());
        self.seen = steps;
    }

    fn fold(&mut self, step: &StoredStep, told: &StepOutcome) {
        let made = self.rewards.fold(&self.reward_rules, step.sequence, &step.record);
        assert!(told.agrees_with(&made), "step {}: told {told:?}, folded {made:?}", step.sequence);
        self.scores.fold(step.sequence, &step.record, told, self.score_rules);
        self.gating.fold(&self.gating_rules, step.sequence, &step.record, told);
        self.at = step.sequence;
    }

    fn encoded(&self, owner: &str) -> Snapshot {
        match owner {
            rewards::OWNER => rewards::snapshot::encode(&self.rewards).unwrap(),
            weights::OWNER => self.scores.snapshot().unwrap(),
            _ => gating::snapshot::encode(&self.gating).unwrap(),
        }
    }
}

fn read_all(reader: &Reader) -> Vec<StoredStep> {
    let mut steps: Vec<StoredStep> = Vec::new();
    loop {
        let after = steps.last().map_or(Sequence(0), |step| step.sequence);
        match reader.read_steps(after, 500).unwrap() {
            more if more.is_empty() => return steps,
            more => steps.extend(more),
        }
    }
}
