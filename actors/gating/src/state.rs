//! What the router has learned: a pure fold over settled steps, keyed by hotkey.

use std::collections::BTreeMap;

use openvalidators_messages::{
    Block, Hotkey, PromptEmbedding, Sequence, StepOutcome, StepRecord, Uid,
    gating::{HeadRow, HeadTable},
};
use serde::{Deserialize, Serialize};

use crate::{
    forecast::{self, Memory},
    head::{Head, NotTrained, Row, Training},
};

/// What folding a step goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Steps whose prompts another encoder read teach head and memory nothing.
    pub encoder: String,
    /// How the head learns.
    pub training: Training,
    /// What forecasts are made from.
    pub memory: forecast::Rules,
    /// A hotkey not asked for so many blocks is forgotten.
    pub forget_after_blocks: u64,
}

/// The router after some step.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The latest step folded in.
    pub(crate) sequence: Sequence,
    /// The block of the first step folded in: nobody has waited longer than since then.
    pub(crate) since: Option<Block>,
    /// Who was asked, and when.
    pub(crate) coverage: BTreeMap<Hotkey, Coverage>,
    /// Whose rows head and memory are of.
    pub(crate) encoder: String,
    pub(crate) head: Head,
    pub(crate) memory: Memory,
}

/// How one hotkey has been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Steps.
    pub asked: u64,
    /// The block of the latest.
    pub last_asked: Block,
}

/// What a fold came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Folded {
    /// The head's loss on this step, before it learned from it.
    Learned(f32),
    /// Nobody could learn from it: it is unscored, or its prompt was not read by this encoder.
    Counted,
    /// The head could not learn from it.
    Refused(NotTrained),
    /// It was folded before.
    Known,
}

// === impl State ===

impl State {
    /// Nothing learned yet.
    #[must_use]
    pub fn new(encoder: &str) -> Self {
        Self { encoder: encoder.to_owned(), ..Self::default() }
    }

    /// Nothing learned yet but a head.
    #[must_use]
    pub fn with_head(encoder: &str, head: Head) -> Self {
        Self { memory: Memory::new(head.width()), head, ..Self::new(encoder) }
    }

    /// The latest step folded in; 0 before the first.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// How each hotkey has been asked.
    #[must_use]
    pub fn coverage(&self) -> &BTreeMap<Hotkey, Coverage> {
        &self.coverage
    }

    /// The reference's gating head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The head as others get it.
    #[must_use]
    pub fn head_table(&self) -> HeadTable {
        let row = |(hotkey, row): (&Hotkey, &Row)| HeadRow {
            uid: row.uid,
            hotkey: *hotkey,
            parameters: row.parameters.clone(),
        };
        HeadTable { sequence: self.sequence, width: self.head.width(), rows: self.head.rows().map(row).collect() }
    }

    /// What forecasts are made from.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// As [`Self::memory`], to ask it.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Since which block a hotkey has not been asked, if it has been available all the time since `registered`; `now` for
    /// who has not waited at all.
    #[must_use]
    pub fn waiting_since(&self, hotkey: &Hotkey, registered: Block, now: Block) -> Block {
        let asked = self.coverage.get(hotkey).map_or(Block(0), |coverage| coverage.last_asked);
        asked.max(registered).max(self.since.unwrap_or(now))
    }

    /// Folds a step in. Who was asked counts in any case; head and memory learn from scored steps whose prompt this encoder
    /// has read. A step not after [`Self::sequence`] changes nothing at all.
    pub fn fold(&mut self, rules: &Rules, sequence: Sequence, record: &StepRecord, outcome: &StepOutcome) -> Folded {
        if sequence <= self.sequence {
            return Folded::Known;
        }
        self.sequence = sequence;
        self.since.get_or_insert(record.block);
        for asked in &record.asked {
            let coverage = self.coverage.entry(asked.hotkey).or_insert(Coverage { asked: 0, last_asked: record.block });
            coverage.asked += 1;
            coverage.last_asked = coverage.last_asked.max(record.block);
        }
        self.forget(record.block, rules.forget_after_blocks);
        let Some(scored) = outcome.scored() else { return Folded::Counted };
        let Some(embedding) = record.embedding.as_ref().filter(|read| read.encoder == rules.encoder) else {
            return Folded::Counted;
        };
        let rewards: Vec<f32> = scored.rewards.iter().map(|reward| reward.get()).collect();
        self.learn(rules, record, embedding, &rewards)
    }

    fn learn(&mut self, rules: &Rules, record: &StepRecord, embedding: &PromptEmbedding, rewards: &[f32]) -> Folded {
        let row = &*embedding.row;
        if self.encoder != rules.encoder || self.memory.width() != row.len() {
            if !self.memory.is_empty() {
                let (was, width) = (&self.encoder, self.memory.width());
                tracing::warn!(was, width, now = rules.encoder, "prompts are read otherwise now; routing learns anew");
            }
            self.learn_anew(&rules.encoder, row.len());
        }
        let asked: Vec<(Uid, Hotkey)> = record.asked.iter().map(|asked| (asked.uid, asked.hotkey)).collect();
        match self.head.train(rules.training, row, &asked, rewards) {
            Err(error @ (NotTrained::Embedding { .. } | NotTrained::Rewards { .. })) => Folded::Refused(error),
            trained => {
                let rewards = asked.iter().map(|(_, hotkey)| *hotkey).zip(rewards.iter().copied()).collect();
                self.memory.remember(rules.memory, record.block, row, rewards);
                trained.map_or_else(Folded::Refused, Folded::Learned)
            }
        }
    }

    /// Begins head and memory anew; who was asked, and when, stays.
    pub(crate) fn learn_anew(&mut self, encoder: &str, width: usize) {
        self.encoder = encoder.to_owned();
        self.head = Head::new(width);
        self.memory = Memory::new(width);
    }

    fn forget(&mut self, now: Block, after_blocks: u64) {
        let forgotten: Vec<Hotkey> = self
            .coverage
            .iter()
            .filter(|(_, coverage)| now.0.saturating_sub(coverage.last_asked.0) > after_blocks)
            .map(|(hotkey, _)| *hotkey)
            .collect();
        for hotkey in forgotten {
            self.coverage.remove(&hotkey);
            self.head.unseat(&hotkey);
            self.memory.forget(&hotkey);
        }
    }
}

#[cfg(test)]
mod tests;
