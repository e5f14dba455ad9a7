//! `openvalidators models`: the models on this machine; and those that a run needs, ready to be loaded.

mod listing;
pub mod memory;
pub mod stack;

use std::process::ExitCode;

use openvalidators_hub::{Hub, Look, ModelDirectory, ModelState, progress_for_people};
use openvalidators_inference::{Engine, Kind, ModelSource};
use openvalidators_messages::inference::ModelName;
use openvalidators_runtime::SystemClock;

use crate::{
    cli::{self, ModelAction},
    config::Config,
    engine, shutdown,
};
use listing::Listing;
use stack::Stack;

/// Runs the subcommand.
///
/// # Errors
/// When a model is unknown, or cannot be fetched or read.
pub async fn run(command: &cli::Models, config: &Config) -> anyhow::Result<ExitCode> {
    let hub = Hub::new(&config.models, SystemClock::shared())?;
    let (names, look) = match &command.action {
        ModelAction::Fetch { names } => (chosen(names, config, &hub)?, Look::Digests),
        ModelAction::Verify { names } => (chosen(names, config, &hub)?, Look::Digests),
        ModelAction::List { all: true } => {
            (hub.models().keys().map(|name| ModelName::new(name)).collect(), Look::Sizes)
        }
        ModelAction::List { all: false } => (used(config), Look::Sizes),
    };
    if let ModelAction::Fetch { .. } = command.action {
        ensure(&hub, &names).await?;
    }
    let stack = Stack::of(config, &hub, &names)?;
    let listing = Listing::new(config, &hub, &stack, look)?;
    listing.print(command.json);
    let whole = listing.rows.iter().all(|row| matches!(row.state, ModelState::Present { .. }));
    let failed = matches!(command.action, ModelAction::Verify { .. }) && !whole;
    Ok(if failed { ExitCode::from(shutdown::EXIT_FAULT) } else { ExitCode::SUCCESS })
}

/// The models whose files the configuration needs, each once, in the order it asks for them.
#[must_use]
pub fn used(config: &Config) -> Vec<ModelName> {
    let mut used = Vec::new();
    for (_, model, _) in config.models_of_run() {
        if !used.contains(model) && !engine::needs_no_files(config, model) {
            used.push(model.clone());
        }
    }
    used
}

/// The models of the configuration, fetched where needed, ready to be loaded.
///
/// # Errors
/// When one is unknown, cannot be fetched or verified, or all of them together are too large for this machine; the error says
/// what was found and what to do.
pub async fn ready(hub: &Hub, config: &Config) -> anyhow::Result<Vec<ModelSource>> {
    for (key, model, _) in config.models_of_run() {
        if engine::needs_no_files(config, model) {
            continue;
        }
        hub.entry(&model.0).map_err(|error| anyhow::anyhow!("{key}: {error}"))?;
    }
    let used = used(config);
    let here: Vec<ModelName> = used.iter().filter(|model| engine::is_here(config, model)).cloned().collect();
    // Before anything is fetched, as far as sizes are known; then by what the files say.
    Stack::of(config, hub, &here)?.check_fits(config, &memory::free)?;
    let sources = ensure(hub, &used).await?;
    Stack::of(config, hub, &here)?.check_fits(config, &memory::free)?;
    Ok(sources)
}

/// Leaves out where models would go that the catalogue knows and nobody asks for: a switch that turns a filter off is no
/// mistake in a profile. A name that nobody knows is left for the engine to refuse.
pub fn place_only_used(config: &mut Config, hub: &Hub) {
    let used = used(config);
    config.inference.placement.retain(|model, _| used.contains(model) || hub.entry(&model.0).is_err());
}

/// Whether each model can be asked what its user, named by a key, will ask it.
///
/// # Errors
/// When one cannot; the error says what it is and what it must be.
pub async fn check_kinds(used: &[(&str, &ModelName, Kind)], engine: &dyn Engine) -> anyhow::Result<()> {
    for &(key, model, wanted) in used {
        match engine.kind(model).await {
            Some(found) if found == wanted => {}
            Some(found) => anyhow::bail!("{key} is `{model}`, which is {found}; it must be {wanted}"),
            None => anyhow::bail!("{key} is `{model}`, which is not loaded"),
        }
    }
    Ok(())
}

async fn ensure(hub: &Hub, names: &[ModelName]) -> anyhow::Result<Vec<ModelSource>> {
    let mut sources = Vec::new();
    for name in names {
        let progress = progress_for_people();
        let ModelDirectory { path, .. } = hub.ensure(&name.0, progress.as_ref()).await?;
        sources.push(ModelSource { name: name.clone(), directory: path });
    }
    Ok(sources)
}

/// The models named on the command line; else those that the configuration asks for.
fn chosen(names: &[String], config: &Config, hub: &Hub) -> anyhow::Result<Vec<ModelName>> {
    if names.is_empty() {
        return Ok(used(config));
    }
    names.iter().try_for_each(|name| hub.entry(name).map(drop))?;
    Ok(names.iter().map(|name| ModelName::new(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::profiles::Profile;

    #[test]
    fn a_model_that_nobody_asks_for_is_placed_nowhere() {
        let hub = Hub::new(&Config::default().models, SystemClock::shared()).unwrap();
        let mut config = Config::of_profile(Profile::Full).unwrap();
        let placed = |config: &Config| config.inference.placement.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(placed(&config), ["btlm-3b-8k-base", "gpt-j_rm_format-oa"]);
        config.rewards.weights.insert("reciprocate_reward_model".into(), 0.0);
        config.inference.placement.insert(ModelName::new("btlm-3b-8k-bose"), Default::default());
        place_only_used(&mut config, &hub);
        assert_eq!(placed(&config), ["btlm-3b-8k-base", "btlm-3b-8k-bose"], "a slip of the pen is still refused");
    }
}
