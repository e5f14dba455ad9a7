//! One model behind many hotkeys of one owner: what a clone earns falls with the number of its kind.
//!
//! Kin are hotkeys of one coldkey, or of one network, and that is no fault: neighbours in a data centre are strangers, and an
//! owner may run what differs. A completion is *close* when it resembles one of its kin more than it resembles nine in ten of the
//! strangers who answered the same prompt (resemblance of the sets of words: Broder 1997; with many kin the nearest is held to
//! a higher bound, as Šidák 1967 corrects for many comparisons). So where good answers are alike, kin have to be more alike than
//! good answers are, and a short answer, which is like others by nature, says nothing. Each hotkey has a record of how often it
//! was close ([`Habit`]); one that is so more often than not, beyond what chance explains, is a *clone*.
//!
//! Nobody is a clone by what others do: of a network only those count who were here before by our own clock, for a stranger may
//! rent an address beside the one it copies. Of a coldkey all count, for nobody comes to one without its owner.
//!
//! N clones of one kin earn together what √N would: each 1/√N of its reward.

use std::collections::BTreeMap;

use openvalidators_messages::{Hotkey, Origin};
use serde::{Deserialize, Serialize};

use crate::{comparison::words, followers::Said, habit::Habit};

/// A text of fewer words is like others by nature.
const FEWEST_WORDS: usize = 20;
/// With fewer strangers to compare with, nobody can say what is ordinary.
const FEWEST_STRANGERS: usize = 8;
/// The share of strangers that a completion resembles less than its kin, for it to be close.
const CLOSE: f64 = 0.9;
/// Whoever is close more often than this is a clone.
const CLONE: f64 = 0.5;
/// A hotkey that was in no step for so many is forgotten, and counts no more for its kin.
const FORGET_STEPS: u64 = 2_000;
/// Hotkeys on record: far above any subnet; those longest unseen leave first.
const RECORDS: usize = 8_192;

/// The records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kin {
    /// Steps judged.
    steps: u64,
    records: BTreeMap<Hotkey, Record>,
}

/// What is known of one hotkey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    close: Habit,
    /// Where it was seen last, and at which step.
    origin: Origin,
    seen: u64,
}

// === impl Kin ===

impl Kin {
    /// What is left of each reward, in 0..=1; then remembers who was close to its kin.
    pub fn judge(&mut self, step: &[Said<'_>], origins: &[Origin]) -> Vec<f32> {
        let left = step.iter().zip(origins).map(|(said, origin)| self.left(said.hotkey, origin)).collect();
        self.steps += 1;
        for ((said, origin), close) in step.iter().zip(origins).zip(close(step, origins)) {
            if origin.is_unknown() {
                continue;
            }
            let record = self.records.entry(said.hotkey).or_default();
            (record.origin, record.seen) = (*origin, self.steps);
            if let Some(close) = close {
                record.close.note(close);
            }
        }
        let oldest = self.steps.saturating_sub(FORGET_STEPS);
        self.records.retain(|_, record| record.seen > oldest);
        if self.records.len() > RECORDS {
            let mut seen: Vec<u64> = self.records.values().map(|record| record.seen).collect();
            let least = *seen.select_nth_unstable(RECORDS / 2).1;
            self.records.retain(|_, record| record.seen > least);
        }
        left
    }

    fn left(&self, hotkey: Hotkey, origin: &Origin) -> f32 {
        if !self.records.get(&hotkey).is_some_and(Record::is_clone) {
            return 1.0;
        }
        let is_other = |other: &Hotkey, record: &Record| *other != hotkey && record.is_clone();
        let others = self.records.iter().filter(|(other, record)| is_other(other, record));
        let kin = |record: &Record| origin.shares_coldkey(&record.origin) || origin.shares_network(&record.origin);
        let clones = 1 + others.filter(|(_, record)| kin(record)).count();
        (1.0 / (clones as f64).sqrt()) as f32
    }
}

impl Record {
    fn is_clone(&self) -> bool {
        self.close.is_above(CLONE)
    }
}

/// For each completion whether it is close to its kin; `None` where it has none, or nobody can say.
fn close(step: &[Said<'_>], origins: &[Origin]) -> Vec<Option<bool>> {
    let sets: Vec<Option<Vec<u64>>> = step.iter().map(|said| set(said.text)).collect();
    let close = |place: usize| {
        let (own, from) = (sets[place].as_ref()?, &origins[place]);
        let others = || (0..step.len()).filter(|other| step[*other].hotkey != step[place].hotkey);
        let is_earlier = |other: usize| step[other].arrived < step[place].arrived;
        let is_kin = |other: &usize| {
            let other_from = &origins[*other];
            from.shares_coldkey(other_from) || (from.shares_network(other_from) && is_earlier(*other))
        };
        let alike = |other: usize| Some(resemblance(own, sets[other].as_ref()?));
        let kin: Vec<f64> = others().filter(is_kin).filter_map(alike).collect();
        let nearest = kin.iter().copied().max_by(f64::total_cmp)?;
        let is_stranger = |other: &usize| {
            let other = &origins[*other];
            !from.shares_coldkey(other) && !from.shares_network(other)
        };
        let strangers: Vec<f64> = others().filter(is_stranger).filter_map(alike).collect();
        if strangers.len() < FEWEST_STRANGERS {
            return None;
        }
        let farther = strangers.iter().filter(|other| **other < nearest).count() as f64;
        let as_near = strangers.iter().filter(|other| **other == nearest).count() as f64;
        let rank = (farther + as_near / 2.0) / strangers.len() as f64;
        // By products, which are alike on every machine, as the standard library's power is not.
        Some(kin.iter().fold(1.0, |product, _| product * rank) >= CLOSE)
    };
    (0..step.len()).map(close).collect()
}

/// Its words, sorted, each once; `None` where there are too few.
fn set(text: &str) -> Option<Vec<u64>> {
    let mut words = words(text);
    if words.len() < FEWEST_WORDS {
        return None;
    }
    words.sort_unstable();
    words.dedup();
    Some(words)
}

/// The share of words that both have, of those that one has.
fn resemblance(one: &[u64], other: &[u64]) -> f64 {
    let (mut left, mut right, mut both) = (0, 0, 0_usize);
    while left < one.len() && right < other.len() {
        let (a, b) = (one[left], other[right]);
        both += usize::from(a == b);
        left += usize::from(a <= b);
        right += usize::from(b <= a);
    }
    both as f64 / (one.len() + other.len() - both).max(1) as f64
}

#[cfg(test)]
mod tests;
