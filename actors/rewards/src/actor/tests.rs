use std::{cell::RefCell, rc::Rc};

use openvalidators_messages::{
    Judgement, Scored, StepRecord,
    inference::LogProb,
    ledger::{LedgerError, LoadSnapshot, ReadSteps, StoreOutcome, StoredStep},
};
use openvalidators_runtime::{DrivenClock, testing::recording_mailbox};

use super::*;
use crate::{
    neighbours::neighbours,
    network::tests::{hotkey, metagraph},
    samples::{completion, embeddings, raw, record, score},
};

// === a ledger in memory ===

#[derive(Default)]
struct Kept {
    steps: Vec<StoredStep>,
    snapshot: Option<Snapshot>,
    refuse_snapshots: bool,
    refuse_outcomes: bool,
}

#[derive(Clone, Default)]
struct MemoryLedger(Rc<RefCell<Kept>>);

impl MemoryLedger {
    /// Steps 1, 2, … as appended, without outcomes.
    fn of(records: &[StepRecord]) -> Self {
        let ledger = Self::default();
        records.iter().for_each(|record| ledger.append(record));
        ledger
    }

    fn append(&self, record: &StepRecord) {
        let steps = &mut self.0.borrow_mut().steps;
        let sequence = Sequence(steps.len() as u64 + 1);
        steps.push(StoredStep { sequence, record: Arc::new(record.clone()), outcome: None });
    }

    fn outcome(&self, sequence: u64) -> Option<Arc<StepOutcome>> {
        self.0.borrow().steps[sequence as usize - 1].outcome.clone()
    }

    fn mailboxes(&self) -> Ledger {
        let [load, save, read, store] = std::array::from_fn(|_| self.0.clone());
        Ledger {
            load_snapshot: recording_mailbox(move |_: &LoadSnapshot| Ok(load.borrow().snapshot.clone())).0,
            save_snapshot: recording_mailbox(move |message: &SaveSnapshot| {
                let mut kept = save.borrow_mut();
                if kept.refuse_snapshots {
                    let reason = "disk full".into();
                    return Err(LedgerError { attempted: "save a snapshot", reason });
                }
                kept.snapshot = Some(message.snapshot.clone());
                Ok(())
            })
            .0,
            read_steps: recording_mailbox(move |message: &ReadSteps| {
                let kept = read.borrow();
                let after = kept.steps.iter().filter(|step| step.sequence > message.after);
                Ok(after.take(message.limit).cloned().collect())
            })
            .0,
            store_outcome: recording_mailbox(move |message: &StoreOutcome| {
                let mut kept = store.borrow_mut();
                if kept.refuse_outcomes {
                    return Err(LedgerError { attempted: "store an outcome", reason: "disk full".into() });
                }
                kept.steps[message.sequence.0 as usize - 1].outcome = Some(message.outcome.clone());
                Ok(())
            })
            .0,
        }
    }
}

// === an actor ===

struct Running {
    address: Addr<RewardsActor>,
    mailboxes: Mailboxes,
    registry: Registry,
}

impl Running {
    async fn apply(&self, sequence: u64, record: &StepRecord) -> Result<Arc<StepOutcome>, FoldError> {
        self.mailboxes
            .apply
            .call(Apply { sequence: Sequence(sequence), record: Arc::new(record.clone()) })
            .await
            .unwrap()
    }

    #[allow(clippy::disallowed_methods, reason = "Stop is what the supervisor sends")]
    async fn stop(self) {
        self.address.send(Stop).await.unwrap();
    }

    fn metric(&self, name: &str) -> f64 {
        let name = format!("openvalidators_rewards_{name}");
        let family = self.registry.gather().into_iter().find(|family| family.name() == name).unwrap();
        family.get_metric().iter().map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

fn silent_inference() -> Inference {
    let (log_prob, _) = recording_mailbox(|_: &LogProb| Ok(Vec::new()));
    Inference { log_prob, ..neighbours(|_| vec![1.0, 0.5], |_| None).inference }
}

async fn started(ledger: &MemoryLedger, config: &Config, inference: Inference, clock: SharedClock) -> Running {
    let registry = Registry::new();
    let mailboxes = Mailboxes::new(8, &registry).unwrap();
    let metrics = Metrics::new(&registry).unwrap();
    let actor = RewardsActor::recover(config, ledger.mailboxes(), inference, clock, metrics).await.unwrap();
    let address = actor.start();
    mailboxes.attach(&address);
    Running { address, mailboxes, registry }
}

async fn running(ledger: &MemoryLedger, config: &Config) -> Running {
    started(ledger, config, silent_inference(), Arc::new(DrivenClock::new(Duration::ZERO))).await
}

/// The `seed`-th of many different steps.
fn step(seed: u64) -> StepRecord {
    let spread = |index: u64| -1.0 - (seed * 7 + index * 3) as f32 % 5.0;
    let angle = seed as f32 * 0.1;
    let rows = embeddings(&[0, 1], &[[angle.cos(), angle.sin()], [(angle + 1.0).cos(), (angle + 1.0).sin()]]);
    record(&[true, true, false], raw(&[Some(spread(0)), Some(spread(1)), None], Some(rows)))
}

fn steps(count: u64) -> Vec<StepRecord> {
    (0..count).map(step).collect()
}

/// What folding all of it from the beginning comes to.
fn outcomes(records: &[StepRecord]) -> Vec<Arc<StepOutcome>> {
    let (mut state, rules) = (State::default(), Rules::new(&Config::default()));
    records.iter().map(|record| state.fold(&rules, state.sequence.next(), record)).collect()
}

fn scored(outcome: &StepOutcome) -> &Scored {
    outcome.scored().unwrap()
}

// === folding ===

#[actix::test]
async fn a_step_offered_twice_is_folded_once() {
    let records = steps(3);
    let expected = outcomes(&records);
    let ledger = MemoryLedger::of(&[]);
    let actor = running(&ledger, &Config::default()).await;
    for (index, record) in records.iter().enumerate() {
        ledger.append(record);
        for _ in 0..3 {
            assert_eq!(actor.apply(index as u64 + 1, record).await.unwrap(), expected[index]);
        }
    }
    let again = FoldError::AlreadyFolded { asked: Sequence(1), applied: Sequence(3) };
    assert_eq!(actor.apply(1, &records[0]).await.unwrap_err(), again);
    assert_eq!((actor.metric("folded_total"), actor.metric("sequence"), actor.metric("history_rows")), (3.0, 3.0, 6.0));
}

#[actix::test]
async fn steps_that_were_not_offered_are_read_from_the_ledger() {
    let records = steps(40);
    let ledger = MemoryLedger::of(&[]);
    let actor = running(&ledger, &Config::default()).await;
    records.iter().for_each(|record| ledger.append(record));
    assert_eq!(actor.apply(40, &records[39]).await.unwrap(), outcomes(&records)[39]);
    assert_eq!(ledger.outcome(39).as_ref(), Some(&outcomes(&records)[38]), "nobody else would store it");
    match actor.apply(42, &records[0]).await.unwrap_err() {
        FoldError::Gap { asked: Sequence(42), applied: Sequence(40), reason } => assert!(reason.contains("not hold")),
        error => panic!("{error}"),
    }
}

// === an earlier life ===

#[actix::test]
async fn a_fresh_actor_goes_on_where_the_ledger_ends() {
    let records = steps(70);
    let expected = outcomes(&records);
    let ledger = MemoryLedger::of(&records[..69]);
    let actor = running(&ledger, &Config::default()).await;
    assert_eq!(ledger.outcome(69).as_ref(), Some(&expected[68]), "missing outcomes are stored");
    assert_eq!(actor.apply(69, &records[68]).await.unwrap(), expected[68], "the forward asks again");
    assert_eq!(actor.apply(70, &records[69]).await.unwrap(), expected[69]);
}

#[actix::test]
async fn snapshot_and_steps_are_as_good_as_all_steps() {
    let records = steps(10);
    let expected = outcomes(&records);
    let ledger = MemoryLedger::of(&records[..4]);
    running(&ledger, &Config::default()).await.stop().await;
    assert_eq!(ledger.0.borrow().snapshot.as_ref().unwrap().sequence, Sequence(4));
    records[4..].iter().for_each(|record| ledger.append(record));
    // Were the snapshot not used, these would be folded.
    let poison = Arc::new(record(&[true], raw(&[Some(1e9)], None)));
    ledger.0.borrow_mut().steps[..4].iter_mut().for_each(|step| step.record = Arc::clone(&poison));
    let actor = running(&ledger, &Config::default()).await;
    assert_eq!(actor.apply(10, &records[9]).await.unwrap(), expected[9]);
}

#[actix::test]
async fn an_outcome_lost_between_snapshot_and_storing_is_found_again() {
    let records = steps(4);
    let ledger = MemoryLedger::of(&records);
    running(&ledger, &Config::default()).await.stop().await;
    ledger.0.borrow_mut().steps[3].outcome = None;
    running(&ledger, &Config::default()).await;
    assert_eq!(ledger.outcome(4).as_ref(), Some(&outcomes(&records)[3]));
}

#[actix::test]
async fn a_snapshot_of_another_version_is_folded_anew() {
    let records = steps(5);
    let ledger = MemoryLedger::of(&records);
    let state = b"from another program".to_vec();
    ledger.0.borrow_mut().snapshot = Some(Snapshot { sequence: Sequence(4), version: 99, state });
    let actor = running(&ledger, &Config::default()).await;
    assert_eq!(actor.apply(5, &records[4]).await.unwrap(), outcomes(&records)[4]);
}

#[actix::test]
async fn what_was_told_stays_true_under_other_settings() {
    let records = steps(2);
    let ledger = MemoryLedger::of(&records);
    let told = Arc::new(StepOutcome::Unscored { reason: "told under other settings".into() });
    ledger.0.borrow_mut().steps[1].outcome = Some(Arc::clone(&told));
    let actor = running(&ledger, &Config::default()).await;
    assert_eq!(actor.apply(2, &records[1]).await.unwrap(), told);
}

#[actix::test]
async fn pruned_steps_are_no_obstacle_but_lost_ones_are() {
    let ledger = MemoryLedger::of(&steps(6));
    ledger.0.borrow_mut().steps.drain(..2);
    let recover = |ledger: &MemoryLedger| {
        let (mailboxes, rules) = (ledger.mailboxes(), Arc::new(Rules::new(&Config::default())));
        async move { mailboxes.recover(&rules).await }
    };
    // Outcomes are there already, for this ledger stores them by index.
    let told = Arc::new(StepOutcome::Unscored { reason: String::new() });
    ledger.0.borrow_mut().steps.iter_mut().for_each(|step| step.outcome = Some(Arc::clone(&told)));
    assert_eq!(recover(&ledger).await.unwrap().0.sequence, Sequence(6));
    ledger.0.borrow_mut().steps.remove(1);
    let lost = recover(&ledger).await.unwrap_err().to_string();
    assert!(lost.contains("after step 3 the ledger holds step 5"), "{lost}");
}

// === snapshots ===

#[actix::test]
async fn a_snapshot_is_saved_now_and_then_and_a_refusal_is_tried_again() {
    let config = Config { snapshot_every_steps: 3, ..Config::default() };
    let records = steps(8);
    let ledger = MemoryLedger::of(&records);
    ledger.0.borrow_mut().steps.clear();
    let actor = running(&ledger, &config).await;
    let saved = || ledger.0.borrow().snapshot.as_ref().map(|snapshot| snapshot.sequence.0);
    let mut seen = Vec::new();
    for (index, record) in records.iter().enumerate() {
        ledger.0.borrow_mut().refuse_snapshots = index == 5;
        ledger.append(record);
        actor.apply(index as u64 + 1, record).await.unwrap();
        while actor.metric("snapshots_total") < [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 3.0][index] {
            tokio::task::yield_now().await;
        }
        seen.push(saved());
    }
    assert_eq!(seen, [None, None, Some(3), Some(3), Some(3), Some(3), Some(7), Some(7)]);
    actor.stop().await;
    assert_eq!(saved(), Some(8));
}

#[actix::test]
async fn no_snapshot_is_past_an_outcome_the_ledger_does_not_hold() {
    let config = Config { snapshot_every_steps: 3, ..Config::default() };
    let records = steps(8);
    let expected = outcomes(&records);
    let ledger = MemoryLedger::of(&[]);
    let actor = running(&ledger, &config).await;
    let saved = || ledger.0.borrow().snapshot.as_ref().map(|snapshot| snapshot.sequence.0);
    ledger.0.borrow_mut().refuse_outcomes = true;
    for (index, record) in records[..4].iter().enumerate() {
        ledger.append(record);
        actor.apply(index as u64 + 1, record).await.unwrap();
        while actor.metric("snapshots_total") < [0.0, 0.0, 1.0, 2.0][index] {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(saved(), None, "the forward stored none of them, and the ledger takes none");

    // A kill now would cost nothing: all is made anew. Without one, the next step stores what is missing first.
    ledger.0.borrow_mut().refuse_outcomes = false;
    ledger.append(&records[4]);
    actor.apply(5, &records[4]).await.unwrap();
    while saved().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(saved(), Some(5));
    let stored = |until: u64| (1..=until).map(|number| ledger.outcome(number).unwrap()).collect::<Vec<_>>();
    assert_eq!(stored(5), expected[..5]);

    // The same holds for the last snapshot of a life.
    ledger.0.borrow_mut().refuse_outcomes = true;
    ledger.append(&records[5]);
    actor.apply(6, &records[5]).await.unwrap();
    actor.stop().await;
    assert_eq!(saved(), Some(5));
    ledger.0.borrow_mut().refuse_outcomes = false;
    let actor = running(&ledger, &config).await;
    assert_eq!(stored(6), expected[..6], "made anew after the restart");

    // And for steps the actor read itself.
    records[6..].iter().for_each(|record| ledger.append(record));
    ledger.0.borrow_mut().refuse_outcomes = true;
    actor.apply(8, &records[7]).await.unwrap();
    assert_eq!(ledger.outcome(7), None);
    ledger.0.borrow_mut().refuse_outcomes = false;
    actor.stop().await;
    assert_eq!((saved(), stored(8)), (Some(8), expected));
}

// === scoring ===

#[actix::test]
async fn a_step_is_scored_through_the_mailbox() {
    let ledger = MemoryLedger::default();
    let actor = running(&ledger, &Config::default()).await;
    let score = score("augment", "prompt", "base", &[], vec![completion("short", true), completion("late", false)]);
    let sheet = actor.mailboxes.score.call(score).await.unwrap().unwrap();
    assert_eq!(sheet.raw.rewards[0].values, [Some(-11.0), None]);
    assert_eq!(actor.metric("scored_total"), 1.0);
}

#[actix::test]
async fn a_model_that_never_answers_leaves_the_step_unscored_and_folding_goes_on() {
    let clock = DrivenClock::new(Duration::ZERO);
    let inbox = Inbox::new("hanging", 4, &Registry::new()).unwrap();
    let hanging = Inference { embed: inbox.mailbox(), ..silent_inference() };
    let ledger = MemoryLedger::default();
    let actor = started(&ledger, &Config::default(), hanging, Arc::new(clock.clone())).await;
    let mailbox = actor.mailboxes.score.clone();
    let score = score("augment", "prompt", "base", &[], vec![completion("brief", true)]);
    let scoring = actix::spawn(async move { mailbox.call(score).await.unwrap() });
    while inbox.health().depth == 0 {
        tokio::task::yield_now().await;
    }
    ledger.append(&step(0));
    assert!(scored(&actor.apply(1, &step(0)).await.unwrap()).best.is_some());
    clock.advance(Duration::from_secs(300));
    let reason = scoring.await.unwrap().unwrap_err().reason;
    assert_eq!(reason, "raw scores: no answer within 300 s");
}

#[actix::test]
async fn a_scoring_whose_caller_gives_up_ends_at_once() {
    let inbox = Inbox::new("hanging", 4, &Registry::new()).unwrap();
    let hanging = Inference { embed: inbox.mailbox(), ..silent_inference() };
    let clock = Arc::new(DrivenClock::new(Duration::ZERO));
    let actor = started(&MemoryLedger::default(), &Config::default(), hanging, clock).await;
    let mailbox = actor.mailboxes.score.clone();
    let score = score("augment", "prompt", "base", &[], vec![completion("brief", true)]);
    let scoring = actix::spawn(async move { mailbox.call(score).await });
    while inbox.health().depth == 0 {
        tokio::task::yield_now().await;
    }
    scoring.abort();
    // Neither the place of the scoring nor what it asked of inference is left, though no time has passed.
    while actor.mailboxes.inbox.health().depth > 0 || inbox.health().depth > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(actor.metric("scored_total"), 0.0);
}

#[actix::test]
async fn settings_that_make_no_sense_are_refused_before_anything_starts() {
    let config = Config { score_timeout_seconds: 0, ..Config::default() };
    let (ledger, metrics) = (MemoryLedger::default().mailboxes(), Metrics::new(&Registry::new()).unwrap());
    let clock: SharedClock = Arc::new(DrivenClock::new(Duration::ZERO));
    let refused = RewardsActor::recover(&config, ledger, silent_inference(), clock, metrics).await;
    assert!(refused.err().unwrap().to_string().contains("score_timeout_seconds is 0"));
}

// === judges ===

/// Bias and budget of judges were of the process: a restart gave every query again and knew no judge.
#[actix::test]
async fn judges_are_remembered_over_a_restart_by_snapshot_and_by_steps() {
    let judged = |at: u64| {
        let mut step = step(at);
        let grades = [(1, 4), (2, 5), (3, 10)];
        let judgement = |(judge, grade)| Judgement { completion: 0, judge: hotkey(judge), grade: Some(grade) };
        if let openvalidators_messages::Scoring::Scored(raw) = &mut step.scoring {
            raw.judgements = grades.map(judgement).to_vec();
        }
        step.block = openvalidators_messages::Block(1);
        step
    };
    let records: Vec<StepRecord> = (0..6).map(judged).collect();
    for keeps_snapshot in [true, false] {
        let ledger = MemoryLedger::of(&records);
        let before = running(&ledger, &Config::default()).await;
        assert_eq!(before.metric("judge_bias"), 4.0, "+5 and −1 of the median 5");
        before.stop().await;
        ledger.0.borrow_mut().snapshot.take_if(|_| !keeps_snapshot);
        let again = running(&ledger, &Config::default()).await;
        assert_eq!(again.metric("judge_bias"), 4.0, "from the snapshot: {keeps_snapshot}");

        let metrics = Metrics::new(&Registry::new()).unwrap();
        let clock = Arc::new(DrivenClock::new(Duration::ZERO));
        let config = Config::default();
        let recovered = RewardsActor::recover(&config, ledger.mailboxes(), silent_inference(), clock, metrics);
        let (query, _) = recording_mailbox(|_: &openvalidators_messages::dendrite::Query| Vec::new());
        let (_epochs, metagraph) = tokio::sync::watch::channel(Arc::new(metagraph(1)));
        let network = Network::new(query, metagraph, openvalidators_runtime::Seed(3), str::to_owned);
        let _actor = recovered.await.unwrap().asking(network.clone());
        assert!(!network.spend(3, 20), "18 of 20 were spent");
        assert!(network.spend(2, 20));
    }
}

#[actix::test]
async fn what_attackers_would_earn_with_a_candidate_is_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let attacked =
        |ratio: f64| format!(r#"{{"capture": {{"hang": {ratio}}}, "rank_correlation": 0.9, "honest_zeroed": 0}}"#);
    let (one, two, three) = (attacked(0.25), attacked(1.0), attacked(64.0));
    let candidates = format!(r#"{{"rank_normaliser": {two}, "nsfw_filter": {three}}}"#);
    let text =
        format!(r#"{{"version": 1, "settings": "", "share": 0.15, "in_force": {one}, "candidates": {candidates}}}"#);
    std::fs::write(file.path(), text).unwrap();
    let shadow_benchmark = Some(file.path().to_owned());
    let config = Config { shadow_benchmark, shadows: ["rank_normaliser".to_owned()].into(), ..Config::default() };
    let running = running(&MemoryLedger::default(), &config).await;
    assert_eq!(running.metric("shadow_capture_ratio"), 1.25, "what is in force and the candidate that runs");
}
