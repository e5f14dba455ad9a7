//! Every reward function and every filter: a new one is its file and its line here.

use async_trait::async_trait;

use crate::{
    blacklist::{self, Blacklist},
    config::{Config, ConfigError},
    constant::{self, Constant},
    dahoas::{self, Dahoas},
    diversity::{self, Diversity},
    dpo::{self, Dpo},
    function::{Filter, Filtered, RewardFunction},
    nsfw::{self, Nsfw},
    prompt::{self, Prompt},
    reciprocate::{self, Reciprocate},
    relevance::{self, Relevance},
    rlhf::{self, Rlhf},
    step::{AskError, Step},
    task_validator::{self, TaskValidator},
};

type MakeReward = fn(&Config) -> Result<Box<dyn RewardFunction>, ConfigError>;
type MakeFilter = fn(&Config) -> Box<dyn Filter>;
type IsEnabled = fn(&Config) -> bool;

/// Every reward function, by its column, in the order of the reference.
const REWARDS: &[(&str, MakeReward)] = &[
    (dpo::NAME, |c| Ok(Box::new(Dpo::new(&c.dpo, c.compat)))),
    (rlhf::NAME, |c| Ok(Box::new(Rlhf::new(&c.rlhf)))),
    (reciprocate::NAME, |c| Ok(Box::new(Reciprocate::new(&c.reciprocate)))),
    (dahoas::NAME, |c| Ok(Box::new(Dahoas::new(&c.dahoas)))),
    (prompt::NAME, |c| Ok(Box::new(Prompt::new(&c.prompt, c.compat)?))),
    // The control of comparisons: no weight, unless an operator gives it one.
    (constant::NAME, |_| Ok(Box::new(Constant))),
];

/// Every filter, by its column, in the order of the reference.
const FILTERS: &[(&str, MakeFilter, IsEnabled)] = &[
    (blacklist::NAME, |c| Box::new(Blacklist::new(&c.blacklist, c.compat)), |c| c.blacklist.enabled),
    (task_validator::NAME, |c| Box::new(TaskValidator::new(c.compat)), |c| c.task_validator.enabled),
    (relevance::NAME, |c| Box::new(Relevance::new(&c.relevance, c.compat)), |c| c.relevance.enabled),
    (diversity::NAME, |c| Box::new(Diversity::new(&c.diversity, c.compat)), |c| c.diversity.enabled),
    (nsfw::NAME, |c| Box::new(Nsfw::new(&c.nsfw, c.compat)), |c| c.nsfw.enabled),
];

/// The names of all reward functions: what the operator may give a weight.
pub fn reward_names() -> impl Iterator<Item = &'static str> {
    REWARDS.iter().map(|(name, _)| *name)
}

/// The names of all filters.
pub fn filter_names() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().map(|(name, ..)| *name)
}

/// The reward functions that have a weight, or are shadows.
///
/// # Errors
/// When one cannot be made as configured.
pub fn rewards(config: &Config) -> Result<Vec<Box<dyn RewardFunction>>, ConfigError> {
    REWARDS.iter().filter(|(name, _)| config.computes(name)).map(|(_, make)| make(config)).collect()
}

/// All filters; a disabled one lets everything pass.
#[must_use]
pub fn filters(config: &Config) -> Vec<Box<dyn Filter>> {
    let filter = |(name, make, is_enabled): &(&'static str, MakeFilter, IsEnabled)| -> Box<dyn Filter> {
        if is_enabled(config) { make(config) } else { Box::new(Disabled(name)) }
    };
    FILTERS.iter().map(filter).collect()
}

/// A filter that was turned off: 1 for every text. (In the reference a filter that is turned off blocks every text.)
struct Disabled(&'static str);

#[async_trait(?Send)]
impl Filter for Disabled {
    fn name(&self) -> &'static str {
        self.0
    }

    async fn filter(&self, step: &Step) -> Result<Filtered, AskError> {
        Ok(vec![Some(1.0); step.texts.len()].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_what_is_built() {
        let weights = reward_names().map(|name| (name.to_owned(), 0.5)).collect();
        let config = Config { weights, ..Config::default() };
        assert!(filters(&config).iter().map(|filter| filter.name()).eq(filter_names()));
        assert!(rewards(&config).unwrap().iter().map(|reward| reward.name()).eq(reward_names()));
    }

    #[test]
    fn a_reward_is_computed_for_its_weight_or_as_a_shadow() {
        let built = |config: &Config| rewards(config).unwrap().iter().map(|reward| reward.name()).collect::<Vec<_>>();
        let mut config = Config { weights: [("dpo_reward_model".into(), 0.0)].into(), ..Config::default() };
        assert!(built(&config).is_empty());
        config.shadows.insert("prompt_reward_model".into());
        assert_eq!(built(&config), ["prompt_reward_model"]);
    }
}
