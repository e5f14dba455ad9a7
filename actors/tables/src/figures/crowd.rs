//! Miners together: who copies whom, and who is asked about what.

use std::collections::{BTreeMap, HashMap};

use super::{Figure, Form, Options, Series, completions::Texts, ranked};
use crate::StepRow;

/// Of so many miners with one text the pairs are counted; a whole subnet that answers alike has too many.
const PAIRED_MINERS: usize = 32;

/// Of so many miners asked in a step the pairs are counted.
const ASKED_PAIRED: usize = 256;

/// Steps that two miners must share before they are named.
const FEWEST_SHARED: u64 = 2;

/// Topics shown.
const TOPICS_SHOWN: usize = 12;

#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// In how many steps both gave one text.
    shared: BTreeMap<(i64, i64), u64>,
    /// In how many steps both were asked.
    together: HashMap<(i64, i64), u64>,
    /// How often each was asked about each topic.
    routes: BTreeMap<String, BTreeMap<i64, u64>>,
}

// === impl Crowd ===

impl Crowd {
    pub(super) fn add(&mut self, row: &StepRow, ids: &[u32], texts: &Texts) {
        if let Some(topic) = &row.topic {
            let asked = self.routes.entry(topic.clone()).or_default();
            row.uids.iter().for_each(|uid| *asked.entry(*uid).or_default() += 1);
        }
        let mut givers: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
        for (uid, id) in row.uids.iter().zip(ids) {
            if texts.is_telling(*id) {
                givers.entry(*id).or_default().push(*uid);
            }
        }
        for uids in givers.values_mut().filter(|uids| uids.len() > 1) {
            uids.sort_unstable();
            uids.truncate(PAIRED_MINERS);
            pairs(uids).for_each(|pair| *self.shared.entry(pair).or_default() += 1);
        }
        let mut asked = row.uids.clone();
        asked.sort_unstable();
        asked.truncate(ASKED_PAIRED);
        pairs(&asked).for_each(|pair| *self.together.entry(pair).or_default() += 1);
    }

    /// Who gives the same long text as another in the same step.
    pub(super) fn copycats(&self, options: &Options) -> Figure {
        let often = self
            .shared
            .iter()
            .filter(|(pair, count)| **count >= FEWEST_SHARED && (options.shows(pair.0) || options.shows(pair.1)));
        let mut rows = ranked(often.map(|(pair, count)| (*pair, *count)));
        rows.truncate(options.top.unwrap_or(20));
        let series = |name: &str, y: Vec<Option<f64>>| Series {
            name: name.to_owned(),
            y,
            labels: rows.iter().map(|((left, right), _)| format!("{left} and {right}")).collect(),
            ..Series::default()
        };
        let shared = rows.iter().map(|(_, count)| Some(*count as f64)).collect();
        let together = rows.iter().map(|(pair, _)| self.together.get(pair).map(|count| *count as f64)).collect();
        let all = vec![series("steps with one text", shared), series("steps both were asked in", together)];
        Figure {
            id: "copycats",
            title: "Miners that answer word for word alike".to_owned(),
            note: "Pairs that gave the same text of 40 characters or more in one step: copies, or one machine behind both.",
            form: Form::Bars,
            x_label: "Steps".to_owned(),
            y_label: "uids".to_owned(),
            series: if rows.is_empty() { Vec::new() } else { all },
        }
    }

    /// Who is asked about what.
    pub(super) fn routes(&self, options: &Options) -> Figure {
        let asked = |uids: &BTreeMap<i64, u64>| uids.values().sum::<u64>();
        let topics = ranked(self.routes.iter().map(|(topic, uids)| (topic, asked(uids))));
        let mut totals: BTreeMap<i64, u64> = BTreeMap::new();
        for (uid, count) in self.routes.values().flatten().filter(|(uid, _)| options.shows(**uid)) {
            *totals.entry(*uid).or_default() += count;
        }
        let mut uids: Vec<i64> =
            ranked(totals.iter().map(|(uid, count)| (*uid, *count))).into_iter().map(|(uid, _)| uid).collect();
        uids.truncate(options.top.unwrap_or(32));
        uids.sort_unstable();
        let series = topics.iter().take(TOPICS_SHOWN).map(|(topic, all)| Series {
            name: (*topic).clone(),
            y: uids
                .iter()
                .map(|uid| self.routes.get(*topic)?.get(uid).map(|count| *count as f64 / (*all).max(1) as f64))
                .collect(),
            labels: uids.iter().map(ToString::to_string).collect(),
            ..Series::default()
        });
        Figure {
            id: "gating_routes",
            title: "Who is asked about what".to_owned(),
            note: "Of all questions about a topic, the share that went to each miner. Rows alike: routing prefers nobody.",
            form: Form::Matrix,
            x_label: "uid".to_owned(),
            y_label: String::new(),
            series: series.collect(),
        }
    }
}

fn pairs(sorted: &[i64]) -> impl Iterator<Item = (i64, i64)> + '_ {
    sorted.iter().enumerate().flat_map(|(at, left)| sorted[at + 1..].iter().map(move |right| (*left, *right)))
}
