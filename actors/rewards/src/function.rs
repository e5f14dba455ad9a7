//! What a reward function and a filter is.

use async_trait::async_trait;
use openvalidators_messages::inference::ModelName;

use crate::step::{AskError, Step};

/// Raw numbers of one column, aligned with [`Step::texts`]; `None` where there is no finite one.
pub type Values = Vec<Option<f32>>;

/// Says how good each text of a step is, on a scale of its own: the running normaliser makes shares of 0..=1 of it.
///
/// It keeps no state and sees no tensor; what it wants to know of a model it asks through the [`Step`].
#[async_trait(?Send)]
pub trait RewardFunction {
    /// The column's name, that of the reference.
    fn name(&self) -> &'static str;

    /// The models it asks, for the record.
    fn models(&self) -> Vec<ModelName>;

    /// One raw score for each text.
    async fn score(&self, step: &Step) -> Result<Values, AskError>;
}

/// Says which texts of a step may earn anything: 1 passes, 0 blocks, or a factor between.
#[async_trait(?Send)]
pub trait Filter {
    /// The column's name, that of the reference.
    fn name(&self) -> &'static str;

    /// The models it asks, for the record.
    fn models(&self) -> Vec<ModelName> {
        Vec::new()
    }

    /// One factor for each text.
    async fn filter(&self, step: &Step) -> Result<Filtered, AskError>;
}

/// What a filter says about a step.
pub struct Filtered {
    /// One factor for each text.
    pub factors: Values,
    /// What the fold is to remember of them.
    pub memory: Option<Memory>,
}

/// Rows that the fold compares with the history, and remembers.
pub struct Memory {
    /// The encoder that made them.
    pub model: ModelName,
    /// Length of a row.
    pub width: usize,
    /// One for each text; `None` where there is nothing to remember.
    pub rows: Vec<Option<Vec<f32>>>,
}

// === impl Filtered ===

impl From<Values> for Filtered {
    fn from(factors: Values) -> Self {
        Self { factors, memory: None }
    }
}

/// 1 where it holds, 0 where it does not.
#[must_use]
pub fn pass(holds: bool) -> Option<f32> {
    Some(if holds { 1.0 } else { 0.0 })
}
