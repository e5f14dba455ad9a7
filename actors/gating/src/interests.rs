//! Who is asked about what, and how many times as often as uniform routing would ask it. Pure.
//!
//! Learned routing is seen by this: a miner that is good in one field alone is asked about that field several times as often as
//! if all were asked alike, and about others hardly ever.

use std::collections::BTreeMap;

use openvalidators_messages::{Hotkey, StepRecord, prompts::topic};

/// Topics that are counted apart; further ones are counted together.
pub const MOST_TOPICS: usize = 24;
/// What those are called, and texts whose source names no topic.
pub const OTHER_TOPICS: &str = "other";
/// Questions a miner, or a topic, must have had before anything is said of it: one alone is always all.
pub const FEWEST_QUESTIONS: u64 = 5;

/// Standard deviations (of a Poisson count) beyond what uniform routing would ask, from which on chance hardly explains it: of
/// the hundreds of pairs of a miner and a topic, less than one.
const BEYOND_CHANCE: f64 = 3.0;

/// Miners named for each topic, in metrics and in the summary of a run.
pub const NAMED: usize = 3;

/// Settled questions by hotkey and topic, since this was made.
#[derive(Clone, Debug, Default)]
pub struct Interests {
    /// Questions about each topic, whoever was asked.
    questions: BTreeMap<String, u64>,
    asked: BTreeMap<Hotkey, BTreeMap<String, u64>>,
}

/// How often one hotkey was asked about one topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Interest {
    /// Who.
    pub hotkey: Hotkey,
    /// As its source names it, or [`OTHER_TOPICS`].
    pub topic: String,
    /// Questions.
    pub asked: u64,
    /// These, by what they would be were everyone available asked alike: 1 is no preference. Too small for who came late.
    pub ratio: f64,
}

/// Whether so many questions, `ratio` times as many as if all were asked alike, are more than chance explains.
#[must_use]
pub fn is_beyond_chance(asked: u64, ratio: f64) -> bool {
    let alike = asked as f64 / ratio;
    asked as f64 - alike > BEYOND_CHANCE * alike.sqrt()
}

// === impl Interests ===

impl Interests {
    /// Counts a step, and returns the topic that it was counted under.
    pub fn count<'a>(&mut self, record: &'a StepRecord) -> &'a str {
        let named = topic(&record.source).unwrap_or(OTHER_TOPICS);
        let is_apart = self.questions.contains_key(named) || self.questions.len() < MOST_TOPICS;
        let topic = if is_apart { named } else { OTHER_TOPICS };
        *self.questions.entry(topic.to_owned()).or_default() += record.asked.len() as u64;
        for asked in &record.asked {
            *self.asked.entry(asked.hotkey).or_default().entry(topic.to_owned()).or_default() += 1;
        }
        topic
    }

    /// Forgets a hotkey. What it was asked stays among the questions of each topic.
    pub fn forget(&mut self, hotkey: &Hotkey) {
        self.asked.remove(hotkey);
    }

    /// Every topic with the questions about it, the most frequent first.
    #[must_use]
    pub fn topics(&self) -> Vec<(&str, u64)> {
        let mut topics: Vec<_> = self.questions.iter().map(|(topic, count)| (topic.as_str(), *count)).collect();
        topics.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        topics
    }

    /// What a hotkey is sought out for: the topic whose questions to it are furthest above those of uniform routing among
    /// `available` miners, by the scatter of these (the root of their number). `None` before [`FEWEST_QUESTIONS`].
    #[must_use]
    pub fn sought_for(&self, hotkey: &Hotkey, available: usize) -> Option<Interest> {
        let topics = self.asked.get(hotkey).filter(|topics| topics.values().sum::<u64>() >= FEWEST_QUESTIONS)?;
        let beyond = |topic: &str, asked: u64| {
            let alike = self.alike(topic, available);
            (asked as f64 - alike) / alike.sqrt()
        };
        let most = topics.iter().max_by(|a, b| beyond(a.0, *a.1).total_cmp(&beyond(b.0, *b.1)))?;
        Some(self.interest(*hotkey, most.0, *most.1, available))
    }

    /// Whom a topic is asked most, the first `count` of them; nobody before [`FEWEST_QUESTIONS`].
    #[must_use]
    pub fn sought_out(&self, topic: &str, count: usize, available: usize) -> Vec<Interest> {
        if self.questions.get(topic).is_none_or(|questions| *questions < FEWEST_QUESTIONS) {
            return Vec::new();
        }
        let of_topic = |(hotkey, topics): (&Hotkey, &BTreeMap<String, u64>)| Some((*hotkey, *topics.get(topic)?));
        let mut asked: Vec<(Hotkey, u64)> = self.asked.iter().filter_map(of_topic).collect();
        asked.sort_by_key(|(_, asked)| std::cmp::Reverse(*asked));
        asked.into_iter().take(count).map(|(hotkey, asked)| self.interest(hotkey, topic, asked, available)).collect()
    }

    fn interest(&self, hotkey: Hotkey, topic: &str, asked: u64, available: usize) -> Interest {
        Interest { hotkey, topic: topic.to_owned(), asked, ratio: asked as f64 / self.alike(topic, available) }
    }

    /// Questions about a topic to each of the available, were all asked alike; above 0 for a topic anybody was asked about.
    fn alike(&self, topic: &str, available: usize) -> f64 {
        self.questions.get(topic).copied().unwrap_or_default() as f64 / available.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{miner, step};

    fn ask(interests: &mut Interests, source: &str, uids: &[u16], times: u64) {
        for number in 0..times {
            let rewards: Vec<_> = uids.iter().map(|uid| (*uid, 0.5)).collect();
            let (record, _) = step(number, number, None, &rewards);
            interests.count(&StepRecord { source: source.to_owned(), ..StepRecord::clone(&record) });
        }
    }

    #[test]
    fn who_is_asked_more_often_than_alike_is_named_with_how_much() {
        let mut interests = Interests::default();
        // Ten miners. 0 is asked about physics alone, 1 about everything, 2 to 5 share what is left.
        ask(&mut interests, "embedded:physics/1", &[0, 1], 10);
        ask(&mut interests, "embedded:history/1", &[1, 2], 20);
        ask(&mut interests, "embedded:history/2", &[3, 4], 5);
        assert_eq!(interests.topics(), [("history", 50), ("physics", 20)]);
        let told = |uid: u16| {
            let interest = interests.sought_for(&miner(uid).hotkey, 10).unwrap();
            (interest.topic, interest.asked, interest.ratio)
        };
        assert_eq!(told(0), ("physics".to_owned(), 10, 5.0), "of 20 questions each of ten would get 2");
        assert_eq!(told(1), ("history".to_owned(), 20, 4.0), "further beyond chance than 10 of 2");
        assert_eq!(told(3), ("history".to_owned(), 5, 1.0));
        assert_eq!(interests.sought_for(&miner(9).hotkey, 10), None);
        let named: Vec<_> = interests.sought_out("physics", 3, 10).iter().map(|found| found.hotkey).collect();
        assert_eq!(named, [miner(0).hotkey, miner(1).hotkey]);
        interests.forget(&miner(1).hotkey);
        assert_eq!(interests.sought_out("history", 1, 10)[0].hotkey, miner(2).hotkey);
    }

    /// After the few steps of a trial, the tables of a run named those whom chance had favoured.
    #[test]
    fn a_few_questions_too_many_are_chance() {
        assert!(!is_beyond_chance(6, 1.8), "six where 3.3 were due");
        assert!(is_beyond_chance(13, 4.0) && is_beyond_chance(60, 1.8));
        assert!(!is_beyond_chance(50, 1.0) && !is_beyond_chance(10, 0.3));
    }

    /// A topic that comes often is not what a miner is sought out for.
    #[test]
    fn a_frequent_topic_is_no_preference() {
        let mut interests = Interests::default();
        ask(&mut interests, "embedded:history/1", &[0, 1, 2, 3], 12);
        ask(&mut interests, "embedded:physics/1", &[0], 6);
        ask(&mut interests, "embedded:physics/1", &[1], 1);
        assert_eq!(
            interests.sought_for(&miner(0).hotkey, 4).unwrap().topic,
            "physics",
            "asked twelve times about history"
        );
    }

    #[test]
    fn topics_are_bounded_and_little_is_not_spoken_of() {
        let mut interests = Interests::default();
        ask(&mut interests, "embedded:history/1", &[0], 4);
        assert_eq!(interests.sought_for(&miner(0).hotkey, 2), None, "four are too few");
        assert!(interests.sought_out("history", 1, 2).is_empty());
        (0..90).for_each(|topic| ask(&mut interests, &format!("embedded:topic {topic}/1"), &[1], 1));
        ask(&mut interests, "stdin", &[1], 1);
        assert_eq!(interests.topics().len(), MOST_TOPICS + 1, "and the rest together");
        let rest = interests.topics()[0];
        assert_eq!(rest, (OTHER_TOPICS, 1 + 90 - (MOST_TOPICS as u64 - 1)));
    }
}
