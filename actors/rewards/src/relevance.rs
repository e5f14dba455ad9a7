//! Whether a completion is about the text it was asked about: the second stage of `reward/relevance.py`.
//!
//! The reference's first stage, a BERT without training for similarity, is left out: its bound passes nearly everything.

use async_trait::async_trait;
use openvalidators_messages::inference::ModelName;

use crate::{
    config::{Compat, RelevanceConfig},
    function::{Filter, Filtered, pass},
    history::dot,
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "relevance_filter";

/// Blocks completions whose embedding points elsewhere than the base text's.
pub struct Relevance {
    model: ModelName,
    threshold: f32,
    absolute: bool,
}

impl Relevance {
    /// As configured.
    #[must_use]
    pub fn new(config: &RelevanceConfig, compat: Compat) -> Self {
        Self { model: config.model.clone(), threshold: config.threshold, absolute: compat.relevance_absolute }
    }

    /// The reference takes the cosine's absolute value, so that the opposite of relevant is relevant.
    fn passes(&self, cosine: f32) -> bool {
        let similarity = if self.absolute { cosine.abs() } else { cosine };
        similarity >= self.threshold
    }
}

#[async_trait(?Send)]
impl Filter for Relevance {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        vec![self.model.clone()]
    }

    async fn filter(&self, step: &Step) -> Result<Filtered, AskError> {
        let embedded = step.embedded(&self.model).await?;
        let factor = |row: &Option<Vec<f32>>| pass(self.passes(dot(embedded.base_text.as_ref()?, row.as_ref()?)));
        Ok(embedded.texts.iter().map(factor).collect::<Vec<_>>().into())
    }
}
