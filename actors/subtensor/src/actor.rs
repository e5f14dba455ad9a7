//! The actor: follows the chain's blocks and answers three messages.

use std::sync::Arc;

use actix::{Actor, Addr, AsyncContext, Context, Handler, ResponseFuture, fut::wrap_future};
use openvalidators_messages::{
    Block, Metagraph, Uid,
    subtensor::{ChainError, ReadWeights, RevealWeights, SetWeights, Submission},
};
use openvalidators_runtime::{Envelope, Inbox, Mailbox, Pulse, Stop};
use prometheus::Registry;
use tokio::sync::{Mutex, watch};

use crate::{calls::ChainCalls, follow::follow};

/// How others reach the [`SubtensorActor`].
#[derive(Clone)]
pub struct Mailboxes {
    /// The door of all.
    pub inbox: Inbox,
    /// Submissions; one is in flight at a time, the others wait for it.
    pub set_weights: Mailbox<SetWeights>,
    /// Reveals of commits that are hashes; they take their turns with submissions.
    pub reveal_weights: Mailbox<RevealWeights>,
    /// Reads; they overlap.
    pub read_weights: Mailbox<ReadWeights>,
}

/// Follows the chain while it lives. It keeps nothing that a fresh one could not read again.
pub struct SubtensorActor {
    calls: ChainCalls,
    metagraph: watch::Sender<Arc<Metagraph>>,
    pulse: Pulse,
    /// Held while a submission is in flight: one transaction of a hotkey at a time, or the pool refuses the second.
    submitting: Arc<Mutex<()>>,
}

// === impl Mailboxes ===

impl Mailboxes {
    /// Opens the door with `capacity` places.
    ///
    /// # Errors
    /// When the registry has a door of this name already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let inbox = Inbox::new("subtensor", capacity, registry)?;
        let (set_weights, reveal_weights, read_weights) = (inbox.mailbox(), inbox.mailbox(), inbox.mailbox());
        Ok(Self { set_weights, reveal_weights, read_weights, inbox })
    }

    /// Puts an actor behind the mailboxes.
    pub fn attach(&self, actor: &Addr<SubtensorActor>) {
        self.set_weights.attach(actor);
        self.reveal_weights.attach(actor);
        self.read_weights.attach(actor);
    }
}

// === impl SubtensorActor ===

impl SubtensorActor {
    /// Publishes a fresh metagraph into `metagraph` after each block. The channel outlives the actor; its first value is
    /// read before the actors start ([`ChainCalls::metagraph`]), so that a chain that cannot be read is told at once. `pulse` beats with
    /// each turn, whether the chain answers or not.
    #[must_use]
    pub fn new(calls: ChainCalls, metagraph: watch::Sender<Arc<Metagraph>>, pulse: Pulse) -> Self {
        Self { calls, metagraph, pulse, submitting: Arc::default() }
    }
}

impl Actor for SubtensorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(wrap_future(follow(self.calls.clone(), self.metagraph.clone(), self.pulse.clone())));
    }
}

impl Handler<Envelope<SetWeights>> for SubtensorActor {
    type Result = ResponseFuture<Result<Submission, ChainError>>;

    fn handle(&mut self, envelope: Envelope<SetWeights>, _: &mut Self::Context) -> Self::Result {
        let (calls, turn) = (self.calls.clone(), self.submitting.clone());
        Box::pin(async move {
            let _turn = turn.lock().await;
            let (weights, _place) = envelope.open();
            let answer = calls.submit_weights(&weights).await;
            match &answer {
                Ok(submission) => tracing::info!(?submission, uids = weights.uids.len(), "weights submitted"),
                Err(error) => tracing::warn!(%error, uids = weights.uids.len(), "weights not submitted"),
            }
            answer
        })
    }
}

impl Handler<Envelope<RevealWeights>> for SubtensorActor {
    type Result = ResponseFuture<Result<Block, ChainError>>;

    fn handle(&mut self, envelope: Envelope<RevealWeights>, _: &mut Self::Context) -> Self::Result {
        let (calls, turn) = (self.calls.clone(), self.submitting.clone());
        Box::pin(async move {
            let _turn = turn.lock().await;
            let (said, _place) = envelope.open();
            calls.reveal_weights(&said).await
        })
    }
}

impl Handler<Envelope<ReadWeights>> for SubtensorActor {
    type Result = ResponseFuture<Result<Vec<(Uid, u16)>, ChainError>>;

    fn handle(&mut self, envelope: Envelope<ReadWeights>, _: &mut Self::Context) -> Self::Result {
        let calls = self.calls.clone();
        let (ReadWeights { uid }, place) = envelope.open();
        Box::pin(async move {
            let _place = place;
            calls.weights_of(uid).await
        })
    }
}

impl Handler<Stop> for SubtensorActor {
    type Result = ();

    /// Nothing to put in safety: what matters is on the chain.
    fn handle(&mut self, _: Stop, _: &mut Self::Context) {}
}

#[cfg(test)]
mod tests;
