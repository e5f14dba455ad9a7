//! What the gating actor exports.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use openvalidators_messages::{Hotkey, StepRecord, Uid, gating::Routed};
use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector};

use crate::{
    interests::{Interests, NAMED},
    state::{Folded, State},
    uniform::Exclusion,
};

/// Metrics of routing. They outlive the actor: make them once, outside its factory.
#[derive(Clone)]
pub struct Metrics {
    /// Neurons that could be asked at the latest routing.
    available: IntGauge,
    /// The others, by why they are not asked.
    excluded: IntGaugeVec,
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
    /// What each uid is sought out for, by uniform routing: one series a uid.
    asked_most_about_ratio: GaugeVec,
    /// Who is sought out for each topic, by uniform routing: [`NAMED`] series a topic.
    sought_out_ratio: GaugeVec,
    per_uid: bool,
    interests: Arc<Mutex<Shown>>,
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

/// Who was asked about what since the program began, and what is shown of it.
#[derive(Debug, Default)]
struct Shown {
    interests: Interests,
    /// The hotkey that each uid had when it was last asked, and the topic its series has.
    uids: BTreeMap<Uid, (Hotkey, Option<String>)>,
    /// The uids that each topic's series have.
    topics: BTreeMap<String, Vec<Uid>>,
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
            excluded: registered(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        name("excluded"),
                        "Neurons that were not asked at the latest routing, by why: ourselves, no axon, a validator",
                    ),
                    &["reason"],
                )?,
            )?,
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
            asked_most_about_ratio: registered(
                registry,
                GaugeVec::new(
                    Opts::new(
                        name("asked_most_about_ratio"),
                        "How many times as often as uniform routing the uid is asked about the topic it is sought out for",
                    ),
                    &["uid", "topic"],
                )?,
            )?,
            sought_out_ratio: registered(
                registry,
                GaugeVec::new(
                    Opts::new(
                        name("sought_out_ratio"),
                        "How many times as often as uniform routing the topic goes to the three uids that are asked most about it",
                    ),
                    &["topic", "uid"],
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
        metrics.note_excluded(std::iter::empty());
        ["learned", "uniform"].iter().for_each(|routing| metrics.steps_total.with_label_values(&[routing]).inc_by(0));
        Ok(metrics)
    }

    /// With a series for each uid, or without any.
    #[must_use]
    pub fn per_uid(self, per_uid: bool) -> Self {
        Self { per_uid, ..self }
    }

    /// Counts those who are not asked.
    pub(crate) fn note_excluded(&self, excluded: impl Iterator<Item = Exclusion>) {
        let excluded: Vec<Exclusion> = excluded.collect();
        for reason in Exclusion::ALL {
            let count = excluded.iter().filter(|found| **found == reason).count();
            self.excluded.with_label_values(&[reason.label()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
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
        let mut shown = self.interests.lock();
        let topic = shown.interests.count(record).to_owned();
        self.asked_about_total.with_label_values(&[&topic]).inc_by(record.asked.len() as u64);
        if self.per_uid {
            self.show_interests(&mut shown, record, &topic);
        }
    }

    fn show_interests(&self, shown: &mut Shown, record: &StepRecord, topic: &str) {
        let Shown { interests, uids, topics } = shown;
        // Only a series that is not there cannot be removed: what `remove_label_values` says is of no use.
        let remove = |family: &GaugeVec, labels: [&str; 2]| drop(family.remove_label_values(&labels));
        let available = usize::try_from(self.available.get()).unwrap_or_default();
        for asked in &record.asked {
            let uid = asked.uid.to_string();
            let told = match uids.entry(asked.uid) {
                Entry::Occupied(entry) => {
                    let (hotkey, told) = entry.into_mut();
                    if *hotkey != asked.hotkey {
                        interests.forget(&std::mem::replace(hotkey, asked.hotkey));
                    }
                    told
                }
                Entry::Vacant(entry) => &mut entry.insert((asked.hotkey, None)).1,
            };
            let interest = interests.sought_for(&asked.hotkey, available);
            if let Some(told) = told.take().filter(|told| interest.as_ref().is_none_or(|now| now.topic != *told)) {
                remove(&self.asked_most_about_ratio, [&uid, &told]);
            }
            if let Some(interest) = interest {
                self.asked_most_about_ratio.with_label_values(&[&uid, &interest.topic]).set(interest.ratio);
                *told = Some(interest.topic);
            }
        }
        let held = |hotkey: &Hotkey| uids.iter().find(|(_, (of, _))| of == hotkey).map(|(uid, _)| *uid);
        let sought_out = interests.sought_out(topic, NAMED, available).into_iter();
        let now: BTreeMap<Uid, f64> =
            sought_out.filter_map(|found| Some((held(&found.hotkey)?, found.ratio))).collect();
        for told in topics.remove(topic).unwrap_or_default().iter().filter(|told| !now.contains_key(told)) {
            remove(&self.sought_out_ratio, [topic, &told.to_string()]);
        }
        for (uid, ratio) in &now {
            self.sought_out_ratio.with_label_values(&[topic, &uid.to_string()]).set(*ratio);
        }
        topics.insert(topic.to_owned(), now.into_keys().collect());
    }

    /// Shows what the state has come to.
    pub(crate) fn show(&self, state: &State) {
        self.head_rows.set(i64::try_from(state.head().len()).unwrap_or(i64::MAX));
        self.memory_steps.set(i64::try_from(state.memory().len()).unwrap_or(i64::MAX));
        self.sequence.set(i64::try_from(state.sequence().0).unwrap_or(i64::MAX));
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

    /// The series of a family, as `/metrics` tells them.
    fn shown(registry: &Registry, family: &str) -> Vec<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let family = format!("openvalidators_gating_{family}");
        text.lines().filter_map(|line| line.strip_prefix(&family)).map(str::to_owned).collect()
    }

    const OF_UIDS: &str = "asked_most_about_ratio";
    const OF_TOPICS: &str = "sought_out_ratio";

    /// Asks one of four.
    fn ask(metrics: &Metrics, uid: u16, hotkey: u8, source: &str, times: u64) {
        metrics.available.set(4);
        for number in 0..times {
            let (record, _) = step(number, number, Some(&EAST), &[(uid, 0.5)]);
            let mut record = StepRecord { source: source.into(), ..StepRecord::clone(&record) };
            record.asked[0].hotkey = Hotkey([hotkey; 32]);
            metrics.note_fold(&record, Folded::Counted);
        }
    }

    #[test]
    fn each_uid_shows_what_it_is_sought_out_for_in_one_series() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        ask(&metrics, 3, 1, "embedded:physics/1", 4);
        assert!(shown(&registry, OF_UIDS).is_empty(), "too few to say");
        ask(&metrics, 5, 5, "embedded:physics/1", 4);
        ask(&metrics, 3, 1, "embedded:history/1", 1);
        assert_eq!(
            shown(&registry, OF_UIDS),
            [r#"{topic="history",uid="3"} 4"#],
            "of 8 about physics 4, where 2 are its part"
        );
        ask(&metrics, 3, 1, "embedded:physics/1", 16);
        assert_eq!(shown(&registry, OF_UIDS), [r#"{topic="physics",uid="3"} 3.3333333333333335"#]);
        ask(&metrics, 3, 2, "embedded:history/1", 1);
        assert!(shown(&registry, OF_UIDS).is_empty(), "another hotkey has the uid");
        ask(&metrics, 3, 2, "a url", 4);
        assert_eq!(shown(&registry, OF_UIDS), [r#"{topic="other",uid="3"} 4"#]);

        let registry = Registry::new();
        ask(&Metrics::new(&registry).unwrap().per_uid(false), 3, 1, "embedded:physics/1", 9);
        assert!(shown(&registry, OF_UIDS).is_empty() && shown(&registry, OF_TOPICS).is_empty());
    }

    #[test]
    fn each_topic_shows_the_three_that_are_asked_most_about_it() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        ask(&metrics, 3, 1, "embedded:physics/1", 4);
        assert!(shown(&registry, OF_TOPICS).is_empty(), "too few to say");
        ask(&metrics, 3, 1, "embedded:physics/1", 2);
        ask(&metrics, 5, 5, "embedded:physics/1", 2);
        let of = |uid: u16, ratio: f64| format!(r#"{{topic="physics",uid="{uid}"}} {ratio}"#);
        assert_eq!(shown(&registry, OF_TOPICS), [of(3, 3.0), of(5, 1.0)]);
        [6, 7].into_iter().for_each(|uid| ask(&metrics, uid, uid as u8, "embedded:physics/1", 4));
        assert_eq!(shown(&registry, OF_TOPICS), [of(3, 1.5), of(6, 1.0), of(7, 1.0)], "of 16, and 5 had fewest");
        ask(&metrics, 6, 66, "embedded:history/1", 8);
        ask(&metrics, 3, 1, "embedded:physics/1", 8);
        let history = r#"{topic="history",uid="6"} 4"#.to_owned();
        let expected = [history, of(3, 14.0 / 6.0), of(5, 2.0 / 6.0), of(7, 4.0 / 6.0)];
        assert_eq!(shown(&registry, OF_TOPICS), expected, "another hotkey has uid 6");
    }
}
