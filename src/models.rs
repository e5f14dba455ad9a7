//! `openvalidators models`: the models on this machine.

use comfy_table::{Table, presets};
use openvalidators_hub::{Hub, HubConfig, ModelDirectory, ModelState, progress_for_people};
use openvalidators_inference::{Engine, ModelSource};
use openvalidators_messages::inference::ModelName;
use openvalidators_runtime::SystemClock;

use crate::{cli::ModelAction, config::Config, console::print_text};

/// Runs the subcommand.
///
/// # Errors
/// When a model cannot be fetched or read.
pub async fn run(action: ModelAction, config: &HubConfig) -> anyhow::Result<()> {
    let hub = Hub::new(config, SystemClock::shared())?;
    if matches!(action, ModelAction::Fetch) {
        ensure_all(&hub).await?;
    }
    print_text(&table(&hub)?.to_string());
    Ok(())
}

/// Every model of the catalogue, fetched where needed, ready to be loaded.
///
/// # Errors
/// When one cannot be fetched or verified; the error says what was tried and what to do.
pub async fn ensure_all(hub: &Hub) -> anyhow::Result<Vec<ModelSource>> {
    let mut sources = Vec::new();
    for model in hub.list() {
        let progress = progress_for_people();
        let ModelDirectory { model, path, .. } = hub.ensure(&model.name, progress.as_ref()).await?;
        sources.push(ModelSource { name: ModelName::new(&model), directory: path });
    }
    Ok(sources)
}

/// Whether each model can be asked what its reward or filter will ask it.
///
/// # Errors
/// When one cannot; the error says what it is and what it must be.
pub async fn check_kinds(config: &Config, engine: &dyn Engine) -> anyhow::Result<()> {
    for (key, model, wanted) in config.models_used() {
        match engine.kind(model).await {
            Some(found) if found == wanted => {}
            Some(found) => anyhow::bail!("{key} is `{model}`, which is {found}; it must be {wanted}"),
            None => anyhow::bail!("{key} is `{model}`, which is not loaded"),
        }
    }
    Ok(())
}

fn table(hub: &Hub) -> anyhow::Result<Table> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["model", "state", "size", "licence", "folder"]);
    for model in hub.list() {
        let bytes: u64 = model.files.iter().map(|file| file.bytes).sum();
        table.add_row([
            model.name.to_string(),
            describe(&hub.state(&model.name)?),
            format!("{:.1} MB", bytes as f64 / 1e6),
            model.licence.to_owned(),
            hub.folder(&model.name).display().to_string(),
        ]);
    }
    Ok(table)
}

fn describe(state: &ModelState) -> String {
    const REMEDY: &str = "run `openvalidators models fetch`";
    match state {
        ModelState::Present { .. } => "present, verified".to_owned(),
        ModelState::Missing => format!("missing: {REMEDY}"),
        ModelState::Corrupted { file, .. } => format!("{file} is damaged: {REMEDY}"),
        ModelState::Partial { missing, unfinished_bytes } => {
            format!("{} missing, {:.1} MB begun: {REMEDY}", missing.join(", "), *unfinished_bytes as f64 / 1e6)
        }
    }
}
