//! Texts that earn nothing because they were there before: stock phrases, the prompt or most of it, what this forward already
//! used. After `reward/blacklist.py` of the reference. The fold adds phrases that are overused from step to step
//! ([`crate::phrases`]).

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use openvalidators_runtime::on_worker;

use crate::{
    admission::folded,
    comparison::unconfused,
    config::{BlacklistConfig, Compat, Defences},
    echo,
    function::{Filter, Filtered, pass},
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "blacklist_filter";

/// Blocks stock phrases and repetitions.
pub struct Blacklist {
    phrases: Vec<String>,
    exact: bool,
    defences: Defences,
}

impl Blacklist {
    /// As configured.
    #[must_use]
    pub fn new(config: &BlacklistConfig, compat: Compat, defences: Defences) -> Self {
        Self { phrases: config.phrases.clone(), exact: compat.blacklist_exact, defences }
    }
}

/// The keys of everything that was said before. The reference knows the base text alone, not the prompt as sent, and
/// compares both untrimmed: a prompt that ends with a line break is repeated by nobody.
fn blocked(phrases: &[String], used: &[String], prompt: &str, base_text: &str, exact: bool) -> HashSet<String> {
    let said = phrases.iter().chain(used).map(String::as_str);
    match exact {
        true => said.chain([base_text]).map(|text| key(text, true)).collect(),
        false => said.chain([prompt, base_text]).map(|text| key(text.trim(), false)).collect(),
    }
}

/// What is compared: the words, or with `exact` every letter. A text without words is compared as it is.
fn key(text: &str, exact: bool) -> String {
    let words = if exact { String::new() } else { folded(text) };
    if words.is_empty() { text.to_owned() } else { words }
}

#[async_trait(?Send)]
impl Filter for Blacklist {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn filter(&self, step: &Step) -> Result<Filtered, AskError> {
        let (exact, phrases, used) = (self.exact, self.phrases.clone(), Arc::clone(&step.used));
        let (lookalikes, echo) = (self.defences.fold_lookalikes, self.defences.echo);
        let (texts, prompt, base_text) = (step.texts.clone(), Arc::clone(&step.prompt), Arc::clone(&step.base_text));
        let factors = on_worker(move || {
            let blocked = blocked(&phrases, &used, &prompt, &base_text, exact);
            let echoed = echo.then(|| echo::Prompt::new(&prompt));
            let passes = |text: &str| {
                let text = if lookalikes { unconfused(text) } else { text.into() };
                let is_echo = echoed.as_ref().is_some_and(|prompt| prompt.is_given_back(&text));
                !is_echo && !blocked.contains(&key(&text, exact))
            };
            texts.iter().map(|text| pass(passes(text))).collect::<Vec<_>>()
        });
        Ok(factors.await.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{golden, numbers, texts};

    /// The recording asks the filter directly, with texts as they came.
    #[test]
    fn exact_mode_decides_as_the_reference() {
        let (inputs, recorded) = (golden("inputs"), golden("filters"));
        let (prompts, completions) = (texts(&inputs["prompts"]), texts(&inputs["completions"]));
        let phrases = BlacklistConfig::default().phrases;
        let used = [completions[2].clone(), completions[0].clone()];
        for (row, used) in [(0, &[][..]), (1, &used[..]), (2, &[])] {
            let blocked = blocked(&phrases, used, "another prompt", &prompts[0], true);
            let ours: Vec<_> = completions.iter().map(|text| pass(!blocked.contains(&key(text, true)))).collect();
            assert_eq!(ours, numbers(&recorded["blacklist"][row]), "row {row}");
        }
    }

    #[test]
    fn the_prompt_is_blocked_by_default_and_in_the_reference_only_as_base_text() {
        let has =
            |exact, text: &str| blocked(&[], &[], "The prompt.\n\n", "The base.\n", exact).contains(&key(text, exact));
        assert!(has(false, "the prompt") && has(false, "the base"));
        assert!(!has(true, "The prompt.") && !has(true, "The prompt.\n\n") && !has(true, "The base."));
        assert!(has(true, "The base.\n"));
    }
}
