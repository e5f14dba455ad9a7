//! Supervision that sees panics.
//!
//! actix's own `Supervisor` restarts an actor only when it stops itself, never after a panic. Here the actor's context is
//! a future whose `JoinHandle` tells a stop from a panic. A fresh actor comes from the factory, which reads whatever state
//! it needs (snapshot and fold), and only then the mailboxes point to it: callers wait meanwhile.

use std::{any::Any, collections::VecDeque, future::Future, time::Duration};

use actix::{Actor, Addr, Arbiter, AsyncContext, Context, Handler, Message};
use tokio::sync::watch;

use crate::{Backoff, Inbox, Reason, SharedClock, Shutdown, fault_point};

/// Any error a factory may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A thread with its own event loop, for the actors that are put on it.
pub struct ActorThread {
    arbiter: Arbiter,
}

/// How often an actor may fail before the program gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartBudget {
    /// So many fresh actors…
    pub restarts: usize,
    /// …within this time.
    pub window: Duration,
}

/// The last message an actor gets: whatever it still holds must be safe when it answers.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

/// A supervised actor, to be closed in order.
#[must_use = "an actor without its supervision cannot be closed"]
pub struct Supervision {
    inbox: Inbox,
    clock: SharedClock,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

/// How often a closing inbox is looked at.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// Runs an actor on `thread`: makes it, puts it behind its mailboxes, makes it anew when it fails, and requests a shutdown
/// when the budget is spent. An actor that stops by itself, without being asked, counts as failed.
///
/// `factory` is called once for each life; `attach` points every mailbox of `inbox` at the new address.
pub fn supervise<A, F, Made>(
    thread: &ActorThread,
    inbox: &Inbox,
    budget: RestartBudget,
    clock: &SharedClock,
    shutdown: &Shutdown,
    factory: F,
    attach: impl Fn(&Addr<A>) + Send + 'static,
) -> Supervision
where
    A: Actor<Context = Context<A>> + Handler<Stop>,
    F: FnMut() -> Made + Send + 'static,
    Made: Future<Output = Result<A, BoxError>> + 'static,
{
    let (stop, stopping) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    let life = Life {
        inbox: inbox.clone(),
        budget,
        clock: clock.clone(),
        shutdown: shutdown.clone(),
        stopping,
        failures: VecDeque::new(),
    };
    let watch = Watch { inbox: inbox.clone(), shutdown: shutdown.clone(), stopping: life.stopping.clone(), end };
    let started = thread.arbiter.spawn_fn(move || {
        actix::spawn(async move {
            let watch = watch;
            life.run(factory, attach).await;
            let _ = watch.end.send(true);
        });
    });
    if !started {
        let what = "its thread has ended".to_owned();
        shutdown.request(Reason::Fault { part: inbox.name().to_owned(), what });
    }
    Supervision { inbox: inbox.clone(), clock: clock.clone(), stop, ended }
}

struct Life {
    inbox: Inbox,
    budget: RestartBudget,
    clock: SharedClock,
    shutdown: Shutdown,
    stopping: watch::Receiver<bool>,
    failures: VecDeque<Duration>,
}

/// Held by the supervisor's own task. Where that ends before its work is done, by a panic or with its thread, nobody would make
/// the actor anew: the program must not go on without it.
struct Watch {
    inbox: Inbox,
    shutdown: Shutdown,
    stopping: watch::Receiver<bool>,
    end: watch::Sender<bool>,
}

// === impl Watch ===

impl Drop for Watch {
    fn drop(&mut self) {
        let is_owned = self.stopping.has_changed().is_ok();
        if !*self.end.borrow() && is_owned {
            self.inbox.close();
            self.inbox.detach();
            let what = "its supervisor ended before it".to_owned();
            self.shutdown.request(Reason::Fault { part: self.inbox.name().to_owned(), what });
        }
    }
}

// === impl Life ===

impl Life {
    async fn run<A, F, Made>(mut self, mut factory: F, attach: impl Fn(&Addr<A>))
    where
        A: Actor<Context = Context<A>> + Handler<Stop>,
        F: FnMut() -> Made,
        Made: Future<Output = Result<A, BoxError>> + 'static,
    {
        loop {
            // The factory runs as its own task too: it replays hostile history and may panic as well.
            let (making, name) = (factory(), self.inbox.name());
            let made = actix::spawn(async move {
                fault_point(name, "make");
                making.await
            });
            let made = made.await;
            let failure = match made {
                Ok(Ok(actor)) => match self.live(actor, &attach).await {
                    Ok(()) => break,
                    Err(failure) => failure,
                },
                Ok(Err(error)) => error.to_string(),
                Err(panic) => describe_panic(panic),
            };
            self.inbox.detach();
            if *self.stopping.borrow() {
                tracing::warn!(actor = self.inbox.name(), failure, "failed while stopping");
                break;
            }
            tracing::error!(actor = self.inbox.name(), failure, "actor failed");
            if !self.may_restart() {
                let what =
                    format!("failed {} times within {:?}, lastly: {failure}", self.failures.len(), self.budget.window);
                // Closed, so that nobody waits for an actor that will not come.
                self.inbox.close();
                self.inbox.detach();
                self.shutdown.request(Reason::Fault { part: self.inbox.name().to_owned(), what });
                break;
            }
            self.inbox.count_restart();
            self.pause().await;
        }
        self.inbox.close();
        self.inbox.detach();
    }

    /// One life. `Ok` when it ended because it was asked to.
    #[allow(clippy::disallowed_methods, reason = "Stop is the supervisor's own message and needs no place")]
    async fn live<A>(&mut self, actor: A, attach: impl Fn(&Addr<A>)) -> Result<(), String>
    where
        A: Actor<Context = Context<A>> + Handler<Stop>,
    {
        let mut context = Context::<A>::new();
        // The bound is the inbox's; actix's own would only make it retry through clones.
        context.set_mailbox_capacity(0);
        let address = context.address();
        let mut life = actix::spawn(context.into_future(actor));
        attach(&address);
        tokio::select! {
            ended = &mut life => Err(match ended {
                Ok(()) => "stopped without being asked".to_owned(),
                Err(panic) => describe_panic(panic),
            }),
            _ = self.stopping.wait_for(|stop| *stop) => {
                let stopped = address.send(Stop).await;
                life.abort();
                // Until the actor is dropped it may still hold what the next one needs, e.g. the lock of a directory.
                let _ = life.await;
                stopped.map_err(|_| "panicked in its last message".to_owned())
            }
        }
    }

    fn may_restart(&mut self) -> bool {
        let now = self.clock.now();
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|at| now.saturating_sub(*at) > self.budget.window) {
            self.failures.pop_front();
        }
        self.failures.len() <= self.budget.restarts
    }

    async fn pause(&mut self) {
        let backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(5), retries: 16 };
        let wait = backoff.waits(0).nth(self.failures.len().saturating_sub(1)).unwrap_or(backoff.longest);
        tokio::select! {
            () = self.clock.sleep(wait) => {}
            _ = self.stopping.wait_for(|stop| *stop) => {}
        }
    }
}

fn describe_panic(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => format!("panicked: {}", panic_text(payload.as_ref())),
        Err(error) => error.to_string(),
    }
}

/// What a panic said.
#[must_use]
pub fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

// === impl Supervision ===

impl Supervision {
    /// Refuses newcomers, waits until those inside are served, lets the actor put its state in safety, and ends it.
    pub async fn close(mut self) {
        self.inbox.close();
        while !self.inbox.is_drained() && !*self.ended.borrow() {
            self.clock.sleep(DRAIN_POLL).await;
        }
        let _ = self.stop.send(true);
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

// === impl ActorThread ===

impl ActorThread {
    /// Starts a thread. Must be called within an actix `System`.
    #[must_use]
    pub fn start() -> Self {
        Self { arbiter: Arbiter::new() }
    }
}

impl Drop for ActorThread {
    fn drop(&mut self) {
        self.arbiter.stop();
    }
}

// === impl RestartBudget ===

impl Default for RestartBudget {
    fn default() -> Self {
        Self { restarts: 3, window: Duration::from_secs(600) }
    }
}
