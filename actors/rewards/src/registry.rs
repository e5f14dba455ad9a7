//! Every reward function and every filter: a new one is its file and its line here.

use async_trait::async_trait;

use crate::{
    blacklist::{self, Blacklist},
    config::{Config, ConfigError},
    constant::{self, Constant},
    dahoas::{self, Dahoas},
    diversity::{self, Diversity},
    dpo::{self, Dpo},
    firewall::{self, Firewall},
    function::{Filter, Filtered, RewardFunction},
    network::{self, Judges},
    nsfw::{self, Nsfw},
    prompt::{self, Prompt},
    reciprocate::{self, Reciprocate},
    relevance::{self, Relevance},
    rlhf::{self, Rlhf},
    shadow::{self, Candidate},
    step::{AskError, Step},
    task_validator::{self, TaskValidator},
};

type MakeReward = fn(&Config) -> Result<Box<dyn RewardFunction>, ConfigError>;
type MakeFilter = fn(&Config) -> Result<Box<dyn Filter>, ConfigError>;
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
    (network::NAME, |c| Ok(Box::new(Judges::new(&c.network, &c.prompt, c.has_share(network::NAME))?))),
];

/// Every filter, by its column, in the order of the reference.
const FILTERS: &[(&str, MakeFilter, IsEnabled)] = &[
    (blacklist::NAME, |c| Ok(Box::new(Blacklist::new(&c.blacklist, c.compat, c.defences))), |c| c.blacklist.enabled),
    (task_validator::NAME, |c| Ok(Box::new(TaskValidator::new(c.compat))), |c| c.task_validator.enabled),
    (relevance::NAME, |c| Ok(Box::new(Relevance::new(&c.relevance, c.compat))), |c| c.relevance.enabled),
    (diversity::NAME, |c| Ok(Box::new(Diversity::new(&c.diversity, c.compat, c.defences))), |c| c.diversity.enabled),
    (nsfw::NAME, |c| Ok(Box::new(Nsfw::new(&c.nsfw, c.compat))), |c| c.nsfw.enabled),
];

/// Filters that the reference lacks: turned off they leave no column.
const FURTHER_FILTERS: &[(&str, MakeFilter, IsEnabled)] =
    &[(firewall::NAME, |c| Ok(Box::new(Firewall::new(&c.firewall)?)), |c| c.firewall.enabled)];

/// The names of all reward functions: what the operator may give a weight.
pub fn reward_names() -> impl Iterator<Item = &'static str> {
    REWARDS.iter().map(|(name, _)| *name)
}

/// The names of all filters.
pub fn filter_names() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().chain(FURTHER_FILTERS).map(|(name, ..)| *name)
}

/// The filters that are in force.
#[must_use]
pub fn enabled_filters(config: &Config) -> Vec<&'static str> {
    let enabled = FILTERS.iter().chain(FURTHER_FILTERS).filter(|(.., is_enabled)| is_enabled(config));
    enabled.map(|(name, ..)| *name).collect()
}

/// What may be named in `rewards.shadows`: reward functions, filters, and normalisers.
pub fn candidate_names() -> impl Iterator<Item = &'static str> {
    reward_names().chain(filter_names()).chain(shadow::NORMALISERS.iter().map(|(name, _)| *name))
}

/// Where a reward's column stands among the others.
#[must_use]
pub fn place_of(reward: &str) -> usize {
    reward_names().position(|name| name == reward).unwrap_or(usize::MAX)
}

/// The reward functions that have a share.
///
/// # Errors
/// When one cannot be made as configured.
pub fn rewards(config: &Config) -> Result<Vec<Box<dyn RewardFunction>>, ConfigError> {
    REWARDS.iter().filter(|(name, _)| config.has_share(name)).map(|(_, make)| make(config)).collect()
}

/// All filters; one of the reference that is disabled lets everything pass.
///
/// # Errors
/// When one cannot be made as configured.
pub fn filters(config: &Config) -> Result<Vec<Box<dyn Filter>>, ConfigError> {
    let reference = FILTERS.iter().map(|(name, make, is_enabled)| -> Result<Box<dyn Filter>, ConfigError> {
        if is_enabled(config) { make(config) } else { Ok(Box::new(Disabled(name))) }
    });
    let further = FURTHER_FILTERS.iter().filter(|(.., is_enabled)| is_enabled(config));
    reference.chain(further.map(|(_, make, _)| make(config))).collect()
}

/// The reward functions and filters that are to be run as shadows: those in force are none.
///
/// # Errors
/// When one cannot be made as configured.
pub fn shadows(config: &Config) -> Result<Vec<Candidate>, ConfigError> {
    let is_shadow = |name: &str| config.shadows.contains(name);
    let rewards = REWARDS.iter().filter(|(name, _)| is_shadow(name) && !config.has_share(name));
    let rewards = rewards.map(|(_, make)| Ok(Candidate::Reward(make(config)?)));
    let filters = FILTERS.iter().chain(FURTHER_FILTERS);
    let filters = filters.filter(|(name, _, is_enabled)| is_shadow(name) && !is_enabled(config));
    rewards.chain(filters.map(|(_, make, _)| Ok(Candidate::Filter(make(config)?)))).collect()
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
        let mut config = Config { weights, ..Config::default() };
        assert!(
            filters(&config).unwrap().iter().map(|filter| filter.name()).eq(FILTERS.iter().map(|(name, ..)| *name))
        );
        config.firewall.enabled = true;
        assert!(filters(&config).unwrap().iter().map(|filter| filter.name()).eq(filter_names()));
        assert!(rewards(&config).unwrap().iter().map(|reward| reward.name()).eq(reward_names()));
    }

    #[test]
    fn every_candidate_can_be_promoted() {
        for name in candidate_names() {
            let mut config = Config::default();
            for (other, enabled) in
                [(relevance::NAME, &mut config.relevance.enabled), (diversity::NAME, &mut config.diversity.enabled)]
            {
                *enabled = other != name;
            }
            config.shadows.insert(name.to_owned());
            let promoted = config.promoting(name);
            assert_eq!(promoted.check(), Ok(()), "{name}");
            let counts = promoted.has_share(name)
                || enabled_filters(&promoted).contains(&name)
                || promoted.normaliser.as_deref() == Some(name);
            assert!(counts, "{name}");
            assert!(shadows(&promoted).unwrap().is_empty(), "{name}");
        }
    }

    #[test]
    fn a_shadow_is_what_is_named_and_not_in_force() {
        let built = |config: &Config| rewards(config).unwrap().iter().map(|reward| reward.name()).collect::<Vec<_>>();
        let shadowed = |config: &Config| shadows(config).unwrap().iter().map(Candidate::name).collect::<Vec<_>>();
        let mut config = Config { weights: [("dpo_reward_model".into(), 0.0)].into(), ..Config::default() };
        assert!(built(&config).is_empty() && shadowed(&config).is_empty());
        config.shadows =
            ["prompt_reward_model", "nsfw_filter", "firewall_filter", "relevance_filter"].map(Into::into).into();
        assert!(built(&config).is_empty());
        assert_eq!(shadowed(&config), ["prompt_reward_model", "nsfw_filter", "firewall_filter"]);
        // Promoted.
        config.weights.insert("prompt_reward_model".into(), 1.0);
        config.firewall.enabled = true;
        assert_eq!((built(&config), shadowed(&config)), (vec!["prompt_reward_model"], vec!["nsfw_filter"]));
    }
}
