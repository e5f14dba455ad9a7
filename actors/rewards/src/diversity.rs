//! Whether a completion says anything that others have not said: `reward/diversity.py` of the reference.
//!
//! Two factors make the filter. *Within the step* a completion is compared with the others; that part is raw and
//! computed here. *Against the history* it is compared with what earlier steps remembered; that part needs state, so
//! the fold applies it to the rows this filter hands on ([`crate::fold`]).

use std::sync::Arc;

use async_trait::async_trait;
use openvalidators_messages::inference::{ModelName, Pooling};

use crate::{
    comparison::unconfused,
    config::{Compat, Defences, DiversityConfig},
    function::{Filter, Filtered, Memory, Values},
    history::{Smallest, distance},
    step::{AskError, Step},
};

/// The column. The reference counts it among the filters, whatever its name says.
pub const NAME: &str = "diversity_reward_model";

/// Blocks near repeats within a step, by degrees.
pub struct Diversity {
    model: ModelName,
    bottom_k: usize,
    batch_midpoint: f32,
    as_reference: bool,
    fold_lookalikes: bool,
}

/// How near the next completion of the step may be: 0.02 for a repeat, 0.5 at `midpoint`, 0.98 at twice that. With a
/// midpoint of 0.1 it is the reference's.
#[must_use]
pub fn batch_factor(distance: f32, midpoint: f32) -> f32 {
    logistic(4.0 * (distance / midpoint - 1.0))
}

/// How near the history may be: a step around distance 0.05, 0.01 wide.
#[must_use]
pub fn history_factor(distance: f32) -> f32 {
    logistic(1000.0 * distance - 50.0)
}

/// The factor within a step of each unit row: from the distance to its `k`-th nearest, itself being the first. A row
/// without so many neighbours repeats nobody and gets 1. (With `k` = 2 the reference fails on a lone completion, and
/// the validator ends.)
///
/// Only neighbours that had `arrived` (in seconds, by our own clock) no later count: who copies has to wait for what it
/// copies. The reference compares with all, so that being copied costs as much as copying; equal times do that.
#[must_use]
pub fn batch_factors(rows: &[Option<Vec<f32>>], arrived: &[f64], k: usize, midpoint: f32) -> Vec<Option<f32>> {
    let factor = |(row, since): (&Option<Vec<f32>>, &f64)| {
        let row = row.as_ref()?;
        let mut nearest = Smallest::new(k);
        let earlier = rows.iter().zip(arrived).filter(|(_, other)| *other <= since);
        earlier.filter_map(|(other, _)| other.as_ref()).for_each(|other| nearest.offer(distance(row, other)));
        Some(nearest.kth().map_or(1.0, |distance| batch_factor(distance, midpoint)))
    };
    rows.iter().zip(arrived).map(factor).collect()
}

fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

// === impl Diversity ===

impl Diversity {
    /// As configured.
    #[must_use]
    pub fn new(config: &DiversityConfig, compat: Compat, defences: Defences) -> Self {
        let DiversityConfig { model, bottom_k, batch_midpoint, .. } = config.clone();
        let (as_reference, fold_lookalikes) = (compat.diversity_reference, defences.fold_lookalikes);
        Self { model, bottom_k, batch_midpoint, as_reference, fold_lookalikes }
    }

    /// The rows of the texts, those in disguise without it: a copy with look-alike letters is near what it copies. The model is
    /// asked again for these alone.
    async fn rows(&self, step: &Step) -> Result<(usize, Vec<Option<Vec<f32>>>), AskError> {
        let embedded = step.embedded(&self.model, Pooling::MeanNormalised).await?;
        let mut rows = embedded.texts.clone();
        if self.fold_lookalikes {
            let plain = |(place, text): (usize, &Arc<str>)| {
                let plain = unconfused(text);
                (*plain != **text && !plain.trim().is_empty()).then(|| (place, Arc::from(&*plain)))
            };
            let (places, texts): (Vec<usize>, Vec<Arc<str>>) = step.texts.iter().enumerate().filter_map(plain).unzip();
            let plain = step.embed_others(&self.model, texts).await?;
            for (place, row) in places.into_iter().zip(plain) {
                // Another width would be another model's.
                rows[place] = row.filter(|row| row.len() == embedded.width);
            }
        }
        Ok((embedded.width, rows))
    }

    /// The factors within a step of texts with these rows, of which some are `silent`, as they `arrived`
    /// ([`batch_factors`]). Silent ones get 0.
    #[must_use]
    pub fn factors(&self, rows: &[Option<Vec<f32>>], silent: &[bool], arrived: &[f64]) -> Values {
        let at_once = vec![0.0; rows.len()];
        let arrived = if self.as_reference { &at_once } else { arrived };
        let factors = batch_factors(rows, arrived, self.bottom_k, self.batch_midpoint).into_iter().zip(silent);
        let is_silent = |silent: bool| silent && !self.as_reference;
        factors.map(|(factor, &silent)| if is_silent(silent) { Some(0.0) } else { factor }).collect()
    }
}

#[async_trait(?Send)]
impl Filter for Diversity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        vec![self.model.clone()]
    }

    /// Empty texts say nothing: they get 0, are no neighbours to anyone, and are not remembered.
    async fn filter(&self, step: &Step) -> Result<Filtered, AskError> {
        let (width, rows) = self.rows(step).await?;
        let silent: Vec<bool> = step.texts.iter().map(|text| text.is_empty() && !self.as_reference).collect();
        let heard = |(row, silent): (Option<Vec<f32>>, &bool)| row.filter(|_| !silent);
        let rows: Vec<_> = rows.into_iter().zip(&silent).map(heard).collect();
        let factors = self.factors(&rows, &silent, &step.arrived);
        let memory = Memory { model: self.model.clone(), width, rows };
        Ok(Filtered { factors, memory: Some(memory) })
    }
}
