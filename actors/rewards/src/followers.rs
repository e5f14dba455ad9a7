//! Who says again what somebody said before, step after step: copies, one model behind many hotkeys, bought completions.
//!
//! Two honest miners may say the same to one prompt, above all where a good answer is short. So being alike once costs nothing.
//! A completion *follows* when another hotkey's, most of whose rows of words it shares and which shares most of its own
//! (resemblance: Broder 1997), was here before it by our own clock. Each hotkey has a record of how often it followed, fading as
//! it is asked. Who follows, and follows more often than others do beyond what chance explains (the lower end of Wilson's
//! interval, [`Habit`], against the median of all records), earns nothing with that completion; who was first earns, whoever
//! it is; and of whom little is known, nothing is believed.

use std::collections::{BTreeMap, HashSet};

use openvalidators_messages::Hotkey;
use serde::{Deserialize, Serialize};

use crate::{
    comparison::{shingles, words},
    habit::Habit,
};

/// Words in a row that are compared.
const ROW_WORDS: usize = 3;
/// A text of fewer words is like others by nature.
const FEWEST_WORDS: usize = 20;
/// The share of rows, of each of both texts, that makes them alike. Honest summaries of one text by one method are nearly the
/// same: in the benchmark's population of good miners one in five shares 0.95 with another, and of one model's completions
/// behind many hotkeys nine in ten do. A ring that rewords what it bought shares less (0.6 to 0.9) than the honest do with each
/// other, so no bound would find it without them.
const ALIKE: f64 = 0.95;
/// How much more often than the median record a habit is.
const HABIT_ABOVE_MEDIAN: f64 = 0.15;
/// Hotkeys on record: far above any subnet; those with the least on record leave first.
const RECORDS: usize = 8_192;

/// The records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Followers(BTreeMap<Hotkey, Habit>);

/// One completion of a step.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Whose.
    pub hotkey: Hotkey,
    /// The text.
    pub text: &'a str,
    /// Seconds after which it was here.
    pub arrived: f64,
}

// === impl Followers ===

impl Followers {
    /// Whether each of these completions may pass; then remembers who followed.
    pub fn judge(&mut self, step: &[Said<'_>]) -> Vec<bool> {
        let follows = follows(step);
        let ordinary = self.median();
        let is_habit =
            |hotkey: &Hotkey| self.0.get(hotkey).is_some_and(|record| record.is_above(ordinary + HABIT_ABOVE_MEDIAN));
        let passes =
            step.iter().zip(&follows).map(|(said, follows)| !matches!(follows, Some(true)) || !is_habit(&said.hotkey));
        let passes: Vec<bool> = passes.collect();
        for (said, follows) in step.iter().zip(follows) {
            if let Some(follows) = follows {
                self.0.entry(said.hotkey).or_default().note(follows);
            }
        }
        if self.0.len() > RECORDS {
            let mut times: Vec<f64> = self.0.values().map(Habit::times).collect();
            let (_, least, _) = times.select_nth_unstable_by(RECORDS / 2, f64::total_cmp);
            let least = *least;
            self.0.retain(|_, record| record.times() > least);
        }
        passes
    }

    /// The middle of what those of whom enough is known do.
    fn median(&self) -> f64 {
        let mut rates: Vec<f64> = self.0.values().filter_map(Habit::rate).collect();
        let middle = rates.len() / 2;
        if rates.is_empty() { 0.0 } else { *rates.select_nth_unstable_by(middle, f64::total_cmp).1 }
    }
}

/// For each completion whether it follows an earlier one of another hotkey; `None` where it is too short to say.
fn follows(step: &[Said<'_>]) -> Vec<Option<bool>> {
    let rows: Vec<Option<HashSet<u64>>> = step
        .iter()
        .map(|said| {
            let words = words(said.text);
            (words.len() >= FEWEST_WORDS).then(|| shingles(&words, ROW_WORDS).collect())
        })
        .collect();
    let alike = |one: &HashSet<u64>, other: &HashSet<u64>| {
        let (fewer, more) = if one.len() < other.len() { (one, other) } else { (other, one) };
        // The longer text has the greater number to reach.
        let needed = ALIKE * more.len() as f64;
        fewer.len() as f64 >= needed && fewer.iter().filter(|row| more.contains(row)).count() as f64 >= needed
    };
    let follows = |(place, own): (usize, &Option<HashSet<u64>>)| {
        let own = own.as_ref()?;
        let earlier = step
            .iter()
            .zip(&rows)
            .filter(|(other, _)| other.arrived < step[place].arrived && other.hotkey != step[place].hotkey);
        Some(earlier.filter_map(|(_, rows)| rows.as_ref()).any(|other| alike(own, other)))
    };
    rows.iter().enumerate().map(follows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thirty words that no other number has.
    fn text(number: usize) -> String {
        (0..30).map(|place| format!("w{number}x{place}")).collect::<Vec<_>>().join(" ")
    }

    fn key(number: usize) -> Hotkey {
        Hotkey([number as u8; 32])
    }

    /// Ten say their own, and hotkey 20 what hotkey 0 said, in other clothes and `late` or not.
    fn step(followers: &mut Followers, number: usize, late: f64) -> Vec<bool> {
        let own: Vec<String> = (0..10).map(|miner| text(100 * number + miner)).collect();
        let copy = format!("Well, {}!", own[0].to_uppercase());
        let mut step: Vec<Said<'_>> =
            own.iter().enumerate().map(|(at, text)| Said { hotkey: key(at), text, arrived: 1.0 + at as f64 }).collect();
        step.push(Said { hotkey: key(20), text: &copy, arrived: late });
        followers.judge(&step)
    }

    #[test]
    fn who_always_follows_earns_nothing_once_it_is_known_and_nobody_else_does() {
        let mut followers = Followers::default();
        let passed: Vec<Vec<bool>> = (0..20).map(|number| step(&mut followers, number, 30.0)).collect();
        assert!(passed[0][10] && passed[1][10], "of whom little is known, nothing is believed");
        assert!(passed[10..].iter().all(|step| !step[10]), "{passed:?}");
        assert!(passed.iter().all(|step| step[..10].iter().all(|passes| *passes)), "the copied keep what they earned");
    }

    #[test]
    fn to_be_first_is_no_copy() {
        let mut followers = Followers::default();
        let passed: Vec<Vec<bool>> = (0..20).map(|number| step(&mut followers, number, 0.5)).collect();
        assert!(passed.iter().all(|step| step[10]));
        assert!(passed.iter().skip(10).all(|step| !step[0]), "who comes second with it every time is the copy");
    }

    #[test]
    fn short_answers_are_alike_and_that_is_no_fault() {
        let mut followers = Followers::default();
        for _ in 0..30 {
            let step: Vec<Said<'_>> = (0..5)
                .map(|at| Said { hotkey: key(at), text: "It was built in the year 1811.", arrived: at as f64 })
                .collect();
            assert_eq!(followers.judge(&step), [true; 5]);
        }
        assert_eq!(followers, Followers::default());
    }

    #[test]
    fn where_all_are_alike_nobody_is_worse_than_others() {
        let mut followers = Followers::default();
        for number in 0..60 {
            let same = text(number);
            // Each is first in turn.
            let step: Vec<Said<'_>> =
                (0..5).map(|at| Said { hotkey: key(at), text: &same, arrived: ((at + number) % 5) as f64 }).collect();
            assert_eq!(followers.judge(&step), [true; 5], "step {number}");
        }
    }
}
