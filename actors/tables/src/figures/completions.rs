//! Texts: how often which, when, and what they earned.

use std::collections::{BTreeMap, HashMap};

use super::{Figure, Form, Options, Series, ranked};
use crate::StepRow;

/// Points of completion rewards that are kept; later ones are not drawn.
const POINTS_LIMIT: usize = 4_000_000;

/// Every different text once.
#[derive(Debug, Default)]
pub(super) struct Texts {
    ids: HashMap<String, u32>,
    by_id: Vec<String>,
}

/// What became of the texts.
#[derive(Debug, Default)]
pub(super) struct Completions {
    /// How often, by the id of the text and the start of the bin.
    rates: HashMap<u32, BTreeMap<i64, u64>>,
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
    pub(super) fn id(&mut self, text: &str) -> u32 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = u32::try_from(self.by_id.len()).unwrap_or(u32::MAX);
        self.ids.insert(text.to_owned(), id);
        self.by_id.push(text.to_owned());
        id
    }

    pub(super) fn text(&self, id: u32) -> &str {
        self.by_id.get(id as usize).map_or("", String::as_str)
    }

    /// Those to follow, most frequent first: what was named, what matches, or the most frequent.
    fn followed(&self, counts: impl Iterator<Item = (u32, u64)>, top: usize, options: &Options) -> Vec<u32> {
        if !options.completions.is_empty() {
            return options.completions.iter().filter_map(|text| self.ids.get(text).copied()).collect();
        }
        let matches = |id: u32| options.regex.as_ref().is_none_or(|regex| regex.is_match(self.text(id)));
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
                *self.rates.entry(*id).or_default().entry(bin).or_default() += 1;
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
        let mut counts: Vec<(u32, u64)> = self.rates.iter().map(|(id, bins)| (*id, bins.values().sum())).collect();
        counts.sort_unstable();
        let followed = texts.followed(counts.into_iter(), 20, options);
        let series = followed.iter().enumerate().map(|(rank, id)| {
            let bins = self.rates.get(id).into_iter().flatten();
            let (x, y) = bins.map(|(at, count)| (*at as f64, Some(*count as f64))).unzip();
            Series { name: format!("{}. {}", rank + 1, shown(texts.text(*id))), x, y, ..Series::default() }
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
            let mut series = Series { name: shown(texts.text(*id)), ..Series::default() };
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
