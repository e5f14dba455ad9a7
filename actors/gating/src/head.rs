//! The gating head of openvalidators 1.2.0: a linear layer from a prompt's embedding to one score for each miner. Pure.
//!
//! Training is that of `gating.py:backward`: softmax over the scores of the miners asked, softmax over their rewards, the
//! mean squared error of the two, then SGD with momentum (Sutskever et al. 2013, as `torch.optim.SGD` has it). The
//! reference never clears its gradients, so each step descends along the sum of all gradients since the start; that form
//! is kept behind `gating.compat.accumulate_gradients`.
//!
//! The derivative is four lines, so there is no tensor library: plain f32 in a fixed order gives the same bits everywhere.
//!
//! Rows belong to hotkeys. A hotkey that takes a uid over begins with a row of its own and no momentum
//! (`utils.py:resync_linear_layer`: Xavier uniform, bias zero), and the row of who held it before goes.

use std::collections::BTreeMap;

use openvalidators_messages::{Hotkey, Uid};
use openvalidators_runtime::Seed;
use rand::Rng;

/// How the head learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// Step size.
    pub learning_rate: f32,
    /// Share of its velocity a parameter keeps from step to step.
    pub momentum: f32,
    /// Never clear gradients, as openvalidators 1.2.0.
    pub accumulate_gradients: bool,
}

/// The layer and the state of its optimiser.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    width: usize,
    rows: BTreeMap<Hotkey, Row>,
    seats: BTreeMap<Uid, Hotkey>,
}

/// What belongs to one hotkey: `width` weights and the bias; velocity and gradient in the same order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) uid: Uid,
    pub(crate) parameters: Vec<f32>,
    pub(crate) velocity: Vec<f32>,
    /// All gradients so far; used only by [`Training::accumulate_gradients`], empty otherwise.
    pub(crate) gradient: Vec<f32>,
}

/// A step that taught the head nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTrained {
    /// The embedding is of another length, or holds what is no number.
    #[error("the embedding has {found} numbers, or some that are not finite; the head takes {width} finite ones")]
    Embedding {
        /// Its length.
        found: usize,
        /// The head's.
        width: usize,
    },
    /// Nobody was asked, or rewards and miners are not as many.
    #[error("{asked} miners asked and {rewards} rewards")]
    Rewards {
        /// Miners.
        asked: usize,
        /// Rewards.
        rewards: usize,
    },
    /// The loss is no number: the rows asked have run away. They begin anew.
    #[error("the loss is not finite; the rows that made it so begin anew")]
    Loss,
}

// === impl Head ===

impl Head {
    /// A layer without rows, for embeddings of `width` numbers.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// Numbers of an embedding.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many hotkeys have a row.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nobody has a row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Gives `hotkey` at `uid` a row unless it has one; whoever held the place before loses its own.
    pub fn seat(&mut self, uid: Uid, hotkey: Hotkey) {
        let held = self.seats.insert(uid, hotkey);
        if let Some(old) = held.filter(|old| *old != hotkey)
            && self.rows.get(&old).is_some_and(|row| row.uid == uid)
        {
            self.rows.remove(&old);
        }
        let width = self.width;
        let row = self.rows.entry(hotkey).or_insert_with(|| Row::fresh(uid, &hotkey, width));
        if row.uid != uid {
            // It has registered again and sits elsewhere now.
            let left = std::mem::replace(&mut row.uid, uid);
            self.seats.retain(|seat, holder| *seat != left || *holder != hotkey);
        }
    }

    /// Gives `hotkey` at `uid` a row that was learned elsewhere, weights first and the bias last; it has no velocity. `false`
    /// and nothing else where it is of another length, or holds what is no number.
    pub fn seat_with(&mut self, uid: Uid, hotkey: Hotkey, parameters: Vec<f32>) -> bool {
        if parameters.len() != self.width + 1 || !parameters.iter().all(|value| value.is_finite()) {
            return false;
        }
        self.seat(uid, hotkey);
        let velocity = vec![0.0; parameters.len()];
        self.rows.insert(hotkey, Row { uid, parameters, velocity, gradient: Vec::new() });
        true
    }

    /// Takes a hotkey's row away, if it has one.
    pub fn unseat(&mut self, hotkey: &Hotkey) {
        if let Some(row) = self.rows.remove(hotkey) {
            self.seats.remove(&row.uid);
        }
    }

    /// The score of a hotkey for a prompt; `None` without a row, or for an embedding of another width.
    #[must_use]
    pub fn score(&self, hotkey: &Hotkey, embedding: &[f32]) -> Option<f32> {
        self.rows.get(hotkey).filter(|_| embedding.len() == self.width).map(|row| row.score(embedding))
    }

    /// One step of training, on the miners asked and their final rewards. Each of them gets a row first. Returns the loss
    /// before the step, as the reference logs it.
    ///
    /// # Errors
    /// [`NotTrained`]; no row has learned anything then.
    pub fn train(
        &mut self,
        rules: Training,
        embedding: &[f32],
        asked: &[(Uid, Hotkey)],
        rewards: &[f32],
    ) -> Result<f32, NotTrained> {
        if embedding.len() != self.width || !embedding.iter().all(|value| value.is_finite()) {
            return Err(NotTrained::Embedding { found: embedding.len(), width: self.width });
        }
        if asked.is_empty() || asked.len() != rewards.len() {
            return Err(NotTrained::Rewards { asked: asked.len(), rewards: rewards.len() });
        }
        asked.iter().for_each(|(uid, hotkey)| self.seat(*uid, *hotkey));
        let scores: Vec<f32> = asked.iter().filter_map(|(_, hotkey)| self.score(hotkey, embedding)).collect();
        let (loss, slopes) = loss_and_slopes(&scores, rewards);
        if !loss.is_finite() || slopes.len() != asked.len() || !slopes.iter().all(|slope| slope.is_finite()) {
            asked.iter().for_each(|(_, hotkey)| self.renew_if_lost(hotkey, embedding));
            return Err(NotTrained::Loss);
        }
        let slope_of: BTreeMap<Hotkey, f32> =
            asked.iter().zip(&slopes).map(|((_, key), slope)| (*key, *slope)).collect();
        for (hotkey, row) in &mut self.rows {
            row.descend(rules, slope_of.get(hotkey).copied(), embedding);
        }
        Ok(loss)
    }

    fn renew_if_lost(&mut self, hotkey: &Hotkey, embedding: &[f32]) {
        if let Some(row) = self.rows.get_mut(hotkey).filter(|row| !row.score(embedding).is_finite()) {
            *row = Row::fresh(row.uid, hotkey, self.width);
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Hotkey, &Row)> {
        self.rows.iter()
    }

    pub(crate) fn from_rows(width: usize, rows: BTreeMap<Hotkey, Row>) -> Self {
        let seats = rows.iter().map(|(hotkey, row)| (row.uid, *hotkey)).collect();
        Self { width, rows, seats }
    }
}

/// Mean squared error of softmax(scores) and softmax(rewards), and its derivative by each score.
fn loss_and_slopes(scores: &[f32], rewards: &[f32]) -> (f32, Vec<f32>) {
    let (ours, wanted) = (softmax(scores), softmax(rewards));
    let differences: Vec<f32> = ours.iter().zip(&wanted).map(|(ours, wanted)| ours - wanted).collect();
    let share = 1.0 / scores.len() as f32;
    let loss = differences.iter().map(|difference| difference * difference).sum::<f32>() * share;
    let by_share: Vec<f32> = differences.iter().map(|difference| 2.0 * difference * share).collect();
    let mean: f32 = ours.iter().zip(&by_share).map(|(ours, slope)| ours * slope).sum();
    (loss, ours.iter().zip(&by_share).map(|(ours, slope)| ours * (slope - mean)).collect())
}

fn softmax(values: &[f32]) -> Vec<f32> {
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let raised: Vec<f32> = values.iter().map(|value| libm::expf(value - most)).collect();
    let sum: f32 = raised.iter().sum();
    raised.iter().map(|value| value / sum).collect()
}

// === impl Row ===

impl Row {
    /// Follows from hotkey and width alone, so that folding the ledger again begins with the same.
    fn fresh(uid: Uid, hotkey: &Hotkey, width: usize) -> Self {
        let (parts, _) = hotkey.0.as_chunks::<8>();
        let path: Vec<u64> = parts.iter().map(|part| u64::from_le_bytes(*part)).collect();
        let mut rng = Seed(0).rng("gating/row", &path);
        let bound = (6.0 / (width as f32 + 1.0)).sqrt();
        let mut parameters: Vec<f32> = (0..width).map(|_| rng.random_range(-bound..=bound)).collect();
        parameters.push(0.0);
        Self { uid, velocity: vec![0.0; width + 1], gradient: Vec::new(), parameters }
    }

    fn score(&self, embedding: &[f32]) -> f32 {
        // The bias has no number in the embedding.
        let weighted: f32 = self.parameters.iter().zip(embedding).map(|(weight, value)| weight * value).sum();
        weighted + self.parameters.last().copied().unwrap_or_default()
    }

    /// `slope` is the derivative of the loss by this row's score; none for a miner that was not asked.
    fn descend(&mut self, rules: Training, slope: Option<f32>, embedding: &[f32]) {
        let slope = slope.unwrap_or(0.0);
        let fresh = embedding.iter().chain(&[1.0]).map(|value| slope * value);
        if rules.accumulate_gradients {
            self.gradient.resize(self.parameters.len(), 0.0);
            self.gradient.iter_mut().zip(fresh).for_each(|(sum, gradient)| *sum += gradient);
            let gradients = self.gradient.iter().copied();
            step(rules, &mut self.parameters, &mut self.velocity, gradients);
        } else {
            self.gradient.clear();
            step(rules, &mut self.parameters, &mut self.velocity, fresh);
        }
    }
}

fn step(rules: Training, parameters: &mut [f32], velocity: &mut [f32], gradients: impl Iterator<Item = f32>) {
    for ((parameter, velocity), gradient) in parameters.iter_mut().zip(velocity).zip(gradients) {
        *velocity = rules.momentum * *velocity + gradient;
        *parameter -= rules.learning_rate * *velocity;
    }
}

#[cfg(test)]
mod tests;
