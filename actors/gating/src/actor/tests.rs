use std::{sync::Mutex, time::Duration};

use openvalidators_messages::{
    ForwardId, StepId, Uid,
    gating::Routed,
    inference::InferenceError,
    ledger::{LoadSnapshot, ReadSteps, StoredStep},
};
use openvalidators_runtime::{
    DrivenClock,
    testing::{Recording, recording_mailbox},
};

use super::*;
use crate::samples::{EAST, NORTH, history, metagraph, miner, step};

const OWN: Hotkey = Hotkey([3; 32]);

/// A gating actor, and what it said to others.
struct Stage {
    mailboxes: Mailboxes,
    registry: Registry,
    embed: Recording<Embed>,
    saved: Recording<SaveSnapshot>,
}

/// What an actor finds at its start.
struct Found {
    seed: u64,
    config: Config,
    snapshot: Option<Snapshot>,
    steps: Vec<StoredStep>,
    embed: fn(&Embed) -> <Embed as actix::Message>::Result,
}

impl Default for Found {
    fn default() -> Self {
        let config = Config { warm_up_steps: 10, longest_wait_blocks: 10_000, ..Config::default() };
        Self { seed: 1, config, snapshot: None, steps: Vec::new(), embed: |_| Ok(vec![Ok(EAST.into())]) }
    }
}

async fn started(metagraph: &watch::Receiver<Arc<Metagraph>>, found: Found) -> Stage {
    let Found { seed, config, snapshot, steps, embed } = found;
    let registry = Registry::new();
    let (embed, asked) = recording_mailbox(embed);
    let (save_snapshot, saved) = recording_mailbox(|_: &SaveSnapshot| Ok(()));
    let steps = Arc::new(Mutex::new(steps));
    let ledger = Ledger {
        load_snapshot: recording_mailbox(move |_: &LoadSnapshot| Ok(snapshot.clone())).0,
        save_snapshot,
        read_steps: recording_mailbox(move |read: &ReadSteps| {
            let steps = steps.lock().unwrap();
            Ok(steps.iter().filter(|step| step.sequence > read.after).take(read.limit).cloned().collect())
        })
        .0,
    };
    let around = Surroundings {
        seed: Seed(seed),
        own_hotkey: OWN,
        metagraph: metagraph.clone(),
        ledger,
        embed,
        clock: Arc::new(DrivenClock::new(Duration::ZERO)),
    };
    let mailboxes = Mailboxes::new(4, &registry).unwrap();
    let metrics = Metrics::new(&registry).unwrap();
    mailboxes.attach(&GatingActor::recover(config, around, metrics).await.unwrap().start());
    Stage { mailboxes, registry, embed: asked, saved }
}

fn subnet(miners: u16) -> watch::Receiver<Arc<Metagraph>> {
    watch::channel(Arc::new(metagraph((0..miners).map(miner).collect()))).1
}

fn ask(forward: u64, index: u8, count: usize, exclude: &[u16]) -> Route {
    let step = StepId { forward: ForwardId(forward), index };
    let exclude = exclude.iter().copied().map(Uid).collect();
    Route { step, prompt: "What is the sun made of?".into(), count, exclude }
}

fn stored(steps: u64) -> Vec<StoredStep> {
    let stored =
        |(number, (record, outcome))| StoredStep { sequence: Sequence(number), record, outcome: Some(outcome) };
    (1..).zip(history(steps)).map(stored).collect()
}

fn uids(routing: &Routing) -> Vec<u16> {
    routing.miners.iter().map(|routed: &Routed| routed.uid.0).collect()
}

impl Stage {
    async fn route(&self, route: Route) -> Result<Routing, NobodyToAsk> {
        self.mailboxes.route.call(route).await.unwrap()
    }

    async fn apply(&self, number: u64, rewards: &[(u16, f32)]) -> Result<Option<f32>, FoldError> {
        let (record, outcome) = step(number, number, Some(&NORTH), rewards);
        self.mailboxes.apply.call(Apply { sequence: Sequence(number), record, outcome }).await.unwrap()
    }

    async fn head(&self) -> HeadTable {
        self.mailboxes.read_head.call(ReadHead).await.unwrap()
    }

    /// The first one saved; a worker makes it.
    async fn snapshot(&self) -> Snapshot {
        while self.saved.is_empty() {
            tokio::task::yield_now().await;
        }
        self.saved.messages().remove(0).snapshot
    }

    fn metric(&self, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let series = format!("openvalidators_gating_{series} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        value.unwrap_or_else(|| panic!("no {series}in\n{text}")).parse().unwrap()
    }
}

#[actix::test]
async fn before_anything_is_learned_a_choice_follows_from_seed_and_step_alone() {
    let subnet = subnet(60);
    let one = started(&subnet, Found::default()).await;
    let again = started(&subnet, Found::default()).await;
    let other = started(&subnet, Found { seed: 2, ..Found::default() }).await;
    let first = one.route(ask(5, 2, 10, &[])).await.unwrap();
    one.route(ask(5, 3, 10, &[])).await.unwrap();
    assert_eq!(again.route(ask(5, 2, 10, &[])).await.unwrap(), first);
    for (stage, route) in [(&other, ask(5, 2, 10, &[])), (&one, ask(5, 3, 10, &[])), (&one, ask(6, 2, 10, &[]))] {
        assert_ne!(uids(&stage.route(route).await.unwrap()), uids(&first));
    }
    assert!(!uids(&first).contains(&3), "uid 3 is ours");
    assert!(first.miners.iter().all(|routed| (routed.propensity - 10.0 / 59.0).abs() < 1e-12));
    let neurons = subnet.borrow().clone();
    for routed in &first.miners {
        let neuron = neurons.neuron(routed.uid).unwrap();
        assert_eq!((routed.hotkey, Some(routed.axon), routed.uniform_propensity), (neuron.hotkey, neuron.axon, None));
    }
    assert_eq!(&*first.embedding.unwrap().row, EAST, "what it read is for the record");
    assert_eq!(one.embed.len(), 1, "the same prompt is read once");
}

#[actix::test]
async fn the_latest_metagraph_counts_and_an_empty_one_is_an_error() {
    let (sender, receiver) = watch::channel(Arc::new(metagraph(vec![])));
    let stage = started(&receiver, Found::default()).await;
    let error = stage.route(ask(0, 0, 5, &[])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "nobody to ask: of 0 neurons at block 7 none is a serving miner other than ourselves"
    );
    assert!(stage.embed.is_empty(), "no model is troubled for nobody");
    sender.send_replace(Arc::new(metagraph((0..5).map(miner).collect())));
    let routed = stage.route(ask(0, 0, 5, &[0, 1])).await.unwrap();
    assert_eq!(routed.miners.len(), 4, "ourselves left out, the excluded taken again");
    let counts = ["routed_total", "repeated_total", "short_total", "nobody_total"].map(|name| stage.metric(name));
    assert_eq!(counts, [4.0, 2.0, 2.0, 1.0]);
}

#[actix::test]
async fn once_it_has_learned_the_prompt_decides_and_a_restart_keeps_that() {
    let subnet = subnet(6);
    let config = Config { snapshot_every_steps: 1, ..Found::default().config };
    let stage = started(&subnet, Found { steps: stored(40), config, ..Found::default() }).await;
    let sought = |routing: &Routing| {
        let best = routing.miners.iter().max_by(|a, b| a.propensity.total_cmp(&b.propensity)).unwrap();
        (best.uid.0, best.propensity > 0.5, best.uniform_propensity)
    };
    let mut asked = Vec::new();
    for forward in 0..20 {
        asked.push(sought(&stage.route(ask(forward, 0, 1, &[])).await.unwrap()));
    }
    assert!(asked.iter().filter(|(uid, sought, _)| *uid == 0 && *sought).count() >= 12, "{asked:?}");
    assert!(asked.iter().all(|(.., uniform)| *uniform == Some(1.0 / 5.0)), "{asked:?}");
    assert_eq!(stage.metric(r#"steps_total{routing="learned"}"#), 20.0);
    assert!(stage.metric("evenness") < 0.7);

    stage.mailboxes.route.call(ask(9, 9, 1, &[])).await.unwrap().unwrap();
    stage.apply(41, &[(4, 0.5)]).await.unwrap();
    assert_eq!(stage.metric(r#"asked_about_total{topic="physics"}"#), 1.0);
    assert!(stage.metric("loss") >= 0.0);
    let snapshot = stage.snapshot().await;
    assert_eq!(snapshot.sequence, Sequence(41));
    let resumed = started(&subnet, Found { snapshot: Some(snapshot), ..Found::default() }).await;
    assert_eq!(
        (resumed.metric("sequence"), resumed.metric("memory_steps"), resumed.metric("head_rows")),
        (41.0, 41.0, 6.0)
    );
    let again =
        started(&subnet, Found { steps: [stored(40), stored_step(41, &[(4, 0.5)])].concat(), ..Found::default() })
            .await;
    assert_eq!(resumed.route(ask(99, 0, 3, &[])).await.unwrap(), again.route(ask(99, 0, 3, &[])).await.unwrap());
}

fn stored_step(number: u64, rewards: &[(u16, f32)]) -> Vec<StoredStep> {
    let (record, outcome) = step(number, number, Some(&NORTH), rewards);
    vec![StoredStep { sequence: Sequence(number), record, outcome: Some(outcome) }]
}

#[actix::test]
async fn who_waits_and_how_many_are_asked_in_time_is_told() {
    let config = Config { longest_wait_blocks: 4, ..Found::default().config };
    let stage = started(&subnet(8), Found { steps: stored(5), config, ..Found::default() }).await;
    // At block 7: uids 0 to 5 were asked at block 5, of whom 3 is ourselves; 6 and 7 have waited since the first step, at block 1.
    stage.route(ask(1, 0, 2, &[])).await.unwrap();
    let told = ["available", "longest_wait_blocks", "coverage", "evenness"].map(|name| stage.metric(name));
    assert_eq!(told, [7.0, 6.0, 5.0 / 7.0, 1.0]);
}

#[actix::test]
async fn a_gap_is_filled_from_the_ledger_and_a_step_counts_once() {
    let mut steps = stored(8);
    steps[5].outcome = None;
    let config = Config { snapshot_every_steps: 3, ..Found::default().config };
    let stage = started(&subnet(6), Found { steps, config, ..Found::default() }).await;
    assert_eq!((stage.metric("sequence"), stage.metric("left_out_total")), (8.0, 1.0));
    let loss = stage.apply(9, &[(0, 0.1)]).await.unwrap();
    assert_eq!(loss.map(f64::from), Some(stage.metric("loss")));
    assert_eq!(stage.apply(9, &[(0, 0.1)]).await.unwrap(), None, "it learned from it before");
    assert_eq!((stage.metric("memory_steps"), stage.saved.len()), (8.0, 0));
    stage.apply(12, &[(0, 0.1)]).await.unwrap();
    assert_eq!((stage.metric("memory_steps"), stage.metric("sequence")), (9.0, 12.0), "10 and 11 are nowhere");
    stage.apply(11, &[(0, 0.1)]).await.unwrap();
    stage.apply(13, &[(0, 0.1)]).await.unwrap();
    assert_eq!(stage.metric("memory_steps"), 10.0);
    assert_eq!(stage.snapshot().await.sequence, Sequence(13), "three steps were folded since the start");
    let error = stage.apply(20_000, &[(0, 0.1)]).await.unwrap_err();
    assert!(matches!(error, FoldError::Gap { .. }), "{error}");
}

#[actix::test]
async fn a_prompt_nobody_reads_is_routed_uniformly() {
    let failing: [fn(&Embed) -> <Embed as actix::Message>::Result; 3] =
        [|_| Err(InferenceError::Closed), |_| Ok(vec![Ok([f32::NAN, 0.0, 0.0, 0.0].into())]), |_| Ok(vec![])];
    for embed in failing {
        let stage = started(&subnet(6), Found { steps: stored(40), embed, ..Found::default() }).await;
        let routing = stage.route(ask(1, 0, 2, &[])).await.unwrap();
        assert_eq!((routing.miners.len(), routing.embedding.is_none()), (2, true));
        assert!(routing.miners.iter().all(|routed| (routed.propensity - 0.4).abs() < 1e-12));
        assert_eq!((stage.metric("unread_total"), stage.metric(r#"steps_total{routing="uniform"}"#)), (1.0, 1.0));
    }
}

#[actix::test]
async fn a_snapshot_that_is_none_is_no_obstacle() {
    let snapshot = Some(Snapshot { sequence: Sequence(30), version: 1, state: b"rubbish".to_vec() });
    let stage = started(&subnet(6), Found { snapshot, steps: stored(40), ..Found::default() }).await;
    assert_eq!((stage.metric("sequence"), stage.metric("memory_steps")), (40.0, 40.0), "all steps were folded anew");
}

#[actix::test]
async fn uniform_routing_stays_uniform_however_much_is_learned() {
    let config = Config { routing: crate::config::RoutingKind::Uniform, ..Found::default().config };
    let stage = started(&subnet(6), Found { steps: stored(40), config, ..Found::default() }).await;
    let routing = stage.route(ask(1, 0, 2, &[])).await.unwrap();
    assert!(routing.miners.iter().all(|routed| (routed.propensity - 0.4).abs() < 1e-12));
    assert_eq!(stage.metric("head_rows"), 6.0, "the head learns all the same");
}

/// What others read of the head is what it has learned, by uid and hotkey.
#[actix::test]
async fn the_head_is_read_as_it_stands() {
    let stage = started(&subnet(4), Found::default()).await;
    assert_eq!(stage.head().await, HeadTable::default());
    stage.apply(1, &[(0, 1.0), (2, 0.0)]).await.unwrap();
    let first = stage.head().await;
    let rows: Vec<_> = first.rows.iter().map(|row| (row.uid.0, row.hotkey, row.parameters.len())).collect();
    assert_eq!((first.sequence, first.width, rows.len()), (Sequence(1), EAST.len(), 2));
    for uid in [0, 2] {
        assert!(rows.contains(&(uid, miner(uid).hotkey, EAST.len() + 1)), "{rows:?}");
    }
    stage.apply(2, &[(0, 1.0), (2, 0.0)]).await.unwrap();
    assert_ne!(stage.head().await.rows, first.rows);
}

#[actix::test]
async fn blind_routing_asks_no_model_and_learns_nothing() {
    let config = Config { routing: crate::config::RoutingKind::Blind, ..Found::default().config };
    let stage = started(&subnet(6), Found { config, ..Found::default() }).await;
    let routing = stage.route(ask(1, 0, 2, &[])).await.unwrap();
    assert!(routing.embedding.is_none() && routing.miners.len() == 2);
    assert_eq!(stage.metric("unread_total"), 0.0, "nobody tried");
}
