//! Every reward function and every filter: a new one is its file and its line here.

use async_trait::async_trait;

use crate::{
    blacklist::{self, Blacklist},
    config::Config,
    constant::{self, Constant},
    diversity::{self, Diversity},
    dpo::{self, Dpo},
    function::{Filter, Filtered, RewardFunction},
    relevance::{self, Relevance},
    step::{AskError, Step},
    task_validator::{self, TaskValidator},
};

type MakeReward = fn(&Config) -> Box<dyn RewardFunction>;
type MakeFilter = fn(&Config) -> Box<dyn Filter>;
type IsEnabled = fn(&Config) -> bool;

/// Every reward function, by its column.
const REWARDS: &[(&str, MakeReward)] = &[
    (dpo::NAME, |c| Box::new(Dpo::new(&c.dpo, c.compat))),
    // The control of comparisons: no weight, unless an operator gives it one.
    (constant::NAME, |_| Box::new(Constant)),
];

/// Every filter, by its column, in the order of the reference.
const FILTERS: &[(&str, MakeFilter, IsEnabled)] = &[
    (blacklist::NAME, |c| Box::new(Blacklist::new(&c.blacklist, c.compat)), |c| c.blacklist.enabled),
    (task_validator::NAME, |c| Box::new(TaskValidator::new(c.compat)), |c| c.task_validator.enabled),
    (relevance::NAME, |c| Box::new(Relevance::new(&c.relevance, c.compat)), |c| c.relevance.enabled),
    (diversity::NAME, |c| Box::new(Diversity::new(&c.diversity, c.compat)), |c| c.diversity.enabled),
];

/// The names of all reward functions: what the operator may give a weight.
pub fn reward_names() -> impl Iterator<Item = &'static str> {
    REWARDS.iter().map(|(name, _)| *name)
}

/// The names of all filters.
pub fn filter_names() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().map(|(name, ..)| *name)
}

/// The reward functions that have a weight.
#[must_use]
pub fn rewards(config: &Config) -> Vec<Box<dyn RewardFunction>> {
    let weighs = |name: &str| config.weights.get(name).is_some_and(|&weight| weight > 0.0);
    REWARDS.iter().filter(|(name, _)| weighs(name)).map(|(_, make)| make(config)).collect()
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
        assert!(rewards(&config).iter().map(|reward| reward.name()).eq(reward_names()));
    }

    #[test]
    fn a_reward_without_weight_is_not_computed() {
        assert!(
            rewards(&Config { weights: [("dpo_reward_model".into(), 0.0)].into(), ..Config::default() }).is_empty()
        );
    }
}
