//! The control of comparisons: every admitted completion is worth the same, so that the filters alone decide. With
//! `constant_reward_model = 1.0` as the only weight and all filters off, nothing decides: what a comparison still shows
//! then comes from elsewhere.

use async_trait::async_trait;
use openvalidators_messages::inference::ModelName;

use crate::{
    function::{RewardFunction, Values},
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "constant_reward_model";

/// 1 for every text. Asks no model.
pub struct Constant;

#[async_trait(?Send)]
impl RewardFunction for Constant {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        Vec::new()
    }

    async fn score(&self, step: &Step) -> Result<Values, AskError> {
        Ok(vec![Some(1.0); step.texts.len()])
    }
}
