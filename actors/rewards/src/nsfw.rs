//! Whether a completion is hateful or indecent: `reward/nsfw.py` of the reference, which asks a RoBERTa trained on hate
//! speech.

use async_trait::async_trait;
use openvalidators_messages::inference::{Input, Logits, ModelName, Overflow};

use crate::{
    config::{Compat, NsfwConfig},
    function::{Filter, Filtered, pass},
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "nsfw_filter";

/// Blocks a completion when one window of it is harmful.
pub struct Nsfw {
    model: ModelName,
    boundary: f32,
    overflow: Overflow,
}

impl Nsfw {
    /// As configured.
    #[must_use]
    pub fn new(config: &NsfwConfig, compat: Compat) -> Self {
        let NsfwConfig { model, boundary, .. } = config.clone();
        let overflow = if compat.nsfw_bare_windows { Overflow::BareWindows } else { Overflow::Windows };
        Self { model, boundary, overflow }
    }

    /// `None` where the model said nothing finite. Each window has the logits of harmless and harmful; either can block.
    fn factor(&self, windows: &Logits) -> Option<f32> {
        let harm = |window: &[f32]| match window {
            [harmless, harmful] if harmless.is_finite() && harmful.is_finite() => Some(harmful.max(-harmless)),
            _ => None,
        };
        let harms = windows.iter().map(|window| harm(window)).collect::<Option<Vec<f32>>>()?;
        pass(harms.iter().all(|&harm| harm <= self.boundary))
    }
}

#[async_trait(?Send)]
impl Filter for Nsfw {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        vec![self.model.clone()]
    }

    async fn filter(&self, step: &Step) -> Result<Filtered, AskError> {
        let texts = step.texts.iter().map(|text| Input::Text(text.clone().into())).collect();
        let logits = step.classify(&self.model, texts, self.overflow, 2).await?;
        Ok(logits.iter().map(|windows| self.factor(windows.as_ref()?)).collect::<Vec<_>>().into())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use super::*;
    use crate::{
        config::Config,
        neighbours::{Answers, failed, written},
        parity::{golden, texts},
        samples::step,
    };

    async fn factors(
        compat: Compat,
        logits: HashMap<String, Logits>,
        texts: &[String],
    ) -> (Overflow, Vec<Option<f32>>) {
        let classify = move |input: &Input| match input {
            Input::Text(text) => logits.get(&written(text)).cloned().ok_or_else(failed),
            Input::Pair(..) => panic!("{input:?}"),
        };
        let neighbours = Answers { classify: Box::new(classify), ..Answers::default() }.neighbours();
        let step = step("augment", "p", texts, Config::default().admission(), &neighbours.inference);
        let found = Nsfw::new(&Config::default().nsfw, compat).filter(&step).await.unwrap();
        (neighbours.classifies.messages()[0].overflow, found.factors)
    }

    #[actix::test]
    async fn recorded_logits_become_the_recorded_decisions() {
        let recorded = golden("nsfw_roberta");
        let mut completions = texts(&golden("inputs")["completions"]);
        completions.push(recorded["extra_completion"].as_str().unwrap().to_owned());
        let rows = recorded["rows"].as_array().unwrap();
        let mut decided = HashMap::new();
        for row in rows {
            let text = &completions[row["completion"].as_u64().unwrap() as usize];
            let windows: Vec<Arc<[f32]>> = serde_json::from_value(row["chunk_logits"].clone()).unwrap();
            // The recording has texts untrimmed; what is decided of their logits is the same.
            let known = HashMap::from([(text.trim().to_owned(), windows)]);
            let (overflow, found) = factors(Compat::REFERENCE, known, std::slice::from_ref(text)).await;
            assert_eq!(
                (overflow, found[0]),
                (Overflow::BareWindows, row["reward"]["ok"].as_f64().map(|n| n as f32)),
                "{text}"
            );
            *decided.entry(found[0] == Some(1.0)).or_insert(0) += 1;
        }
        assert_eq!(decided, HashMap::from([(true, 4), (false, 18)]));
    }

    #[actix::test]
    async fn one_harmful_window_blocks_and_what_is_not_finite_decides_nothing() {
        let harmless: Arc<[f32]> = [2.0, -2.0].into();
        let harmful: Arc<[f32]> = [2.0, 0.1].into();
        let logits = HashMap::from([
            ("good".to_owned(), vec![harmless.clone(); 3]),
            ("late".to_owned(), vec![harmless.clone(), harmful]),
            ("torn".to_owned(), vec![[0.1, -2.0].into()]),
            ("none".to_owned(), vec![harmless, [f32::NAN, -2.0].into()]),
        ]);
        let texts = ["good", "late", "torn", "none", "cursed"].map(str::to_owned);
        let (overflow, found) = factors(Compat::default(), logits, &texts).await;
        assert_eq!((overflow, found), (Overflow::Windows, vec![Some(1.0), Some(0.0), Some(0.0), None, None]));
    }
}
