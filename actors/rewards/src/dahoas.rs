//! How much a completion is worth to a reward model because of its prompt: its score of both less its score of the
//! completion alone. What `reward/dahoas.py` of the reference means to do; there the checkpoint is never loaded, each
//! character is scored by itself, and every call fails.

use std::sync::Arc;

use async_trait::async_trait;
use openvalidators_messages::inference::{Composed, Input, ModelName, Overflow, Part};

use crate::{
    config::RewardModelConfig,
    function::{RewardFunction, Values},
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "dahoas_reward_model";

/// What the model was trained to see around a text. The score is that of the last token before the second.
const MARKERS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// The reward: the difference of two logits.
pub struct Dahoas {
    model: ModelName,
}

impl Dahoas {
    /// As configured.
    #[must_use]
    pub fn new(config: &RewardModelConfig) -> Self {
        Self { model: config.model.clone() }
    }
}

#[async_trait(?Send)]
impl RewardFunction for Dahoas {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        vec![self.model.clone()]
    }

    async fn score(&self, step: &Step) -> Result<Values, AskError> {
        let [opening, closing] = MARKERS.map(|marker| Part::Ours(marker.into()));
        let whole = |texts: &[&Arc<str>]| {
            let said = texts.iter().map(|&text| Part::Theirs(Arc::clone(text)));
            Input::Text(Composed([opening.clone()].into_iter().chain(said).chain([closing.clone()]).collect()))
        };
        let with_prompt = step.texts.iter().map(|text| whole(&[&step.prompt, text]));
        let alone = step.texts.iter().map(|text| whole(&[text]));
        let mut scores = step.judge(&self.model, with_prompt.chain(alone).collect(), Overflow::Whole).await?;
        let alone = scores.split_off(step.texts.len());
        Ok(scores.into_iter().zip(alone).map(|(both, alone)| Some(both? - alone?)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        neighbours::{Answers, failed, marked},
        samples::step,
    };

    #[actix::test]
    async fn the_score_alone_is_subtracted() {
        let classify = |input: &Input| {
            let Input::Text(text) = input else { panic!("{input:?}") };
            let logit = match &*marked(text) {
                "<|startoftext|>⟦Why? ⟧⟦So it is.⟧<|endoftext|>" => 2.5,
                "<|startoftext|>⟦So it is.⟧<|endoftext|>" => 1.0,
                "<|startoftext|>⟦Why? ⟧⟦⟧<|endoftext|>" => 0.25,
                "<|startoftext|>⟦⟧<|endoftext|>" => 0.5,
                _ => return Err(failed()),
            };
            Ok(vec![[logit].into()])
        };
        let neighbours = Answers { classify: Box::new(classify), ..Answers::default() }.neighbours();
        let texts = ["So it is.", " ", "another"].map(str::to_owned);
        let step = step("answer0", "Why? ", &texts, Config::default().admission(), &neighbours.inference);
        let scores = Dahoas::new(&Config::default().dahoas).score(&step).await.unwrap();
        assert_eq!(scores, [Some(1.5), Some(-0.25), None]);
        assert_eq!(neighbours.classifies.len(), 1, "one request, so that the device sees all texts at once");
    }
}
