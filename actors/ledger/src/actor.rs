//! The actor: one short handler for each message. Handlers block on purpose: the ledger has a thread of its own, and an answer
//! means that the bytes are durable.

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, fut};
use openvalidators_messages::{
    IntentId, Sequence,
    ledger::{
        Append, LedgerError, LoadCursor, LoadSnapshot, ReadIntents, ReadSteps, RecordIntent, SaveCursor, SaveSnapshot,
        SettleIntent, Snapshot, StoreOutcome, StoredIntent, StoredStep,
    },
};
use openvalidators_runtime::{Envelope, Inbox, Mailbox, SharedClock, Stop};
use prometheus::Registry;

use crate::{Archive, FEWEST_STEPS_KEPT, LedgerConfig, Metrics, Store, metrics::Operation};

#[cfg(test)]
mod tests;

/// After so many appends old steps and texts are looked for. Fewer than a batch of either holds, so that they are kept up with.
const PRUNE_EVERY_APPENDS: u64 = 64;

const SECONDS_A_DAY: f64 = 86_400.0;

/// Every way to ask the ledger, through one door.
#[derive(Clone)]
pub struct Mailboxes {
    /// The door.
    pub inbox: Inbox,
    /// See [`Append`].
    pub append: Mailbox<Append>,
    /// See [`StoreOutcome`].
    pub store_outcome: Mailbox<StoreOutcome>,
    /// See [`ReadSteps`].
    pub read_steps: Mailbox<ReadSteps>,
    /// See [`SaveSnapshot`].
    pub save_snapshot: Mailbox<SaveSnapshot>,
    /// See [`LoadSnapshot`].
    pub load_snapshot: Mailbox<LoadSnapshot>,
    /// See [`RecordIntent`].
    pub record_intent: Mailbox<RecordIntent>,
    /// See [`SettleIntent`].
    pub settle_intent: Mailbox<SettleIntent>,
    /// See [`ReadIntents`].
    pub read_intents: Mailbox<ReadIntents>,
    /// See [`SaveCursor`].
    pub save_cursor: Mailbox<SaveCursor>,
    /// See [`LoadCursor`].
    pub load_cursor: Mailbox<LoadCursor>,
}

/// The owner of the [`Store`].
pub struct LedgerActor {
    store: Store,
    config: LedgerConfig,
    metrics: Metrics,
    clock: SharedClock,
    archive: Option<Box<dyn Archive>>,
    appends_since_pruning: u64,
}

// === impl Mailboxes ===

impl Mailboxes {
    /// A door with `capacity` places and a mailbox for every message.
    ///
    /// # Errors
    /// When the registry has an inbox named `ledger` already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let inbox = Inbox::new("ledger", capacity, registry)?;
        Ok(Self {
            append: inbox.mailbox(),
            store_outcome: inbox.mailbox(),
            read_steps: inbox.mailbox(),
            save_snapshot: inbox.mailbox(),
            load_snapshot: inbox.mailbox(),
            record_intent: inbox.mailbox(),
            settle_intent: inbox.mailbox(),
            read_intents: inbox.mailbox(),
            save_cursor: inbox.mailbox(),
            load_cursor: inbox.mailbox(),
            inbox,
        })
    }

    /// Points every mailbox at an actor.
    pub fn attach(&self, actor: &Addr<LedgerActor>) {
        self.append.attach(actor);
        self.store_outcome.attach(actor);
        self.read_steps.attach(actor);
        self.save_snapshot.attach(actor);
        self.load_snapshot.attach(actor);
        self.record_intent.attach(actor);
        self.settle_intent.attach(actor);
        self.read_intents.attach(actor);
        self.save_cursor.attach(actor);
        self.load_cursor.attach(actor);
    }
}

// === impl LedgerActor ===

impl LedgerActor {
    /// The actor of an open store. Open the store before anything else starts: an operator's mistake then shows at once.
    #[must_use]
    pub fn new(store: Store, config: LedgerConfig, metrics: Metrics, clock: SharedClock) -> Self {
        let actor = Self { store, config, metrics, clock, archive: None, appends_since_pruning: 0 };
        actor.measure();
        actor
    }

    /// The same, giving old steps to an archive instead of dropping them.
    #[must_use]
    pub fn archiving(self, archive: Option<Box<dyn Archive>>) -> Self {
        Self { archive, ..self }
    }

    fn run<T>(
        &mut self,
        operation: Operation,
        work: impl FnOnce(&mut Store) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let before = self.clock.now();
        let answer = work(&mut self.store);
        let label = [operation.label()];
        self.metrics.seconds.with_label_values(&label).observe((self.clock.now() - before).as_secs_f64());
        if let Err(error) = &answer {
            self.metrics.errors.with_label_values(&label).inc();
            tracing::error!(%error, "ledger trouble");
        }
        answer
    }

    fn append(&mut self, message: &Append) -> Result<Sequence, LedgerError> {
        self.check_room()?;
        let sequence = self.run(Operation::Append, |store| store.append(&message.record))?;
        let place = i64::try_from(sequence.0).unwrap_or(i64::MAX);
        if place > self.metrics.latest_sequence.get() {
            self.metrics.appends.inc();
            self.appends_since_pruning += 1;
        }
        self.measure();
        Ok(sequence)
    }

    /// Steps are records, which may have an end; weights are a duty, and intents are always taken.
    fn check_room(&mut self) -> Result<(), LedgerError> {
        let limit = self.config.max_bytes;
        if limit == 0 || self.store.used_bytes()? < limit {
            self.metrics.full.set(0);
            return Ok(());
        }
        self.prune(FEWEST_STEPS_KEPT);
        let found = self.store.used_bytes()?;
        if found < limit {
            return Ok(());
        }
        self.metrics.full.set(1);
        let reason = format!("it holds {found} bytes, and ledger.max_bytes is {limit}: raise it, or keep fewer steps");
        Err(LedgerError { attempted: "append a step", reason })
    }

    /// One batch of each; what is left goes with the next.
    fn keep_house(&mut self) {
        self.appends_since_pruning = 0;
        self.prune(self.config.retention_steps);
        if self.config.keep_texts_days > 0 {
            let kept_seconds = self.config.keep_texts_days as f64 * SECONDS_A_DAY;
            let before = self.clock.unix().as_secs_f64() - kept_seconds;
            if let Ok(steps) = self.run(Operation::ForgetTexts, |store| store.forget_texts(before)) {
                self.metrics.textless.inc_by(steps);
            }
        }
        // An error is counted and told; the pages are given back another time.
        let _ = self.run(Operation::Shrink, Store::shrink);
    }

    fn prune(&mut self, keep: u64) {
        if keep == 0 {
            return;
        }
        let mut archive = self.archive.take();
        let pruned = self.run(Operation::Prune, |store| match &mut archive {
            Some(archive) => store.roll(keep, archive.as_mut()),
            None => store.prune(keep),
        });
        self.archive = archive;
        if let Ok(steps) = pruned {
            self.metrics.pruned.inc_by(steps);
        }
    }

    fn measure(&self) {
        self.metrics.bytes.set(i64::try_from(self.store.bytes()).unwrap_or(i64::MAX));
        if let Ok(latest) = self.store.latest() {
            self.metrics.latest_sequence.set(i64::try_from(latest.0).unwrap_or(i64::MAX));
        }
    }
}

impl Actor for LedgerActor {
    type Context = Context<Self>;
}

impl Handler<Envelope<Append>> for LedgerActor {
    type Result = Result<Sequence, LedgerError>;

    fn handle(&mut self, envelope: Envelope<Append>, context: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        let answer = self.append(&message);
        if self.appends_since_pruning >= PRUNE_EVERY_APPENDS {
            // After the answer has left.
            context.spawn(fut::ready(()).map(|(), actor: &mut Self, _| actor.keep_house()));
        }
        answer
    }
}

impl Handler<Envelope<StoreOutcome>> for LedgerActor {
    type Result = Result<(), LedgerError>;

    fn handle(&mut self, envelope: Envelope<StoreOutcome>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        self.run(Operation::StoreOutcome, |store| store.store_outcome(message.sequence, &message.outcome))
    }
}

impl Handler<Envelope<ReadSteps>> for LedgerActor {
    type Result = Result<Vec<StoredStep>, LedgerError>;

    fn handle(&mut self, envelope: Envelope<ReadSteps>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        self.run(Operation::ReadSteps, |store| store.read_steps(message.after, message.limit))
    }
}

impl Handler<Envelope<SaveSnapshot>> for LedgerActor {
    type Result = Result<(), LedgerError>;

    fn handle(&mut self, envelope: Envelope<SaveSnapshot>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        self.run(Operation::SaveSnapshot, |store| store.save_snapshot(message.owner, &message.snapshot))
    }
}

impl Handler<Envelope<LoadSnapshot>> for LedgerActor {
    type Result = Result<Option<Snapshot>, LedgerError>;

    fn handle(&mut self, envelope: Envelope<LoadSnapshot>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        self.run(Operation::LoadSnapshot, |store| store.load_snapshot(message.owner))
    }
}

impl Handler<Envelope<RecordIntent>> for LedgerActor {
    type Result = Result<IntentId, LedgerError>;

    fn handle(&mut self, envelope: Envelope<RecordIntent>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        self.run(Operation::RecordIntent, |store| store.record_intent(&message.intent))
    }
}

impl Handler<Envelope<SettleIntent>> for LedgerActor {
    type Result = Result<(), LedgerError>;

    fn handle(&mut self, envelope: Envelope<SettleIntent>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        self.run(Operation::SettleIntent, |store| store.settle_intent(message.id, &message.settlement))
    }
}

impl Handler<Envelope<ReadIntents>> for LedgerActor {
    type Result = Result<Vec<StoredIntent>, LedgerError>;

    fn handle(&mut self, envelope: Envelope<ReadIntents>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        self.run(Operation::ReadIntents, |store| store.read_intents(message.limit))
    }
}

impl Handler<Envelope<SaveCursor>> for LedgerActor {
    type Result = Result<(), LedgerError>;

    fn handle(&mut self, envelope: Envelope<SaveCursor>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        self.run(Operation::SaveCursor, |store| store.save_cursor(message.reader, message.sequence))
    }
}

impl Handler<Envelope<LoadCursor>> for LedgerActor {
    type Result = Result<Sequence, LedgerError>;

    fn handle(&mut self, envelope: Envelope<LoadCursor>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        self.run(Operation::LoadCursor, |store| store.load_cursor(message.reader))
    }
}

/// Every answer was durable already: nothing is left to put in safety.
impl Handler<Stop> for LedgerActor {
    type Result = <Stop as Message>::Result;

    fn handle(&mut self, _: Stop, _: &mut Self::Context) -> Self::Result {}
}
