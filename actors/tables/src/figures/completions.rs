//! Texts: how often which, when, and what they earned.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{Figure, Form, Options, Series, ranked};
use crate::StepRow;

/// Points of completion rewards that are kept; later ones are not drawn.
const POINTS_LIMIT: usize = 4_000_000;

/// Texts at least so long do not come from two miners by chance.
const TELLING_CHARACTERS: usize = 40;

/// Every different text once: a digest by which it is known, and of the text itself what figures show. A million different
/// completions of some hundred characters each take 200 MB.
#[derive(Debug, Default)]
pub(super) struct Texts {
    ids: HashMap<u128, u32>,
    by_id: Vec<Kept>,
}

/// What is kept of a text.
#[derive(Debug)]
struct Kept {
    shown: Box<str>,
    matches: bool,
    is_telling: bool,
}

/// What became of the texts.
#[derive(Debug, Default)]
pub(super) struct Completions {
    /// How often, by the id of the text and the start of the bin.
    rates: HashMap<(u32, i64), u64>,
    points: Vec<Point>,
    /// How often among the points.
    counts: BTreeMap<u32, u64>,
}

#[derive(Debug)]
struct Point {
    text: u32,
    at: i64,
    uid: i64,
    reward: f64,
}

// === impl Texts ===

impl Texts {
    pub(super) fn id(&mut self, text: &str, options: &Options) -> u32 {
        let next = u32::try_from(self.by_id.len()).unwrap_or(u32::MAX);
        *self.ids.entry(digest(text)).or_insert_with(|| {
            self.by_id.push(Kept {
                shown: shown(text).into(),
                matches: options.regex.as_ref().is_none_or(|regex| regex.is_match(text)),
                is_telling: text.trim().chars().nth(TELLING_CHARACTERS - 1).is_some(),
            });
            next
        })
    }

    /// The text as a legend shows it.
    pub(super) fn shown(&self, id: u32) -> String {
        self.by_id.get(id as usize).map_or_else(String::new, |kept| kept.shown.to_string())
    }

    /// Whether it is so long that two miners do not give it by chance.
    pub(super) fn is_telling(&self, id: u32) -> bool {
        self.by_id.get(id as usize).is_some_and(|kept| kept.is_telling)
    }

    /// Those to follow, most frequent first: what was named, what matches, or the most frequent.
    fn followed(&self, counts: impl Iterator<Item = (u32, u64)>, top: usize, options: &Options) -> Vec<u32> {
        if !options.completions.is_empty() {
            return options.completions.iter().filter_map(|text| self.ids.get(&digest(text)).copied()).collect();
        }
        let matches = |id: u32| self.by_id.get(id as usize).is_some_and(|kept| kept.matches);
        let ranked = ranked(counts.filter(|(id, _)| matches(*id)));
        ranked.into_iter().take(options.top.unwrap_or(top)).map(|(id, _)| id).collect()
    }
}

// === impl Completions ===

impl Completions {
    pub(super) fn add(&mut self, row: &StepRow, ids: &[u32], options: &Options) {
        let width = i64::from(options.rate_minutes.max(1)) * 60_000_000;
        let bin = row.timestamp.div_euclid(width) * width;
        // The reference's `all_completions`: followups and answers.
        if row.kind() != "augment" {
            for id in ids {
                *self.rates.entry((*id, bin)).or_default() += 1;
            }
        }
        if !options.is_about(row, "followup") {
            return;
        }
        for ((text, uid), reward) in ids.iter().zip(&row.uids).zip(&row.rewards) {
            *self.counts.entry(*text).or_default() += 1;
            if let Some(reward) = *reward
                && self.points.len() < POINTS_LIMIT
            {
                self.points.push(Point { text: *text, at: row.timestamp, uid: *uid, reward });
            }
        }
    }

    /// `plot_completion_rates`.
    pub(super) fn rates(&self, texts: &Texts, options: &Options) -> Figure {
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        self.rates.iter().for_each(|((id, _), count)| *counts.entry(*id).or_default() += count);
        let followed = texts.followed(counts.into_iter(), 20, options);
        let mut bins: HashMap<u32, BTreeMap<i64, u64>> = followed.iter().map(|id| (*id, BTreeMap::new())).collect();
        for ((id, bin), count) in &self.rates {
            if let Some(of_text) = bins.get_mut(id) {
                of_text.insert(*bin, *count);
            }
        }
        let series = followed.iter().enumerate().map(|(rank, id)| {
            let bins = bins.get(id).into_iter().flatten();
            let (x, y) = bins.map(|(at, count)| (*at as f64, Some(*count as f64))).unzip();
            Series { name: format!("{}. {}", rank + 1, texts.shown(*id)), x, y, ..Series::default() }
        });
        Figure {
            id: "completion_rates",
            title: "How often the same text comes".to_owned(),
            note: "The most frequent completions. An attack, or a model that answers everything alike, stands out.",
            form: Form::Timeline,
            x_label: String::new(),
            y_label: format!("Occurrences / {} min", options.rate_minutes),
            series: series.collect(),
        }
    }

    /// `plot_completion_rewards`.
    pub(super) fn rewards(&self, texts: &Texts, options: &Options) -> Figure {
        let counts = self.counts.iter().map(|(id, count)| (*id, *count));
        let followed = texts.followed(counts, 3, options);
        let series = followed.iter().map(|id| {
            let mut series = Series { name: texts.shown(*id), ..Series::default() };
            for point in self.points.iter().filter(|point| point.text == *id) {
                series.x.push(point.at as f64);
                series.y.push(Some(point.reward));
                series.labels.push(format!("uid {}", point.uid));
            }
            series
        });
        Figure {
            id: "completion_rewards",
            title: "What the same text earns".to_owned(),
            note: "One point for each time that one of the most frequent completions was given.",
            form: Form::TimeScatter,
            x_label: String::new(),
            y_label: "Reward".to_owned(),
            series: series.collect(),
        }
    }
}

/// By which a text is known: 128 bits, so that no two of them are taken for one.
fn digest(text: &str) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, text).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// A text for a legend: one line, not long, and nothing in it that moves a terminal's cursor or turns text around.
pub(super) fn shown(text: &str) -> String {
    const CHARACTERS: usize = 60;
    let deceives = |char: char| char.is_control() || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.replace(deceives, "\u{fffd}");
    match line.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "(empty)".to_owned(),
        None => line,
    }
}
