//! What each miner's completion of a prompt promises to be worth, from the steps remembered. Pure.
//!
//! For each hotkey a Bayesian linear regression of its rewards on the prompt's embedding, in its dual form: a Gaussian
//! process with a linear kernel (Rasmussen & Williams 2006, chapter 2), asked for the upper end of its doubt (contextual
//! GP-UCB, Krause & Ong 2011; with a linear kernel the same as LinUCB, Li et al. 2010). The dual form needs no matrix of
//! the embedding's width for each miner, only one of the few steps that asked it.
//!
//! * Two prompts are as alike as their embeddings, less the mean of the first ones, point the same way; every two are alike
//!   by a constant besides, which is the miner's standing whatever the prompt.
//! * Old steps count less: the doubt about a reward doubles with each half-life between it and the latest of the same miner
//!   (Bogunovic et al. 2016 forget in a like manner). A miner that turns bad is believed to be.
//! * A hotkey nobody has asked promises the mean of all, with the largest doubt.

use std::{
    collections::{BTreeMap, VecDeque},
    iter::Sum,
    ops::{AddAssign, Mul},
};

use openvalidators_messages::{Block, Hotkey};

/// Latest steps of one hotkey that its regression is over: what it costs grows with their cube.
pub const OBSERVATIONS: usize = 96;
/// Prior variance of a miner's standing, and of what a prompt makes of it, by the variance of all rewards.
const PRIOR_STANDING: f64 = 1.0;
const PRIOR_PROMPT: f64 = 1.0;
/// Variance of a fresh reward about what the regression would say, likewise.
const NOISE: f64 = 0.3;
/// Rewards that differ by no more than this, as a variance, are all the same.
const LEAST_VARIANCE: f64 = 1e-12;
/// Half-lives beyond which a reward is no less believed: numbers stay finite.
const MOST_HALF_LIVES: f64 = 20.0;

/// How much is remembered, and how fast it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Latest steps remembered.
    pub steps: usize,
    /// Steps with which forecasts begin, and whose mean embedding is the middle from then on.
    pub warm_up_steps: usize,
    /// Blocks in which the doubt about a reward doubles.
    pub half_life_blocks: u64,
}

/// The latest steps, as far as forecasts need them.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    width: usize,
    /// Mean embedding of the first steps; none while they are fewer than the warm-up.
    centre: Option<Vec<f32>>,
    steps: VecDeque<Remembered>,
    /// The number of the oldest step remembered; they are counted from 0.
    first: u64,
    miners: BTreeMap<Hotkey, Observed>,
}

/// One step.
#[derive(Clone, Debug)]
struct Remembered {
    block: Block,
    /// The embedding as it came, before there is a centre; then what is left of it without the centre, of length 1.
    row: Vec<f32>,
    /// Likeness to itself and the steps before it, latest first; empty before there is a centre.
    alike: Vec<f32>,
    rewards: Vec<(Hotkey, f32)>,
}

/// The latest rewards of one hotkey, by number of the step, oldest first.
#[derive(Clone, Debug, Default)]
struct Observed {
    rewards: VecDeque<(u64, f32)>,
    regression: Option<Regression>,
}

/// What is the same for every prompt: solved anew when the rewards it is over change.
#[derive(Clone, Debug)]
struct Regression {
    /// Lower triangle of the Cholesky factor of kernel plus noise, row after row.
    factor: Vec<f64>,
    /// The inverse of kernel plus noise, times the rewards and times ones: any mean may be taken off the rewards later.
    of_rewards: Vec<f64>,
    of_ones: Vec<f64>,
}

/// What a hotkey promises for a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// The expected reward.
    pub mean: f64,
    /// Standard deviation of the doubt about it.
    pub doubt: f64,
    /// Rewards it is made from.
    pub observations: usize,
}

// === impl Memory ===

impl Memory {
    /// Nothing yet, for embeddings of `width` numbers.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// Steps remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether no step is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Numbers of an embedding.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether forecasts can be made.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.centre.is_some()
    }

    /// Takes a step in; the oldest goes when there are too many. An embedding of another width, or one that is not finite,
    /// is left out.
    pub fn remember(&mut self, rules: Rules, block: Block, embedding: &[f32], rewards: Vec<(Hotkey, f32)>) {
        if embedding.len() != self.width || !embedding.iter().all(|value| value.is_finite()) {
            return;
        }
        let number = self.first + self.steps.len() as u64;
        for (hotkey, reward) in &rewards {
            self.miners.entry(*hotkey).or_default().take(number, *reward);
        }
        let (row, alike) = match &self.centre {
            Some(centre) => {
                let row = turned(embedding, centre);
                let alike = self.alike(&row);
                (row, alike)
            }
            None => (embedding.to_vec(), Vec::new()),
        };
        self.steps.push_back(Remembered { block, row, alike, rewards });
        if self.centre.is_none() && self.steps.len() >= rules.warm_up_steps.max(1) {
            self.find_centre();
        }
        while self.steps.len() > rules.steps.max(1) {
            self.forget_oldest();
        }
    }

    /// What each of `hotkeys` promises for a prompt; `None` while too little is remembered or the embedding is no such.
    ///
    /// All promise exactly the same while all rewards are the same.
    pub fn forecast(&mut self, rules: Rules, embedding: &[f32], hotkeys: &[Hotkey]) -> Option<Vec<Forecast>> {
        if embedding.len() != self.width || !embedding.iter().all(|value| value.is_finite()) {
            return None;
        }
        let row = turned(embedding, self.centre.as_ref()?);
        let (mean, variance) = self.rewards();
        if variance < LEAST_VARIANCE {
            let observations = |hotkey| self.miners.get(hotkey).map_or(0, |observed| observed.rewards.len());
            let alike = |hotkey| Forecast { mean, doubt: 0.0, observations: observations(hotkey) };
            return Some(hotkeys.iter().map(alike).collect());
        }
        // From the latest step backwards, as `alike` counts.
        let mut alike = self.alike(&row);
        alike.remove(0);
        alike.reverse();
        let doubt = (variance * (PRIOR_STANDING + PRIOR_PROMPT)).sqrt();
        let unknown = Forecast { mean, doubt, observations: 0 };
        let (steps, first) = (&self.steps, self.first);
        let forecasts = hotkeys.iter().map(|hotkey| match self.miners.get_mut(hotkey) {
            Some(observed) if !observed.rewards.is_empty() => {
                let Observed { rewards, regression } = observed;
                let regression = regression.get_or_insert_with(|| Regression::over(rules, rewards, steps, first));
                let likeness = rewards.iter().map(|(number, _)| kernel(alike[(number - first) as usize]));
                regression.forecast(likeness.collect(), mean, variance)
            }
            _ => unknown,
        });
        Some(forecasts.collect())
    }

    /// Forgets a hotkey.
    pub fn forget(&mut self, hotkey: &Hotkey) {
        if self.miners.remove(hotkey).is_some() {
            self.steps.iter_mut().for_each(|step| step.rewards.retain(|(found, _)| found != hotkey));
        }
    }

    /// Mean and variance of all rewards that forecasts are made from.
    fn rewards(&self) -> (f64, f64) {
        let all = || self.miners.values().flat_map(|miner| &miner.rewards).map(|(_, reward)| f64::from(*reward));
        let count = all().count().max(1) as f64;
        let mean = all().sum::<f64>() / count;
        (mean, all().map(|reward| (reward - mean) * (reward - mean)).sum::<f64>() / count)
    }

    /// Likeness of a turned row to itself and every step remembered, latest first.
    fn alike(&self, row: &[f32]) -> Vec<f32> {
        std::iter::once(dot(row, row)).chain(self.steps.iter().rev().map(|step| dot(row, &step.row))).collect()
    }

    fn find_centre(&mut self) {
        let mut centre = vec![0.0_f32; self.width];
        for step in &self.steps {
            centre.iter_mut().zip(&step.row).for_each(|(sum, value)| *sum += value);
        }
        centre.iter_mut().for_each(|sum| *sum /= self.steps.len() as f32);
        self.set_centre(centre);
    }

    fn set_centre(&mut self, centre: Vec<f32>) {
        let steps = std::mem::take(&mut self.steps);
        for mut step in steps {
            step.row = turned(&step.row, &centre);
            step.alike = self.alike(&step.row);
            self.steps.push_back(step);
        }
        self.centre = Some(centre);
    }

    fn forget_oldest(&mut self) {
        let Some(step) = self.steps.pop_front() else { return };
        for (hotkey, _) in &step.rewards {
            if let Some(observed) = self.miners.get_mut(hotkey) {
                observed.leave(self.first);
                if observed.rewards.is_empty() {
                    self.miners.remove(hotkey);
                }
            }
        }
        self.first += 1;
    }

    pub(crate) fn centre(&self) -> Option<&[f32]> {
        self.centre.as_deref()
    }

    /// Block, row and rewards of each step, oldest first.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (Block, &[f32], &[(Hotkey, f32)])> {
        self.steps.iter().map(|step| (step.block, &*step.row, &*step.rewards))
    }

    /// What [`Self::centre`] and [`Self::steps`] told.
    pub(crate) fn restore(
        width: usize,
        centre: Option<Vec<f32>>,
        steps: impl Iterator<Item = (Block, Vec<f32>, Vec<(Hotkey, f32)>)>,
    ) -> Self {
        let mut memory = Self { width, centre, ..Self::default() };
        for (number, (block, row, rewards)) in (0..).zip(steps) {
            for (hotkey, reward) in &rewards {
                memory.miners.entry(*hotkey).or_default().take(number, *reward);
            }
            // Rows were turned before they were written down.
            let alike = if memory.centre.is_some() { memory.alike(&row) } else { Vec::new() };
            memory.steps.push_back(Remembered { block, row, alike, rewards });
        }
        memory
    }
}

// === impl Observed ===

impl Observed {
    fn take(&mut self, number: u64, reward: f32) {
        self.regression = None;
        self.rewards.push_back((number, reward));
        if self.rewards.len() > OBSERVATIONS {
            self.rewards.pop_front();
        }
    }

    fn leave(&mut self, number: u64) {
        if self.rewards.front().is_some_and(|(oldest, _)| *oldest == number) {
            self.regression = None;
            self.rewards.pop_front();
        }
    }
}

// === impl Regression ===

impl Regression {
    /// Cholesky's decomposition, row by row.
    fn over(rules: Rules, rewards: &VecDeque<(u64, f32)>, steps: &VecDeque<Remembered>, first: u64) -> Self {
        let step = |number: u64| &steps[(number - first) as usize];
        let latest = rewards.back().map_or(0, |(number, _)| step(*number).block.0);
        let half_life = rules.half_life_blocks.max(1) as f64;
        let mut factor: Vec<f64> = Vec::with_capacity(rewards.len() * (rewards.len() + 1) / 2);
        for (row, (number, _)) in rewards.iter().enumerate() {
            let step = step(*number);
            let half_lives = latest.saturating_sub(step.block.0) as f64 / half_life;
            let noise = NOISE * half_lives.min(MOST_HALF_LIVES).exp2();
            let begin = factor.len();
            for (column, (earlier, _)) in rewards.iter().enumerate().take(row + 1) {
                let at = column * (column + 1) / 2;
                let known = dot(&factor[begin..begin + column], &factor[at..at + column]);
                let left = kernel(step.alike[(number - earlier) as usize]) - known;
                let entry =
                    if column == row { (left + noise).max(NOISE * 1e-6).sqrt() } else { left / factor[at + column] };
                factor.push(entry);
            }
        }
        let of_rewards = solve(&factor, rewards.iter().map(|(_, reward)| f64::from(*reward)).collect());
        let of_ones = solve(&factor, vec![1.0; rewards.len()]);
        Self { factor, of_rewards, of_ones }
    }

    fn forecast(&self, likeness: Vec<f64>, mean: f64, variance: f64) -> Forecast {
        let by_rewards = dot(&likeness, &self.of_rewards);
        let by_ones = dot(&likeness, &self.of_ones);
        let known: f64 = forward(&self.factor, likeness).iter().map(|value| value * value).sum();
        let unknown = (PRIOR_STANDING + PRIOR_PROMPT - known).max(0.0);
        Forecast {
            mean: mean * (1.0 - by_ones) + by_rewards,
            doubt: (variance * unknown).sqrt(),
            observations: self.of_ones.len(),
        }
    }
}

/// Solves `L·x = b`.
fn forward(factor: &[f64], mut b: Vec<f64>) -> Vec<f64> {
    for row in 0..b.len() {
        let at = row * (row + 1) / 2;
        let known = dot(&factor[at..at + row], &b[..row]);
        b[row] = (b[row] - known) / factor[at + row];
    }
    b
}

/// Solves `L·Lᵀ·x = b`.
fn solve(factor: &[f64], b: Vec<f64>) -> Vec<f64> {
    let mut x = forward(factor, b);
    for row in (0..x.len()).rev() {
        let at = row * (row + 1) / 2;
        x[row] /= factor[at + row];
        let found = x[row];
        x[..row].iter_mut().zip(&factor[at..at + row]).for_each(|(x, factor)| *x -= factor * found);
    }
    x
}

fn kernel(alike: f32) -> f64 {
    PRIOR_STANDING + PRIOR_PROMPT * f64::from(alike)
}

/// What is left of a row without the centre, of length 1; nothing where nothing is left.
fn turned(row: &[f32], centre: &[f32]) -> Vec<f32> {
    let left: Vec<f32> = row.iter().zip(centre).map(|(value, centre)| value - centre).collect();
    let length = dot(&left, &left).sqrt();
    if length > 0.0 && length.is_finite() {
        left.iter().map(|value| value / length).collect()
    } else {
        vec![0.0; row.len()]
    }
}

/// In eight sums side by side: always in the same order, and quick.
fn dot<T: Copy + Default + AddAssign + Mul<Output = T> + Sum>(a: &[T], b: &[T]) -> T {
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [T::default(); 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.into_iter().chain(rest_a.iter().zip(rest_b).map(|(a, b)| *a * *b)).sum()
}

#[cfg(test)]
mod tests;
