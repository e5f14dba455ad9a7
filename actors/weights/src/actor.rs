//! The actor: folds settled steps, answers with scores, and looks at its duty at every new block.

use std::{
    mem::{self, Discriminant},
    sync::Arc,
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, AtomicResponse, Context, Handler, MessageResult, ResponseFuture,
    StreamHandler, WrapFuture, fut,
};
use futures::stream;
use openvalidators_messages::{
    Block, Hotkey, Metagraph,
    ledger::{LoadSnapshot, ReadIntents, ReadSteps, RecordIntent, SaveSnapshot, SettleIntent, Snapshot},
    rewards::FoldError,
    subtensor::{ReadWeights, RevealWeights, SetWeights},
    weights::{Apply, ReadScores, ScoreTable},
};
use openvalidators_recovery::ReadError;
use openvalidators_runtime::{Envelope, Inbox, Mailbox, Pulse, SharedClock, Stop, fault_point, within};
use prometheus::Registry;
use tokio::sync::{oneshot, watch};

use crate::{
    Metrics, WeightsConfig,
    duty::{Attempt, Wait, epochs_missed},
    guard::Guard,
    recovery::{read_gap, recover_attempts, recover_scores},
    scores::{FoldRules, Scores},
    submission::{Submitter, Waiting},
    vector::NoVector,
};

#[cfg(test)]
mod tests;

/// The owner's name in the ledger.
pub const OWNER: &str = "weights";

/// How long the last message waits for a look at the duty that is under way: a block of a public network (12 s) and the reads
/// after it. Half of what the program gives this actor to close.
const LAST_LOOK_PATIENCE: Duration = Duration::from_secs(15);

/// Every way to ask the weights actor, through one door.
#[derive(Clone)]
pub struct Mailboxes {
    /// The door.
    pub inbox: Inbox,
    /// See [`Apply`].
    pub apply: Mailbox<Apply>,
    /// See [`ReadScores`].
    pub read_scores: Mailbox<ReadScores>,
}

/// Whom the weights actor asks.
#[derive(Clone)]
pub struct Neighbours {
    /// The ledger: the latest snapshot.
    pub load_snapshot: Mailbox<LoadSnapshot>,
    /// The ledger: a new snapshot.
    pub save_snapshot: Mailbox<SaveSnapshot>,
    /// The ledger: steps not folded yet.
    pub read_steps: Mailbox<ReadSteps>,
    /// The ledger: before a submission.
    pub record_intent: Mailbox<RecordIntent>,
    /// The ledger: after a submission.
    pub settle_intent: Mailbox<SettleIntent>,
    /// The ledger: what was under way before a restart.
    pub read_intents: Mailbox<ReadIntents>,
    /// The chain: a submission.
    pub set_weights: Mailbox<SetWeights>,
    /// The chain: what a commit of a hash hid.
    pub reveal_weights: Mailbox<RevealWeights>,
    /// The chain: what it holds.
    pub read_weights: Mailbox<ReadWeights>,
}

/// The owner of the moving-average scores and of the duty to set weights.
pub struct WeightsActor {
    scores: Scores,
    published: watch::Sender<Arc<ScoreTable>>,
    folds_since_snapshot: u64,
    /// Taken away while a look at the duty is under way: there is at most one. Nor does one begin any more after [`Stop`].
    attempts: Option<Vec<Attempt>>,
    /// Told at the end of the look that was under way when [`Stop`] came.
    last_look: Option<oneshot::Sender<()>>,
    /// The kind of reason told last.
    told: Option<Told>,
    submitter: Arc<Submitter>,
}

/// A kind of reason why weights wait: it is told when it changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    wait: Wait,
    no_vector: Option<Discriminant<NoVector>>,
    is_missing_epochs: bool,
    /// Where it is told in each.
    epoch: Option<u64>,
}

/// The metagraph moved on.
struct NewBlock;

// === impl Mailboxes ===

impl Mailboxes {
    /// A door with `capacity` places and a mailbox for every message.
    ///
    /// # Errors
    /// When the registry has an inbox named `weights` already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let inbox = Inbox::new(OWNER, capacity, registry)?;
        Ok(Self { apply: inbox.mailbox(), read_scores: inbox.mailbox(), inbox })
    }

    /// Points every mailbox at an actor.
    pub fn attach(&self, actor: &Addr<WeightsActor>) {
        self.apply.attach(actor);
        self.read_scores.attach(actor);
    }
}

// === impl WeightsActor ===

impl WeightsActor {
    /// Resumes from the ledger: the latest snapshot, every settled step after it, and the intents under way. `metagraph` is
    /// followed block by block; every change of the scores goes to `published`; `pulse` beats with each look at the duty.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    #[allow(clippy::too_many_arguments, reason = "what a life needs, once; the next life gets clones of the same")]
    pub async fn recover(
        own: Hotkey,
        config: WeightsConfig,
        neighbours: Neighbours,
        metagraph: watch::Receiver<Arc<Metagraph>>,
        published: watch::Sender<Arc<ScoreTable>>,
        metrics: Metrics,
        clock: SharedClock,
        pulse: Pulse,
    ) -> Result<Self, ReadError> {
        pulse.rest();
        let scores = recover_scores(&neighbours, FoldRules::from(&config), &metrics).await?;
        let attempts = recover_attempts(&neighbours).await?;
        let guard = Guard::new(&metagraph.borrow(), &attempts);
        let submitter = Submitter { own, config, neighbours, metagraph, metrics, clock, guard, pulse };
        let actor = Self {
            scores,
            published,
            folds_since_snapshot: 0,
            attempts: Some(attempts),
            last_look: None,
            told: None,
            submitter: Arc::new(submitter),
        };
        actor.publish();
        Ok(actor)
    }

    fn publish(&self) {
        let metrics = &self.submitter.metrics;
        metrics.sequence.set(i64::try_from(self.scores.sequence().0).unwrap_or(i64::MAX));
        metrics.hotkeys.set(i64::try_from(self.scores.len()).unwrap_or(i64::MAX));
        self.published.send_replace(Arc::new(self.scores.table()));
    }

    fn fold<'a>(&mut self, steps: impl IntoIterator<Item = &'a Apply>, context: &mut Context<Self>) {
        let rules = FoldRules::from(&self.submitter.config);
        for step in steps {
            self.scores.fold(step.sequence, &step.record, &step.outcome, rules);
            self.submitter.metrics.folds.inc();
            self.folds_since_snapshot += 1;
        }
        self.publish();
        if self.folds_since_snapshot >= self.submitter.config.snapshot_every_steps
            && let Some(message) = self.snapshot()
        {
            self.folds_since_snapshot = 0;
            let every = self.submitter.config.snapshot_every_steps;
            let saved = save(self.submitter.neighbours.save_snapshot.clone(), message).into_actor(self);
            context.spawn(saved.map(move |saved, actor, _| {
                if !saved {
                    // With the next fold.
                    actor.folds_since_snapshot = every;
                }
            }));
        }
    }

    fn snapshot(&self) -> Option<SaveSnapshot> {
        match self.scores.snapshot() {
            Ok(snapshot) => Some(SaveSnapshot { owner: OWNER, snapshot }),
            Err(error) => {
                tracing::error!(%error, "no snapshot was made");
                None
            }
        }
    }

    /// Starts a look at the duty, unless one is under way: then it starts the next itself.
    fn attend(&mut self, context: &mut Context<Self>) {
        let Some(attempts) = self.attempts.take() else { return };
        fault_point(OWNER, "attend");
        self.submitter.pulse.beat();
        let (seen, missed) = self.note_block(&attempts);
        let scores = Arc::new(self.scores.table());
        let look = self.submitter.clone().attend(attempts, scores).into_actor(self);
        context.spawn(look.map(move |(attempts, waiting), actor, context| {
            actor.submitter.pulse.rest();
            if let Some(ended) = actor.last_look.take() {
                // Nobody waits any more where the patience was over.
                let _ = ended.send(());
                return;
            }
            actor.attempts = Some(attempts);
            actor.note_waiting(waiting, missed);
            if actor.submitter.fresh().block != seen {
                actor.attend(context);
            }
        }));
    }

    /// The block, and how many epochs passed without our weights.
    fn note_block(&self, attempts: &[Attempt]) -> (Block, u64) {
        let Submitter { own, config, metrics, .. } = &*self.submitter;
        let metagraph = self.submitter.fresh();
        let missed = if config.disable_set_weights { 0 } else { epochs_missed(&metagraph, own) };
        metrics.epochs_missed.set(i64::try_from(missed).unwrap_or(i64::MAX));
        metrics.show_standing(&metagraph, own, attempts);
        if let Some(neuron) = metagraph.uid_of(own).and_then(|uid| metagraph.neuron(uid)) {
            let blocks = metagraph.block.0.saturating_sub(neuron.last_update.0);
            metrics.blocks_since_update.set(i64::try_from(blocks).unwrap_or(i64::MAX));
        }
        (metagraph.block, missed)
    }

    /// Looked at again at every block, told when the kind of reason changes, and in each epoch where it is our standing. That
    /// there are no scores yet is no reason to worry anybody before an epoch has passed without weights.
    fn note_waiting(&mut self, Waiting { wait, no_vector }: Waiting, missed: u64) {
        self.submitter.metrics.show_waiting(wait);
        let epoch = wait.is_of_standing().then(|| self.submitter.fresh().epoch_index);
        let no_vector_kind = no_vector.as_ref().map(mem::discriminant);
        let told = Told { wait, no_vector: no_vector_kind, is_missing_epochs: missed > 0, epoch };
        if self.told.replace(told) == Some(told) {
            return;
        }
        match no_vector {
            Some(reason) if missed > 0 => tracing::warn!(%reason, epochs_missed = missed, "no weights are set: {wait}"),
            Some(reason) => tracing::info!(%reason, "weights wait: {wait}"),
            None if wait == Wait::AnotherValidator => tracing::error!("no weights are set: {wait}"),
            None if epoch.is_some() => {
                tracing::warn!(epochs_missed = missed, "steps are scored and no weights set: {wait}")
            }
            None => tracing::info!(reason = %wait, "weights wait"),
        }
    }
}

impl Actor for WeightsActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let mut metagraph = self.submitter.metagraph.clone();
        metagraph.mark_unchanged();
        context.add_stream(stream::unfold(metagraph, |mut metagraph| async move {
            metagraph.changed().await.ok()?;
            Some((NewBlock, metagraph))
        }));
        self.attend(context);
    }
}

impl StreamHandler<NewBlock> for WeightsActor {
    fn handle(&mut self, _: NewBlock, context: &mut Self::Context) {
        self.attend(context);
    }

    /// Nobody publishes metagraphs any more: scores are still folded.
    fn finished(&mut self, _: &mut Self::Context) {
        tracing::warn!("no more metagraphs: weights will not be set");
    }
}

impl Handler<Envelope<Apply>> for WeightsActor {
    /// One step at a time: the next waits while a gap is filled.
    type Result = AtomicResponse<Self, Result<(), FoldError>>;

    fn handle(&mut self, envelope: Envelope<Apply>, context: &mut Self::Context) -> Self::Result {
        let (message, place) = envelope.open();
        let applied = self.scores.sequence();
        if message.sequence <= applied {
            return AtomicResponse::new(Box::pin(fut::ready(Ok(()))));
        }
        if message.sequence == applied.next() {
            self.fold([&message], context);
            return AtomicResponse::new(Box::pin(fut::ready(Ok(()))));
        }
        let (submitter, asked) = (self.submitter.clone(), message.sequence);
        let missing =
            async move { read_gap(&submitter.neighbours.read_steps, applied, asked, &submitter.metrics).await };
        let filled = missing.into_actor(self).map(move |missing, actor, context| {
            let _place = place;
            let missing = missing?;
            actor.fold(missing.iter().chain([&message]), context);
            Ok(())
        });
        AtomicResponse::new(Box::pin(filled))
    }
}

impl Handler<Envelope<ReadScores>> for WeightsActor {
    type Result = MessageResult<Envelope<ReadScores>>;

    fn handle(&mut self, envelope: Envelope<ReadScores>, _: &mut Self::Context) -> Self::Result {
        let (ReadScores, _place) = envelope.open();
        MessageResult(self.scores.table())
    }
}

/// Leaves a last snapshot, and waits a while for a submission in flight. What is still not settled then, the next life settles
/// from the chain's state.
impl Handler<Stop> for WeightsActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, _: &mut Self::Context) -> Self::Result {
        let Submitter { neighbours, clock, .. } = &*self.submitter;
        let (save_snapshot, clock) = (neighbours.save_snapshot.clone(), clock.clone());
        let message = self.snapshot();
        let last_look = self.attempts.take().is_none().then(|| {
            let (ended, end) = oneshot::channel();
            self.last_look = Some(ended);
            end
        });
        Box::pin(async move {
            if let Some(message) = message {
                save(save_snapshot, message).await;
            }
            if let Some(end) = last_look
                && within(&*clock, LAST_LOOK_PATIENCE, end).await.is_err()
            {
                tracing::warn!(
                    waited = ?LAST_LOOK_PATIENCE,
                    "the end does not wait any longer for weights under way; the next start finds on the chain what became of them"
                );
            }
        })
    }
}

async fn save(mailbox: Mailbox<SaveSnapshot>, message: SaveSnapshot) -> bool {
    let Snapshot { sequence, .. } = message.snapshot;
    match mailbox.call(message).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::error!(%error, %sequence, "the scores have no new snapshot"),
        Err(error) => tracing::error!(%error, %sequence, "the scores have no new snapshot"),
    }
    false
}
