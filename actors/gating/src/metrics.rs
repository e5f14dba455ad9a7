//! What the gating actor exports.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use openvalidators_messages::{Hotkey, StepRecord, Uid, gating::Routed, prompts::topic};
use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

use crate::state::{Folded, State};

/// Topics that have a series of their own; further ones are counted together.
const MOST_TOPICS: usize = 24;
/// What these are called.
const OTHER_TOPICS: &str = "other";
/// Questions a miner must have been asked before it has a series: one alone is always all.
const FEWEST_QUESTIONS: u64 = 5;

/// Metrics of routing. They outlive the actor: make them once, outside its factory.
#[derive(Clone)]
pub struct Metrics {
    /// Neurons that could be asked at the latest routing.
    available: IntGauge,
    /// Miners routed to.
    routed_total: IntCounter,
    /// Of them, those asked before in the same forward, for want of others.
    repeated_total: IntCounter,
    /// Steps that got fewer miners than they wanted.
    short_total: IntCounter,
    /// Steps that found nobody to ask.
    nobody_total: IntCounter,
    /// Steps by how they were routed: `learned`, `uniform`.
    steps_total: IntCounterVec,
    /// How evenly the latest step asked.
    evenness: Gauge,
    /// The share of the available asked within the bound.
    coverage: Gauge,
    /// The longest anybody available has waited.
    longest_wait_blocks: IntGauge,
    /// Prompts that nobody read in time.
    unread_total: IntCounter,
    /// Miners asked, by what about.
    asked_about_total: IntCounterVec,
    topics: Arc<Mutex<BTreeSet<String>>>,
    /// What each uid is asked about most, and the share of that: one series a uid.
    asked_most_about_ratio: GaugeVec,
    per_uid: bool,
    interests: Arc<Mutex<BTreeMap<Uid, Interest>>>,
    /// The head's loss on the latest step it learned from.
    loss: Gauge,
    /// Steps the head refused to learn from.
    refused_total: IntCounter,
    /// Hotkeys with a row in the head.
    head_rows: IntGauge,
    /// Steps that forecasts are made from.
    memory_steps: IntGauge,
    /// The latest step folded.
    sequence: IntGauge,
    /// Steps that had no outcome when they were to be folded.
    pub(crate) left_out_total: IntCounter,
}

/// What a uid was asked about, since its hotkey took it or the program began.
#[derive(Debug)]
struct Interest {
    hotkey: Hotkey,
    questions: BTreeMap<String, u64>,
    /// The topic its series has at present.
    shown: Option<String>,
}

/// The subnet as one routing saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) available: usize,
    pub(crate) longest_wait_blocks: u64,
    pub(crate) coverage: f64,
    pub(crate) evenness: f64,
    pub(crate) learned: bool,
}

impl Metrics {
    /// Registers everything; each counter exists at zero from the start.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("openvalidators_gating_{name}");
        let counter = |suffix, help| registered(registry, IntCounter::new(name(suffix), help)?);
        let count = |suffix, help| registered(registry, IntGauge::new(name(suffix), help)?);
        let gauge = |suffix, help| registered(registry, Gauge::new(name(suffix), help)?);
        let by = |suffix, help, labels: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name(suffix), help), labels)?)
        };
        let metrics = Self {
            available: count("available", "Neurons that could be asked at the latest routing")?,
            routed_total: counter("routed_total", "Miners routed to")?,
            repeated_total: counter("repeated_total", "Miners routed to again in one forward, for want of others")?,
            short_total: counter("short_total", "Steps that got fewer miners than they wanted")?,
            nobody_total: counter("nobody_total", "Steps that found nobody to ask")?,
            steps_total: by("steps_total", "Steps, by how their miners were chosen", &["routing"])?,
            evenness: gauge(
                "evenness",
                "Entropy of the latest routing's odds, by that of uniform ones: 1 asks all alike",
            )?,
            coverage: gauge("coverage", "Share of the available miners asked within longest_wait_blocks")?,
            longest_wait_blocks: count("longest_wait_blocks", "Blocks the longest waiting available miner has waited")?,
            unread_total: counter("unread_total", "Prompts that got no embedding in time, and were routed uniformly")?,
            asked_about_total: by("asked_about_total", "Settled questions, by topic of the text", &["topic"])?,
            topics: Arc::default(),
            asked_most_about_ratio: registered(
                registry,
                GaugeVec::new(
                    Opts::new(
                        name("asked_most_about_ratio"),
                        "Share of the uid's settled questions that were about the topic it was asked about most",
                    ),
                    &["uid", "topic"],
                )?,
            )?,
            per_uid: true,
            interests: Arc::default(),
            loss: gauge("loss", "Loss of the gating head on the latest step, before it learned from it")?,
            refused_total: counter("refused_total", "Steps the gating head refused to learn from")?,
            head_rows: count("head_rows", "Hotkeys with a row in the gating head")?,
            memory_steps: count("memory_steps", "Steps that forecasts are made from")?,
            sequence: count("sequence", "The latest step folded")?,
            left_out_total: counter("left_out_total", "Steps without an outcome that routing went on without")?,
        };
        ["learned", "uniform"].iter().for_each(|routing| metrics.steps_total.with_label_values(&[routing]).inc_by(0));
        Ok(metrics)
    }

    /// With a series for each uid, or without any.
    #[must_use]
    pub fn per_uid(self, per_uid: bool) -> Self {
        Self { per_uid, ..self }
    }

    /// Counts a routing.
    pub(crate) fn note(&self, seen: Seen, wanted: usize, exclude: &[Uid], routed: &[Routed]) {
        self.available.set(i64::try_from(seen.available).unwrap_or(i64::MAX));
        self.routed_total.inc_by(routed.len() as u64);
        let repeated = routed.iter().filter(|routed| exclude.contains(&routed.uid)).count();
        self.repeated_total.inc_by(repeated as u64);
        self.short_total.inc_by(u64::from(routed.len() < wanted));
        self.steps_total.with_label_values(&[if seen.learned { "learned" } else { "uniform" }]).inc();
        self.evenness.set(seen.evenness);
        self.coverage.set(seen.coverage);
        self.longest_wait_blocks.set(i64::try_from(seen.longest_wait_blocks).unwrap_or(i64::MAX));
    }

    /// Counts a step that found nobody.
    pub(crate) fn note_nobody(&self) {
        self.available.set(0);
        self.short_total.inc();
        self.nobody_total.inc();
    }

    /// Counts a prompt nobody read.
    pub(crate) fn note_unread(&self) {
        self.unread_total.inc();
    }

    /// Counts a fold.
    pub(crate) fn note_fold(&self, record: &StepRecord, folded: Folded) {
        match folded {
            Folded::Learned(loss) => self.loss.set(f64::from(loss)),
            Folded::Refused(_) => self.refused_total.inc(),
            Folded::Counted => {}
            Folded::Known => return,
        }
        let topic = self.topic(&record.source);
        self.asked_about_total.with_label_values(&[&topic]).inc_by(record.asked.len() as u64);
        if self.per_uid {
            self.note_interests(record, &topic);
        }
    }

    fn note_interests(&self, record: &StepRecord, topic: &str) {
        let mut interests = self.interests.lock();
        for asked in &record.asked {
            let series = |topic: &str, uid: Uid| [uid.to_string(), topic.to_owned()];
            let fresh = Interest { hotkey: asked.hotkey, questions: BTreeMap::new(), shown: None };
            let interest = interests.entry(asked.uid).or_insert(fresh);
            let shown = interest.shown.take();
            if interest.hotkey != asked.hotkey {
                (interest.hotkey, interest.questions) = (asked.hotkey, BTreeMap::new());
            }
            *interest.questions.entry(topic.to_owned()).or_default() += 1;
            let all: u64 = interest.questions.values().sum();
            let most = interest.questions.iter().max_by_key(|(_, count)| **count).filter(|_| all >= FEWEST_QUESTIONS);
            if let Some(shown) = shown.filter(|shown| most.is_none_or(|(topic, _)| topic != shown)) {
                // Only a series that is not there cannot be removed.
                let _ = self.asked_most_about_ratio.remove_label_values(&series(&shown, asked.uid));
            }
            if let Some((topic, count)) = most {
                let labels = series(topic, asked.uid);
                self.asked_most_about_ratio.with_label_values(&labels).set(*count as f64 / all as f64);
                interest.shown = Some(topic.clone());
            }
        }
    }

    /// Shows what the state has come to.
    pub(crate) fn show(&self, state: &State) {
        self.head_rows.set(i64::try_from(state.head().len()).unwrap_or(i64::MAX));
        self.memory_steps.set(i64::try_from(state.memory().len()).unwrap_or(i64::MAX));
        self.sequence.set(i64::try_from(state.sequence().0).unwrap_or(i64::MAX));
    }

    fn topic(&self, source: &str) -> String {
        let Some(topic) = topic(source) else { return OTHER_TOPICS.to_owned() };
        let mut topics = self.topics.lock();
        if topics.len() < MOST_TOPICS && !topics.contains(topic) {
            topics.insert(topic.to_owned());
        }
        if topics.contains(topic) { topic.to_owned() } else { OTHER_TOPICS.to_owned() }
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{EAST, step};

    /// What `/metrics` says of what each uid is asked about.
    fn shown(registry: &Registry) -> Vec<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("openvalidators_gating_asked_most_about_ratio{"));
        lines.map(|line| line.trim_start_matches("openvalidators_gating_asked_most_about_ratio").to_owned()).collect()
    }

    fn ask(metrics: &Metrics, hotkey: u8, source: &str, times: u64) {
        for number in 0..times {
            let (record, _) = step(number, number, Some(&EAST), &[(3, 0.5)]);
            let mut record = StepRecord { source: source.into(), ..StepRecord::clone(&record) };
            record.asked[0].hotkey = Hotkey([hotkey; 32]);
            metrics.note_fold(&record, Folded::Counted);
        }
    }

    #[test]
    fn each_uid_shows_what_it_is_asked_about_most_in_one_series() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        ask(&metrics, 1, "embedded:physics/1", 4);
        assert!(shown(&registry).is_empty(), "too few to say");
        ask(&metrics, 1, "embedded:history/1", 1);
        assert_eq!(shown(&registry), [r#"{topic="physics",uid="3"} 0.8"#]);
        ask(&metrics, 1, "embedded:history/1", 5);
        assert_eq!(shown(&registry), [r#"{topic="history",uid="3"} 0.6"#]);
        ask(&metrics, 2, "embedded:history/1", 1);
        assert!(shown(&registry).is_empty(), "another hotkey has the uid");
        ask(&metrics, 2, "a url", 4);
        assert_eq!(shown(&registry), [r#"{topic="other",uid="3"} 0.8"#]);

        let registry = Registry::new();
        ask(&Metrics::new(&registry).unwrap().per_uid(false), 1, "embedded:physics/1", 9);
        assert!(shown(&registry).is_empty());
    }
}
