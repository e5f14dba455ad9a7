//! For tests: neighbours that keep what they are sent and answer like well-behaved ones, unless told otherwise.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use openvalidators_messages::{
    Axon, Block, Completion, Hotkey, Hyperparameters, Metagraph, Netuid, PromptEmbedding, QueryOutcome, RawScores,
    Reward, Scored, Scoring, Sequence, StepId, StepOutcome, StepRecord, Uid,
    dendrite::Query,
    gating::{self, NobodyToAsk, Route, Routed, Routing},
    ledger::{Append, LedgerError, StoreOutcome},
    prompts::{Context, Draw, SourceError},
    rewards::{self, FoldError, Score, ScoreSheet, Unscored},
    weights,
};
use openvalidators_runtime::{
    DrivenClock, Seed, SharedClock, Shutdown,
    testing::{Recording, recording_mailbox},
};
use prometheus::Registry;
use tokio::sync::watch;

use crate::{Config, Desks, Lanes, Metrics};

/// Miners of the subnet; uid and hotkey tell each other.
pub const MINERS: u16 = 200;
/// The block of the metagraph.
pub const BLOCK: Block = Block(1_234);
/// Wall clock at the start, seconds since 1970.
pub const UNIX: u64 = 1_700_000_000;

type Answer<M, R> = Box<dyn FnMut(&M) -> R>;

/// What each neighbour does; replace what the test is about.
pub struct Cast {
    pub draw: Answer<Draw, Result<Context, SourceError>>,
    pub route: Answer<Route, Result<Routing, NobodyToAsk>>,
    pub query: Answer<Query, Vec<Completion>>,
    pub score: Answer<Score, Result<ScoreSheet, Unscored>>,
    pub append: Answer<Append, Result<Sequence, LedgerError>>,
    pub apply_rewards: Answer<rewards::Apply, Result<Arc<StepOutcome>, FoldError>>,
    pub apply_weights: Answer<weights::Apply, Result<(), FoldError>>,
    pub apply_gating: Answer<gating::Apply, Result<Option<f32>, FoldError>>,
    pub store_outcome: Answer<StoreOutcome, Result<(), LedgerError>>,
}

/// Desks on a driven clock, and what was said at each.
pub struct Stage {
    pub desks: Desks,
    pub clock: DrivenClock,
    pub shutdown: Shutdown,
    pub registry: Registry,
    pub metrics: Metrics,
    pub route: Recording<Route>,
    pub query: Recording<Query>,
    pub score: Recording<Score>,
    pub append: Recording<Append>,
    pub apply_rewards: Recording<rewards::Apply>,
    pub apply_weights: Recording<weights::Apply>,
    pub apply_gating: Recording<gating::Apply>,
    pub store_outcome: Recording<StoreOutcome>,
    metagraph: watch::Sender<Arc<Metagraph>>,
}

// === impl Cast ===

impl Default for Cast {
    fn default() -> Self {
        let mut ledger = BTreeMap::<StepId, Sequence>::new();
        Self {
            draw: Box::new(|_| Ok(Context { source: "stage:0".to_owned(), text: text().into() })),
            route: Box::new(|route| {
                Ok(Routing { miners: routed(route.count, &route.exclude), embedding: Some(embedding()) })
            }),
            query: Box::new(|query| query.miners.iter().map(|miner| completion(miner, query.step)).collect()),
            score: Box::new(|_| {
                Ok(ScoreSheet { raw: RawScores::default(), digests: [("m".to_owned(), "d".to_owned())].into() })
            }),
            append: Box::new(move |append| {
                let next = Sequence(ledger.len() as u64 + 1);
                Ok(*ledger.entry(append.record.step).or_insert(next))
            }),
            apply_rewards: Box::new(|apply| Ok(outcome(&apply.record, Some(0)))),
            apply_weights: Box::new(|_| Ok(())),
            apply_gating: Box::new(|_| Ok(Some(0.25))),
            store_outcome: Box::new(|_| Ok(())),
        }
    }
}

// === impl Stage ===

impl Stage {
    pub fn new(cast: Cast) -> Self {
        let (draw, _) = recording_mailbox(cast.draw);
        let (route, route_seen) = recording_mailbox(cast.route);
        let (query, query_seen) = recording_mailbox(cast.query);
        let (score, score_seen) = recording_mailbox(cast.score);
        let (append, append_seen) = recording_mailbox(cast.append);
        let (apply_rewards, apply_rewards_seen) = recording_mailbox(cast.apply_rewards);
        let (apply_weights, apply_weights_seen) = recording_mailbox(cast.apply_weights);
        let (apply_gating, apply_gating_seen) = recording_mailbox(cast.apply_gating);
        let (store_outcome, store_outcome_seen) = recording_mailbox(cast.store_outcome);
        let registry = Registry::new();
        Self {
            desks: Desks {
                draw,
                route,
                query,
                score,
                append,
                apply_rewards,
                apply_weights,
                apply_gating,
                store_outcome,
            },
            clock: DrivenClock::new(Duration::from_secs(UNIX)),
            shutdown: Shutdown::default(),
            metrics: Metrics::register(&registry).unwrap(),
            registry,
            route: route_seen,
            query: query_seen,
            score: score_seen,
            append: append_seen,
            apply_rewards: apply_rewards_seen,
            apply_weights: apply_weights_seen,
            apply_gating: apply_gating_seen,
            store_outcome: store_outcome_seen,
            metagraph: watch::Sender::new(Arc::new(metagraph())),
        }
    }

    pub fn lanes(&self, config: &Config) -> Arc<Lanes> {
        self.lanes_with(config, Seed(7), Arc::new(self.clock.clone()))
    }

    pub fn lanes_with(&self, config: &Config, seed: Seed, clock: SharedClock) -> Arc<Lanes> {
        Lanes::new(
            self.desks.clone(),
            config.check().unwrap(),
            seed,
            clock,
            self.shutdown.clone(),
            self.metagraph.subscribe(),
            self.metrics.clone(),
        )
    }

    /// Lets time pass in small steps, and everybody act in between, until the work is done.
    pub async fn drive<T>(&self, work: impl Future<Output = T> + 'static) -> T
    where
        T: 'static,
    {
        let mut work = actix::spawn(work);
        for _ in 0..1_000_000 {
            tokio::select! {
                biased;
                done = &mut work => return done.unwrap(),
                () = settle_down() => self.clock.advance(Duration::from_millis(50)),
            }
        }
        panic!("the work did not end in a simulated day");
    }

    /// The value of one series, by its line without the number.
    pub fn metric(&self, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no series {series} in\n{text}")).parse().unwrap()
    }

    /// The steps in the order in which they were appended.
    pub fn records(&self) -> Vec<Arc<StepRecord>> {
        self.append.messages().into_iter().map(|append| append.record).collect()
    }
}

/// Gives every task on this thread several turns.
pub async fn settle_down() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Forty sentences.
pub fn text() -> String {
    (1..=40).map(|n| format!("This is sentence {n}.")).collect::<Vec<_>>().join(" ")
}

/// The lowest uids that are not excluded, and then others if these do not suffice.
pub fn routed(count: usize, exclude: &[Uid]) -> Vec<Routed> {
    let uids = || (0..MINERS).map(Uid);
    let fresh = uids().filter(|uid| !exclude.contains(uid));
    let again = uids().filter(|uid| exclude.contains(uid));
    let axon = Axon { address: ([127, 0, 0, 1], 8091).into(), protocol: 4, version: 700 };
    let routed =
        |uid: Uid| Routed { uid, hotkey: Hotkey([uid.0 as u8; 32]), axon, propensity: 0.25, uniform_propensity: None };
    fresh.chain(again).take(count).map(routed).collect()
}

/// What the stage's router makes of every prompt.
pub fn embedding() -> PromptEmbedding {
    PromptEmbedding { encoder: "stage".to_owned(), row: [0.25, -0.5].into() }
}

pub fn completion(miner: &Routed, step: StepId) -> Completion {
    Completion {
        uid: miner.uid,
        hotkey: miner.hotkey,
        text: format!(" Miner {} on step {step}.\n", miner.uid),
        outcome: QueryOutcome::Answered,
        status_code: 200,
        status_message: "Success".to_owned(),
        elapsed_seconds: 0.1,
    }
}

/// As the fold would: an unscored step stays unscored.
pub fn outcome(record: &StepRecord, best: Option<usize>) -> Arc<StepOutcome> {
    Arc::new(match &record.scoring {
        Scoring::Scored(_) => StepOutcome::Scored(Scored {
            normalised: Vec::new(),
            filters: Vec::new(),
            rewards: vec![Reward::ZERO; record.completions.len()],
            best,
            gating_loss: None,
            shadows: vec![],
        }),
        Scoring::Unscored { reason } => StepOutcome::Unscored { reason: reason.clone() },
    })
}

/// An event log shared by several neighbours.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub fn note(&self, event: impl Into<String>) {
        self.0.borrow_mut().push(event.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

fn metagraph() -> Metagraph {
    Metagraph {
        netuid: Netuid(1),
        block: BLOCK,
        last_epoch_block: Block(0),
        epoch_index: 0,
        hyperparameters: Hyperparameters {
            tempo: 360,
            min_allowed_weights: 1,
            max_weight_limit: 1.0,
            weights_rate_limit: 0,
            weights_version_key: 0,
            commit_reveal: false,
            commit_by_hash: false,
            reveal_period_epochs: 1,
            activity_cutoff: 5_000,
            stake_threshold: 0.0,
        },
        owner_uid: None,
        neurons: Vec::new(),
    }
}
