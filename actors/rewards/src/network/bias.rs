//! Who judges higher or lower than others: a table bounded in size.

use std::collections::BTreeMap;

use openvalidators_messages::{Hotkey, Judgement};
use serde::{Deserialize, Serialize};

use super::verdict::Verdict;

/// Judges remembered; a subnet has fewer places, but hotkeys come and go.
pub const MOST_JUDGES: usize = 4_096;

/// Judgements of a judge after which older ones fade.
const MEMORY_JUDGEMENTS: u32 = 200;

/// Fewest judgements before a bias is told.
const FEWEST_JUDGEMENTS: u32 = 5;

/// The mean difference of each judge's grades from the median of those who judged the same completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BiasTable {
    judges: BTreeMap<Hotkey, Bias>,
    steps: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bias {
    judgements: u32,
    mean: f64,
    latest_step: u64,
}

/// The judgements of one completion.
pub struct Bench {
    /// The completion's place in the step.
    pub completion: usize,
    /// Judges asked.
    pub asked: usize,
    /// Who gave which grade.
    pub grades: Vec<(Hotkey, u8)>,
}

// === impl Bench ===

impl Bench {
    /// The judgements of a step, by completion.
    #[must_use]
    pub fn of(judgements: &[Judgement]) -> Vec<Self> {
        let mut benches: BTreeMap<usize, Self> = BTreeMap::new();
        for Judgement { completion, judge, grade } in judgements {
            let empty = || Self { completion: *completion, asked: 0, grades: Vec::new() };
            let bench = benches.entry(*completion).or_insert_with(empty);
            bench.asked += 1;
            bench.grades.extend(grade.map(|grade| (*judge, grade)));
        }
        benches.into_values().collect()
    }

    /// What they came to.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let grades: Vec<u8> = self.grades.iter().map(|(_, grade)| *grade).collect();
        Verdict::of(&grades, self.asked)
    }
}

// === impl BiasTable ===

impl BiasTable {
    /// Takes in the judgements of a step. When the table is full, who judged longest ago is forgotten.
    pub fn note(&mut self, benches: &[Bench]) {
        self.steps += 1;
        for bench in benches {
            let Some(verdict) = bench.verdict().filter(|_| bench.grades.len() > 1) else { continue };
            for (judge, grade) in &bench.grades {
                if !self.judges.contains_key(judge) && self.judges.len() >= MOST_JUDGES {
                    let oldest = self.judges.iter().min_by_key(|(_, bias)| bias.latest_step).map(|(judge, _)| *judge);
                    oldest.map(|oldest| self.judges.remove(&oldest));
                }
                let bias = self.judges.entry(*judge).or_default();
                bias.judgements = (bias.judgements + 1).min(MEMORY_JUDGEMENTS);
                let apart = f64::from(*grade) - f64::from(verdict.median);
                bias.mean += (apart - bias.mean) / f64::from(bias.judgements);
                bias.latest_step = self.steps;
            }
        }
    }

    /// The `most` judges furthest from the others, in grades, furthest first; of those with five judgements or more.
    #[must_use]
    pub fn furthest(&self, most: usize) -> Vec<(Hotkey, f64)> {
        let known = self.judges.iter().filter(|(_, bias)| bias.judgements >= FEWEST_JUDGEMENTS);
        let mut judges: Vec<(Hotkey, f64)> = known.map(|(judge, bias)| (*judge, bias.mean)).collect();
        judges.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
        judges.truncate(most);
        judges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judgement(completion: usize, judge: u16, grade: Option<u8>) -> Judgement {
        let mut hotkey = [0; 32];
        hotkey[..2].copy_from_slice(&judge.to_be_bytes());
        Judgement { completion, judge: Hotkey(hotkey), grade }
    }

    #[test]
    fn who_always_gives_ten_stands_out() {
        let mut table = BiasTable::default();
        for _ in 0..5 {
            let step = [judgement(0, 1, Some(4)), judgement(0, 2, Some(5)), judgement(0, 3, Some(10))];
            table.note(&Bench::of(&step));
        }
        let furthest: Vec<f64> = table.furthest(2).into_iter().map(|(_, bias)| bias).collect();
        assert_eq!(furthest, [5.0, -1.0]);
        assert_eq!(table.furthest(9).len(), 3);
    }

    #[test]
    fn a_few_judgements_and_a_judge_alone_say_nothing() {
        let mut table = BiasTable::default();
        for _ in 0..9 {
            table.note(&Bench::of(&[judgement(0, 1, Some(9)), judgement(0, 2, None)]));
        }
        table.note(&Bench::of(&[judgement(1, 1, Some(9)), judgement(1, 2, Some(1))]));
        assert!(table.furthest(9).is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_longest_silent() {
        let mut table = BiasTable::default();
        for round in 0..(MOST_JUDGES as u16 + 10) {
            table.note(&Bench::of(&[judgement(0, round, Some(9)), judgement(0, round + 1, Some(1))]));
        }
        assert_eq!(table.judges.len(), MOST_JUDGES);
        assert!(!table.judges.contains_key(&judgement(0, 0, None).judge));
    }
}
