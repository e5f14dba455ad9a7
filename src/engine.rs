//! What computes: the models on this machine, and those that servers elsewhere have.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use openvalidators_inference::{Demand, Engine, Kind, LocalEngine, Metrics, ModelSource, RemoteMetrics, RoutedEngine};
use openvalidators_messages::inference::{ModelName, Overflow, Pooling};
use openvalidators_rewards::{
    Measure, RewardModelConfig, dahoas, diversity, dpo, firewall, nsfw, prompt, reciprocate, relevance, rlhf,
};
use openvalidators_runtime::SharedClock;
use prometheus::Registry;

use crate::{config::Config, models};

/// Loads the models of `sources` that are computed here and asks the servers of the others what they are. Those `used`, by their
/// keys, must be of the kinds they are used as.
///
/// # Errors
/// When a model does not load, or servers cannot serve what rewards and filters will ask.
pub async fn start(
    config: &Config,
    used: &[(&str, &ModelName, Kind)],
    sources: &[ModelSource],
    registry: &Registry,
    clock: &SharedClock,
) -> anyhow::Result<Arc<dyn Engine>> {
    let here = computed_here(config, sources);
    let (settings, metrics, time) = (config.inference.clone(), Metrics::new(registry)?, clock.clone());
    let load = move || LocalEngine::start(&settings, &here, metrics, time);
    let mut engine: Arc<dyn Engine> = Arc::new(tokio::task::spawn_blocking(load).await.context("loading the models")??);
    if !config.inference.remote.is_empty() {
        let folder = |model: &ModelName| -> Option<PathBuf> {
            sources.iter().find(|source| source.name == *model).map(|source| source.directory.clone())
        };
        let (metrics, mut demands) = (RemoteMetrics::new(registry)?, demands(config));
        if used.iter().any(|(_, model, _)| **model == config.gating.model) {
            demands.push((config.gating.model.clone(), Demand::Embed(config.gating.pooling)));
        }
        let routed = RoutedEngine::start(engine, &config.inference, &demands, folder, metrics, clock.clone());
        engine = Arc::new(routed.await?);
    }
    models::check_kinds(used, &*engine).await?;
    Ok(engine)
}

/// Those of `sources` that are loaded on this machine.
#[must_use]
pub fn computed_here(config: &Config, sources: &[ModelSource]) -> Vec<ModelSource> {
    sources.iter().filter(|source| is_here(config, &source.name)).cloned().collect()
}

/// Whether a model is loaded on this machine.
#[must_use]
pub fn is_here(config: &Config, model: &ModelName) -> bool {
    config.inference.remote.get(model).is_none_or(|remote| remote.fall_back_to_local)
}

/// Whether a model needs no files but those that its remote configuration names: the catalogue need not know it.
#[must_use]
pub fn needs_no_files(config: &Config, model: &ModelName) -> bool {
    !is_here(config, model) && config.inference.remote.get(model).is_some_and(|remote| remote.folder.is_some())
}

/// What rewards and filters ask of their models. The engine checks each request too: this is to know it at the start.
#[must_use]
pub fn demands(config: &Config) -> Vec<(ModelName, Demand)> {
    let rewards = &config.rewards;
    let judged =
        |model: &RewardModelConfig, overflow, pairs| (model.model.clone(), Demand::Classify { overflow, pairs });
    let scored = Demand::LogProb { repetition_penalty: rewards.dpo.repetition_penalty };
    let functions = [
        (dpo::NAME, (rewards.dpo.model.clone(), scored)),
        (rlhf::NAME, judged(&rewards.rlhf, Overflow::Whole, true)),
        (reciprocate::NAME, judged(&rewards.reciprocate, Overflow::Cut, false)),
        (dahoas::NAME, judged(&rewards.dahoas, Overflow::Whole, false)),
        (prompt::NAME, (rewards.prompt.model.clone(), Demand::Generate)),
    ];
    let mut demands: Vec<_> =
        functions.into_iter().filter(|(name, _)| rewards.computes(name)).map(|(_, demand)| demand).collect();
    if rewards.filters_by(relevance::NAME, rewards.relevance.enabled) {
        let pooling = |measure: Measure| match measure {
            Measure::Cosine => Pooling::MeanNormalised,
            Measure::NegativeRmse => Pooling::MeanOfWindows,
        };
        let stages = rewards.relevance.stages.iter();
        demands.extend(stages.map(|stage| (stage.model.clone(), Demand::Embed(pooling(stage.measure)))));
    }
    if rewards.filters_by(diversity::NAME, rewards.diversity.enabled) {
        demands.push((rewards.diversity.model.clone(), Demand::Embed(Pooling::MeanNormalised)));
    }
    if rewards.filters_by(nsfw::NAME, rewards.nsfw.enabled) {
        let bare = rewards.compat.nsfw_bare_windows;
        let overflow = if bare { Overflow::BareWindows } else { Overflow::Windows };
        demands.push((rewards.nsfw.model.clone(), Demand::Classify { overflow, pairs: false }));
    }
    if rewards.filters_by(firewall::NAME, rewards.firewall.enabled) {
        demands.push((rewards.firewall.model.clone(), Demand::Generate));
    }
    demands
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openvalidators_inference::RemoteConfig;

    use super::*;

    fn everything() -> Config {
        let mut config = Config::default();
        config.rewards.shadows =
            [dpo::NAME, rlhf::NAME, reciprocate::NAME, dahoas::NAME, prompt::NAME].map(str::to_owned).into();
        config.rewards.nsfw.enabled = true;
        config.rewards.firewall.enabled = true;
        config
    }

    /// A demand that is forgotten here would be found at the first step instead of at the start.
    #[test]
    fn every_model_in_use_has_a_demand_of_its_kind() {
        let config = everything();
        let used: BTreeSet<_> =
            config.models_used().into_iter().map(|(_, model, kind)| format!("{model} {kind}")).collect();
        let demanded: BTreeSet<_> =
            demands(&config).into_iter().map(|(model, demand)| format!("{model} {}", demand.kind())).collect();
        assert_eq!(demanded, used);
        assert!(demands(&config).contains(&(config.rewards.dpo.model, Demand::LogProb { repetition_penalty: 1.2 })));
    }

    #[test]
    fn a_model_is_loaded_here_unless_servers_have_it_and_nothing_falls_back() {
        let (mut config, model) = (everything(), ModelName::new("far"));
        assert!(is_here(&config, &model) && !needs_no_files(&config, &model));
        let remote: RemoteConfig = serde_json::from_str(r#"{"kind": "tei", "urls": ["http://a"]}"#).unwrap();
        config.inference.remote.insert(model.clone(), remote.clone());
        assert!(
            !is_here(&config, &model) && !needs_no_files(&config, &model),
            "its tokenizer is in the catalogue's folder"
        );
        let with_folder = RemoteConfig { folder: Some("/f".into()), ..remote };
        config.inference.remote.insert(model.clone(), with_folder.clone());
        assert!(needs_no_files(&config, &model));
        config.inference.remote.insert(model.clone(), RemoteConfig { fall_back_to_local: true, ..with_folder });
        assert!(is_here(&config, &model) && !needs_no_files(&config, &model));
    }
}
