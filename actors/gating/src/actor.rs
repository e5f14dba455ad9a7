//! Messages to routing and to what it has learned.

use std::sync::Arc;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, AtomicResponse, Context, Handler, ResponseFuture, WrapFuture, fut,
};
use openvalidators_messages::{
    Hotkey, Metagraph, Sequence,
    gating::{Apply, HeadTable, NobodyToAsk, ReadHead, Route, Routing},
    inference::Embed,
    ledger::{SaveSnapshot, Snapshot},
    rewards::FoldError,
};
use openvalidators_recovery::ReadError;
use openvalidators_runtime::{Envelope, Inbox, Mailbox, Seed, SharedClock, Stop, WhileAwaited, on_worker};
use prometheus::Registry;
use tokio::sync::watch;

use crate::{
    config::Config,
    metrics::Metrics,
    recovery::{Ledger, OWNER, read_gap, recover},
    router::Router,
    snapshot::encode,
    state::State,
};

/// The ways into the gating actor.
#[derive(Clone)]
pub struct Mailboxes {
    /// Its door.
    pub inbox: Inbox,
    /// Choices of miners.
    pub route: Mailbox<Route>,
    /// Folds.
    pub apply: Mailbox<Apply>,
    /// See [`ReadHead`].
    pub read_head: Mailbox<ReadHead>,
}

/// What the gating actor lives among.
#[derive(Clone)]
pub struct Surroundings {
    /// The root of its random choices.
    pub seed: Seed,
    /// Never asked.
    pub own_hotkey: Hotkey,
    /// The subnet, after each block.
    pub metagraph: watch::Receiver<Arc<Metagraph>>,
    /// Where steps and snapshots are.
    pub ledger: Ledger,
    /// Who reads prompts.
    pub embed: Mailbox<Embed>,
    /// Time.
    pub clock: SharedClock,
}

/// Chooses miners, and learns from what they complete.
pub struct GatingActor {
    router: Arc<Router>,
    ledger: Ledger,
    /// The latest step folded.
    applied: Sequence,
    folds_since_snapshot: u64,
    snapshot_every_steps: u64,
}

// === impl Mailboxes ===

impl Mailboxes {
    /// Opens the door with `capacity` places.
    ///
    /// # Errors
    /// When the registry has an inbox of this name already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let inbox = Inbox::new(OWNER, capacity, registry)?;
        Ok(Self { route: inbox.mailbox(), apply: inbox.mailbox(), read_head: inbox.mailbox(), inbox })
    }

    /// Points every mailbox at a fresh actor.
    pub fn attach(&self, actor: &Addr<GatingActor>) {
        self.route.attach(actor);
        self.apply.attach(actor);
        self.read_head.attach(actor);
    }
}

// === impl GatingActor ===

impl GatingActor {
    /// An actor that has learned from every settled step in the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn recover(config: Config, around: Surroundings, metrics: Metrics) -> Result<Self, ReadError> {
        let state = recover(&around.ledger, &config.rules(), &metrics).await?;
        metrics.show(&state);
        let (applied, ledger) = (state.sequence(), around.ledger.clone());
        let snapshot_every_steps = config.snapshot_every_steps;
        let router = Arc::new(Router::new(state, config, around, metrics));
        Ok(Self { router, ledger, applied, folds_since_snapshot: 0, snapshot_every_steps })
    }

    fn folded(&mut self, latest: Sequence, count: u64, context: &mut Context<Self>) {
        self.applied = self.applied.max(latest);
        self.folds_since_snapshot += count;
        if self.folds_since_snapshot >= self.snapshot_every_steps {
            self.folds_since_snapshot = 0;
            let every = self.snapshot_every_steps;
            let saved = save(self.router.clone(), self.ledger.save_snapshot.clone()).into_actor(self);
            context.spawn(saved.map(move |saved, actor, _| {
                if !saved {
                    // With the next fold.
                    actor.folds_since_snapshot = every;
                }
            }));
        }
    }
}

impl Actor for GatingActor {
    type Context = Context<Self>;
}

impl Handler<Envelope<Route>> for GatingActor {
    /// Beside others: most of it is waiting for the embedding.
    type Result = WhileAwaited<Result<Routing, NobodyToAsk>>;

    fn handle(&mut self, envelope: Envelope<Route>, _: &mut Self::Context) -> Self::Result {
        let (route, place) = envelope.open();
        WhileAwaited::new(place, self.router.clone().route(route))
    }
}

impl Handler<Envelope<Apply>> for GatingActor {
    /// One step at a time: the next waits while a gap is filled.
    type Result = AtomicResponse<Self, Result<Option<f32>, FoldError>>;

    fn handle(&mut self, envelope: Envelope<Apply>, _: &mut Self::Context) -> Self::Result {
        let (step, place) = envelope.open();
        let applied = self.applied;
        if step.sequence <= applied {
            return AtomicResponse::new(Box::pin(fut::ready(Ok(None))));
        }
        let (router, read_steps) = (self.router.clone(), self.ledger.read_steps.clone());
        let fold = async move {
            let mut steps = Vec::new();
            if step.sequence > applied.next() {
                steps = read_gap(&read_steps, applied, step.sequence, router.metrics()).await?;
            }
            let (latest, count) = (step.sequence, steps.len() as u64 + 1);
            steps.push(step);
            let loss = on_worker(move || router.fold(&steps)).await;
            Ok((latest, count, loss))
        };
        AtomicResponse::new(Box::pin(fold.into_actor(self).map(move |folded, actor, context| {
            let _place = place;
            let (latest, count, loss) = folded?;
            actor.folded(latest, count, context);
            Ok(loss)
        })))
    }
}

impl Handler<Envelope<ReadHead>> for GatingActor {
    /// Beside others: a copy of megabytes, made on a worker.
    type Result = WhileAwaited<HeadTable>;

    fn handle(&mut self, envelope: Envelope<ReadHead>, _: &mut Self::Context) -> Self::Result {
        let (ReadHead, place) = envelope.open();
        let router = self.router.clone();
        WhileAwaited::new(place, on_worker(move || router.with_state(State::head_table)))
    }
}

/// Leaves a last snapshot.
impl Handler<Stop> for GatingActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, _: &mut Self::Context) -> Self::Result {
        let (router, save_snapshot) = (self.router.clone(), self.ledger.save_snapshot.clone());
        Box::pin(async move {
            save(router, save_snapshot).await;
        })
    }
}

async fn save(router: Arc<Router>, mailbox: Mailbox<SaveSnapshot>) -> bool {
    let snapshot = match on_worker(move || router.with_state(encode)).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            tracing::error!(%error, "no snapshot was made of what routing has learned");
            return true;
        }
    };
    let Snapshot { sequence, .. } = snapshot;
    match mailbox.call(SaveSnapshot { owner: OWNER, snapshot }).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::error!(%error, %sequence, "what routing has learned has no new snapshot"),
        Err(error) => tracing::error!(%error, %sequence, "what routing has learned has no new snapshot"),
    }
    false
}

#[cfg(test)]
mod tests;
