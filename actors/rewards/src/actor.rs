//! Messages to and from [`Scorer`] and [`State`].

use std::{rc::Rc, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, AtomicResponse, Context, Handler, Message, ResponseActFuture, WrapFuture,
};
use openvalidators_messages::{
    Sequence, StepOutcome,
    ledger::{SaveSnapshot, Snapshot},
    rewards::{Apply, FoldError, Score, ScoreSheet, Unscored},
};
use openvalidators_runtime::{Envelope, Inbox, Mailbox, SharedClock, Stop, WhileAwaited, on_worker, within};
use prometheus::Registry;
use tracing::Instrument;

use crate::{
    config::{Config, ConfigError},
    fold::{Rules, State},
    metrics::Metrics,
    network::Network,
    recovery::{Ledger, OWNER, RecoveryError, Unstored, fold_on_worker},
    score::Scorer,
    snapshot::encode,
    step::{Inference, Step},
};

/// The ways into the rewards actor.
#[derive(Clone)]
pub struct Mailboxes {
    /// Its door.
    pub inbox: Inbox,
    /// Raw scores.
    pub score: Mailbox<Score>,
    /// Folds.
    pub apply: Mailbox<Apply>,
}

/// Scores steps and folds them.
pub struct RewardsActor {
    /// Absent while a step is being folded.
    state: Option<State>,
    /// The latest step that a saved snapshot contains.
    saved: Sequence,
    /// The outcomes after it: the forward stores them, unless it fails.
    unstored: Unstored,
    /// Whether a snapshot is on its way to the ledger.
    saving: bool,
    rules: Arc<Rules>,
    scorer: Rc<Scorer>,
    network: Option<Network>,
    ledger: Ledger,
    clock: SharedClock,
    metrics: Metrics,
    score_timeout: Duration,
    snapshot_every_steps: u64,
}

/// The actor cannot begin.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    /// The settings make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state could not be recovered.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

// === impl Mailboxes ===

impl Mailboxes {
    /// Opens the door with `capacity` places: as many scorings at once, at most.
    ///
    /// # Errors
    /// When the registry has an inbox of this name already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let inbox = Inbox::new("rewards", capacity, registry)?;
        Ok(Self { score: inbox.mailbox(), apply: inbox.mailbox(), inbox })
    }

    /// Points every mailbox at a fresh actor.
    pub fn attach(&self, actor: &Addr<RewardsActor>) {
        self.score.attach(actor);
        self.apply.attach(actor);
    }
}

// === impl RewardsActor ===

impl RewardsActor {
    /// An actor whose state is that of the latest step in the ledger.
    ///
    /// # Errors
    /// When the settings make no sense, or the ledger cannot give the state back.
    pub async fn recover(
        config: &Config,
        ledger: Ledger,
        inference: Inference,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Result<Self, StartError> {
        config.check()?;
        let rules = Arc::new(Rules::new(config));
        let (state, saved) = ledger.recover(&rules).await?;
        metrics.show(&state);
        if let Some(benchmark) = config.benchmark().map_err(ConfigError::from)? {
            metrics.show_benchmark(&benchmark, config);
        }
        Ok(Self {
            saved,
            unstored: Unstored::default(),
            saving: false,
            state: Some(state),
            rules,
            scorer: Rc::new(Scorer::new(config, inference, Arc::clone(&clock))?),
            network: None,
            ledger,
            clock,
            metrics,
            score_timeout: Duration::from_secs(config.score_timeout_seconds),
            snapshot_every_steps: config.snapshot_every_steps,
        })
    }

    /// With a way to miners who judge; without it they are not asked. What was asked of the epoch's budget before is in the
    /// state.
    #[must_use]
    pub fn asking(self, network: Network) -> Self {
        if let Some(state) = &self.state {
            network.resume(&state.judges);
        }
        Self { network: Some(network), ..self }
    }

    /// Sends a snapshot to the ledger, after the outcomes it lacks, without anybody waiting for it.
    fn save(&mut self, snapshot: Snapshot, context: &mut Context<Self>) {
        self.saving = true;
        let sequence = snapshot.sequence;
        let saving = save(self.ledger.clone(), self.unstored.clone(), snapshot).into_actor(self);
        context.spawn(saving.map(move |saved, actor, _| {
            actor.saving = false;
            actor.metrics.note_snapshot(saved);
            if saved {
                actor.saved = sequence;
                actor.unstored.forget_until(sequence);
            }
        }));
    }
}

impl Actor for RewardsActor {
    type Context = Context<Self>;
}

/// Any number at once, bounded by the places of the inbox. A caller that gives up ends its scoring, and that what it asks
/// of inference.
impl Handler<Envelope<Score>> for RewardsActor {
    type Result = WhileAwaited<<Score as Message>::Result>;

    fn handle(&mut self, envelope: Envelope<Score>, _: &mut Self::Context) -> Self::Result {
        let span = envelope.span().clone();
        let (score, place) = envelope.open();
        let (scorer, clock, metrics) = (Rc::clone(&self.scorer), Arc::clone(&self.clock), self.metrics.clone());
        let (network, limit) = (self.network.clone(), self.score_timeout);
        let scoring = async move {
            let since = clock.now();
            let answer = within(&*clock, limit, score_step(&scorer, score, network, &metrics)).await;
            let answer = answer.unwrap_or_else(|late| Err(Unscored { reason: format!("raw scores: {late}") }));
            metrics.score_seconds.observe((clock.now().saturating_sub(since)).as_secs_f64());
            metrics.note_scored(&answer);
            answer
        };
        WhileAwaited::new(place, scoring.instrument(span))
    }
}

/// One at a time: while a step is being folded on a worker no other message is handled, and scorings that run go on.
impl Handler<Envelope<Apply>> for RewardsActor {
    type Result = AtomicResponse<Self, Result<Arc<StepOutcome>, FoldError>>;

    fn handle(&mut self, envelope: Envelope<Apply>, _: &mut Self::Context) -> Self::Result {
        let (apply, place) = envelope.open();
        let mut state = self.state.take().unwrap_or_default();
        let (rules, ledger, clock) = (Arc::clone(&self.rules), self.ledger.clone(), Arc::clone(&self.clock));
        let since = clock.now();
        let before = state.sequence;
        let mut unstored = std::mem::take(&mut self.unstored);
        let stopwatch = Arc::clone(&clock);
        let folding = async move {
            let answer = fold(&mut state, &rules, &ledger, apply, &mut unstored, stopwatch).await;
            (state, unstored, answer)
        };
        AtomicResponse::new(Box::pin(folding.into_actor(self).then(move |(state, unstored, answer), actor, _| {
            actor.unstored = unstored;
            if state.sequence != before {
                actor.metrics.fold_seconds.observe((clock.now().saturating_sub(since)).as_secs_f64());
                if let Ok(outcome) = &answer {
                    actor.metrics.note_folded(outcome);
                }
                actor.metrics.show(&state);
            }
            let due = !actor.saving && state.sequence.0 >= actor.saved.0 + actor.snapshot_every_steps;
            let snapshot = async move { if due { snapshot_of(state).await } else { (state, None) } };
            snapshot.into_actor(actor).map(move |(state, snapshot), actor: &mut Self, context| {
                actor.state = Some(state);
                if let Some(snapshot) = snapshot {
                    actor.save(snapshot, context);
                }
                drop(place);
                answer
            })
        })))
    }
}

/// Keeps the state for the next life.
impl Handler<Stop> for RewardsActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Stop, _: &mut Self::Context) -> Self::Result {
        let state = self.state.take().filter(|state| state.sequence > self.saved);
        let (ledger, unstored) = (self.ledger.clone(), std::mem::take(&mut self.unstored));
        let keeping = async move {
            let snapshot = snapshot_of(state?).await.1?;
            Some(save(ledger, unstored, snapshot).await)
        };
        Box::pin(keeping.into_actor(self).map(|saved, actor, _| {
            if let Some(saved) = saved {
                actor.metrics.note_snapshot(saved);
            }
        }))
    }
}

/// Admits and scores a step.
async fn score_step(
    scorer: &Scorer,
    score: Score,
    network: Option<Network>,
    metrics: &Metrics,
) -> Result<ScoreSheet, Unscored> {
    let (limit, inference) = scorer.admission();
    let step = on_worker(move || Step::new(&score, limit, inference)).await.asking(network);
    metrics.note_admission(&step);
    scorer.score(&step).await
}

/// Folds the step offered, after any that were not offered.
async fn fold(
    state: &mut State,
    rules: &Arc<Rules>,
    ledger: &Ledger,
    Apply { sequence: asked, record }: Apply,
    unstored: &mut Unstored,
    clock: SharedClock,
) -> Result<Arc<StepOutcome>, FoldError> {
    if asked > state.sequence.next() {
        let before = Sequence(asked.0 - 1);
        let filled = ledger.catch_up(state, rules, Some(before), unstored).await;
        if state.sequence != before {
            let reason = filled.err().map_or_else(|| "it does not hold them".to_owned(), |error| error.to_string());
            return Err(FoldError::Gap { asked, applied: state.sequence, reason });
        }
    }
    match &state.latest {
        Some(latest) if asked == state.sequence => Ok(Arc::clone(latest)),
        _ if asked <= state.sequence => Err(FoldError::AlreadyFolded { asked, applied: state.sequence }),
        _ => match fold_on_worker(state, rules, vec![(asked, record)], Some(clock)).await.pop() {
            Some(outcome) => {
                unstored.remember(asked, Arc::clone(&outcome));
                Ok(outcome)
            }
            None => Err(FoldError::AlreadyFolded { asked, applied: state.sequence }),
        },
    }
}

/// Writes the state down on a worker: with a full history 23 MB.
async fn snapshot_of(state: State) -> (State, Option<Snapshot>) {
    on_worker(move || {
        let snapshot = encode(&state).inspect_err(|error| tracing::error!(%error, "writing the state of rewards down"));
        (state, snapshot.ok())
    })
    .await
}

/// Whether the ledger has the snapshot. It gets none that is past an outcome it does not hold: a restart resumes after the
/// snapshot and would never make that outcome again, and weights would wait for it.
async fn save(ledger: Ledger, unstored: Unstored, snapshot: Snapshot) -> bool {
    let sequence = snapshot.sequence;
    if let Err(error) = ledger.store_missing(&unstored, sequence).await {
        tracing::error!(%sequence, %error, "rewards wait with their snapshot for an outcome that is not in the ledger");
        return false;
    }
    let failed = match ledger.save_snapshot.call(SaveSnapshot { owner: OWNER, snapshot }).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(%sequence, error = failed, "the state of rewards was not kept; the next step tries again");
    false
}

#[cfg(test)]
mod tests;
