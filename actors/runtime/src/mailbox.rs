//! Bounded mailboxes over actix addresses.
//!
//! An [`Inbox`] is an actor's front door: one name, one number of places. A [`Mailbox`] is one kind of message through
//! that door. A sender takes a place before it sends; the place travels inside the [`Envelope`] and is free again when
//! the envelope (or the [`Place`] taken out of it) is dropped: handled, cancelled, or lost in a panic alike.
//!
//! A caller that gives up while it waits for a place leaves nothing behind. One that gives up later leaves a cancelled
//! message: its place is free as soon as the actor reaches it, without handling it.
//!
//! Invariant: this file is the only one that calls `Recipient::send`.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Context, Handler, Message, Recipient};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{fault_point, metrics::InboxMetrics};

/// An actor's front door. Clones are the same door.
#[derive(Clone)]
pub struct Inbox {
    door: Arc<Door>,
}

/// One kind of message through an [`Inbox`]. Clones share its places. It outlives the actor: while a fresh one is being
/// made, callers wait.
pub struct Mailbox<M: Message + Send + 'static>
where
    M::Result: Send,
{
    slot: Arc<Slot<M>>,
}

/// A message that holds its place. Handlers take `Envelope<M>`, so the bound shows in their signature.
#[must_use = "a dropped envelope is a message never handled"]
pub struct Envelope<M> {
    message: M,
    place: Place,
    started: Arc<AtomicBool>,
    span: tracing::Span,
}

/// A place in an inbox, free again when dropped. Move it into the future that does the work.
#[must_use = "dropping the place admits the next message: hold it until the work is done"]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    door: Arc<Door>,
}

/// A call without an answer, and whether its message may have had an effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The message was not handled: sending it again cannot do harm.
    #[error("`{inbox}` did not take the message: {reason}")]
    NeverStarted {
        /// Whose door.
        inbox: &'static str,
        /// Closed, or lost in a restart.
        reason: &'static str,
    },
    /// The actor died while the message was in its hands: only an idempotent message may be sent again.
    #[error("`{inbox}` failed while handling the message; it may have taken effect")]
    MayHaveRun {
        /// Whose door.
        inbox: &'static str,
    },
}

/// How busy an inbox is, for `/health`: an actor that holds messages and finishes none is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxHealth {
    /// The inbox's name.
    pub name: &'static str,
    /// Places taken.
    pub depth: usize,
    /// Places in all.
    pub capacity: usize,
    /// Since a message was last taken up or finished, while any place is taken; zero when idle.
    pub silent_for: Duration,
}

/// How long [`see_death`] looks at most, and how often.
const DEATH_LIMIT: Duration = Duration::from_millis(100);
const DEATH_POLL: Duration = Duration::from_millis(1);

struct Door {
    name: &'static str,
    capacity: usize,
    places: Arc<Semaphore>,
    /// Every mailbox of this door, to be emptied when the actor dies.
    slots: Mutex<Vec<Weak<dyn Detach>>>,
    metrics: InboxMetrics,
    /// Milliseconds from `opened` to the latest sign of progress.
    progress_ms: AtomicU64,
    opened: Instant,
}

struct Slot<M: Message + Send + 'static>
where
    M::Result: Send,
{
    door: Arc<Door>,
    actor: watch::Sender<Option<Recipient<Envelope<M>>>>,
}

trait Detach: Send + Sync {
    fn detach(&self);
}

// === impl Inbox ===

impl Inbox {
    /// Opens a door with `capacity` places (at least one) and its metrics.
    ///
    /// # Errors
    /// When the registry has an inbox of this name already.
    #[allow(clippy::disallowed_methods, reason = "measures, never decides")]
    pub fn new(name: &'static str, capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let capacity = capacity.clamp(1, Semaphore::MAX_PERMITS);
        let door = Door {
            name,
            capacity,
            places: Arc::new(Semaphore::new(capacity)),
            slots: Mutex::default(),
            metrics: InboxMetrics::register(name, capacity, registry)?,
            progress_ms: AtomicU64::new(0),
            opened: Instant::now(),
        };
        Ok(Self { door: Arc::new(door) })
    }

    /// A mailbox for one kind of message, without an actor behind it yet.
    #[must_use]
    pub fn mailbox<M: Message + Send + 'static>(&self) -> Mailbox<M>
    where
        M::Result: Send,
    {
        let slot = Arc::new(Slot { door: self.door.clone(), actor: watch::Sender::new(None) });
        let weak: Weak<Slot<M>> = Arc::downgrade(&slot);
        self.door.slots.lock().push(weak);
        Mailbox { slot }
    }

    /// The name, as in metrics and errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.door.name
    }

    /// How busy the actor behind it is.
    #[must_use]
    pub fn health(&self) -> InboxHealth {
        let depth = self.door.depth();
        let since = self.door.opened.elapsed().as_millis() as u64;
        let silent = since.saturating_sub(self.door.progress_ms.load(Ordering::Relaxed));
        let silent_for = if depth == 0 { Duration::ZERO } else { Duration::from_millis(silent) };
        InboxHealth { name: self.door.name, depth, capacity: self.door.capacity, silent_for }
    }

    /// Refuses newcomers; what already holds a place is still served.
    pub(crate) fn close(&self) {
        self.door.places.close();
    }

    /// Whether every place is free.
    pub(crate) fn is_drained(&self) -> bool {
        self.door.depth() == 0
    }

    /// Takes the dead actor out of every mailbox: callers wait for the next one.
    pub(crate) fn detach(&self) {
        self.door.slots.lock().retain(|slot| match slot.upgrade() {
            Some(slot) => {
                slot.detach();
                true
            }
            None => false,
        });
    }

    pub(crate) fn count_restart(&self) {
        self.door.metrics.restarts.inc();
    }
}

// === impl Mailbox ===

impl<M: Message + Send + 'static> Mailbox<M>
where
    M::Result: Send,
{
    /// Waits for a place, then for the answer.
    ///
    /// # Errors
    /// [`CallError`]: the door is closed, or the actor died before or while handling the message.
    #[allow(clippy::disallowed_methods, reason = "the place is taken first")]
    pub async fn call(&self, message: M) -> Result<M::Result, CallError> {
        let place = self.place().await?;
        let actor = self.actor().await?;
        let started = Arc::new(AtomicBool::new(false));
        let envelope = Envelope { message, place, started: started.clone(), span: tracing::Span::current() };
        match actor.send(envelope).await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                see_death(&actor).await;
                Err(self.lost(&started))
            }
        }
    }

    /// [`Mailbox::call`] for idempotent messages: after a crash of the actor the message is sent to the fresh one,
    /// `attempts` times in all.
    ///
    /// # Errors
    /// The last [`CallError`]; at once when the door is closed.
    pub async fn call_again(&self, message: M, attempts: usize) -> Result<M::Result, CallError>
    where
        M: Clone,
    {
        let mut left = attempts.max(1);
        loop {
            left -= 1;
            match self.call(message.clone()).await {
                Err(error) if left > 0 && !self.slot.door.places.is_closed() => {
                    tracing::warn!(%error, left, "sending the message again");
                }
                answer => return answer,
            }
        }
    }

    /// Waits until an actor is behind this mailbox.
    ///
    /// # Errors
    /// [`CallError::NeverStarted`] when the door is closed.
    pub async fn ready(&self) -> Result<(), CallError> {
        self.actor().await.map(drop)
    }

    /// Puts an actor behind this mailbox, in the place of the one before.
    pub fn attach<A>(&self, actor: &Addr<A>)
    where
        A: Actor<Context = Context<A>> + Handler<Envelope<M>>,
    {
        self.slot.actor.send_replace(Some(actor.clone().recipient()));
    }

    /// How busy the actor behind it is.
    #[must_use]
    pub fn health(&self) -> InboxHealth {
        Inbox { door: self.slot.door.clone() }.health()
    }

    async fn place(&self) -> Result<Place, CallError> {
        let door = &self.slot.door;
        let waiting = door.metrics.wait_seconds.start();
        let permit = door.places.clone().acquire_owned().await.map_err(|_| self.closed())?;
        drop(waiting);
        Ok(door.seat(permit))
    }

    async fn actor(&self) -> Result<Recipient<Envelope<M>>, CallError> {
        let mut slot = self.slot.actor.subscribe();
        loop {
            // A dead actor may stand here for a moment, until its supervisor has noticed.
            let actor = slot.borrow_and_update().clone().filter(Recipient::connected);
            match actor {
                Some(actor) => return Ok(actor),
                None if self.slot.door.places.is_closed() => return Err(self.closed()),
                None => slot.changed().await.map_err(|_| self.closed())?,
            }
        }
    }

    /// How a call that got no answer ended.
    fn lost(&self, started: &AtomicBool) -> CallError {
        let inbox = self.slot.door.name;
        if started.load(Ordering::Acquire) {
            CallError::MayHaveRun { inbox }
        } else {
            CallError::NeverStarted { inbox, reason: "the actor ended before it reached it" }
        }
    }

    fn closed(&self) -> CallError {
        CallError::NeverStarted { inbox: self.slot.door.name, reason: "closed" }
    }
}

impl<M: Message + Send + 'static> Clone for Mailbox<M>
where
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Self { slot: self.slot.clone() }
    }
}

impl<M: Message + Send + 'static> fmt::Debug for Mailbox<M>
where
    M::Result: Send,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailbox({}: {})", self.slot.door.name, std::any::type_name::<M>())
    }
}

impl<M: Message + Send + 'static> Detach for Slot<M>
where
    M::Result: Send,
{
    fn detach(&self) {
        // Also wakes callers that wait for an actor, so that they see a closed door.
        self.actor.send_replace(None);
    }
}

/// A panic answers the caller a moment before the actor's address is closed. Waiting that moment out makes the next call
/// wait for the fresh actor instead of being lost with the old one. When only a handler's future panicked the actor lives
/// on, hence the limit.
#[allow(clippy::disallowed_methods, reason = "real threads die in real time, whatever the clock says")]
async fn see_death<M: Message + Send>(actor: &Recipient<M>)
where
    M::Result: Send,
{
    let since = Instant::now();
    while actor.connected() && since.elapsed() < DEATH_LIMIT {
        tokio::time::sleep(DEATH_POLL).await;
    }
}

// === impl Envelope ===

impl<M> Envelope<M> {
    /// Takes the message out and marks it as started: from here on a crash means "may have run". Every handler begins here, so
    /// here tests make any of them panic: [`fault_point`] `INBOX::MESSAGE`.
    pub fn open(self) -> (M, Place) {
        self.started.store(true, Ordering::Release);
        self.place.door.note_progress();
        fault_point(self.place.door.name, message_name::<M>());
        (self.message, self.place)
    }

    /// The sender's tracing span.
    pub fn span(&self) -> &tracing::Span {
        &self.span
    }
}

/// A message's name without its path.
fn message_name<M>() -> &'static str {
    std::any::type_name::<M>().rsplit("::").next().unwrap_or_default()
}

impl<M: Message> Message for Envelope<M>
where
    M::Result: 'static,
{
    type Result = M::Result;
}

// === impl Place and Door ===

impl Drop for Place {
    fn drop(&mut self) {
        self.door.metrics.depth.dec();
        self.door.note_progress();
    }
}

impl Door {
    fn seat(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        if self.depth() <= 1 {
            // The first one in: silence is counted from here, not from the last time somebody was here.
            self.note_progress();
        }
        self.metrics.depth.inc();
        Place { _permit: permit, door: self.clone() }
    }

    fn depth(&self) -> usize {
        self.capacity - self.places.available_permits().min(self.capacity)
    }

    fn note_progress(&self) {
        self.progress_ms.store(self.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}
