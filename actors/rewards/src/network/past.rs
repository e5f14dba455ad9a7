//! What is remembered of judges: folded from the records of steps, so that a restart neither grants the queries of an epoch
//! again nor forgets who grades apart.

use std::collections::BTreeMap;

use openvalidators_messages::{Block, Judgement};
use serde::{Deserialize, Serialize};

use super::bias::{Bench, BiasTable};

/// Blocks of which the number of queries is remembered: those of the latest steps with judges. At one such step in every
/// block, eleven epochs of 360.
const MOST_BLOCKS: usize = 4_096;

/// Judges asked so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// Who judges higher or lower than others.
    pub biases: BiasTable,
    /// Queries of the steps that began at a block.
    queries: BTreeMap<Block, u64>,
}

// === impl Past ===

impl Past {
    /// Takes in the judgements of a step that began at `block`. Each is a query, whether a grade came or not.
    pub fn note(&mut self, block: Block, judgements: &[Judgement]) {
        if judgements.is_empty() {
            return;
        }
        self.biases.note(&Bench::of(judgements));
        *self.queries.entry(block).or_default() += judgements.len() as u64;
        while self.queries.len() > MOST_BLOCKS {
            self.queries.pop_first();
        }
    }

    /// Queries of the steps that began from block `first` to block `last`.
    #[must_use]
    pub fn queries_within(&self, first: Block, last: Block) -> u64 {
        if first > last { 0 } else { self.queries.range(first..=last).map(|(_, queries)| queries).sum() }
    }
}

#[cfg(test)]
mod tests {
    use openvalidators_messages::Hotkey;

    use super::*;

    fn judgements(count: usize) -> Vec<Judgement> {
        (0..count).map(|judge| Judgement { completion: 0, judge: Hotkey([judge as u8; 32]), grade: None }).collect()
    }

    #[test]
    fn queries_are_counted_by_block_and_the_oldest_blocks_are_forgotten() {
        let mut past = Past::default();
        past.note(Block(7), &judgements(3));
        past.note(Block(5), &judgements(2));
        past.note(Block(7), &judgements(1));
        past.note(Block(9), &[]);
        let within = |first, last| past.queries_within(Block(first), Block(last));
        assert_eq!((within(0, 9), within(6, 9), within(8, 9), within(9, 6)), (6, 4, 0, 0));
        let written = serde_json::to_string(&past).unwrap();
        assert_eq!(serde_json::from_str::<Past>(&written).unwrap(), past);
        for block in 0..MOST_BLOCKS as u64 + 20 {
            past.note(Block(100 + block), &judgements(1));
        }
        assert_eq!((past.queries.len(), past.queries_within(Block(0), Block(120))), (MOST_BLOCKS, 1));
    }
}
