//! What changes: throughput, scores, and one period against another.

use std::collections::BTreeMap;

use super::{Figure, Form, Options, Series, mean, ranked};
use crate::{StepRow, moment};

/// Sum and number of rewards, before and after.
type Periods = [(f64, u64); 2];

/// Bins of one figure; what spans more time is shown in wider ones.
const BINS_LIMIT: i64 = 5_000;

#[derive(Debug, Default)]
pub(super) struct OverTime {
    steps: BTreeMap<i64, u64>,
    scores: BTreeMap<i64, f64>,
    /// The moving averages at the end of each bin.
    samples: BTreeMap<i64, BTreeMap<i64, f64>>,
    /// Sum and number of rewards, by bin and miner.
    earned: BTreeMap<i64, BTreeMap<i64, (f64, u64)>>,
}

// === impl OverTime ===

impl OverTime {
    pub(super) fn add(&mut self, row: &StepRow, options: &Options) {
        let bin = row.timestamp.div_euclid(width(options)) * width(options);
        *self.steps.entry(bin).or_default() += 1;
        let earned = self.earned.entry(bin).or_default();
        for (uid, reward) in row.uids.iter().zip(&row.rewards) {
            let Some(reward) = *reward else { continue };
            let score = self.scores.entry(*uid).or_default();
            *score = options.alpha * reward + (1.0 - options.alpha) * *score;
            let (sum, count) = earned.entry(*uid).or_default();
            *sum += reward;
            *count += 1;
        }
        if !row.rewards.is_empty() {
            self.samples.insert(bin, self.scores.clone());
        }
    }

    /// `plot_throughput`: empty bins between are counted as such.
    pub(super) fn throughput(&self, options: &Options) -> Figure {
        let mut series = Series { name: "steps".to_owned(), ..Series::default() };
        if let (Some((&first, _)), Some((&last, _))) = (self.steps.first_key_value(), self.steps.last_key_value()) {
            let bins = (last - first) / width(options) + 1;
            let wide = width(options) * (bins + BINS_LIMIT - 1).div_euclid(BINS_LIMIT).max(1);
            let mut at = first;
            while at <= last {
                let steps: u64 = self.steps.range(at..at + wide).map(|(_, steps)| steps).sum();
                series.x.push(at as f64);
                series.y.push(Some(steps as f64));
                at += wide;
            }
        }
        Figure {
            id: "throughput",
            title: "Steps over time".to_owned(),
            note: "How many steps were settled. A gap is a validator that stood still.",
            form: Form::Timeline,
            x_label: String::new(),
            y_label: format!("Steps / {} min", options.interval_minutes),
            series: if series.y.is_empty() { Vec::new() } else { vec![series] },
        }
    }

    /// `plot_weights`: the moving averages, by miner. The reference draws those that a run logged; here they are made of the
    /// rewards, from 0, so the first hundred steps of a selection lag behind what the validator had.
    pub(super) fn scores(&self, options: &Options) -> Figure {
        let shown = self.scores.iter().filter(|(uid, _)| options.shows(**uid));
        let best = ranked(shown.map(|(uid, score)| (*uid, *score)));
        let every = self.samples.len().div_ceil(BINS_LIMIT as usize).max(1);
        let series = best.into_iter().take(options.top.unwrap_or(20)).map(|(uid, _)| {
            let samples = self.samples.iter().step_by(every);
            let (x, y) = samples.map(|(at, scores)| (*at as f64, scores.get(&uid).copied())).unzip();
            Series { name: uid.to_string(), x, y, ..Series::default() }
        });
        Figure {
            id: "weights",
            title: "Moving average of rewards, by miner".to_owned(),
            note: "The best of now. Weights on chain follow these.",
            form: Form::Timeline,
            x_label: String::new(),
            y_label: "Score".to_owned(),
            series: series.collect(),
        }
    }

    /// What changed between two periods: mean reward of each miner, before and after.
    pub(super) fn comparison(&self, options: &Options) -> Figure {
        let ends = self.earned.first_key_value().zip(self.earned.last_key_value());
        let middle = ends.map_or(0, |((first, _), (last, _))| first + (last + width(options) - first) / 2);
        let split = options.split.unwrap_or(middle);
        let mut periods: BTreeMap<i64, Periods> = BTreeMap::new();
        for (bin, earned) in &self.earned {
            for (uid, (sum, count)) in earned.iter().filter(|(uid, _)| options.shows(**uid)) {
                let period = &mut periods.entry(*uid).or_default()[usize::from(*bin >= split)];
                period.0 += sum;
                period.1 += count;
            }
        }
        let change = |periods: &Periods| Some(mean(periods[1].0, periods[1].1)? - mean(periods[0].0, periods[0].1)?);
        let mut both: Vec<_> =
            ranked(periods.iter().filter_map(|(uid, periods)| Some(((*uid, *periods), change(periods)?.abs()))));
        both.truncate(options.top.unwrap_or(20));
        let series = |name: &str, of: &dyn Fn(&Periods) -> Option<f64>| Series {
            name: name.to_owned(),
            y: both.iter().map(|((_, periods), _)| of(periods)).collect(),
            labels: both.iter().map(|((uid, _), _)| uid.to_string()).collect(),
            ..Series::default()
        };
        let all = vec![
            series("before", &|periods| mean(periods[0].0, periods[0].1)),
            series("after", &|periods| mean(periods[1].0, periods[1].1)),
            series("change", &change),
        ];
        Figure {
            id: "comparison",
            title: format!("Mean reward before and after {}", moment::format_minute(split)),
            note: "The miners that changed most. --split chooses the time.",
            form: Form::Matrix,
            x_label: "uid".to_owned(),
            y_label: String::new(),
            series: if both.is_empty() { Vec::new() } else { all },
        }
    }
}

/// The width of a bin in microseconds.
fn width(options: &Options) -> i64 {
    i64::from(options.interval_minutes.max(1)) * 60_000_000
}
