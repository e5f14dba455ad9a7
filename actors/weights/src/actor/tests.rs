use std::{cell::RefCell, io, rc::Rc, sync::Mutex, time::Duration};

use openvalidators_messages::{
    IntentId, Sequence, Uid,
    ledger::{LedgerError, Settlement, StoredIntent, StoredStep, WeightIntent},
    subtensor::{ChainError, Submission},
};
use openvalidators_runtime::{DrivenClock, testing::recording_mailbox};
use tokio::task::AbortHandle;

use super::*;
use crate::{
    duty::OTHER_CHAIN,
    fixtures::{OWN, TEMPO, key, metagraph, step},
};

mod faults;
mod guarded;
mod recovered;
mod revealed;
mod stopped;

/// The neighbours and the chain, as far as weights can see them. It outlives the actor.
struct World {
    steps: Vec<StoredStep>,
    snapshot: Option<Snapshot>,
    intents: Vec<StoredIntent>,
    ledger_refuses: bool,
    chain: Chain,
    /// Kills the actor in the middle of a message, once.
    kill_at: Option<Kill>,
    life: Option<AbortHandle>,
    /// Runs once when an intent was recorded.
    after_intent: Option<Box<dyn FnOnce()>>,
}

struct Chain {
    block: u64,
    last_update: u64,
    row: Vec<(Uid, u16)>,
    /// The vector of a commit and the epoch that reveals it.
    committed: Option<(Vec<(Uid, u16)>, u64)>,
    commit_reveal: bool,
    /// Commits are hashes: nothing is revealed that we do not reveal.
    by_hash: bool,
    reveals_fail: bool,
    /// Says it could not be reached although it took the weights.
    silent: bool,
    /// What it refuses the next submissions with.
    refusals: Vec<ChainError>,
    /// Blocks of submissions it took.
    taken: Vec<u64>,
    /// Everything it was asked to take.
    asked: Vec<SetWeights>,
    /// Everything it was asked to reveal.
    revealed: Vec<RevealWeights>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kill {
    AfterIntent,
    BeforeSubmission,
    AfterSubmission,
    BeforeSettlement,
    AfterSettlement,
    BeforeReveal,
    AfterReveal,
}

type Shared = Rc<RefCell<World>>;

/// One process: the actor, its doors, and the driven world around it.
struct Life {
    mailboxes: Mailboxes,
    address: Addr<WeightsActor>,
    abort: AbortHandle,
    published: watch::Receiver<Arc<ScoreTable>>,
    metrics: Metrics,
}

struct Bench {
    world: Shared,
    metagraphs: watch::Sender<Arc<Metagraph>>,
    clock: DrivenClock,
    pulse: Pulse,
    config: WeightsConfig,
    /// Intents are never answered, as by a disk that hangs.
    ledger_hangs: bool,
    /// Takes submissions instead of the world's chain.
    slow_chain: Option<Mailbox<SetWeights>>,
}

const START: u64 = 3_600;
const BLOCK_SECONDS: u64 = 12;
/// The clock when a bench starts; steps were scored a moment before.
const UNIX_SECONDS: u64 = 1_000;

// === The world ===

impl World {
    fn kill(&mut self, at: Kill) {
        if self.kill_at == Some(at) {
            self.kill_at = None;
            self.life.take().expect("an actor to kill").abort();
        }
    }

    fn refuse(&self, attempted: &'static str) -> Result<(), LedgerError> {
        let reason = || LedgerError { attempted, reason: "disk full".into() };
        if self.ledger_refuses { Err(reason()) } else { Ok(()) }
    }

    fn settlements(&self) -> Vec<Settlement> {
        self.intents.iter().map(|intent| intent.settlement.clone()).collect()
    }
}

impl Chain {
    fn metagraph(&self) -> Metagraph {
        let mut metagraph = metagraph(4, self.block);
        metagraph.epoch_index = self.block / TEMPO;
        metagraph.last_epoch_block.0 = self.block / TEMPO * TEMPO;
        metagraph.neurons[0].last_update.0 = self.last_update;
        metagraph.hyperparameters.commit_reveal = self.commit_reveal;
        metagraph.hyperparameters.commit_by_hash = self.by_hash;
        metagraph
    }

    /// As the pallet: in the reveal epoch alone, with the salt of the commit, and once.
    fn reveal(&mut self, said: &RevealWeights) -> Result<Block, ChainError> {
        self.revealed.push(said.clone());
        self.block += 1;
        let refuse = |name: &str| ChainError::FailedInBlock {
            call: "reveal".into(),
            block: Block(self.block),
            name: name.into(),
        };
        let commit = self.asked.last().is_some_and(|asked| asked.salt.as_ref() == Some(&said.salt));
        let (row, reveal_epoch) =
            self.committed.clone().filter(|_| commit).ok_or_else(|| refuse("NoWeightsCommitFound"))?;
        if self.reveals_fail || self.block / TEMPO != reveal_epoch {
            return Err(refuse("ExpiredWeightCommit"));
        }
        (self.row, self.committed) = (row, None);
        if self.silent {
            return Err(ChainError::Unreachable { call: "reveal".into(), reason: "the socket closed".into() });
        }
        Ok(Block(self.block))
    }

    fn take(&mut self, message: &SetWeights) -> Result<Submission, ChainError> {
        self.asked.push(message.clone());
        if let Some(refusal) = self.refusals.pop() {
            return Err(refusal);
        }
        self.block += 1;
        self.last_update = self.block;
        self.taken.push(self.block);
        let row = message.uids.iter().copied().zip(message.weights.iter().copied()).collect();
        let block = Block(self.block);
        let submission = if self.commit_reveal {
            let reveal_epoch = self.block / TEMPO + 1;
            self.committed = Some((row, reveal_epoch));
            Submission::Committed { block, reveal_epoch }
        } else {
            self.row = row;
            Submission::Set { block }
        };
        if self.silent {
            return Err(ChainError::Unreachable { call: "set_weights".into(), reason: "the socket closed".into() });
        }
        Ok(submission)
    }

    fn advance(&mut self, blocks: u64) {
        self.block += blocks;
        let epoch = self.block / TEMPO;
        if !self.by_hash
            && let Some((row, _)) = self.committed.take_if(|(_, reveal_epoch)| epoch >= *reveal_epoch)
            && !self.reveals_fail
        {
            self.row = row;
        }
    }
}

/// Mailboxes to the fake neighbours, all on this thread.
fn neighbours(world: &Shared) -> Neighbours {
    fn door<M>(world: &Shared, mut reply: impl FnMut(&mut World, &M) -> M::Result + 'static) -> Mailbox<M>
    where
        M: actix::Message + Send + Unpin + 'static,
        M::Result: Send,
    {
        let world = world.clone();
        recording_mailbox(move |message: &M| reply(&mut world.borrow_mut(), message)).0
    }
    Neighbours {
        load_snapshot: door(world, |world, _: &LoadSnapshot| Ok(world.snapshot.clone())),
        save_snapshot: door(world, |world, message: &SaveSnapshot| {
            assert_eq!(message.owner, OWNER);
            world.refuse("save a snapshot")?;
            world.snapshot = Some(message.snapshot.clone());
            Ok(())
        }),
        read_steps: door(world, |world, message: &ReadSteps| {
            let after = world.steps.iter().filter(|step| step.sequence > message.after);
            Ok(after.take(message.limit.min(3)).cloned().collect())
        }),
        record_intent: door(world, |world, message: &RecordIntent| {
            world.refuse("record an intent")?;
            let id = IntentId(world.intents.len() as u64 + 1);
            world.intents.push(StoredIntent { id, intent: message.intent.clone(), settlement: Settlement::Open });
            if let Some(then) = world.after_intent.take() {
                then();
            }
            world.kill(Kill::AfterIntent);
            Ok(id)
        }),
        settle_intent: door(world, |world, message: &SettleIntent| {
            world.kill(Kill::BeforeSettlement);
            world.refuse("settle an intent")?;
            if world.life.is_some() {
                world.intents[message.id.0 as usize - 1].settlement = message.settlement.clone();
            }
            world.kill(Kill::AfterSettlement);
            Ok(())
        }),
        read_intents: door(world, |world, message: &ReadIntents| {
            Ok(world.intents.iter().rev().take(message.limit).cloned().collect())
        }),
        set_weights: door(world, |world, message: &SetWeights| {
            let recorded = world.intents.last().is_some_and(|latest| latest.settlement == Settlement::Open);
            assert!(recorded || world.ledger_refuses, "nothing is submitted that is not recorded");
            if world.kill_at == Some(Kill::BeforeSubmission) {
                world.kill(Kill::BeforeSubmission);
                return Err(ChainError::Unreachable { call: "set_weights".into(), reason: "killed".into() });
            }
            let answer = world.chain.take(message);
            world.kill(Kill::AfterSubmission);
            answer
        }),
        reveal_weights: door(world, |world, message: &RevealWeights| {
            if world.kill_at == Some(Kill::BeforeReveal) {
                world.kill(Kill::BeforeReveal);
                return Err(ChainError::Unreachable { call: "reveal".into(), reason: "killed".into() });
            }
            let answer = world.chain.reveal(message);
            world.kill(Kill::AfterReveal);
            answer
        }),
        read_weights: door(world, |world, _: &ReadWeights| Ok(world.chain.row.clone())),
    }
}

impl Bench {
    fn new() -> Self {
        let chain = Chain {
            block: START,
            last_update: START - 180,
            row: vec![],
            committed: None,
            commit_reveal: false,
            by_hash: false,
            reveals_fail: false,
            silent: false,
            refusals: vec![],
            taken: vec![],
            asked: vec![],
            revealed: vec![],
        };
        let metagraphs = watch::Sender::new(Arc::new(chain.metagraph()));
        let world = World {
            steps: vec![],
            snapshot: None,
            intents: vec![],
            ledger_refuses: false,
            chain,
            kill_at: None,
            life: None,
            after_intent: None,
        };
        let clock = DrivenClock::new(Duration::from_secs(UNIX_SECONDS));
        let shared: SharedClock = Arc::new(clock.clone());
        let bench = Self {
            world: Rc::new(RefCell::new(world)),
            metagraphs,
            pulse: Pulse::new(&shared),
            clock,
            ledger_hangs: false,
            slow_chain: None,
            config: WeightsConfig { min_scored: 2, same_key_guard: false, ..WeightsConfig::default() },
        };
        bench.append(UNIX_SECONDS, &[(key(1), Some(1.0)), (key(2), Some(0.5)), (key(3), None)]);
        bench
    }

    /// A settled step in the ledger.
    fn append(&self, number: u64, asked: &[(Hotkey, Option<f32>)]) -> Apply {
        let (record, outcome) = step(number, START, asked);
        let mut world = self.world.borrow_mut();
        let sequence = Sequence(world.steps.len() as u64 + 1);
        world.steps.push(StoredStep { sequence, record: record.clone(), outcome: Some(outcome.clone()) });
        Apply { sequence, record, outcome }
    }

    async fn start(&self) -> Life {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let mailboxes = Mailboxes::new(8, &registry).unwrap();
        let (publisher, published) = watch::channel(Arc::default());
        let mut neighbours = neighbours(&self.world);
        if self.ledger_hangs {
            let nobody = Inbox::new("hanging", 64, &registry).unwrap();
            (neighbours.record_intent, neighbours.settle_intent) = (nobody.mailbox(), nobody.mailbox());
        }
        if let Some(slow_chain) = &self.slow_chain {
            neighbours.set_weights = slow_chain.clone();
        }
        let actor = WeightsActor::recover(
            OWN,
            self.config.clone(),
            neighbours,
            self.metagraphs.subscribe(),
            publisher,
            metrics.clone(),
            Arc::new(self.clock.clone()),
            self.pulse.clone(),
        );
        let actor = actor.await.unwrap();
        let context = Context::new();
        let address = context.address();
        mailboxes.attach(&address);
        let abort = actix::spawn(context.into_future(actor)).abort_handle();
        self.world.borrow_mut().life = Some(abort.clone());
        let life = Life { mailboxes, address, abort, published, metrics };
        rest().await;
        life
    }

    /// Lets the chain go on, a few blocks at a time.
    async fn run(&self, blocks: u64) {
        const STRIDE: u64 = 5;
        for _ in 0..blocks / STRIDE {
            self.clock.advance(Duration::from_secs(BLOCK_SECONDS * STRIDE));
            let metagraph = {
                let mut world = self.world.borrow_mut();
                world.chain.advance(STRIDE);
                world.chain.metagraph()
            };
            self.metagraphs.send_replace(Arc::new(metagraph));
            rest().await;
        }
    }

    fn taken(&self) -> Vec<u64> {
        self.world.borrow().chain.taken.clone()
    }
}

/// What this thread warns of, for its `reason`.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<u8>>>);

impl Told {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let told = self.clone();
        let listener = tracing_subscriber::fmt().json().with_max_level(tracing::Level::WARN);
        tracing::subscriber::set_default(listener.with_writer(move || told.clone()).finish())
    }

    fn warnings(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        let lines = serde_json::Deserializer::from_slice(&bytes).into_iter::<serde_json::Value>();
        lines.filter_map(|line| line.unwrap()["fields"]["reason"].as_str().map(str::to_owned)).collect()
    }
}

impl io::Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Until everything on this thread waits for something.
async fn rest() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn confirmed(settlement: &Settlement) -> bool {
    matches!(settlement, Settlement::Confirmed { .. })
}

// === Setting weights ===

#[actix::test]
async fn every_epoch_gets_weights_once_at_its_moment() {
    let bench = Bench::new();
    let life = bench.start().await;
    bench.run(3 * TEMPO).await;
    let world = bench.world.borrow();
    let offsets: Vec<_> = world.chain.taken.iter().map(|block| block % TEMPO).collect();
    assert_eq!(offsets.len(), 3);
    assert!(offsets.iter().all(|offset| (TEMPO / 2..TEMPO / 2 + 10).contains(offset)), "{offsets:?}");
    assert!(world.settlements().iter().all(confirmed), "{:?}", world.settlements());
    let sent = &world.chain.asked[0];
    assert_eq!((&sent.uids[..], &sent.weights[..]), (&[Uid(1), Uid(2)][..], &[65_535, 32_768][..]));
    assert_eq!(sent.version_key, 7, "the subnet wants at least this one");
    assert_eq!(life.metrics.intents.with_label_values(&["confirmed"]).get(), 3);
    assert_eq!(life.metrics.epochs_missed.get(), 0);
    assert!(life.metrics.last_set.get() > UNIX_SECONDS as f64);
}

#[actix::test]
async fn killed_anywhere_between_intent_and_settlement_no_epoch_gets_two() {
    let kills = [
        Kill::AfterIntent,
        Kill::BeforeSubmission,
        Kill::AfterSubmission,
        Kill::BeforeSettlement,
        Kill::AfterSettlement,
    ];
    for (commit_reveal, kill) in [false, true].into_iter().flat_map(|mode| kills.map(|kill| (mode, kill))) {
        let bench = Bench::new();
        bench.world.borrow_mut().chain.commit_reveal = commit_reveal;
        bench.world.borrow_mut().kill_at = Some(kill);
        bench.start().await;
        bench.run(TEMPO / 2).await;
        rest().await;
        assert_eq!(bench.world.borrow().kill_at, None, "{kill:?} happened");
        bench.start().await;
        bench.run(TEMPO / 2 + 2 * TEMPO).await;
        let epochs: Vec<_> = bench.taken().iter().map(|block| block / TEMPO).collect();
        assert_eq!(epochs, [10, 11, 12], "{kill:?}, commit-reveal {commit_reveal}");
        let world = bench.world.borrow();
        assert_eq!(world.chain.asked.len(), 3, "{kill:?}: nothing was sent twice either");
        let settlements = world.settlements();
        let open = settlements.iter().filter(|settlement| **settlement == Settlement::Open).count();
        assert_eq!(open, 0, "{kill:?}: {settlements:?}");
        let good = settlements.iter().filter(|settlement| confirmed(settlement)).count();
        assert_eq!(good, 3, "{kill:?}: {settlements:?}");
    }
}

#[actix::test]
async fn unreachable_but_taken_is_found_on_the_chain() {
    let bench = Bench::new();
    bench.world.borrow_mut().chain.silent = true;
    bench.start().await;
    bench.run(TEMPO - 5).await;
    assert_eq!(bench.world.borrow().chain.asked.len(), 1, "not sent again");
    let block = Block(bench.taken()[0]);
    assert_eq!(bench.world.borrow().settlements(), [Settlement::Confirmed { block }]);
}

#[actix::test]
async fn unreachable_and_lost_is_sent_again_when_it_cannot_come_any_more() {
    let bench = Bench::new();
    let lost = ChainError::Unreachable { call: "set_weights".into(), reason: "no route".into() };
    bench.world.borrow_mut().chain.refusals = vec![lost];
    bench.start().await;
    bench.run(TEMPO / 2 + 60).await;
    assert_eq!(bench.world.borrow().settlements(), [Settlement::Open]);
    bench.run(60).await;
    let world = bench.world.borrow();
    assert_eq!((world.chain.asked.len(), world.chain.taken.len()), (2, 1));
    assert!(matches!(&world.settlements()[..], [Settlement::Failed { .. }, Settlement::Confirmed { .. }]));
}

#[actix::test]
async fn refused_weights_are_tried_again_within_the_epoch() {
    let bench = Bench::new();
    let refusal =
        ChainError::FailedInBlock { call: "set_weights".into(), block: Block(1), name: "SettingWeightsTooFast".into() };
    bench.world.borrow_mut().chain.refusals = vec![refusal; 5];
    let life = bench.start().await;
    bench.run(TEMPO - 5).await;
    assert_eq!(bench.world.borrow().chain.asked.len(), 3, "so many attempts an epoch has");
    let Settlement::Failed { reason } = bench.world.borrow().settlements()[0].clone() else { panic!("failed") };
    assert!(reason.contains("SettingWeightsTooFast"), "{reason}");
    assert_eq!(life.metrics.waiting.with_label_values(&["attempts_spent"]).get(), 1);
    bench.run(TEMPO).await;
    assert_eq!(bench.taken().len(), 1, "the next epoch went well at its third attempt");
    bench.run(2 * TEMPO).await;
    assert_eq!(life.metrics.epochs_missed.get(), 0);
}

#[actix::test]
async fn a_hotkey_that_changes_under_an_intent_supersedes_it() {
    let mut bench = Bench::new();
    bench.config.min_scored = 1;
    let metagraphs = bench.metagraphs.clone();
    bench.world.borrow_mut().after_intent = Some(Box::new(move || {
        metagraphs.send_modify(|metagraph| Arc::make_mut(metagraph).neurons[2].hotkey = key(99));
    }));
    let life = bench.start().await;
    bench.run(TEMPO / 2).await;
    let world = bench.world.borrow();
    assert!(matches!(&world.settlements()[..], [Settlement::Superseded, Settlement::Confirmed { .. }]));
    assert_eq!(world.chain.asked.len(), 1);
    assert_eq!(world.chain.asked[0].uids, [Uid(1)], "who came to uid 2 meanwhile is not paid for another's work");
    assert_eq!(life.metrics.intents.with_label_values(&["superseded"]).get(), 1);
}

#[actix::test]
async fn held_weights_are_sent_again() {
    let mut bench = Bench::new();
    bench.config.max_score_age_seconds = 3_000;
    bench.config.resend_held_after_tempos = 3.0;
    let _life = bench.start().await;
    bench.run(3 * TEMPO).await;
    assert_eq!(bench.taken().len(), 1, "the scores are old, and there is time");
    bench.run(TEMPO).await;
    let world = bench.world.borrow();
    let [first, again] = &world.chain.asked[..] else { panic!("{:?}", world.chain.asked) };
    assert_eq!((&first.uids, &first.weights), (&again.uids, &again.weights));
    assert!(world.settlements().iter().all(confirmed), "{:?}", world.settlements());
}

#[actix::test]
async fn a_commit_that_is_never_revealed_has_failed_and_the_next_epoch_tries_again() {
    let bench = Bench::new();
    bench.world.borrow_mut().chain.commit_reveal = true;
    bench.world.borrow_mut().chain.reveals_fail = true;
    let life = bench.start().await;
    bench.run(TEMPO / 2).await;
    assert!(matches!(bench.world.borrow().settlements()[..], [Settlement::Committed { reveal_epoch: 11, .. }]));
    bench.run(TEMPO).await;
    assert_eq!(bench.taken().len(), 2, "the commit of an epoch does not wait for the reveal of the one before");
    bench.run(TEMPO / 2 - 10).await;
    assert!(matches!(bench.world.borrow().settlements()[0], Settlement::Committed { .. }), "the beacon may be late");
    bench.run(20).await;
    let settlements = bench.world.borrow().settlements();
    assert!(matches!(settlements[..], [Settlement::Failed { .. }, Settlement::Committed { .. }]), "{settlements:?}");
    assert_eq!(life.metrics.lost_commits.get(), 1);
    bench.world.borrow_mut().chain.reveals_fail = false;
    // Another vector: the reveal of the third commit is no proof of the second.
    life.mailboxes.apply.call(bench.append(UNIX_SECONDS, &[(key(3), Some(1.0))])).await.unwrap().unwrap();
    bench.run(TEMPO).await;
    assert_eq!(bench.taken().len(), 3);
    bench.run(10).await;
    let settlements = bench.world.borrow().settlements();
    assert!(matches!(settlements[1], Settlement::Failed { .. }), "{settlements:?}");
    assert!(confirmed(&settlements[2]), "{settlements:?}");
}

#[actix::test]
async fn intents_of_a_chain_that_is_gone_do_not_hold_up_the_new_one() {
    let bench = Bench::new();
    // Weights were set, then submitted without an answer; both under the number of the epoch that the new chain is in.
    let intent = |block| WeightIntent {
        block: Block(block),
        epoch_index: START / TEMPO,
        after_step: Sequence(1),
        uids: vec![Uid(1)],
        hotkeys: vec![key(1)],
        weights: vec![65_535],
        version_key: 0,
        salt: None,
        basis: None,
    };
    let stored = |id, block, settlement| StoredIntent { id: IntentId(id), intent: intent(block), settlement };
    bench.world.borrow_mut().intents =
        vec![stored(1, 100_000, Settlement::Confirmed { block: Block(100_001) }), stored(2, 100_360, Settlement::Open)];
    let life = bench.start().await;
    let gone = Settlement::Failed { reason: OTHER_CHAIN.into() };
    assert_eq!(bench.world.borrow().settlements(), [gone.clone(), gone], "at the first look");
    bench.run(TEMPO - 5).await;
    assert_eq!(bench.taken().len(), 1, "the epoch has its weights");
    assert!(confirmed(&bench.world.borrow().settlements()[2]));
    assert_eq!(life.metrics.intents.with_label_values(&["failed"]).get(), 0);
}

#[actix::test]
async fn a_ledger_in_trouble_does_not_keep_weights_from_the_chain() {
    let bench = Bench::new();
    let life = bench.start().await;
    bench.world.borrow_mut().ledger_refuses = true;
    bench.run(TEMPO / 2 + 20).await;
    assert_eq!(bench.taken().len(), 1);
    assert_eq!(life.metrics.unrecorded.get(), 1);
    assert!(bench.world.borrow().intents.is_empty());
    bench.world.borrow_mut().ledger_refuses = false;
    bench.run(20).await;
    assert!(matches!(&bench.world.borrow().settlements()[..], [Settlement::Confirmed { .. }]), "recorded afterwards");
    assert_eq!(bench.taken().len(), 1);
}

#[actix::test]
async fn switched_off_it_only_keeps_scores() {
    let mut bench = Bench::new();
    bench.config.disable_set_weights = true;
    let life = bench.start().await;
    bench.run(2 * TEMPO).await;
    assert!(bench.world.borrow().intents.is_empty() && bench.taken().is_empty());
    assert_eq!(life.metrics.waiting.with_label_values(&["disabled"]).get(), 1);
    assert_eq!(life.metrics.epochs_missed.get(), 0);
    assert_eq!(life.published.borrow().rows.len(), 3);
}

#[actix::test]
async fn without_evidence_the_epoch_is_missed_and_counted() {
    let bench = Bench::new();
    bench.world.borrow_mut().steps.clear();
    let life = bench.start().await;
    bench.run(3 * TEMPO).await;
    assert!(bench.taken().is_empty());
    assert_eq!(life.metrics.waiting.with_label_values(&["too_early"]).get(), 1);
    assert_eq!(life.metrics.epochs_missed.get(), 3);
}

#[actix::test]
async fn why_weights_are_withheld_is_told_once_with_the_numbers() {
    let told = Told::default();
    let _guard = told.listen();
    let mut bench = Bench::new();
    bench.config.probe_axons = 0;
    bench.world.borrow_mut().steps.clear();
    let life = bench.start().await;
    bench.run(TEMPO / 2 + 30).await;
    assert!(told.warnings().is_empty(), "a start without scores worries nobody");
    bench.run(2 * TEMPO).await;
    let few = "0 neurons have a scored answer; of 3 that may answer, 2 are wanted";
    assert_eq!(told.warnings(), [few; 2], "one in each epoch, whatever its blocks");

    // Another kind of reason is news; other numbers are not.
    for step in [&[(key(1), Some(0.0))][..], &[(key(2), Some(0.0))], &[(key(3), Some(0.0))]] {
        life.mailboxes.apply.call(bench.append(UNIX_SECONDS, step)).await.unwrap().unwrap();
        bench.run(10).await;
    }
    let nothing = "none of 2 neurons with a scored answer has a score above 0";
    assert_eq!(told.warnings(), [few, few, nothing]);
    assert!(bench.taken().is_empty());
}

/// Even where weights are to be set without scores.
#[actix::test]
async fn a_subnet_where_nobody_answers_gets_no_first_weights() {
    let told = Told::default();
    let _guard = told.listen();
    let mut bench = Bench::new();
    bench.config.when_empty = crate::WhenEmpty::Uniform;
    bench.world.borrow_mut().steps.clear();
    bench.append(1, &[(key(1), None), (key(2), None), (key(3), None)]);
    let life = bench.start().await;
    bench.run(2 * TEMPO).await;
    assert!(bench.taken().is_empty());
    assert!(told.warnings()[0].starts_with("none of the 3 axons asked so far has answered"), "{:?}", told.warnings());
    life.mailboxes.apply.call(bench.append(2, &[(key(1), Some(0.0))])).await.unwrap().unwrap();
    bench.run(TEMPO).await;
    assert_eq!(bench.taken().len(), 1, "as soon as one speaks our protocol");
}
