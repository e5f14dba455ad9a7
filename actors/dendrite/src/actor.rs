use actix::{Actor, Addr, Context, Handler, Message};
use openvalidators_messages::dendrite::Query;
use openvalidators_runtime::{Envelope, Inbox, Mailbox, Stop, WhileAwaited};
use prometheus::Registry;
use tracing::Instrument;

use crate::dendrite::Dendrite;

/// The dendrite's front door. Its places bound the steps in flight.
#[derive(Clone)]
pub struct Mailboxes {
    /// For health and closing.
    pub inbox: Inbox,
    /// Asks miners.
    pub query: Mailbox<Query>,
}

/// Turns messages into fan-outs; keeps no state of its own, so a fresh one after a failure loses nothing.
pub struct DendriteActor {
    dendrite: Dendrite,
}

// === impl Mailboxes ===

impl Mailboxes {
    /// # Errors
    /// When the registry has a dendrite's inbox already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let inbox = Inbox::new("dendrite", capacity, registry)?;
        Ok(Self { query: inbox.mailbox(), inbox })
    }

    /// Puts an actor behind every mailbox.
    pub fn attach(&self, actor: &Addr<DendriteActor>) {
        self.query.attach(actor);
    }
}

// === impl DendriteActor ===

impl DendriteActor {
    /// The dendrite is shared: connections and lanes outlive the actor.
    #[must_use]
    pub fn new(dendrite: Dendrite) -> Self {
        Self { dendrite }
    }
}

impl Actor for DendriteActor {
    type Context = Context<Self>;
}

/// Steps run concurrently, on purpose: each mostly waits. The inbox's places bound them. A caller that gives up, as at
/// shutdown, ends its requests.
impl Handler<Envelope<Query>> for DendriteActor {
    type Result = WhileAwaited<<Query as Message>::Result>;

    fn handle(&mut self, envelope: Envelope<Query>, _: &mut Self::Context) -> Self::Result {
        let span = envelope.span().clone();
        let (query, place) = envelope.open();
        let dendrite = self.dendrite.clone();
        WhileAwaited::new(place, async move { dendrite.query(query).await }.instrument(span))
    }
}

impl Handler<Stop> for DendriteActor {
    type Result = ();

    /// Nothing to put in safety.
    fn handle(&mut self, _: Stop, _: &mut Self::Context) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openvalidators_messages::QueryOutcome;
    use openvalidators_runtime::SystemClock;

    use super::*;
    use crate::{
        Metrics,
        axon::{AxonRequest, Reply},
        testing::{alice, local, query, serve},
    };

    #[actix::test]
    async fn a_query_whose_caller_gives_up_ends_at_once() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let mailboxes = Mailboxes::new(1, &registry).unwrap();
        let workers = tokio::runtime::Handle::current();
        let dendrite = Dendrite::new(alice(), local(), SystemClock::shared(), metrics.clone(), workers).unwrap();
        mailboxes.attach(&DendriteActor::new(dendrite).start());
        let axon = serve(|_: AxonRequest| async { Reply::Never }).await;
        let (mailbox, asked) = (mailboxes.query.clone(), query(&[axon.address()], Duration::from_secs(600)));
        let calling = actix::spawn(async move { mailbox.call(asked).await });
        while metrics.in_flight.get() == 0 {
            tokio::task::yield_now().await;
        }
        calling.abort();
        while metrics.in_flight.get() > 0 || mailboxes.inbox.health().depth > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[actix::test]
    async fn queries_through_the_mailbox_run_on_the_workers() {
        let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let mailboxes = Mailboxes::new(2, &registry).unwrap();
        let clock = SystemClock::shared();
        let dendrite = Dendrite::new(alice(), local(), clock, metrics, workers.handle().clone()).unwrap();
        mailboxes.attach(&DendriteActor::new(dendrite).start());
        let axon = serve(|_: AxonRequest| async { Reply::Completion("ok".into()) }).await;
        let ask = || mailboxes.query.call(query(&[axon.address()], Duration::from_secs(20)));
        let (one, other, third) = futures::join!(ask(), ask(), ask());
        for completions in [one, other, third] {
            assert_eq!(completions.unwrap()[0].outcome, QueryOutcome::Answered);
        }
        let names: Vec<_> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert!(names.contains(&"openvalidators_dendrite_queries_total".to_owned()), "{names:?}");
        workers.shutdown_background();
    }
}
