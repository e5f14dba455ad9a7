//! `openvalidators run`: start everything, let it run, close it in order, sum it up.

use std::{convert::Infallible, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use openvalidators_dendrite::axon::Axon;
use openvalidators_gating::{Config as GatingConfig, interests::Interests, uniform};
use openvalidators_hub::Hub;
use openvalidators_inference::Engine;
use openvalidators_keys::HotkeySigner;
use openvalidators_ledger::{Identity, Store};
use openvalidators_messages::{Hotkey, Netuid, Uid, subtensor::ReadWeights};
use openvalidators_prompts as prompts;
use openvalidators_reporting::{Exporter, Health, wandb};
use openvalidators_runtime::{Late, Reason, Seed, SharedClock, Shutdown, SystemClock, within};
use openvalidators_subtensor::ChainCalls;
use parking_lot::Mutex;
use prometheus::Registry;
use time::UtcOffset;
use tokio::task::JoinHandle;

use crate::{
    axon,
    config::Config,
    console::{Style, print_note, print_summary, standings, topic_lines},
    engine, health,
    logging::Logging,
    models,
    network::Network,
    progress,
    service::Service,
    shutdown, standing, status,
    topology::{Doors, Topology, World},
};

/// Where prompt sources stand, below the state directory.
const POSITIONS: &str = "prompts";
/// How long the summary waits for the chain.
const WEIGHTS_PATIENCE: Duration = Duration::from_secs(10);

/// Validates until the step budget is spent or somebody asks to stop.
///
/// # Errors
/// What kept it from starting: nothing ran, and nothing was lost. Later trouble is in the exit code and the log.
pub async fn run(
    config: Config,
    signer: Arc<HotkeySigner>,
    style: Style,
    offset: UtcOffset,
    logging: Logging,
) -> anyhow::Result<ExitCode> {
    let (clock, stop, service) = (SystemClock::shared(), Shutdown::default(), Service::from_environment());
    service.starting();
    shutdown::listen(stop.clone()).context("listening for signals")?;
    tokio::select! {
        started = start(config, signer, style, offset, logging, clock.clone(), stop.clone()) => {
            let running = started?;
            Ok(running.until_the_end(style, &clock, &stop, &service).await)
        }
        // Nothing has been validated yet, so there is nothing to close in order: the ledger is safe at any moment.
        () = asked_while_starting(&stop) => Ok(verdict(style, &stop, &[])),
    }
}

/// A validator at work.
struct Running {
    topology: Topology,
    network: Network,
    calls: ChainCalls,
    /// Where it is said to be, or nothing when nobody is told.
    axon: Option<(Axon, Option<SocketAddr>)>,
    /// The SDK version we say we are.
    declared_version: u32,
    ours: Hotkey,
    /// Says who can be asked.
    gating: GatingConfig,
    exporter: Option<JoinHandle<Infallible>>,
    health: Arc<Health>,
}

/// What an operator can get wrong comes first and changes nothing, our place on a real network included; then models, a local
/// network, actors.
async fn start(
    mut config: Config,
    signer: Arc<HotkeySigner>,
    style: Style,
    offset: UtcOffset,
    logging: Logging,
    clock: SharedClock,
    shutdown: Shutdown,
) -> anyhow::Result<Running> {
    let (seed, registry) = (Seed(config.seed), Registry::new());
    let ours = signer.hotkey();
    logging.register(&registry)?;
    let sources = prompts::Sources::open(&config.prompts, &config.models, &clock)?;
    let exporter = match &config.reporting.metrics {
        metrics if metrics.off => None,
        metrics => Some(Exporter::bind(metrics.address).await?),
    };
    let wandb = wandb::Setup::of(&config.reporting.wandb, &config.state_dir)?;
    if let Some(setup) = &wandb {
        print_note(style, &setup.note());
    } else if config.reporting.wandb.is_set_up_and_off() {
        print_note(style, "wandb is off, whatever else is set for it: --set reporting.wandb.mode=online turns it on");
    }
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("making the state directory {}", config.state_dir.display()))?;
    logging.follow(&config.state_dir).context("listening for SIGHUP")?;
    let identity = Identity {
        network: config.chain.endpoint.network().to_owned(),
        netuid: Netuid(config.chain.netuid),
        hotkey: ours,
    };
    let store = Store::open(&config.state_dir, &identity, config.ledger.check_up_to_bytes)?;
    // They read on ahead while models are loaded.
    let source_metrics = prompts::SourcesMetrics::register(&registry)?;
    let source = Arc::new(sources.start(Some(config.state_dir.join(POSITIONS)), seed, &source_metrics)?);

    let axon = if config.chain.endpoint.is_remote() { serve_axon(&mut config, ours, &clock).await? } else { None };
    let chain_metrics = openvalidators_subtensor::Metrics::new(&registry, &clock)?;
    let calls = |chain| ChainCalls::new(chain, clock.clone(), &config.chain, chain_metrics.clone(), seed);
    let (network, calls, engine) = match Network::remote(&config, &signer, &clock, &chain_metrics) {
        Some(network) => {
            let calls = calls(network.chain.clone());
            let metagraph = calls.metagraph().await.context("reading the subnet for the first time")?;
            standing::place(&metagraph, &ours, &config.chain)?;
            (network, calls, load_engine(&config, &registry, &clock).await?)
        }
        None => {
            // Its blocks come from the moment it is started.
            let engine = load_engine(&config, &registry, &clock).await?;
            let network = Network::local(&config, &signer, seed, &clock).await?;
            let calls = calls(network.chain.clone());
            (network, calls, engine)
        }
    };
    let (duty, declared_version) = (!config.weights.disable_set_weights, config.dendrite.declared_version);
    let gating = config.gating.clone();
    source.settle(&*clock, Duration::from_secs_f64(config.prompts.first_text_patience_seconds)).await;
    let world = World {
        config,
        clock: clock.clone(),
        seed,
        shutdown: shutdown.clone(),
        registry: registry.clone(),
        signer,
        calls: calls.clone(),
        engine,
        offset,
        store,
        identity,
        source,
        wandb,
    };
    let topology = Topology::start(world).await?;
    let health = Arc::new(health::table(
        &topology.doors,
        &topology.pulses,
        topology.reporting_metrics.clone(),
        topology.weights_metrics.clone(),
        ours,
        topology.metagraph.clone(),
        duty,
        &clock,
    ));
    let exporter = exporter.map(|exporter| {
        print_note(style, &format!("metrics at http://{}/metrics", exporter.address()));
        let serving = exporter.serve(registry, health.clone(), clock.clone());
        tokio::spawn(shutdown::until_asked("the server of metrics and health", shutdown, serving))
    });
    Ok(Running { topology, network, calls, axon, declared_version, ours, gating, exporter, health })
}

/// Resolves when a signal or a fault came; never for a step budget, which only a started validator spends.
async fn asked_while_starting(stop: &Shutdown) {
    stop.requested().await;
    // A start that failed by itself has its own, better words: let it say them first.
    if !matches!(stop.reason(), Some(Reason::Signal(_))) {
        std::future::pending::<()>().await;
    }
}

/// Waits for the reason to stop; that the chain in this process has ended is one.
async fn asked_or_alone(network: &Network, stop: &Shutdown) {
    tokio::select! {
        () = stop.requested() => {}
        () = network.chain_ended() => {
            let what = "it has ended by itself; its last words are in the log".to_owned();
            stop.request(Reason::Fault { part: "the local chain".to_owned(), what });
        }
    }
}

impl Running {
    async fn until_the_end(self, style: Style, clock: &SharedClock, stop: &Shutdown, service: &Service) -> ExitCode {
        let Self { topology, network, calls, axon, declared_version, ours, gating, exporter, health } = self;
        let Topology { doors, metagraph, scores, lanes, next_forward, resumed_at, supervisions, .. } = topology;
        let interests = Arc::new(Mutex::new(Interests::default()));
        let console = progress::follow(
            style,
            resumed_at,
            doors.ledger_reader(),
            metagraph.clone(),
            scores.clone(),
            interests.clone(),
            clock.clone(),
        );
        let status = status::show(style, ours, metagraph.clone(), scores.clone(), clock.clone());
        let weights = tokio::spawn(progress::announce_weights(style, ours, metagraph.clone()));
        let advertised = axon.as_ref().and_then(|(_, external)| *external);
        let advertising = advertised.map(|address| {
            let (calls, metagraph) = (calls.clone(), metagraph.clone());
            tokio::spawn(axon::advertise(address, declared_version, calls, metagraph, ours))
        });
        let forwards = tokio::spawn(shutdown::until_asked("the forwards", stop.clone(), lanes.run(next_forward)));
        service.ready();
        let told = service.follow(health, metagraph.clone(), scores.clone(), clock.clone());
        tokio::select! {
            () = asked_or_alone(&network, stop) => {}
            what = standing::lost(metagraph.clone(), ours, || calls.metagraph()) => {
                stop.request(Reason::Fault { part: standing::PART.to_owned(), what });
            }
        }

        if let Some(reason) = stop.reason().filter(|reason| *reason != Reason::Finished) {
            print_note(style, &format!("stopping: {reason}"));
        }
        service.stopping(&stop.reason().unwrap_or(Reason::Finished).to_string());
        if let Some(advertising) = advertising {
            advertising.abort();
        }
        let mut late = shutdown::end_forwards(forwards, clock).await;
        if let Some((axon, _)) = axon {
            axon.close().await;
        }
        let our_uid = metagraph.borrow().uid_of(&ours);
        let weights_on_chain =
            within(&**clock, WEIGHTS_PATIENCE, our_weights(&doors, our_uid)).await.unwrap_or_default();
        late.extend(shutdown::close(supervisions, console, exporter, clock).await);
        weights.abort();
        drop(status);
        let (now, interests) = (metagraph.borrow().clone(), interests.lock().clone());
        let available = uniform::available(&now, &ours, &gating).count();
        let standings =
            standings(&now, &ours, &network.kinds, &scores.borrow(), &weights_on_chain, &interests, available);
        print_summary(style, &standings, &topic_lines(&now, &network.kinds, &interests, available));
        network.stop().await;
        if let Some(told) = told {
            told.abort();
        }
        verdict(style, stop, &late)
    }
}

/// The axon, and where others reach it. What is ours must never be asked, whoever advertises it.
async fn serve_axon(
    config: &mut Config,
    ours: Hotkey,
    clock: &SharedClock,
) -> anyhow::Result<Option<(Axon, Option<SocketAddr>)>> {
    let Some(axon) = config.axon.serve(ours, clock).await? else { return Ok(None) };
    let external = config.axon.external(axon.address());
    match external {
        Some(address) => config.dendrite.own_addresses.push(address),
        None => tracing::warn!(
            listening = %axon.address(),
            "the chain does not say where our axon is, for this machine has no global address: name it with --axon.external_ip"
        ),
    }
    Ok(Some((axon, external)))
}

/// The models, fetched first where needed, on the device.
pub(crate) async fn load_engine(
    config: &Config,
    registry: &Registry,
    clock: &SharedClock,
) -> anyhow::Result<Arc<dyn Engine>> {
    let (hub, mut config) = (Hub::new(&config.models, clock.clone())?, config.clone());
    models::place_only_used(&mut config, &hub);
    let sources = models::ready(&hub, &config).await?;
    engine::start(&config, &config.models_of_run(), &sources, registry, clock).await
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
        Reason::Fault { part, .. } if part == standing::PART => ExitCode::from(shutdown::EXIT_PLACE_LOST),
        Reason::Fault { .. } => ExitCode::from(shutdown::EXIT_FAULT),
        _ if !late.is_empty() => ExitCode::from(shutdown::EXIT_FAULT),
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It used to run on for ever without blocks, and only `/ready` told.
    #[test]
    fn a_chain_in_this_process_that_ends_is_a_reason_to_stop() {
        let (ours, of_chain) = (tokio::runtime::Runtime::new().unwrap(), tokio::runtime::Runtime::new().unwrap());
        let (clock, folder) = (SystemClock::shared(), tempfile::tempdir().unwrap());
        let mut config = Config { state_dir: folder.path().to_owned(), ..Config::default() };
        config.chain.local.block_seconds = 0.02;
        let signer = crate::network::local_signer().unwrap();
        let network = of_chain.block_on(Network::local(&config, &signer, Seed(7), &clock)).unwrap();
        let (stop, patience) = (Shutdown::default(), Duration::from_millis(100));
        let waited = ours.block_on(within(&*clock, patience, asked_or_alone(&network, &stop)));
        assert!(waited.is_err() && !stop.is_requested(), "the chain runs");

        // Whatever runs there is dropped where it stands, as by a panic.
        of_chain.shutdown_background();
        ours.block_on(within(&*clock, Duration::from_secs(10), asked_or_alone(&network, &stop))).unwrap();
        let told = stop.reason().unwrap().to_string();
        assert!(told.starts_with("the local chain cannot go on"), "{told}");
    }
}
