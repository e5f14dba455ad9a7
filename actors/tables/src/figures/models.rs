//! Reward models and filters: what they say, how they agree, what they stop.

use super::{Figure, Form, Series, mean};
use crate::{COLUMN_NAMES, StepRow};

/// The models, and last the final reward.
const COUNT: usize = COLUMN_NAMES.len() + 1;

#[derive(Debug)]
pub(super) struct Models {
    raw: [Moments; COUNT],
    normalized: [Moments; COUNT],
    together: [[Together; COUNT]; COUNT],
    passes: [(u64, u64); COUNT],
}

#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: u64,
    sum: f64,
    least: f64,
    most: f64,
}

/// Sums over the completions that both have a number for, by Welford's update: numbers of very different size lose nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Together {
    count: f64,
    mean: [f64; 2],
    square: [f64; 2],
    product: f64,
}

// === impl Models ===

impl Default for Models {
    fn default() -> Self {
        Self {
            raw: [Moments::default(); COUNT],
            normalized: [Moments::default(); COUNT],
            together: [[Together::default(); COUNT]; COUNT],
            passes: [(0, 0); COUNT],
        }
    }
}

impl Models {
    pub(super) fn add(&mut self, row: &StepRow) {
        for place in 0..row.completions.len() {
            let mut values = [None; COUNT];
            for column in &row.columns {
                let Some(at) = COLUMN_NAMES.iter().position(|name| *name == column.name) else { continue };
                values[at] = column.raw.get(place).copied().flatten();
                if let Some(normalized) = column.normalized.get(place).copied().flatten() {
                    self.normalized[at].add(normalized);
                }
                if let Some(value) = values[at].filter(|_| is_filter(at)) {
                    self.passes[at].0 += u64::from(value > 0.0);
                    self.passes[at].1 += 1;
                }
            }
            // A failed call has a reward of 0 that no model gave.
            let answered = !row.completions[place].is_empty();
            values[COUNT - 1] = row.rewards.get(place).copied().flatten().filter(|_| answered);
            for (left, value) in values.iter().enumerate() {
                let Some(value) = *value else { continue };
                self.raw[left].add(value);
                for (right, other) in values.iter().enumerate() {
                    if let Some(other) = *other {
                        self.together[left][right].add(value, other);
                    }
                }
            }
        }
    }

    /// What each model says on average.
    pub(super) fn rewards(&self) -> Figure {
        let there: Vec<usize> = (0..COUNT).filter(|&at| self.raw[at].count > 0).collect();
        let series = |name: &str, of: &dyn Fn(usize) -> Option<f64>| Series {
            name: name.to_owned(),
            y: there.iter().map(|&at| of(at)).collect(),
            labels: there.iter().map(|&at| name_of(at)).collect(),
            ..Series::default()
        };
        let (raw, normalized) = (&self.raw, &self.normalized);
        let all = vec![
            series("mean", &|at| mean(raw[at].sum, raw[at].count)),
            series("least", &|at| Some(raw[at].least)),
            series("most", &|at| Some(raw[at].most)),
            series("mean as it counted", &|at| mean(normalized[at].sum, normalized[at].count)),
            series("completions", &|at| Some(raw[at].count as f64)),
        ];
        Figure {
            id: "reward_by_model",
            title: "What each reward model and filter says".to_owned(),
            note: "Of the completions it scored. The last row is the final reward of completions that are not empty.",
            form: Form::Matrix,
            x_label: "model".to_owned(),
            y_label: String::new(),
            series: if there.is_empty() { Vec::new() } else { all },
        }
    }

    /// How the models agree (Pearson's coefficient).
    pub(super) fn correlations(&self) -> Figure {
        let there: Vec<usize> = (0..COUNT).filter(|&at| self.together[at][at].varies()).collect();
        let series = there.iter().map(|&left| Series {
            name: name_of(left),
            y: there.iter().map(|&right| self.together[left][right].correlation()).collect(),
            labels: there.iter().map(|&right| name_of(right)).collect(),
            ..Series::default()
        });
        Figure {
            id: "correlations",
            title: "How reward models agree".to_owned(),
            note: "Pearson's coefficient of the raw scores of the same completions. A model near 1 with another adds little; \
                   one near 0 with the final reward does not count for much.",
            form: Form::Matrix,
            x_label: "model".to_owned(),
            y_label: String::new(),
            series: series.collect(),
        }
    }

    /// What the filters let pass.
    pub(super) fn filters(&self) -> Figure {
        let there: Vec<usize> = (0..COUNT).filter(|&at| self.passes[at].1 > 0).collect();
        let share = |at: &usize| mean(self.passes[*at].0 as f64, self.passes[*at].1);
        let series = Series {
            name: "share".to_owned(),
            y: there.iter().map(share).collect(),
            labels: there.iter().map(|&at| name_of(at)).collect(),
            ..Series::default()
        };
        Figure {
            id: "filter_pass_rates",
            title: "What each filter lets pass".to_owned(),
            note: "The share of completions that it gave more than 0.",
            form: Form::Bars,
            x_label: "Share".to_owned(),
            y_label: "filter".to_owned(),
            series: if there.is_empty() { Vec::new() } else { vec![series] },
        }
    }
}

fn name_of(at: usize) -> String {
    COLUMN_NAMES.get(at).map_or("final reward", |name| *name).to_owned()
}

/// Filters are those so called, and diversity, which openvalidators 1.2.0 calls a reward model and uses as a filter.
fn is_filter(at: usize) -> bool {
    COLUMN_NAMES.get(at).is_some_and(|name| name.ends_with("_filter") || *name == "diversity_reward_model")
}

// === impl Moments, Together ===

impl Moments {
    fn add(&mut self, value: f64) {
        let first = self.count == 0;
        self.least = if first { value } else { self.least.min(value) };
        self.most = if first { value } else { self.most.max(value) };
        self.count += 1;
        self.sum += value;
    }
}

impl Together {
    fn add(&mut self, left: f64, right: f64) {
        self.count += 1.0;
        let before = [left - self.mean[0], right - self.mean[1]];
        self.mean[0] += before[0] / self.count;
        self.mean[1] += before[1] / self.count;
        let after = [left - self.mean[0], right - self.mean[1]];
        self.square[0] += before[0] * after[0];
        self.square[1] += before[1] * after[1];
        self.product += before[0] * after[1];
    }

    fn varies(&self) -> bool {
        self.square[0] > 0.0
    }

    fn correlation(&self) -> Option<f64> {
        let scale = (self.square[0] * self.square[1]).sqrt();
        (scale > 0.0).then(|| (self.product / scale).clamp(-1.0, 1.0))
    }
}
