//! What a reward model trained on human preferences says of prompt and completion: `reward/open_assistant.py` of the
//! reference, which asks OpenAssistant's DeBERTa-v3-large.

use async_trait::async_trait;
use openvalidators_messages::inference::{Composed, Input, ModelName, Overflow};

use crate::{
    config::RewardModelConfig,
    function::{RewardFunction, Values},
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "rlhf_reward_model";

/// The reward: one logit for the pair of prompt and completion.
pub struct Rlhf {
    model: ModelName,
}

impl Rlhf {
    /// As configured.
    #[must_use]
    pub fn new(config: &RewardModelConfig) -> Self {
        Self { model: config.model.clone() }
    }
}

#[async_trait(?Send)]
impl RewardFunction for Rlhf {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        vec![self.model.clone()]
    }

    async fn score(&self, step: &Step) -> Result<Values, AskError> {
        let prompt = Composed::from(step.prompt.clone());
        let pairs = step.texts.iter().map(|text| Input::Pair(prompt.clone(), text.clone().into())).collect();
        step.judge(&self.model, pairs, Overflow::Whole).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        config::Config,
        neighbours::{Answers, failed, marked},
        parity::{golden, numbers, texts},
        samples::step,
    };

    /// The logits are the inference crate's to match; here it is what they are asked about.
    #[actix::test]
    async fn a_recorded_logit_is_the_recorded_reward() {
        let inputs = golden("inputs");
        let (prompts, completions) = (texts(&inputs["prompts"]), texts(&inputs["completions"]));
        let recorded = golden("rlhf_deberta");
        for (row, prompt) in recorded["matrix"].as_array().unwrap().iter().zip(&prompts) {
            let logits = numbers(&row["rewards"]);
            let known: HashMap<String, Option<f32>> =
                completions.iter().map(|text| text.trim().to_owned()).zip(logits).collect();
            let expected: Vec<_> = completions.iter().map(|text| known[text.trim()]).collect();
            let (opening, known) = (format!("⟦{prompt}⟧"), known);
            let classify = move |input: &Input| {
                let Input::Pair(question, answer) = input else { panic!("{input:?}") };
                assert_eq!(marked(question), opening);
                Ok(vec![[known[marked(answer).trim_matches(['⟦', '⟧'])].unwrap()].into()])
            };
            let neighbours = Answers { classify: Box::new(classify), ..Answers::default() }.neighbours();
            let step = step("augment", prompt, &completions, Config::default().admission(), &neighbours.inference);
            let reward = Rlhf::new(&Config::default().rlhf);
            assert_eq!(reward.score(&step).await.unwrap(), expected);
            assert_eq!(neighbours.classifies.messages()[0].overflow, Overflow::Whole);
        }
    }

    #[actix::test]
    async fn a_text_the_device_fails_on_costs_no_other_its_score() {
        let classify = |input: &Input| match input {
            Input::Pair(_, text) if marked(text) == "⟦cursed⟧" => Err(failed()),
            _ => Ok(vec![[1.5].into()]),
        };
        let neighbours = Answers { classify: Box::new(classify), ..Answers::default() }.neighbours();
        let texts = ["fine", "cursed"].map(str::to_owned);
        let step = step("augment", "p", &texts, Config::default().admission(), &neighbours.inference);
        assert_eq!(Rlhf::new(&Config::default().rlhf).score(&step).await.unwrap(), [Some(1.5), None]);
    }

    #[actix::test]
    async fn a_model_with_two_labels_is_no_reward_model() {
        let classify = Box::new(|_: &Input| Ok(vec![[0.5, 0.5].into()]));
        let neighbours = Answers { classify, ..Answers::default() }.neighbours();
        let step = step("augment", "p", &["t".to_owned()], Config::default().admission(), &neighbours.inference);
        let error = Rlhf::new(&Config::default().rlhf).score(&step).await.unwrap_err().to_string();
        assert!(error.contains("expected 1 logits for each input, found 2"), "{error}");
    }
}
