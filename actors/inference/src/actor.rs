//! The actor: messages in, numbers out. It holds no state; the engine behind it outlives it.

use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message};
use openvalidators_messages::inference::{Classify, Embed, Generate, LogProb, Models};
use openvalidators_runtime::{Envelope, Inbox, Mailbox, Stop, WhileAwaited};
use prometheus::Registry;

use crate::engine::Engine;

/// Every way to ask for inference, through one inbox.
#[derive(Clone)]
pub struct Mailboxes {
    /// The inbox they share.
    pub inbox: Inbox,
    /// Embeddings.
    pub embed: Mailbox<Embed>,
    /// Log-probabilities.
    pub log_prob: Mailbox<LogProb>,
    /// What classifiers say.
    pub classify: Mailbox<Classify>,
    /// Continuations.
    pub generate: Mailbox<Generate>,
    /// What is loaded.
    pub models: Mailbox<Models>,
}

/// Hands requests to an [`Engine`], many at a time; each keeps its place in the inbox until it is answered.
pub struct InferenceActor {
    engine: Arc<dyn Engine>,
}

// === impl Mailboxes ===

impl Mailboxes {
    /// Opens the inbox `inference` with `capacity` places.
    ///
    /// # Errors
    /// When the registry has an inbox of this name already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let inbox = Inbox::new("inference", capacity, registry)?;
        Ok(Self {
            embed: inbox.mailbox(),
            log_prob: inbox.mailbox(),
            classify: inbox.mailbox(),
            generate: inbox.mailbox(),
            models: inbox.mailbox(),
            inbox,
        })
    }

    /// Points every mailbox at `actor`.
    pub fn attach(&self, actor: &Addr<InferenceActor>) {
        self.embed.attach(actor);
        self.log_prob.attach(actor);
        self.classify.attach(actor);
        self.generate.attach(actor);
        self.models.attach(actor);
    }
}

// === impl InferenceActor ===

impl InferenceActor {
    /// An actor in front of `engine`.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }
}

impl Actor for InferenceActor {
    type Context = Context<Self>;
}

impl Handler<Stop> for InferenceActor {
    type Result = ();

    /// Nothing to put in safety.
    fn handle(&mut self, _: Stop, _: &mut Self::Context) {}
}

impl Handler<Envelope<Embed>> for InferenceActor {
    type Result = WhileAwaited<<Embed as Message>::Result>;

    fn handle(&mut self, envelope: Envelope<Embed>, _: &mut Self::Context) -> Self::Result {
        let (engine, (request, place)) = (self.engine.clone(), envelope.open());
        WhileAwaited::new(place, async move { engine.embed(request).await })
    }
}

impl Handler<Envelope<LogProb>> for InferenceActor {
    type Result = WhileAwaited<<LogProb as Message>::Result>;

    fn handle(&mut self, envelope: Envelope<LogProb>, _: &mut Self::Context) -> Self::Result {
        let (engine, (request, place)) = (self.engine.clone(), envelope.open());
        WhileAwaited::new(place, async move { engine.log_prob(request).await })
    }
}

impl Handler<Envelope<Classify>> for InferenceActor {
    type Result = WhileAwaited<<Classify as Message>::Result>;

    fn handle(&mut self, envelope: Envelope<Classify>, _: &mut Self::Context) -> Self::Result {
        let (engine, (request, place)) = (self.engine.clone(), envelope.open());
        WhileAwaited::new(place, async move { engine.classify(request).await })
    }
}

impl Handler<Envelope<Generate>> for InferenceActor {
    type Result = WhileAwaited<<Generate as Message>::Result>;

    fn handle(&mut self, envelope: Envelope<Generate>, _: &mut Self::Context) -> Self::Result {
        let (engine, (request, place)) = (self.engine.clone(), envelope.open());
        WhileAwaited::new(place, async move { engine.generate(request).await })
    }
}

impl Handler<Envelope<Models>> for InferenceActor {
    type Result = WhileAwaited<<Models as Message>::Result>;

    fn handle(&mut self, envelope: Envelope<Models>, _: &mut Self::Context) -> Self::Result {
        let (engine, (_, place)) = (self.engine.clone(), envelope.open());
        WhileAwaited::new(place, async move { engine.models().await })
    }
}

#[cfg(test)]
mod tests;
