//! The grade, 0 to 10, that a language model gives a completion when it is asked for one: `reward/prompt.py` of the
//! reference, which asks an Open LLaMA 7B.
//!
//! The reference stops the model after a second of its own clock, so that a busy machine scores 0; here the two tokens
//! are always waited for.

mod template;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use openvalidators_messages::{StepKind, inference::ModelName};
pub(crate) use template::Filled;
pub use template::{Template, TemplateError};

use crate::{
    config::{Compat, PromptConfig, PromptTemplates},
    function::{RewardFunction, Values},
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "prompt_reward_model";

/// Tokens the model may write: enough for `10`.
const NEW_TOKENS: usize = 2;

/// The highest grade.
pub const BEST_GRADE: u8 = 10;

/// The reward: a tenth of the grade.
pub struct Prompt {
    model: ModelName,
    templates: Templates,
    as_reference: bool,
}

/// What a judge is asked, by kind of step.
pub struct Templates {
    augment: Template,
    followup: Template,
    answer: Template,
}

// === impl Templates ===

impl Templates {
    /// The operator's files, and ours where there is none.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn read(files: &PromptTemplates) -> Result<Self, TemplateError> {
        let read = |file: &Option<PathBuf>, ours: &str| Template::read(file.as_deref(), ours);
        Ok(Self {
            augment: read(&files.augment, include_str!("../templates/augment.txt"))?,
            followup: read(&files.followup, include_str!("../templates/followup.txt"))?,
            answer: read(&files.answer, include_str!("../templates/answer.txt"))?,
        })
    }

    /// For this kind of step.
    #[must_use]
    pub fn of(&self, kind: StepKind) -> &Template {
        match kind {
            StepKind::Augment => &self.augment,
            StepKind::Followup => &self.followup,
            StepKind::Answer => &self.answer,
        }
    }
}

// === impl Prompt ===

impl Prompt {
    /// As configured.
    ///
    /// # Errors
    /// When a file that replaces a template cannot be used.
    pub fn new(config: &PromptConfig, compat: Compat) -> Result<Self, TemplateError> {
        let templates = Templates::read(&config.templates)?;
        Ok(Self { model: config.model.clone(), templates, as_reference: compat.prompt_reference })
    }

    /// The template for this kind of step. The reference compares the step's whole name with `followup` and `answer`,
    /// and steps are called `followup0`, `answer3`.
    fn template(&self, kind: StepKind) -> Option<&Template> {
        (kind == StepKind::Augment || !self.as_reference).then(|| self.templates.of(kind))
    }
}

#[async_trait(?Send)]
impl RewardFunction for Prompt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn models(&self) -> Vec<ModelName> {
        vec![self.model.clone()]
    }

    /// 0 where the model writes no grade.
    async fn score(&self, step: &Step) -> Result<Values, AskError> {
        let Some(template) = self.template(step.kind) else { return Ok(vec![Some(0.0); step.texts.len()]) };
        let filled: Vec<_> =
            step.texts.iter().map(|text| template.fill(&step.prompt, text, self.as_reference)).collect();
        let asked = filled.iter().map(|filled| filled.composed.clone()).collect();
        let written = step.generate(&self.model, asked, NEW_TOKENS).await?;
        let reward = |(written, filled): (Option<Arc<str>>, &template::Filled)| {
            let continued = filled.continuation(&written?, self.as_reference).and_then(grade);
            Some(f32::from(continued.unwrap_or(0)) / f32::from(BEST_GRADE))
        };
        Ok(written.into_iter().zip(&filled).map(reward).collect())
    }
}

/// The first whole number from 0 to 10 that stands alone as a word, as `\b([0-9]|10)\b` finds it: 9 in `9.5`, none in `73`.
#[must_use]
pub fn grade(text: &str) -> Option<u8> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit())).find_map(|word| match word.len() {
        1 => word.parse().ok(),
        2 if word == "10" => Some(BEST_GRADE),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
