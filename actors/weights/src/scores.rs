//! Moving-average scores: a pure fold over settled steps, keyed by hotkey.
//!
//! A router that seeks miners out for the prompts they are good at would make averages of what they were sought out for. So
//! each reward counts by its importance: how probably uniform routing would have asked, over how probably the router did
//! (Horvitz & Thompson 1952; self-normalised as in Swaminathan & Joachims 2015, "The self-normalized estimator for
//! counterfactual learning"). A score is then what uniform routing would have made it, on average, for every miner at the
//! same pace however often it was asked; and under uniform routing it is openvalidators 1.2.0's to the last bit, but for
//! those that rest ([`Rest`]).

use std::collections::{BTreeMap, BTreeSet};

use openvalidators_messages::{
    Asked, Block, Completion, Hotkey, Sequence, StepOutcome, StepRecord,
    ledger::Snapshot,
    weights::{ScoreRow, ScoreTable},
};
use openvalidators_recovery::{SnapshotError, check_version, damaged};
use serde::{Deserialize, Serialize};

use crate::WeightsConfig;

/// The version of [`Scores::snapshot`]'s bytes; another one is not read.
pub const SNAPSHOT_VERSION: u16 = 1;

/// Every hotkey's standing after some step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The latest step folded in.
    sequence: Sequence,
    standings: BTreeMap<Hotkey, Standing>,
}

/// How the fold weighs and forgets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FoldRules {
    /// Share of the newest reward in the average, in 0..=1.
    pub alpha: f64,
    /// Most that one reward counts, in rewards of uniform routing: rarer odds would make averages jump.
    pub max_importance: f64,
    /// A hotkey not asked for so many blocks is forgotten.
    pub forget_after_blocks: u64,
    /// What a hotkey loses that is not there to be asked.
    pub rest: Rest,
}

/// What a hotkey loses that is not there to be asked: without it, who works until its average is high and then serves no axon
/// keeps it until it is forgotten.
///
/// Time is counted in turns: each scored step with `n` completions among `N` standings gives every other hotkey `n / N` of
/// one, or more where the router asked it more rarely than uniform routing would when it last did. Of those that are there,
/// uniform routing leaves e^−4 = 2 % out for 4 turns, and a millionth for 14. Steps count, not hours: a validator that stands
/// still takes nothing from anybody, and folding the ledger again takes the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rest {
    /// Turns without loss.
    pub grace_turns: f64,
    /// Turns after these in which half is lost; 0 never takes anything.
    pub half_life_turns: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Standing {
    score: f64,
    asked: u64,
    answered: u64,
    rewarded: u64,
    scored_at: f64,
    scored_block: Block,
    /// Turns since it was asked.
    #[serde(default)]
    missed_turns: f64,
    /// Uniform routing's odds over the router's when it was last asked.
    #[serde(default = "one")]
    importance: f64,
}

fn one() -> f64 {
    1.0
}

impl Scores {
    /// Scores that were made elsewhere, before the first step: nobody has been asked yet.
    #[must_use]
    pub fn begin_with(scores: impl IntoIterator<Item = (Hotkey, f64)>) -> Self {
        let standings = scores.into_iter().map(|(hotkey, score)| (hotkey, Standing { score, ..Standing::NEW }));
        Self { standings: standings.collect(), ..Self::default() }
    }

    /// The latest step folded in; 0 before the first.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// How many hotkeys have a standing.
    #[must_use]
    pub fn len(&self) -> usize {
        self.standings.len()
    }

    /// Whether no hotkey has a standing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.standings.is_empty()
    }

    /// Folds a step in: `score ← alpha·reward + (1 − alpha)·score` for each hotkey asked (from 0 for a new one), a failed
    /// completion's reward being 0; the others keep theirs, as in openvalidators 1.2.0 (`forward.py`, `run_step`). Where the
    /// router did not ask uniformly, a reward counts by its importance: `alpha·importance` in place of `alpha`. An unscored
    /// step changes nobody's standing. A step not after [`Self::sequence`] changes nothing at all.
    ///
    /// A hotkey that no step asked for [`FoldRules::forget_after_blocks`] is dropped: it has left the subnet, or stopped
    /// serving. Blocks of the steps themselves decide, so folding the ledger again forgets the same.
    pub fn fold(&mut self, sequence: Sequence, record: &StepRecord, outcome: &StepOutcome, rules: FoldRules) {
        if sequence <= self.sequence {
            return;
        }
        self.sequence = sequence;
        let Some(scored) = outcome.scored() else { return };
        if scored.rewards.len() != record.completions.len() {
            let (rewards, completions) = (scored.rewards.len(), record.completions.len());
            tracing::error!(%sequence, rewards, completions, "the outcome does not fit its step; it counts for nobody");
            return;
        }
        for (place, (completion, reward)) in record.completions.iter().zip(&scored.rewards).enumerate() {
            let standing = self.standings.entry(completion.hotkey).or_insert(Standing::NEW);
            let importance = record.asked.get(place).map_or(1.0, Asked::importance);
            standing.take(completion, f64::from(reward.get()), record, rules.share(importance));
            standing.importance = importance.clamp(1.0, rules.max_importance.max(1.0));
        }
        self.rest(record, rules.rest);
        self.standings.retain(|_, standing| {
            if standing.asked == 0 && standing.scored_block == Block(0) {
                // Made elsewhere: its time begins with the first step here.
                standing.scored_block = record.block;
            }
            record.block.0.saturating_sub(standing.scored_block.0) <= rules.forget_after_blocks
        });
    }

    /// Those that were not asked have missed a part of a turn; and lose, once they have missed too many.
    fn rest(&mut self, record: &StepRecord, rest: Rest) {
        let turn = record.completions.len() as f64 / self.standings.len().max(1) as f64;
        let asked: BTreeSet<Hotkey> = record.completions.iter().map(|completion| completion.hotkey).collect();
        for (hotkey, standing) in &mut self.standings {
            let before = standing.missed_turns;
            standing.missed_turns = if asked.contains(hotkey) { 0.0 } else { before + turn / standing.importance };
            standing.score *= rest.kept(before, standing.missed_turns);
        }
    }

    /// Takes up at a step further on: what lay between is not in the ledger any more.
    pub fn skip_to(&mut self, sequence: Sequence) {
        self.sequence = self.sequence.max(sequence);
    }

    /// Every standing, best first; among equals in the order of hotkeys.
    #[must_use]
    pub fn table(&self) -> ScoreTable {
        let mut rows: Vec<ScoreRow> = self.standings.iter().map(|(hotkey, standing)| standing.row(*hotkey)).collect();
        rows.sort_by(|left, right| right.score.total_cmp(&left.score));
        ScoreTable { sequence: self.sequence, rows }
    }

    /// The state as bytes for the ledger: JSON, every score to the last bit.
    ///
    /// # Errors
    /// Never for a state this code made.
    pub fn snapshot(&self) -> Result<Snapshot, serde_json::Error> {
        let standings: Vec<_> = self.standings.iter().collect();
        let state = serde_json::to_vec(&standings)?;
        Ok(Snapshot { sequence: self.sequence, version: SNAPSHOT_VERSION, state })
    }

    /// The state of a snapshot.
    ///
    /// # Errors
    /// When another version wrote it, or its bytes are damaged.
    pub fn restore(snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        check_version(snapshot, SNAPSHOT_VERSION)?;
        let standings: Vec<(Hotkey, Standing)> =
            serde_json::from_slice(&snapshot.state).map_err(|error| damaged(snapshot, error))?;
        Ok(Self { sequence: snapshot.sequence, standings: standings.into_iter().collect() })
    }
}

impl From<&WeightsConfig> for FoldRules {
    fn from(config: &WeightsConfig) -> Self {
        Self {
            alpha: config.moving_average_alpha,
            max_importance: config.max_importance,
            forget_after_blocks: config.forget_after_blocks,
            rest: Rest { grace_turns: config.rest_grace_turns, half_life_turns: config.rest_half_life_turns },
        }
    }
}

impl Rest {
    /// Nothing is ever lost, as in openvalidators 1.2.0.
    pub const NEVER: Self = Self { grace_turns: 0.0, half_life_turns: 0.0 };

    /// What is kept while the turns missed grow from `before` to `after`. Alike on every machine, hence not the standard
    /// library's power.
    #[must_use]
    pub fn kept(&self, before: f64, after: f64) -> f64 {
        let over = |missed: f64| (missed - self.grace_turns).max(0.0);
        let lost = (over(after) - over(before)).max(0.0);
        if lost > 0.0 && self.half_life_turns > 0.0 { libm::exp2(-lost / self.half_life_turns) } else { 1.0 }
    }
}

impl FoldRules {
    /// The share of a reward of this importance in the average.
    #[must_use]
    pub fn share(&self, importance: f64) -> f64 {
        (self.alpha * importance.min(self.max_importance)).min(1.0)
    }
}

impl Standing {
    const NEW: Self = Self {
        score: 0.0,
        asked: 0,
        answered: 0,
        rewarded: 0,
        scored_at: 0.0,
        scored_block: Block(0),
        missed_turns: 0.0,
        importance: 1.0,
    };

    fn take(&mut self, completion: &Completion, reward: f64, record: &StepRecord, alpha: f64) {
        self.score = alpha * reward + (1.0 - alpha) * self.score;
        self.asked += 1;
        self.rewarded += u64::from(reward > 0.0);
        if completion.is_success() {
            self.answered += 1;
            self.scored_at = record.started_at;
        }
        self.scored_block = record.block;
    }

    fn row(&self, hotkey: Hotkey) -> ScoreRow {
        let Self { score, asked, answered, rewarded, scored_at, .. } = *self;
        ScoreRow { hotkey, score, asked, answered, rewarded, scored_at }
    }
}

#[cfg(test)]
mod tests;
