//! The actor: draws contexts.

use std::{panic::AssertUnwindSafe, sync::Arc};

use actix::{Actor, Addr, Context, Handler, ResponseFuture};
use futures::FutureExt;
use openvalidators_messages::prompts::{self, Draw, SourceError};
use openvalidators_runtime::{Envelope, Inbox, Mailbox, Seed, Stop, on_worker, panic_text};
use prometheus::Registry;

use crate::source::Source;

/// The doors of the actor.
#[derive(Clone)]
pub struct Mailboxes {
    /// What they share.
    pub inbox: Inbox,
    /// Asks for a text.
    pub draw: Mailbox<Draw>,
}

/// Draws contexts from a source. It has no state of its own: which text a forward gets depends on the seed, the forward
/// and what the source has read.
pub struct PromptsActor {
    source: Arc<dyn Source>,
    seed: Seed,
}

// === impl Mailboxes ===

impl Mailboxes {
    /// Opens the inbox `prompts` with so many places.
    ///
    /// # Errors
    /// When the registry has an inbox of this name already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let inbox = Inbox::new("prompts", capacity, registry)?;
        Ok(Self { draw: inbox.mailbox(), inbox })
    }

    /// Puts an actor behind the doors.
    pub fn attach(&self, actor: &Addr<PromptsActor>) {
        self.draw.attach(actor);
    }
}

// === impl PromptsActor ===

impl PromptsActor {
    /// Draws from `source`; made once with [`crate::Sources`] and kept over restarts.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, seed: Seed) -> Self {
        Self { source, seed }
    }
}

impl Actor for PromptsActor {
    type Context = Context<Self>;
}

impl Handler<Envelope<Draw>> for PromptsActor {
    type Result = ResponseFuture<Result<prompts::Context, SourceError>>;

    fn handle(&mut self, envelope: Envelope<Draw>, _: &mut Self::Context) -> Self::Result {
        let (Draw { forward }, place) = envelope.open();
        let (source, seed) = (self.source.clone(), self.seed);
        let source_name = source.name();
        Box::pin(async move {
            // A source may read files, and an operator's disk may be slow: not on this thread.
            let draw = move || source.draw(&mut seed.rng("draw", &[forward.0]));
            let drawn = AssertUnwindSafe(on_worker(draw)).catch_unwind().await;
            drop(place);
            drawn.unwrap_or_else(|panic| Err(SourceError { source_name, reason: panic_text(&*panic).to_owned() }))
        })
    }
}

impl Handler<Stop> for PromptsActor {
    type Result = ();

    /// Nothing to put in safety.
    fn handle(&mut self, _: Stop, _: &mut Self::Context) {}
}

#[cfg(test)]
mod tests;
