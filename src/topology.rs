//! The only place that knows every actor: its mailboxes, its thread, its factory.
//!
//! | thread | actors | why |
//! |---|---|---|
//! | ledger | ledger | its handlers block on the disk, on purpose |
//! | folds | rewards, weights, gating | short pure work; long folds go to blocking workers |
//! | wires | prompts, dendrite, subtensor, inference, reporting | they only wait; signing, parsing and tokenising go to workers |
//! | device | (no actor) | the inference engine's own |
//!
//! Who waits on whom is a DAG (`docs/architecture.md`), so no set of full inboxes can wait in a circle. Places are given in
//! the order asked for, so nobody starves.

use std::sync::Arc;

use anyhow::Context;
use openvalidators_dendrite as dendrite;
use openvalidators_gating as gating;
use openvalidators_inference as inference;
use openvalidators_keys::HotkeySigner;
use openvalidators_ledger as ledger;
use openvalidators_messages::{ForwardId, Metagraph, Sequence, weights::ScoreTable};
use openvalidators_prompts as prompts;
use openvalidators_reporting as reporting;
use openvalidators_rewards as rewards;
use openvalidators_runtime::{
    ActorThread, BoxError, CallError, Inbox, Pulse, RestartBudget, Seed, SharedClock, Shutdown, Stop, Supervision,
    supervise,
};
use openvalidators_subtensor as subtensor;
use openvalidators_weights as weights;
use prometheus::Registry;
use time::UtcOffset;
use tokio::sync::watch;

use crate::{archive, config::Config, wandb};

/// What we are to those who compare validators, as one integer (openvalidators 1.2.0 wrote 1000·major + 10·minor + patch).
const SPEC_VERSION: u32 = 10;

/// Places in each inbox beside those of the forwards: for settling, owners of state, reporting, and calls given up a moment
/// ago. Inference sets its own.
const COMMON_PLACES: usize = 64;

/// Most bytes of a completion that miners are shown who judge it.
const JUDGED_TEXT_LIMIT_BYTES: usize = 8_192;

/// What the actors are made of.
pub struct World {
    /// The operator's settings, checked.
    pub config: Config,
    /// Time.
    pub clock: SharedClock,
    /// Randomness.
    pub seed: Seed,
    /// The reason to stop.
    pub shutdown: Shutdown,
    /// Metrics.
    pub registry: Registry,
    /// Our key.
    pub signer: Arc<HotkeySigner>,
    /// The chain, seen by our hotkey.
    pub calls: subtensor::ChainCalls,
    /// What computes.
    pub engine: Arc<dyn inference::Engine>,
    /// The local time zone.
    pub offset: UtcOffset,
    /// The ledger, opened before anything else started.
    pub store: ledger::Store,
    /// Whose it is; every later life of the ledger opens it with this.
    pub identity: ledger::Identity,
    /// Where texts come from.
    pub source: Arc<dyn prompts::Source>,
    /// Where rows go, if wandb is on.
    pub wandb: Option<reporting::wandb::Setup>,
}

/// Every actor's mailboxes.
#[derive(Clone)]
pub struct Doors {
    /// See `actors/prompts`.
    pub prompts: prompts::Mailboxes,
    /// See `actors/gating`.
    pub gating: gating::Mailboxes,
    /// See `actors/dendrite`.
    pub dendrite: dendrite::Mailboxes,
    /// See `actors/inference`.
    pub inference: inference::Mailboxes,
    /// See `actors/rewards`.
    pub rewards: rewards::Mailboxes,
    /// See `actors/weights`.
    pub weights: weights::Mailboxes,
    /// See `actors/ledger`.
    pub ledger: ledger::Mailboxes,
    /// See `actors/subtensor`.
    pub subtensor: subtensor::Mailboxes,
    /// See `actors/reporting`.
    pub reporting: reporting::Mailboxes,
}

/// The actors, running.
pub struct Topology {
    /// How to reach them.
    pub doors: Doors,
    /// The subnet, after each block.
    pub metagraph: watch::Receiver<Arc<Metagraph>>,
    /// The scores, after each step.
    pub scores: watch::Receiver<Arc<ScoreTable>>,
    /// The forwards, not begun yet.
    pub lanes: Arc<prompts::Lanes>,
    /// The first forward id that no step in the ledger has.
    pub next_forward: ForwardId,
    /// The latest step in the ledger at the start.
    pub resumed_at: Sequence,
    /// What is counted from the ledger; its `check` is part of the validator's health.
    pub reporting_metrics: reporting::ReportingMetrics,
    /// Why weights wait is part of it too.
    pub weights_metrics: weights::Metrics,
    /// What no inbox shows; part of the validator's health too.
    pub pulses: Pulses,
    /// To be closed in the order of `src/shutdown.rs`.
    pub supervisions: Supervisions,
    _threads: Threads,
}

/// Signs of life of what actors do without being asked.
pub struct Pulses {
    /// Subtensor follows the chain.
    pub following: Pulse,
    /// Weights look at their duty.
    pub duty: Pulse,
    /// Reporting follows the ledger.
    pub reporting: Pulse,
}

/// One for each actor.
#[allow(missing_docs, reason = "the names say it")]
pub struct Supervisions {
    pub prompts: Supervision,
    pub gating: Supervision,
    pub dendrite: Supervision,
    pub inference: Supervision,
    pub rewards: Supervision,
    pub weights: Supervision,
    pub ledger: Supervision,
    pub subtensor: Supervision,
    pub reporting: Supervision,
}

struct Threads {
    ledger: ActorThread,
    folds: ActorThread,
    wires: ActorThread,
}

/// Supervises with what all actors share.
struct Supervisor<'a> {
    clock: &'a SharedClock,
    shutdown: &'a Shutdown,
}

// === impl Topology ===

impl Topology {
    /// Starts every actor; owners of state have recovered when it returns. Forwards do not run yet.
    ///
    /// # Errors
    /// When the chain is out of reach, or an owner's state cannot be recovered.
    pub async fn start(world: World) -> anyhow::Result<Self> {
        let World {
            config,
            clock,
            seed,
            shutdown,
            registry,
            signer,
            calls,
            engine,
            offset,
            store,
            identity,
            source,
            wandb,
        } = world;
        let (registry, shutdown) = (&registry, &shutdown);
        let (settings, is_remote) = (config.prompts.check()?, config.chain.endpoint.is_remote());
        let (next_forward, resumed_at) = (store.next_forward()?, store.latest()?);

        let first = calls.metagraph().await.context("reading the subnet for the first time")?;
        let (publish_metagraph, metagraph) = watch::channel(Arc::new(first));
        let (publish_scores, scores) = watch::channel(Arc::new(ScoreTable::default()));

        let (doors, pulses) = (Doors::new(&config, registry)?, Pulses::new(&clock));
        let threads =
            Threads { ledger: ActorThread::start(), folds: ActorThread::start(), wires: ActorThread::start() };
        let supervisor = Supervisor { clock: &clock, shutdown };

        let ledger = {
            let metrics = ledger::Metrics::new(registry)?;
            let (config, clock, mut opened) = (config.clone(), clock.clone(), Some(store));
            let whose = identity.hotkey;
            let factory = move || {
                let (store, config, identity) = (opened.take(), config.clone(), identity.clone());
                let (metrics, clock) = (metrics.clone(), clock.clone());
                async move {
                    let store = match store {
                        Some(store) => store,
                        // A later life opens the file anew; it was checked for damage when the program started.
                        None => ledger::Store::open(&config.state_dir, &identity, 0)?,
                    };
                    let archive = archive::open(&config.state_dir, &config.ledger, whose);
                    Ok(ledger::LedgerActor::new(store, config.ledger, metrics, clock).archiving(archive))
                }
            };
            let attach = doors.ledger.clone();
            supervisor.run(&threads.ledger, &doors.ledger.inbox, factory, move |actor| attach.attach(actor))
        };

        let subtensor = {
            let pulse = pulses.following.clone();
            let factory = move || {
                let actor = subtensor::SubtensorActor::new(calls.clone(), publish_metagraph.clone(), pulse.clone());
                async move { Ok(actor) }
            };
            let attach = doors.subtensor.clone();
            supervisor.run(&threads.wires, &doors.subtensor.inbox, factory, move |actor| attach.attach(actor))
        };

        let inference = {
            let factory = move || {
                let actor = inference::InferenceActor::new(engine.clone());
                async move { Ok(actor) }
            };
            let attach = doors.inference.clone();
            supervisor.run(&threads.wires, &doors.inference.inbox, factory, move |actor| attach.attach(actor))
        };

        let rewards = {
            let metrics = rewards::Metrics::new(registry)?;
            let (config, clock, ledger, inference) =
                (config.rewards.clone(), clock.clone(), doors.ledger_of_rewards(), doors.inference_of_rewards());
            let network = rewards::Network::new(doors.dendrite.query.clone(), metagraph.clone(), seed, quoted);
            let factory = move || {
                let (config, ledger, inference) = (config.clone(), ledger.clone(), inference.clone());
                let (clock, metrics, network) = (clock.clone(), metrics.clone(), network.clone());
                async move {
                    let actor = rewards::RewardsActor::recover(&config, ledger, inference, clock, metrics).await?;
                    Ok(actor.asking(network))
                }
            };
            let attach = doors.rewards.clone();
            supervisor.run(&threads.folds, &doors.rewards.inbox, factory, move |actor| attach.attach(actor))
        };
        // Weights fold what rewards made of the steps: recovering rewards stores outcomes that a crash left out.
        recovered("the state of rewards", doors.rewards.apply.ready(), shutdown).await?;

        let weights_metrics = weights::Metrics::new(registry)?.per_uid(config.reporting.metrics.per_uid);
        let weights = {
            let metrics = weights_metrics.clone();
            let (hotkey, mut config, clock) = (signer.hotkey(), config.weights.clone(), clock.clone());
            if !is_remote {
                // A local network's miners are known to speak our protocol, and nobody else has our hotkey there.
                config.probe_axons = 0;
                config.same_key_guard = false;
            }
            let (neighbours, metagraph, pulse) =
                (doors.neighbours_of_weights(), metagraph.clone(), pulses.duty.clone());
            let factory = move || {
                let (config, neighbours, metagraph) = (config.clone(), neighbours.clone(), metagraph.clone());
                let (scores, metrics) = (publish_scores.clone(), metrics.clone());
                let (clock, pulse) = (clock.clone(), pulse.clone());
                async move {
                    let recovered = weights::WeightsActor::recover(
                        hotkey, config, neighbours, metagraph, scores, metrics, clock, pulse,
                    );
                    Ok(recovered.await?)
                }
            };
            let attach = doors.weights.clone();
            supervisor.run(&threads.folds, &doors.weights.inbox, factory, move |actor| attach.attach(actor))
        };
        recovered("the scores", doors.weights.apply.ready(), shutdown).await?;

        let gating = {
            let metrics = gating::Metrics::new(registry)?.per_uid(config.reporting.metrics.per_uid);
            let config = config.gating.clone();
            let around = gating::Surroundings {
                seed,
                own_hotkey: signer.hotkey(),
                metagraph: metagraph.clone(),
                ledger: doors.ledger_of_gating(),
                embed: doors.inference.embed.clone(),
                clock: clock.clone(),
            };
            let factory = move || {
                let (config, around, metrics) = (config.clone(), around.clone(), metrics.clone());
                async move { Ok(gating::GatingActor::recover(config, around, metrics).await?) }
            };
            let attach = doors.gating.clone();
            supervisor.run(&threads.folds, &doors.gating.inbox, factory, move |actor| attach.attach(actor))
        };
        recovered("what routing has learned", doors.gating.apply.ready(), shutdown).await?;

        let dendrite = {
            let metrics = dendrite::Metrics::new(registry)?;
            let workers = tokio::runtime::Handle::current();
            let dendrite =
                dendrite::Dendrite::new(signer.clone(), config.dendrite.clone(), clock.clone(), metrics, workers)?;
            let factory = move || {
                let actor = dendrite::DendriteActor::new(dendrite.clone());
                async move { Ok(actor) }
            };
            let attach = doors.dendrite.clone();
            supervisor.run(&threads.wires, &doors.dendrite.inbox, factory, move |actor| attach.attach(actor))
        };

        let prompts = {
            let factory = move || {
                let actor = prompts::PromptsActor::new(source.clone(), seed);
                async move { Ok(actor) }
            };
            let attach = doors.prompts.clone();
            supervisor.run(&threads.wires, &doors.prompts.inbox, factory, move |actor| attach.attach(actor))
        };

        let reporting_metrics = reporting::ReportingMetrics::new(registry, &build_info())?;
        registry.register(Box::new(reporting::DiskSpace::new(&config.state_dir)?))?;
        let reporting = {
            let wandb = match wandb {
                Some(setup) => Some(reporting::wandb::WandbParts {
                    setup,
                    about: Arc::new(wandb::about(&config, &signer.hotkey(), SPEC_VERSION)),
                    metrics: reporting::wandb::WandbMetrics::new(registry)?,
                }),
                None => None,
            };
            let parts = reporting::ReportingParts {
                config: config.reporting.clone(),
                folder: config.state_dir.clone(),
                ledger: doors.ledger_reader(),
                scores: doors.weights.read_scores.clone(),
                head: doors.gating.read_head.clone(),
                metagraph: metagraph.clone(),
                metrics: reporting_metrics.clone(),
                clock: clock.clone(),
                pulse: pulses.reporting.clone(),
                started_at: clock.unix(),
                offset,
                wandb,
            };
            let factory = move || {
                let actor = reporting::ReportingActor::new(parts.clone());
                async move { Ok(actor) }
            };
            let attach = doors.reporting.clone();
            supervisor.run(&threads.wires, &doors.reporting.inbox, factory, move |actor| attach.attach(actor))
        };

        let lanes = prompts::Lanes::new(
            doors.desks(),
            settings,
            seed,
            clock.clone(),
            shutdown.clone(),
            metagraph.clone(),
            prompts::Metrics::register(registry)?,
        );
        let supervisions =
            Supervisions { prompts, gating, dendrite, inference, rewards, weights, ledger, subtensor, reporting };
        Ok(Self {
            doors,
            metagraph,
            scores,
            lanes,
            next_forward,
            resumed_at,
            reporting_metrics,
            weights_metrics,
            pulses,
            supervisions,
            _threads: threads,
        })
    }
}

/// A completion as miners see it who judge it: marked line by line, like everything of a miner that another one reads.
#[must_use]
pub(crate) fn quoted(text: &str) -> String {
    prompts::quote::fence(&prompts::quote::clean(text, JUDGED_TEXT_LIMIT_BYTES))
}

/// Waits for an owner of state; when it cannot be made, says why instead of that its door is closed.
async fn recovered(
    what: &str,
    ready: impl Future<Output = Result<(), CallError>>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let failed = tokio::select! {
        biased;
        ready = ready => ready.err().map(|error| error.to_string()),
        () = shutdown.requested() => Some("stopped meanwhile".to_owned()),
    };
    match failed {
        None => Ok(()),
        Some(error) => {
            let reason = shutdown.reason().map_or(error, |reason| reason.to_string());
            anyhow::bail!("recovering {what}: {reason}")
        }
    }
}

impl Supervisor<'_> {
    fn run<A, Made>(
        &self,
        thread: &ActorThread,
        inbox: &Inbox,
        factory: impl FnMut() -> Made + Send + 'static,
        attach: impl Fn(&actix::Addr<A>) + Send + 'static,
    ) -> Supervision
    where
        A: actix::Actor<Context = actix::Context<A>> + actix::Handler<Stop>,
        Made: Future<Output = Result<A, BoxError>> + 'static,
    {
        supervise(thread, inbox, RestartBudget::default(), self.clock, self.shutdown, factory, attach)
    }
}

// === impl Pulses ===

impl Pulses {
    /// All beat now.
    pub(crate) fn new(clock: &SharedClock) -> Self {
        Self { following: Pulse::new(clock), duty: Pulse::new(clock), reporting: Pulse::new(clock) }
    }

    /// Each with the actor whose it is, and what it does.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &'static str, &Pulse); 3] {
        [
            ("subtensor", "following the chain", &self.following),
            ("weights", "looking at the duty to set weights", &self.duty),
            ("reporting", "following the ledger", &self.reporting),
        ]
    }
}

// === impl Doors ===

impl Doors {
    /// Every door, with nobody behind it yet.
    pub(crate) fn new(config: &Config, registry: &Registry) -> Result<Self, prometheus::Error> {
        // A forward is in one inbox at a time, and may be there for as long as miners or models take. With a place for each
        // of them, a step that is to be settled never waits for others to be asked or scored.
        let places = COMMON_PLACES + config.prompts.concurrent_forwards;
        Ok(Self {
            prompts: prompts::Mailboxes::new(places, registry)?,
            gating: gating::Mailboxes::new(places, registry)?,
            dendrite: dendrite::Mailboxes::new(places, registry)?,
            inference: inference::Mailboxes::new(config.inference.mailbox_capacity, registry)?,
            rewards: rewards::Mailboxes::new(places, registry)?,
            weights: weights::Mailboxes::new(places, registry)?,
            ledger: ledger::Mailboxes::new(places, registry)?,
            subtensor: subtensor::Mailboxes::new(places, registry)?,
            reporting: reporting::Mailboxes::new(places, registry)?,
        })
    }

    /// The ledger, for whoever follows it by cursor.
    #[must_use]
    pub fn ledger_reader(&self) -> reporting::LedgerReader {
        reporting::LedgerReader {
            read_steps: self.ledger.read_steps.clone(),
            load_cursor: self.ledger.load_cursor.clone(),
            save_cursor: self.ledger.save_cursor.clone(),
        }
    }

    /// Every inbox behind which somebody must make progress.
    #[must_use]
    pub fn inboxes(&self) -> [&Inbox; 8] {
        [
            &self.prompts.inbox,
            &self.gating.inbox,
            &self.dendrite.inbox,
            &self.inference.inbox,
            &self.rewards.inbox,
            &self.weights.inbox,
            &self.ledger.inbox,
            &self.subtensor.inbox,
        ]
    }

    fn desks(&self) -> prompts::Desks {
        prompts::Desks {
            draw: self.prompts.draw.clone(),
            route: self.gating.route.clone(),
            query: self.dendrite.query.clone(),
            score: self.rewards.score.clone(),
            append: self.ledger.append.clone(),
            apply_rewards: self.rewards.apply.clone(),
            apply_weights: self.weights.apply.clone(),
            apply_gating: self.gating.apply.clone(),
            store_outcome: self.ledger.store_outcome.clone(),
        }
    }

    fn inference_of_rewards(&self) -> rewards::Inference {
        rewards::Inference {
            embed: self.inference.embed.clone(),
            log_prob: self.inference.log_prob.clone(),
            classify: self.inference.classify.clone(),
            generate: self.inference.generate.clone(),
            models: self.inference.models.clone(),
        }
    }

    fn ledger_of_rewards(&self) -> rewards::Ledger {
        rewards::Ledger {
            load_snapshot: self.ledger.load_snapshot.clone(),
            save_snapshot: self.ledger.save_snapshot.clone(),
            read_steps: self.ledger.read_steps.clone(),
            store_outcome: self.ledger.store_outcome.clone(),
        }
    }

    fn ledger_of_gating(&self) -> gating::Ledger {
        gating::Ledger {
            load_snapshot: self.ledger.load_snapshot.clone(),
            save_snapshot: self.ledger.save_snapshot.clone(),
            read_steps: self.ledger.read_steps.clone(),
        }
    }

    fn neighbours_of_weights(&self) -> weights::Neighbours {
        weights::Neighbours {
            load_snapshot: self.ledger.load_snapshot.clone(),
            save_snapshot: self.ledger.save_snapshot.clone(),
            read_steps: self.ledger.read_steps.clone(),
            record_intent: self.ledger.record_intent.clone(),
            settle_intent: self.ledger.settle_intent.clone(),
            read_intents: self.ledger.read_intents.clone(),
            set_weights: self.subtensor.set_weights.clone(),
            reveal_weights: self.subtensor.reveal_weights.clone(),
            read_weights: self.subtensor.read_weights.clone(),
        }
    }
}

fn build_info() -> reporting::BuildInfo {
    let known = |name: Option<&str>| name.unwrap_or("unknown").to_owned();
    reporting::BuildInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        spec_version: SPEC_VERSION.to_string(),
        revision: known(option_env!("OPENVALIDATORS_REVISION")),
        rustc: known(option_env!("OPENVALIDATORS_RUSTC")),
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;
