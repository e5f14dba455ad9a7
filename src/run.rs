//! `openvalidators run`: start everything, let it run, close it in order, sum it up.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use openvalidators_hub::Hub;
use openvalidators_inference::{Engine, LocalEngine};
use openvalidators_messages::{Uid, subtensor::ReadWeights};
use openvalidators_reporting::Exporter;
use openvalidators_runtime::{Late, Reason, Seed, SharedClock, Shutdown, SystemClock};
use prometheus::Registry;
use time::UtcOffset;

use crate::{
    config::Config,
    console::{Style, print_note, print_summary, standings},
    models,
    network::Network,
    progress, shutdown,
    topology::{Doors, Topology, World},
};

/// Validates until the step budget is spent or somebody asks to stop.
///
/// # Errors
/// What kept it from starting: nothing ran, and nothing was lost. Later trouble is in the exit code and the log.
pub async fn run(config: Config, style: Style, offset: UtcOffset) -> anyhow::Result<ExitCode> {
    let (clock, seed, stop) = (SystemClock::shared(), Seed(config.seed), Shutdown::default());
    shutdown::listen(stop.clone()).context("listening for signals")?;
    let registry = Registry::new();
    let engine = load_engine(&config, &registry, &clock).await?;
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("making the state directory {}", config.state_dir.display()))?;
    let exporter_address = (!config.reporting.metrics.off).then_some(config.reporting.metrics.address);

    let network = Network::start(&config, seed, &clock).await?;
    let world = World {
        config,
        clock: clock.clone(),
        seed,
        shutdown: stop.clone(),
        registry: registry.clone(),
        signer: network.signer.clone(),
        chain: network.chain.clone(),
        engine,
        offset,
    };
    let topology = Topology::start(&world).await?;
    let ours = world.signer.hotkey();

    let mut exporter = None;
    if let Some(address) = exporter_address {
        let health = topology.doors.health(topology.reporting_metrics.clone());
        let bound = Exporter::bind(address, registry, health).await?;
        print_note(style, &format!("metrics at http://{}/metrics", bound.address()));
        let stop = stop.clone();
        exporter = Some(tokio::spawn(bound.serve(async move { stop.requested().await })));
    }
    let console = progress::follow(
        style,
        topology.resumed_at,
        topology.doors.ledger_reader(),
        topology.metagraph.clone(),
        topology.scores.clone(),
        clock.clone(),
    );
    let weights = tokio::spawn(progress::announce_weights(style, ours, topology.metagraph.clone()));

    topology.lanes.run(topology.next_forward).await;

    let weights_on_chain = our_weights(&topology.doors, topology.metagraph.borrow().uid_of(&ours)).await;
    let Topology { supervisions, metagraph, scores, .. } = topology;
    let late = shutdown::close(supervisions, console, &clock).await;
    weights.abort();
    if let Some(exporter) = exporter {
        let _ = exporter.await;
    }
    let standings = standings(&metagraph.borrow(), &ours, &network.kinds, &scores.borrow(), &weights_on_chain);
    print_summary(style, &standings);
    network.stop().await;
    Ok(verdict(style, &stop, &late))
}

/// The models, fetched first where needed, on the device.
async fn load_engine(config: &Config, registry: &Registry, clock: &SharedClock) -> anyhow::Result<Arc<dyn Engine>> {
    let hub = Hub::new(&config.models, clock.clone())?;
    let sources = models::ensure_all(&hub).await?;
    let (settings, metrics, clock) =
        (config.inference.clone(), openvalidators_inference::Metrics::new(registry)?, clock.clone());
    let load = move || LocalEngine::start(&settings, &sources, metrics, clock);
    Ok(Arc::new(tokio::task::spawn_blocking(load).await.context("loading the models")??))
}

/// What the chain holds of ours; nothing when we have no place, or the chain does not answer any more.
async fn our_weights(doors: &Doors, uid: Option<Uid>) -> Vec<(Uid, u16)> {
    let Some(uid) = uid else { return Vec::new() };
    match doors.subtensor.read_weights.call(ReadWeights { uid }).await {
        Ok(Ok(weights)) => weights,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the summary goes without weights");
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(%error, "the summary goes without weights");
            Vec::new()
        }
    }
}

/// The exit code, and a last word.
fn verdict(style: Style, stop: &Shutdown, late: &[Late]) -> ExitCode {
    let reason = stop.reason().unwrap_or(Reason::Finished);
    print_note(style, &format!("stopped: {reason}"));
    match reason {
        Reason::Fault { .. } => ExitCode::from(shutdown::EXIT_FAULT),
        _ if !late.is_empty() => ExitCode::from(shutdown::EXIT_FAULT),
        _ => ExitCode::SUCCESS,
    }
}
