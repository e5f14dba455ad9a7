//! Steps and a ledger in memory, for the tests of this crate.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use openvalidators_messages::{
    Asked, Block, Column, Completion, ForwardId, Hotkey, QueryOutcome, RawScores, Reward, STEP_RECORD_VERSION, Scored,
    Scoring, Sequence, StepId, StepName, StepOutcome, StepRecord, Uid,
    ledger::{LedgerError, StoredStep},
};
use openvalidators_runtime::testing::recording_mailbox;

use crate::LedgerReader;

/// Two miners: the first answered and earned 0.4, the second timed out.
pub fn step(sequence: u64) -> StoredStep {
    let miner = |uid: u16| (Uid(uid), Hotkey([uid as u8; 32]));
    let completion = |uid: u16, text: &str, outcome, status_code, elapsed_seconds| Completion {
        uid: miner(uid).0,
        hotkey: miner(uid).1,
        text: text.into(),
        outcome,
        status_code,
        status_message: String::new(),
        elapsed_seconds,
    };
    let column = |name: &str, values: [Option<f32>; 2]| Column { name: name.into(), values: values.to_vec() };
    let record = StepRecord {
        version: STEP_RECORD_VERSION,
        step: StepId { forward: ForwardId(sequence / 9), index: (sequence % 9) as u8 },
        name: StepName::Followup(1),
        block: Block(1_234_567),
        started_at: 1_795_339_000.0 + sequence as f64,
        length_seconds: 3.25,
        seed: 1,
        code_version: "0.1.0".into(),
        source: "embedded:1".into(),
        prompt: "What is é?\nSay \"why\".".into(),
        embedding: None,
        base_text: "é".into(),
        asked: [3, 7]
            .map(|uid| Asked {
                uid: Uid(uid),
                hotkey: miner(uid).1,
                propensity: 0.5,
                uniform_propensity: None,
                origin: Default::default(),
            })
            .to_vec(),
        completions: vec![
            completion(3, " a vowel\n", QueryOutcome::Answered, 200, 0.5),
            completion(7, "", QueryOutcome::TimedOut, 408, 10.0),
        ],
        scoring: Scoring::Scored(RawScores {
            rewards: vec![column("dpo_reward_model", [Some(-1.5), None])],
            filters: vec![column("blacklist_filter", [Some(1.0), Some(0.0)])],
            ..RawScores::default()
        }),
        digests: BTreeMap::new(),
    };
    let outcome = Scored {
        normalised: vec![column("dpo_reward_model", [Some(0.5), Some(0.0)])],
        filters: vec![column("blacklist_filter", [Some(1.0), Some(0.0)])],
        rewards: vec![Reward::new(0.4).unwrap(), Reward::ZERO],
        best: Some(0),
        gating_loss: Some(0.125),
        shadows: vec![],
    };
    StoredStep {
        sequence: Sequence(sequence),
        record: Arc::new(record),
        outcome: Some(Arc::new(StepOutcome::Scored(outcome))),
    }
}

pub fn unsettled(sequence: u64) -> StoredStep {
    StoredStep { outcome: None, ..step(sequence) }
}

pub fn steps(sequences: impl IntoIterator<Item = u64>) -> Vec<StoredStep> {
    sequences.into_iter().map(step).collect()
}

/// A ledger in memory. Lives on the thread of an `#[actix::test]`.
#[derive(Clone, Default)]
pub struct MemoryLedger {
    pub steps: Rc<RefCell<Vec<StoredStep>>>,
    pub cursors: Rc<RefCell<BTreeMap<&'static str, Sequence>>>,
    /// So many answers to come are errors.
    pub failing: Rc<RefCell<usize>>,
    /// So many savings of a cursor to come are errors.
    pub failing_saves: Rc<RefCell<usize>>,
}

impl MemoryLedger {
    pub fn with(steps: Vec<StoredStep>) -> Self {
        Self { steps: Rc::new(RefCell::new(steps)), ..Self::default() }
    }

    pub fn push(&self, step: StoredStep) {
        self.steps.borrow_mut().push(step);
    }

    pub fn cursor(&self, reader: &str) -> u64 {
        self.cursors.borrow().get(reader).map_or(0, |sequence| sequence.0)
    }

    pub fn reader(&self) -> LedgerReader {
        let (read, load, save) = (self.clone(), self.clone(), self.clone());
        LedgerReader {
            read_steps: recording_mailbox(move |asked: &openvalidators_messages::ledger::ReadSteps| {
                read.may("read steps")?;
                let steps = read.steps.borrow();
                let after = steps.iter().filter(|step| step.sequence > asked.after);
                Ok(after.take(asked.limit).cloned().collect())
            })
            .0,
            load_cursor: recording_mailbox(move |asked: &openvalidators_messages::ledger::LoadCursor| {
                load.may("load a cursor")?;
                Ok(Sequence(load.cursor(asked.reader)))
            })
            .0,
            save_cursor: recording_mailbox(move |asked: &openvalidators_messages::ledger::SaveCursor| {
                save.may("save a cursor")?;
                count_down(&save.failing_saves, "save a cursor")?;
                save.cursors.borrow_mut().insert(asked.reader, asked.sequence);
                Ok(())
            })
            .0,
        }
    }

    fn may(&self, attempted: &'static str) -> Result<(), LedgerError> {
        count_down(&self.failing, attempted)
    }
}

fn count_down(failing: &RefCell<usize>, attempted: &'static str) -> Result<(), LedgerError> {
    let mut failing = failing.borrow_mut();
    if *failing == 0 {
        return Ok(());
    }
    *failing -= 1;
    Err(LedgerError { attempted, reason: "database is locked".into() })
}
