//! Texts that earn nothing because they were there before: stock phrases, the prompt, what this forward already used.
//! After `reward/blacklist.py` of the reference.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;

use crate::{
    admission::folded,
    config::{BlacklistConfig, Compat},
    function::{Filter, Filtered, pass},
    step::{AskError, Step},
    worker::on_worker,
};

/// The column.
pub const NAME: &str = "blacklist_filter";

/// Blocks stock phrases and repetitions.
pub struct Blacklist {
    phrases: Vec<String>,
    exact: bool,
}

impl Blacklist {
    /// As configured.
    #[must_use]
    pub fn new(config: &BlacklistConfig, compat: Compat) -> Self {
        Self { phrases: config.phrases.clone(), exact: compat.blacklist_exact }
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
        let (texts, prompt, base_text) = (step.texts.clone(), Arc::clone(&step.prompt), Arc::clone(&step.base_text));
        let factors = on_worker(move || {
            let said = phrases.iter().chain(used.iter()).map(String::as_str).chain([&*prompt, &*base_text]);
            let blocked: HashSet<String> = said.map(|text| key(text.trim(), exact)).collect();
            texts.iter().map(|text| pass(!blocked.contains(&key(text, exact)))).collect::<Vec<_>>()
        });
        Ok(factors.await.into())
    }
}
