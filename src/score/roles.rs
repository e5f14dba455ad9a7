//! The roles of models, and the folders that fill them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use openvalidators_inference::ModelSource;
use openvalidators_messages::inference::ModelName;
use openvalidators_rewards::{
    self as rewards, blacklist, dahoas, diversity, dpo, nsfw, prompt, reciprocate, relevance, rlhf,
};

/// The reward models, each with the column it fills, in the order of the reference.
const REWARDS: [(&str, &str); 5] = [
    ("dpo", dpo::NAME),
    ("rlhf", rlhf::NAME),
    ("reciprocate", reciprocate::NAME),
    ("dahoas", dahoas::NAME),
    ("prompt", prompt::NAME),
];

/// What a reward model without a share has for a line: as long as one with a share, which nobody limits.
const PATIENCE_SECONDS: u64 = 86_400;

/// The models of filters.
const FILTERS: [&str; 4] = ["relevance_bert", "relevance_mpnet", "diversity", "nsfw"];

/// Which roles are filled, and what for.
pub struct Roles {
    /// A model for each folder.
    pub sources: Vec<ModelSource>,
    /// The columns that are computed.
    pub columns: BTreeSet<&'static str>,
    folder: PathBuf,
    filled: BTreeSet<&'static str>,
    strangers: Vec<String>,
    shares: Vec<(&'static str, Option<f64>)>,
}

// === impl Roles ===

impl Roles {
    /// Looks which roles have a folder and arranges the settings accordingly.
    ///
    /// # Errors
    /// When no role has a folder, or the weights asked for make no sense with those that have.
    pub fn arrange(config: &mut rewards::Config, folder: &Path, weights: &[String]) -> anyhow::Result<Self> {
        let found = folders(folder)?;
        let names = REWARDS.map(|(role, _)| role).into_iter().chain(FILTERS);
        let (mut models, mut sources) = (BTreeMap::new(), Vec::<ModelSource>::new());
        for role in names {
            let Some(directory) = found.get(role) else { continue };
            // Two names of one folder are one model: it is loaded once, and a text they share is computed once.
            let same = sources.iter().find(|source| source.directory == *directory).map(|source| source.name.clone());
            let model = same.unwrap_or_else(|| {
                let name = ModelName::new(role);
                sources.push(ModelSource { name: name.clone(), directory: directory.clone() });
                name
            });
            models.insert(role, model);
        }
        ensure!(!models.is_empty(), "{} holds no folder of a role; roles are {}", folder.display(), all().join(", "));
        share_out(config, &models, weights)?;
        fill(config, &models)?;
        if !config.weights.is_empty() {
            config.check()?;
        }
        let strangers = found.keys().filter(|name| !all().contains(&name.as_str())).cloned().collect();
        let share = |(role, column): (&'static str, &str)| {
            let share = config.weights.get(column).copied().filter(|&share| share > 0.0);
            config.computes(column).then_some((role, share))
        };
        Ok(Self {
            sources,
            columns: columns(config),
            folder: folder.to_owned(),
            filled: models.into_keys().collect(),
            strangers,
            shares: REWARDS.into_iter().filter_map(share).collect(),
        })
    }

    /// Which roles took part, and which were left out.
    pub fn summary(&self) -> String {
        let share = |(role, share): &(&str, Option<f64>)| match share {
            Some(share) => format!("{role} {share}"),
            None => format!("{role} without weight"),
        };
        let shares: Vec<String> = self.shares.iter().map(share).collect();
        let shares = if shares.is_empty() { "none, so every reward is 0".to_owned() } else { shares.join(", ") };
        let filters: Vec<&str> = rewards::registry::filter_names().filter(|name| self.columns.contains(name)).collect();
        let absent: Vec<&str> = all().into_iter().filter(|role| !self.filled.contains(role)).collect();
        let mut summary = format!("rewards: {shares}\nfilters: {}", filters.join(", "));
        if !absent.is_empty() {
            summary += &format!("\nleft out, without a folder in {}: {}", self.folder.display(), absent.join(", "));
        }
        if !self.strangers.is_empty() {
            summary += &format!("\nfolders of no role: {}", self.strangers.join(", "));
        }
        summary
    }
}

fn all() -> Vec<&'static str> {
    REWARDS.iter().map(|(role, _)| *role).chain(FILTERS).collect()
}

/// The folders inside `folder`, by name, each where it really is.
fn folders(folder: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let reading = || format!("reading the folder of models {}", folder.display());
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_dir()) {
            found.insert(name.to_owned(), path.canonicalize().with_context(reading)?);
        }
    }
    Ok(found)
}

/// The share of each reward model: as asked for, else as configured among those that are there.
fn share_out(config: &mut rewards::Config, models: &BTreeMap<&str, ModelName>, asked: &[String]) -> anyhow::Result<()> {
    let mut named = BTreeSet::new();
    if asked.is_empty() {
        let here = |column: &str| REWARDS.iter().any(|(role, name)| *name == column && models.contains_key(role));
        config.weights.retain(|column, share| here(column) && *share > 0.0);
        let sum: f64 = config.weights.values().sum();
        if config.weights.is_empty() {
            let rewards: Vec<_> = REWARDS.iter().filter(|(role, _)| models.contains_key(role)).collect();
            let share = 1.0 / rewards.len().max(1) as f64;
            config.weights = rewards.into_iter().map(|(_, column)| ((*column).to_owned(), share)).collect();
        } else if (sum - 1.0).abs() > f64::EPSILON {
            config.weights.values_mut().for_each(|share| *share /= sum);
        }
    } else {
        config.weights.clear();
        for written in asked {
            let (role, column, share) = parse_share(written)?;
            ensure!(
                share == 0.0 || models.contains_key(role),
                "--weights gives {role} {share}, but it has no folder among the models: add one, or give its share to others"
            );
            ensure!(named.insert(column), "--weights names {role} twice");
            config.weights.insert(column.to_owned(), share);
        }
    }
    let unnamed = REWARDS.iter().filter(|(role, column)| models.contains_key(role) && !named.contains(column));
    config.shadows = unnamed.map(|(_, column)| (*column).to_owned()).collect();
    // Nobody waits for another step here.
    config.shadow_timeout_seconds = PATIENCE_SECONDS;
    config.score_timeout_seconds = PATIENCE_SECONDS + 1;
    Ok(())
}

/// `ROLE=SHARE`, where the column's whole name will do as well.
fn parse_share(written: &str) -> anyhow::Result<(&'static str, &'static str, f64)> {
    let wanted = || format!("--weights has `{written}`; expected ROLE=SHARE, e.g. dpo=0.3");
    let (name, share) = written.split_once('=').with_context(wanted)?;
    let share = share.trim().parse().with_context(wanted)?;
    let name = name.trim();
    let Some((role, column)) = REWARDS.into_iter().find(|(role, column)| name == *role || name == *column) else {
        bail!(
            "--weights names `{name}`, which is no reward model; there are {}",
            REWARDS.map(|(role, _)| role).join(", ")
        )
    };
    Ok((role, column, share))
}

/// Gives every reward and filter the model of its role, and turns off filters whose role is not filled.
fn fill(config: &mut rewards::Config, models: &BTreeMap<&str, ModelName>) -> anyhow::Result<()> {
    let slots = [
        ("dpo", &mut config.dpo.model),
        ("rlhf", &mut config.rlhf.model),
        ("reciprocate", &mut config.reciprocate.model),
        ("dahoas", &mut config.dahoas.model),
        ("prompt", &mut config.prompt.model),
        ("diversity", &mut config.diversity.model),
        ("nsfw", &mut config.nsfw.model),
    ];
    for (role, slot) in slots {
        if let Some(model) = models.get(role) {
            *slot = model.clone();
        }
    }
    for stage in &config.relevance.stages {
        let known = FILTERS.contains(&&*stage.model.0);
        ensure!(
            known,
            "rewards.relevance.stages names `{}`; here a stage names a role: {}",
            stage.model,
            FILTERS.join(", ")
        );
    }
    config.relevance.stages.retain_mut(|stage| match models.get(&*stage.model.0) {
        Some(model) => {
            stage.model = model.clone();
            true
        }
        None => false,
    });
    config.relevance.enabled &= !config.relevance.stages.is_empty();
    config.diversity.enabled &= models.contains_key("diversity");
    config.nsfw.enabled &= models.contains_key("nsfw");
    Ok(())
}

fn columns(config: &rewards::Config) -> BTreeSet<&'static str> {
    let rewards = rewards::registry::reward_names().filter(|name| config.computes(name));
    let filters = [
        (blacklist::NAME, config.blacklist.enabled),
        (rewards::task_validator::NAME, config.task_validator.enabled),
        (relevance::NAME, config.relevance.enabled),
        (diversity::NAME, config.diversity.enabled),
        (nsfw::NAME, config.nsfw.enabled),
    ];
    rewards.chain(filters.into_iter().filter(|(_, enabled)| *enabled).map(|(name, _)| name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings of `score` over a folder with these roles.
    fn arranged(roles: &[&str], weights: &[&str]) -> anyhow::Result<(rewards::Config, Roles)> {
        let folder = tempfile::tempdir().unwrap();
        roles.iter().for_each(|role| std::fs::create_dir(folder.path().join(role)).unwrap());
        let defaults = [crate::config::DEFAULT_TOML, crate::config::SCORE_TOML];
        let settings = crate::cli::Settings::default();
        let config = crate::config::Config::load_over(&defaults, &settings, &clap::ArgMatches::default(), None);
        let mut rewards = config.unwrap().rewards;
        let weights: Vec<String> = weights.iter().map(|&weight| weight.to_owned()).collect();
        let roles = Roles::arrange(&mut rewards, folder.path(), &weights)?;
        Ok((rewards, roles))
    }

    fn shares(roles: &[&str], weights: &[&str]) -> Vec<(&'static str, Option<f64>)> {
        arranged(roles, weights).unwrap().1.shares
    }

    #[test]
    fn shares_are_as_asked_or_as_configured_among_those_that_are_there() {
        let three = ["dpo", "rlhf", "reciprocate"];
        assert_eq!(shares(&three, &[]), [("dpo", Some(0.3)), ("rlhf", Some(0.4)), ("reciprocate", Some(0.3))]);
        assert_eq!(shares(&["dpo", "reciprocate"], &[]), [("dpo", Some(0.5)), ("reciprocate", Some(0.5))]);
        assert_eq!(shares(&["dahoas", "prompt"], &[]), [("dahoas", Some(0.5)), ("prompt", Some(0.5))]);
        assert_eq!(shares(&["dpo", "dahoas"], &[]), [("dpo", Some(1.0)), ("dahoas", None)], "for information");
        assert_eq!(shares(&three, &["rlhf=1", "dpo_reward_model=0"]), [("rlhf", Some(1.0)), ("reciprocate", None)]);
    }

    #[test]
    fn filters_are_on_where_their_roles_are_filled() {
        let (config, roles) = arranged(&["dpo", "relevance_mpnet", "nsfw"], &[]).unwrap();
        assert_eq!(config.relevance.stages.len(), 1);
        assert_eq!(&*config.relevance.stages[0].model.0, "relevance_mpnet");
        assert!(config.nsfw.enabled && !config.diversity.enabled);
        let columns: Vec<_> = roles.columns.iter().copied().collect();
        let expected =
            ["blacklist_filter", "dpo_reward_model", "nsfw_filter", "relevance_filter", "task_validator_filter"];
        assert_eq!(columns, expected);
        assert!(roles.summary().contains("rlhf, reciprocate, dahoas, prompt, relevance_bert, diversity"));
        let (config, roles) = arranged(&["nsfw"], &[]).unwrap();
        assert!(config.weights.is_empty() && roles.summary().contains("every reward is 0"), "{}", roles.summary());
    }

    #[test]
    fn one_folder_under_two_names_is_one_model() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("relevance_mpnet")).unwrap();
        std::os::unix::fs::symlink("relevance_mpnet", folder.path().join("diversity")).unwrap();
        let mut config = rewards::Config::default();
        config.relevance.stages[0].model = ModelName::new("relevance_mpnet");
        let roles = Roles::arrange(&mut config, folder.path(), &[]).unwrap();
        assert_eq!((roles.sources.len(), &*config.diversity.model.0), (1, "relevance_mpnet"));
    }
}
