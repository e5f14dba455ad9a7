//! Whether a completion is about the text it was asked about: `reward/relevance.py` of the reference, which asks BERT
//! first, then a sentence encoder.
//!
//! A BERT without training for similarity passes nearly everything at the reference's bound, so the local network leaves
//! that stage out.

use async_trait::async_trait;
use futures::future::try_join_all;
use openvalidators_messages::inference::{ModelName, Pooling};

use crate::{
    config::{Compat, Measure, RelevanceConfig, RelevanceStage},
    function::{Filter, Filtered, Values, pass},
    history::dot,
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "relevance_filter";

/// Blocks completions that one of its stages finds too far from the base text.
pub struct Relevance {
    stages: Vec<RelevanceStage>,
    absolute: bool,
}

impl Relevance {
    /// As configured.
    #[must_use]
    pub fn new(config: &RelevanceConfig, compat: Compat) -> Self {
        Self { stages: config.stages.clone(), absolute: compat.relevance_absolute }
    }

    /// How near one stage finds each text; `None` where its model gave no row.
    async fn nearness(&self, stage: &RelevanceStage, step: &Step) -> Result<Values, AskError> {
        let pooling = match stage.measure {
            Measure::Cosine => Pooling::MeanNormalised,
            Measure::NegativeRmse => Pooling::MeanOfWindows,
        };
        let embedded = step.embedded(&stage.model, pooling).await?;
        let nearness = |row: &Option<Vec<f32>>| Some(self.measure(stage, embedded.base_text.as_ref()?, row.as_ref()?));
        Ok(embedded.texts.iter().map(nearness).collect())
    }

    /// The reference takes the cosine's absolute value, so that the opposite of relevant is relevant.
    fn measure(&self, stage: &RelevanceStage, base_text: &[f32], text: &[f32]) -> f32 {
        match stage.measure {
            Measure::Cosine if self.absolute => dot(base_text, text).abs(),
            Measure::Cosine => dot(base_text, text),
            Measure::NegativeRmse => -root_mean_square(base_text, text),
        }
    }
}

/// The root of the mean squared difference.
fn root_mean_square(a: &[f32], b: &[f32]) -> f32 {
    let sum: f32 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (sum / a.len().max(1) as f32).sqrt()
}

#[async_trait(?Send)]
impl Filter for Relevance {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        self.stages.iter().map(|stage| stage.model.clone()).collect()
    }

    async fn filter(&self, step: &Step) -> Result<Filtered, AskError> {
        let found = try_join_all(self.stages.iter().map(|stage| self.nearness(stage, step))).await?;
        let factor = |text: usize| -> Option<f32> {
            let mut passes = true;
            for (stage, nearness) in self.stages.iter().zip(&found) {
                passes &= nearness[text]? >= stage.threshold;
            }
            pass(passes)
        };
        Ok((0..step.texts.len()).map(factor).collect::<Vec<_>>().into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        config::Config,
        neighbours::Answers,
        parity::{golden, numbers, texts},
        samples::step,
    };

    fn two_stages(bounds: [f32; 2]) -> RelevanceConfig {
        let stage =
            |model: &str, measure, threshold| RelevanceStage { model: ModelName::new(model), measure, threshold };
        let stages = vec![stage("bert", Measure::NegativeRmse, bounds[0]), stage("mpnet", Measure::Cosine, bounds[1])];
        RelevanceConfig { enabled: true, stages }
    }

    /// The first prompt is also among the completions, so its recorded embeddings are at hand.
    #[actix::test]
    async fn recorded_embeddings_become_the_recorded_decisions_of_both_stages() {
        let (inputs, recorded) = (golden("inputs"), golden("relevance"));
        let prompt = texts(&inputs["prompts"])[0].clone();
        let completions = texts(&inputs["completions"]);
        let rows = |list: &serde_json::Value| -> HashMap<String, Vec<f32>> {
            let row = |row| numbers(row).into_iter().flatten().collect();
            completions.iter().cloned().zip(list.as_array().unwrap().iter().map(row)).collect()
        };
        let bert = rows(&recorded["bert_embeddings"]);
        let bounds = numbers(&recorded["tight_bounds"]);
        let relevance = Relevance::new(&two_stages([bounds[0].unwrap(), bounds[1].unwrap()]), Compat::REFERENCE);
        let mut bert_distances = 0;
        for row in recorded["rows"].as_array().unwrap().iter().filter(|row| row["prompt"] == 0) {
            let text = &completions[row["completion"].as_u64().unwrap() as usize];
            let distance = -root_mean_square(&bert[&prompt], &bert[text]);
            assert!((f64::from(distance) - row["bert"].as_f64().unwrap()).abs() <= 2e-5, "{text}: {distance} {row}");
            bert_distances += 1;
        }
        assert_eq!(bert_distances, 21);

        let mpnet = rows(&golden("diversity_mpnet")["embeddings"]);
        let tight = numbers(&recorded["tight_reward"][0]);
        for (text, theirs) in completions.iter().zip(tight) {
            let pick = |rows: &HashMap<String, Vec<f32>>| [rows[&prompt].clone(), rows[text].clone()];
            let (bert, mpnet) = (pick(&bert), pick(&mpnet));
            // Texts are trimmed on their way: answer by their place instead.
            let calls = std::cell::Cell::new(0);
            let embed = move |_: &str| {
                let call = calls.replace(calls.get() + 1);
                [&bert, &mpnet][call / 2][call % 2].clone()
            };
            let neighbours = Answers { embed: Box::new(embed), ..Answers::default() }.neighbours();
            let step = step(
                "augment",
                &prompt,
                std::slice::from_ref(text),
                Config::default().admission(),
                &neighbours.inference,
            );
            assert_eq!(relevance.filter(&step).await.unwrap().factors, [theirs], "{text}");
            let asked: Vec<_> =
                neighbours.embeds.messages().iter().map(|ask| (ask.model.to_string(), ask.pooling)).collect();
            let expected = [("bert", Pooling::MeanOfWindows), ("mpnet", Pooling::MeanNormalised)];
            assert_eq!(asked, expected.map(|(model, pooling)| (model.to_owned(), pooling)));
        }
    }

    #[actix::test]
    async fn every_stage_must_pass_and_each_has_its_own_threshold() {
        let embed = |text: &str| match text {
            "near" => vec![1.0, 0.0],
            "far" => vec![0.0, 1.0],
            _ => vec![1.0, 0.1],
        };
        let neighbours = Answers { embed: Box::new(embed), ..Answers::default() }.neighbours();
        let texts = ["near", "far"].map(str::to_owned);
        for (bounds, expected) in [
            ([-0.1, 0.5], [1.0, 0.0]),
            ([-0.01, 0.5], [0.0, 0.0]),
            ([-1.0, 0.05], [1.0, 1.0]),
            ([-0.1, -1.0], [1.0, 0.0]),
        ] {
            let step = step("augment", "base", &texts, Config::default().admission(), &neighbours.inference);
            let relevance = Relevance::new(&two_stages(bounds), Compat::default());
            assert_eq!(relevance.filter(&step).await.unwrap().factors, expected.map(Some), "{bounds:?}");
        }
    }
}
