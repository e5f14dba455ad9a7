//! Messages to routing.

use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler};
use openvalidators_messages::{
    Hotkey, Metagraph, Neuron,
    gating::{NobodyToAsk, Route, Routed},
};
use openvalidators_runtime::{Envelope, Inbox, Mailbox, Seed, Stop};
use prometheus::Registry;
use tokio::sync::watch;

use crate::{config::Config, metrics::Metrics, uniform};

/// The ways into the gating actor.
#[derive(Clone)]
pub struct Mailboxes {
    /// Its door.
    pub inbox: Inbox,
    /// Choices of miners.
    pub route: Mailbox<Route>,
}

/// Chooses miners.
pub struct GatingActor {
    seed: Seed,
    own_hotkey: Hotkey,
    metagraph: watch::Receiver<Arc<Metagraph>>,
    config: Config,
    metrics: Metrics,
}

// === impl Mailboxes ===

impl Mailboxes {
    /// Opens the door with `capacity` places.
    ///
    /// # Errors
    /// When the registry has an inbox of this name already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let inbox = Inbox::new("gating", capacity, registry)?;
        Ok(Self { route: inbox.mailbox(), inbox })
    }

    /// Points every mailbox at a fresh actor.
    pub fn attach(&self, actor: &Addr<GatingActor>) {
        self.route.attach(actor);
    }
}

// === impl GatingActor ===

impl GatingActor {
    /// Routes by the latest snapshot of `metagraph`; the choice of a step follows from `seed` and the step's id.
    #[must_use]
    pub fn new(
        seed: Seed,
        own_hotkey: Hotkey,
        metagraph: watch::Receiver<Arc<Metagraph>>,
        config: Config,
        metrics: Metrics,
    ) -> Self {
        Self { seed, own_hotkey, metagraph, config, metrics }
    }

    fn route(&self, Route { step, count, exclude }: &Route) -> Result<Vec<Routed>, NobodyToAsk> {
        let metagraph = Arc::clone(&self.metagraph.borrow());
        let available: Vec<&Neuron> = uniform::available(&metagraph, &self.own_hotkey, &self.config).collect();
        let mut rng = self.seed.rng("route", &[step.forward.0, step.index.into()]);
        let routed = uniform::draw(available.iter().copied(), *count, exclude, &mut rng);
        self.metrics.note(available.len(), *count, exclude, &routed);
        if available.is_empty() {
            return Err(NobodyToAsk { neurons: metagraph.neurons.len(), block: metagraph.block.0 });
        }
        Ok(routed)
    }
}

impl Actor for GatingActor {
    type Context = Context<Self>;
}

impl Handler<Envelope<Route>> for GatingActor {
    type Result = Result<Vec<Routed>, NobodyToAsk>;

    fn handle(&mut self, envelope: Envelope<Route>, _: &mut Self::Context) -> Self::Result {
        let (route, _place) = envelope.open();
        self.route(&route)
    }
}

/// Nothing to put in safety.
impl Handler<Stop> for GatingActor {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Self::Context) {}
}

#[cfg(test)]
mod tests {
    use openvalidators_messages::{ForwardId, StepId, Uid};

    use super::*;
    use crate::samples::{metagraph, miner};

    const OWN: Hotkey = Hotkey([3; 32]);

    fn ask(forward: u64, index: u8, count: usize, exclude: &[u16]) -> Route {
        let step = StepId { forward: ForwardId(forward), index };
        Route { step, count, exclude: exclude.iter().copied().map(Uid).collect() }
    }

    fn started(metagraph: &watch::Receiver<Arc<Metagraph>>, seed: u64) -> (Mailboxes, Registry) {
        let registry = Registry::new();
        let mailboxes = Mailboxes::new(4, &registry).unwrap();
        let metrics = Metrics::new(&registry).unwrap();
        let actor = GatingActor::new(Seed(seed), OWN, metagraph.clone(), Config::default(), metrics);
        mailboxes.attach(&actor.start());
        (mailboxes, registry)
    }

    fn uids(routed: &[Routed]) -> Vec<u16> {
        routed.iter().map(|routed| routed.uid.0).collect()
    }

    #[actix::test]
    async fn a_choice_follows_from_seed_and_step_alone() {
        let (_sender, receiver) = watch::channel(Arc::new(metagraph((0..60).map(miner).collect())));
        let ((one, _), (again, _), (other, _)) = (started(&receiver, 1), started(&receiver, 1), started(&receiver, 2));
        let first = one.route.call(ask(5, 2, 10, &[])).await.unwrap().unwrap();
        one.route.call(ask(5, 3, 10, &[])).await.unwrap().unwrap();
        assert_eq!(again.route.call(ask(5, 2, 10, &[])).await.unwrap().unwrap(), first);
        for (mailboxes, route) in [(&other, ask(5, 2, 10, &[])), (&one, ask(5, 3, 10, &[])), (&one, ask(6, 2, 10, &[]))]
        {
            assert_ne!(uids(&mailboxes.route.call(route).await.unwrap().unwrap()), uids(&first));
        }
        assert!(!uids(&first).contains(&3), "uid 3 is ours");
        assert!(first.iter().all(|routed| (routed.propensity - 10.0 / 59.0).abs() < 1e-12));
        let neurons = receiver.borrow().clone();
        for routed in &first {
            let neuron = neurons.neuron(routed.uid).unwrap();
            assert_eq!((routed.hotkey, Some(routed.axon)), (neuron.hotkey, neuron.axon));
        }
    }

    #[actix::test]
    async fn the_latest_metagraph_counts_and_an_empty_one_is_an_error() {
        let (sender, receiver) = watch::channel(Arc::new(metagraph(vec![])));
        let (mailboxes, registry) = started(&receiver, 1);
        let error = mailboxes.route.call(ask(0, 0, 5, &[])).await.unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "nobody to ask: of 0 neurons at block 7 none is a serving miner other than ourselves"
        );
        sender.send_replace(Arc::new(metagraph((0..5).map(miner).collect())));
        let routed = mailboxes.route.call(ask(0, 0, 5, &[0, 1])).await.unwrap().unwrap();
        assert_eq!(routed.len(), 4, "ourselves left out, the excluded taken again");
        let counted = |name: &str| {
            let name = format!("openvalidators_gating_{name}");
            let family = registry.gather().into_iter().find(|family| family.name() == name).unwrap();
            family.get_metric()[0].get_counter().get_value()
        };
        let counts = ["routed_total", "repeated_total", "short_total", "nobody_total"].map(counted);
        assert_eq!(counts, [4.0, 2.0, 2.0, 1.0]);
    }
}
