//! Days of a validator in seconds: every actor but inference and dendrite, on one thread, by a clock that jumps to the next
//! thing due as soon as nothing is left to do. The chain is the local one, in memory; miners and models are functions of the seed.
//!
//! A run is a function of its seed: kills, churn of hotkeys, misbehaving miners, what they say. `digest` tells two runs apart.

#![allow(clippy::expect_used, reason = "a simulation that cannot go on is a failed test")]

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use actix::Actor;
use openvalidators_inference::InferenceActor;
use openvalidators_ledger::{Identity, Store};
use openvalidators_messages::{Axon, Hotkey, Netuid};
use openvalidators_subtensor::{ChainCalls, local::LocalNetwork};
use rand::{Rng, seq::IndexedRandom};

use self::{
    clock::Simulated,
    judged::{judge_epochs, judge_ledger},
    outside::{Miners, Models},
};
use super::*;
use crate::{localnet::admit_validator, network::local_signer};

mod clock;
mod judged;
mod outside;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub seed: u64,
    pub hours: f64,
    /// What a query takes on average; its deadline is four times as long.
    pub query_seconds: f64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub steps: u64,
    pub epochs: u64,
    /// Epochs through which a validator that had set weights before lived, and set none.
    pub missed: Vec<u64>,
    pub kills: u64,
    pub newcomers: u64,
    pub intents: u64,
    pub deepest_inbox: usize,
    /// Of everything in the ledger.
    pub digest: u64,
}

// === One life of a validator ===

/// What every life shares.
struct Around<'a> {
    plan: Plan,
    config: Config,
    clock: SharedClock,
    network: LocalNetwork,
    signer: Arc<HotkeySigner>,
    directory: &'a Path,
    deepest: Cell<usize>,
    /// What the whole process held, an hour after the other.
    resident_mib: RefCell<Vec<f64>>,
}

impl Around<'_> {
    /// Starts every actor as [`Topology::start`] does, but on this thread, and lets forwards run until it is dropped.
    async fn live(&self) -> anyhow::Result<()> {
        let Self { config, clock, signer, .. } = self;
        let (registry, shutdown, seed) = (Registry::new(), Shutdown::default(), Seed(self.plan.seed));
        let identity = Identity { network: "local".into(), netuid: Netuid(1), hotkey: signer.hotkey() };
        let store = Store::open(self.directory, &identity, 0)?;
        let next_forward = store.next_forward()?;
        let chain = Arc::new(self.network.account(signer.hotkey()));
        let calls =
            ChainCalls::new(chain, clock.clone(), &config.chain, subtensor::Metrics::new(&registry, clock)?, seed);
        let (publish_metagraph, metagraph) = watch::channel(Arc::new(calls.metagraph().await?));
        let (publish_scores, _scores) = watch::channel(Arc::new(ScoreTable::default()));
        let (doors, pulses) = (Doors::new(config, &registry)?, Pulses::new(clock));

        let ledger =
            ledger::LedgerActor::new(store, config.ledger.clone(), ledger::Metrics::new(&registry)?, clock.clone());
        doors.ledger.attach(&ledger.start());
        doors
            .subtensor
            .attach(&subtensor::SubtensorActor::new(calls, publish_metagraph, pulses.following.clone()).start());
        doors.inference.attach(&InferenceActor::new(Arc::new(Models)).start());
        let miners = Miners { seed, clock: clock.clone(), query_seconds: self.plan.query_seconds };
        doors.dendrite.query.attach(&miners.start());
        let source = Arc::new(prompts::Embedded::new());
        doors.prompts.attach(&prompts::PromptsActor::new(source, seed).start());
        let rewards = rewards::RewardsActor::recover(
            &config.rewards,
            doors.ledger_of_rewards(),
            doors.inference_of_rewards(),
            clock.clone(),
            rewards::Metrics::new(&registry)?,
        );
        doors.rewards.attach(&rewards.await?.start());
        let weights = weights::WeightsActor::recover(
            signer.hotkey(),
            config.weights.clone(),
            doors.neighbours_of_weights(),
            metagraph.clone(),
            publish_scores,
            weights::Metrics::new(&registry)?,
            clock.clone(),
            pulses.duty.clone(),
        );
        doors.weights.attach(&weights.await?.start());
        let around = gating::Surroundings {
            seed,
            own_hotkey: signer.hotkey(),
            metagraph: metagraph.clone(),
            ledger: doors.ledger_of_gating(),
            embed: doors.inference.embed.clone(),
            clock: clock.clone(),
        };
        let gating = gating::GatingActor::recover(config.gating.clone(), around, gating::Metrics::new(&registry)?);
        doors.gating.attach(&gating.await?.start());
        let metrics = prompts::Metrics::register(&registry)?;
        let settings = config.prompts.check()?;
        let lanes = prompts::Lanes::new(doors.desks(), settings, seed, clock.clone(), shutdown, metagraph, metrics);
        let watching = async {
            loop {
                clock.sleep(Duration::from_secs(60)).await;
                for health in doors.inboxes().map(Inbox::health) {
                    assert!(health.depth <= health.capacity, "{health:?}");
                    self.deepest.set(self.deepest.get().max(health.depth));
                }
            }
        };
        tokio::select! {
            () = lanes.run(next_forward) => anyhow::bail!("the forwards ended by themselves"),
            () = watching => unreachable!(),
        }
    }
}

// === The whole ===

/// The folder in which a simulation leaves `seed-N`, its state directory; without it none is left.
const KEEP: &str = "OPENVALIDATORS_SIMULATED_KEEP";

/// Simulates, and checks what can be checked on the way and at the end. With the report, which is a function of the plan, comes what
/// the process held in each simulated hour, MiB, which is not.
pub(crate) fn simulate(plan: Plan) -> (Report, Vec<f64>) {
    let temporary = tempfile::tempdir().expect("a folder");
    // A seed that is simulated twice is kept once.
    let kept = std::env::var_os(KEEP).map(|folder| Path::new(&folder).join(format!("seed-{}", plan.seed)));
    let directory = match kept.filter(|folder| !folder.exists()) {
        Some(folder) => {
            std::fs::create_dir_all(&folder).expect("a folder to keep");
            folder
        }
        None => temporary.path().to_owned(),
    };
    let clock = Simulated::new();
    let of_hook = clock.clone();
    let runtime = move || {
        let of_hook = of_hook.clone();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .on_thread_park(move || of_hook.idle())
            .build()
            .expect("a runtime")
    };
    actix::System::with_tokio_rt(runtime).block_on(run(plan, &directory, Arc::new(clock)))
}

async fn run(plan: Plan, directory: &Path, clock: SharedClock) -> (Report, Vec<f64>) {
    let seed = Seed(plan.seed);
    let mut random = seed.rng("simulation", &[]);
    let config = settings(plan, directory);
    let network = config.chain.local_network(&clock, seed, None).expect("a chain");
    let signer = local_signer().expect("a key");
    admit_validator(&network, signer.hotkey(), 10_000.0).await.expect("a place");
    for miner in 0..MINERS {
        admit(&network, seed, miner).await;
    }
    let (deepest, resident_mib) = Default::default();
    let around = Around { plan, config, clock: clock.clone(), network, signer, directory, deepest, resident_mib };
    let mut report = Report { newcomers: MINERS, ..Report::default() };
    let end = Duration::from_secs_f64(plan.hours * 3_600.0);
    let lives: RefCell<Vec<(Duration, Duration)>> = RefCell::default();
    let epochs = RefCell::new(Vec::new());

    let following = follow(&around, &epochs);
    let churning = churn(&around, seed, &mut report.newcomers);
    let living = async {
        let mut kills = 0;
        while clock.now() < end {
            let born = clock.now();
            let life =
                Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() * MEAN_LIFE_SECONDS).min(end - born);
            // Its own set of tasks, dropped where they stand: a kill.
            let tasks = tokio::task::LocalSet::new();
            tokio::select! {
                ended = tasks.run_until(around.live()) => ended.expect("the validator runs"),
                () = clock.sleep(life) => {}
            }
            drop(tasks);
            lives.borrow_mut().push((born, clock.now()));
            kills += 1;
            if clock.now() < end {
                clock.sleep(Duration::from_secs_f64(random.random_range(1.0..MOST_DOWN_SECONDS))).await;
            }
        }
        kills
    };
    report.kills = tokio::select! {
        kills = living => kills,
        () = following => unreachable!(),
        () = churning => unreachable!(),
        () = weigh(&around) => unreachable!(),
    };
    report.deepest_inbox = around.deepest.get();
    judge_epochs(&mut report, &epochs.borrow(), &lives.borrow());
    judge_ledger(&mut report, directory, &around.config);
    (report, around.resident_mib.take())
}

/// Miners at the beginning.
const MINERS: u64 = 14;
const MEAN_LIFE_SECONDS: f64 = 9.0 * 3_600.0;
const MOST_DOWN_SECONDS: f64 = 2.0 * 3_600.0;
const MEAN_CHURN_SECONDS: f64 = 2.0 * 3_600.0;
const BLOCK_SECONDS: f64 = 12.0;
const PLACES: u16 = 20;
/// So long a newcomer cannot be pushed out.
const IMMUNITY_BLOCKS: u64 = 360;
/// Newcomers within that time, at most: were all miners new, the next one would take the validator's place.
const MOST_IMMUNE: usize = 16;
const SETTLING_IN: Duration = Duration::from_secs(5 * 3_600);

fn settings(plan: Plan, directory: &Path) -> Config {
    let mut config = Config { state_dir: directory.to_owned(), seed: plan.seed, ..Config::default() };
    let chain = &mut config.chain.local;
    (chain.block_seconds, chain.tempo, chain.max_uids, chain.immunity_blocks) =
        (BLOCK_SECONDS, 360, PLACES, IMMUNITY_BLOCKS);
    let asking = 4.0 * plan.query_seconds;
    let prompts = &mut config.prompts;
    prompts.augment_timeout_seconds = asking;
    prompts.followup_timeout_seconds = asking;
    prompts.answer_timeout_seconds = asking;
    config.rewards.relevance.enabled = false;
    config.weights.same_key_guard = false;
    config.weights.probe_axons = 0;
    config.weights.min_scored = 3;
    // Where texts go while it lives, what reads them is off, so that all of it can still be made again.
    if plan.seed.is_multiple_of(2) {
        config.ledger.keep_texts_days = 1;
        let defences = &mut config.rewards.defences;
        (defences.overused_phrases, defences.followers, defences.kin) = (false, false, false);
    }
    config
}

fn miner(seed: Seed, number: u64) -> Hotkey {
    Hotkey(seed.rng("miner's key", &[number]).random())
}

async fn admit(network: &LocalNetwork, seed: Seed, number: u64) {
    let hotkey = miner(seed, number);
    let address = SocketAddr::from(([127, 9, (number / 250) as u8, (number % 250) as u8 + 1], 8_000));
    // Nobody can be replaced for a while: then it comes later.
    if network.register(hotkey, hotkey).await.is_ok() {
        let _ = network.serve_axon(hotkey, Axon { address, protocol: 4, version: 0 }).await;
    }
}

/// New miners push out old ones, while the validator lives and while it does not.
async fn churn(around: &Around<'_>, seed: Seed, newcomers: &mut u64) {
    let mut random = seed.rng("churn", &[]);
    // Until the validator has a permit, and dividends, nothing speaks for its place.
    around.clock.sleep(SETTLING_IN).await;
    let immunity = Duration::from_secs_f64(IMMUNITY_BLOCKS as f64 * BLOCK_SECONDS);
    let mut latest: Vec<Duration> = Vec::new();
    loop {
        let wait = -(1.0 - random.random::<f64>()).ln() * MEAN_CHURN_SECONDS;
        around.clock.sleep(Duration::from_secs_f64(wait + 1.0)).await;
        // Now and then a crowd.
        let crowd = *[1, 1, 1, 2, 8].choose(&mut random).unwrap_or(&1);
        for _ in 0..crowd {
            latest.retain(|&came| around.clock.now() - came <= immunity);
            if latest.len() < MOST_IMMUNE {
                admit(&around.network, seed, *newcomers).await;
                latest.push(around.clock.now());
            }
            *newcomers += 1;
        }
    }
}

/// An epoch: when it began and ended, by the clock, and whether our weights were updated in it.
type Epoch = (u64, Duration, Duration, bool);

async fn follow(around: &Around<'_>, epochs: &RefCell<Vec<Epoch>>) {
    let (mut index, mut began, mut began_block, mut was_set) = (0, Duration::ZERO, 0, false);
    let mut head = openvalidators_messages::Block(0);
    loop {
        head = around.network.next_block(head).await.expect("the chain runs");
        let metagraph = around.network.metagraph().await.expect("the chain runs");
        let ours = metagraph.uid_of(&around.signer.hotkey()).and_then(|uid| metagraph.neuron(uid));
        assert!(ours.is_some(), "the simulated subnet has pushed the validator out at {head}: its settings are wrong");
        if metagraph.epoch_index != index {
            epochs.borrow_mut().push((index, began, around.clock.now(), was_set));
            (index, began, began_block, was_set) =
                (metagraph.epoch_index, around.clock.now(), metagraph.block.0, false);
        }
        was_set |=
            ours.is_some_and(|neuron| neuron.last_update.0 > began_block && neuron.last_update > neuron.registered_at);
    }
}

async fn weigh(around: &Around<'_>) {
    loop {
        around.clock.sleep(Duration::from_secs(3_600)).await;
        around.resident_mib.borrow_mut().push(resident_mib());
    }
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default() / 1_024.0
}

/// More than this, MiB in 72 hours, the line through what a process held may not rise.
const MOST_RISE_MIB: f64 = 16.0;
/// Caches fill before this hour, and a shorter run says nothing of a slope.
const FILLED_HOURS: usize = 12;

/// The slope of the least-squares line through what was held after caches had filled, MiB in 72 hours.
fn rise_mib(resident: &[f64]) -> Option<f64> {
    let held = resident.get(FILLED_HOURS..).filter(|held| held.len() >= FILLED_HOURS)?;
    let hours = held.len() as f64;
    let (middle, mean) = ((hours - 1.0) / 2.0, held.iter().sum::<f64>() / hours);
    let along = |hour: usize| hour as f64 - middle;
    let covariance: f64 = held.iter().enumerate().map(|(hour, held)| along(hour) * (held - mean)).sum();
    let variance: f64 = (0..held.len()).map(|hour| along(hour).powi(2)).sum();
    Some(72.0 * covariance / variance)
}

/// `OPENVALIDATORS_SIMULATED_SEEDS` and `OPENVALIDATORS_SIMULATED_HOURS` ask for more, `OPENVALIDATORS_SIMULATED_FIRST` for seeds
/// from that one on; [`KEEP`] keeps the state directories, for what reads ledgers.
#[test]
fn simulated_days_break_no_rule_and_a_seed_repeats_exactly() {
    let wanted = |name: &str, otherwise: f64| std::env::var(name).map_or(otherwise, |found| found.parse().unwrap());
    let first = wanted("OPENVALIDATORS_SIMULATED_FIRST", 1.0) as u64;
    let seeds = wanted("OPENVALIDATORS_SIMULATED_SEEDS", 2.0) as u64;
    let hours = wanted("OPENVALIDATORS_SIMULATED_HOURS", 5.0);
    let query_seconds = wanted("OPENVALIDATORS_SIMULATED_QUERY_SECONDS", 60.0);
    if std::env::var_os("OPENVALIDATORS_SIMULATED_LOG").is_some() {
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).init();
    }
    for seed in first..first + seeds {
        let plan = Plan { seed, hours, query_seconds };
        let (report, resident) = simulate(plan);
        let rise = rise_mib(&resident);
        println!("{seed}: {:.1} MiB, rising by {rise:.1?} MiB in 72 hours, {report:?}", resident_mib());
        assert!(report.missed.is_empty(), "seed {seed} missed epochs {:?}", report.missed);
        assert!(report.steps > 0 && report.epochs > 0 && report.intents > 0, "{report:?}");
        assert!(rise.is_none_or(|rise| rise < MOST_RISE_MIB), "seed {seed}: {resident:.1?}");
        if seed == first {
            assert_eq!(simulate(plan).0, report, "the same seed, the same run");
        }
    }
}
