use std::{collections::HashSet, sync::atomic::AtomicUsize};

use actix::Actor;
use futures::future::BoxFuture;
use openvalidators_messages::{
    gating::{NobodyToAsk, Route},
    prompts::{Draw, SourceError},
};
use openvalidators_runtime::{Clock, DrivenClock, Reason, SystemClock};

use super::*;
use crate::{
    Config, Embedded, Mailboxes, PromptsActor,
    stage::{Cast, Stage, outcome, settle_down},
};

async fn run(stage: &Stage, config: &Config) {
    let lanes = stage.lanes(config);
    stage.drive(lanes.run(ForwardId(100))).await;
}

#[actix::test]
async fn several_lanes_settle_exactly_the_budget() {
    let mut seen = 0;
    let now_and_then = move |apply: &openvalidators_messages::rewards::Apply| {
        seen += 1;
        Ok(outcome(&apply.record, (seen % 5 != 0).then_some(0)))
    };
    for (lanes, steps) in [(1, 1), (3, 20), (4, 30), (8, 5)] {
        let stage = Stage::new(Cast { apply_rewards: Box::new(now_and_then), ..Cast::default() });
        run(&stage, &Config { concurrent_forwards: lanes, steps: Some(steps), ..Config::default() }).await;
        assert_eq!(stage.append.len() as u64, steps);
        assert_eq!(stage.store_outcome.len() as u64, steps);
        assert_eq!(stage.shutdown.reason(), Some(Reason::Finished));
        let records = stage.records();
        let ids: HashSet<_> = records.iter().map(|record| record.step).collect();
        assert_eq!(ids.len() as u64, steps, "no step id twice");
        let forwards: HashSet<_> = ids.iter().map(|step| step.forward.0).collect();
        assert_eq!(forwards.iter().min(), Some(&100));
        assert!(lanes < 3 || forwards.len() > 1, "lanes run side by side");
    }
}

#[actix::test]
async fn lanes_talk_about_what_the_actor_draws() {
    let mut stage = Stage::new(Cast::default());
    let mailboxes = Mailboxes::new(4, &stage.registry).unwrap();
    mailboxes.attach(&PromptsActor::new(Arc::new(Embedded::new()), Seed(7)).start());
    stage.desks.draw = mailboxes.draw.clone();
    let config = Config { concurrent_forwards: 2, steps: Some(36), ..Config::default() };
    // The machine's clock: the actor reads on real threads.
    stage.lanes_with(&config, Seed(7), SystemClock::shared()).run(ForwardId(1)).await;
    let sources: HashSet<_> = stage.records().iter().map(|record| record.source.clone()).collect();
    assert!(sources.len() >= 3 && sources.iter().all(|source| source.starts_with("embedded:")), "{sources:?}");
    for record in stage.records().iter().filter(|record| record.step.index == 0) {
        assert!(record.prompt.len() > 1_000, "{}", record.prompt);
    }
}

#[actix::test]
async fn no_steps_to_do_is_finished_at_once() {
    let stage = Stage::new(Cast::default());
    run(&stage, &Config { steps: Some(0), ..Config::default() }).await;
    assert_eq!(stage.shutdown.reason(), Some(Reason::Finished));
    assert!(stage.route.is_empty());
}

#[actix::test]
async fn a_lane_that_gains_nothing_pauses_longer_each_time() {
    let clock = DrivenClock::new(Duration::ZERO);
    let (route_at, draw_at) = (clock.clone(), clock.clone());
    let times = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let (route_times, draw_times) = (times.clone(), times.clone());
    let casts = [
        Cast {
            route: Box::new(move |_: &Route| {
                route_times.borrow_mut().push(route_at.now().as_secs_f64());
                Err(NobodyToAsk { neurons: 1, block: 1 })
            }),
            ..Cast::default()
        },
        Cast {
            draw: Box::new(move |_: &Draw| {
                draw_times.borrow_mut().push(draw_at.now().as_secs_f64());
                Err(SourceError { source_name: "s".to_owned(), reason: "gone".to_owned() })
            }),
            ..Cast::default()
        },
    ];
    for cast in casts {
        let mut stage = Stage::new(cast);
        stage.clock = clock.clone();
        times.borrow_mut().clear();
        let (at, shutdown) = (clock.clone(), stage.shutdown.clone());
        let lanes = stage.lanes(&Config { pause_longest_seconds: 8.0, ..Config::default() });
        let work = async move {
            let stopping = async {
                at.sleep(Duration::from_secs(120)).await;
                shutdown.request(Reason::Signal("SIGTERM"));
            };
            futures::future::join(lanes.run(ForwardId(1)), stopping).await;
        };
        stage.drive(work).await;
        let pauses: Vec<_> = times.borrow().windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((9..=20).contains(&pauses.len()), "{pauses:?}");
        for (pause, least) in pauses.iter().zip([1.0, 2.0, 4.0].into_iter().chain(std::iter::repeat(8.0))) {
            assert!((least..=2.0 * least + 0.2).contains(pause), "{pauses:?}");
        }
    }
}

/// Panics when it is asked the time of day for the second time.
struct Ominous {
    clock: DrivenClock,
    asked: AtomicUsize,
}

impl Clock for Ominous {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn unix(&self) -> Duration {
        assert!(self.asked.fetch_add(1, Ordering::Relaxed) != 1, "a defect in a forward, in this test on purpose");
        self.clock.unix()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep(duration)
    }
}

#[actix::test]
async fn a_forward_that_panics_takes_nobody_with_it() {
    let stage = Stage::new(Cast::default());
    let clock = Arc::new(Ominous { clock: stage.clock.clone(), asked: AtomicUsize::new(0) });
    let config = Config { steps: Some(12), ..Config::default() };
    let lanes = stage.lanes_with(&config, Seed(1), clock);
    stage.drive(lanes.run(ForwardId(1))).await;
    assert_eq!(stage.metric(r#"openvalidators_forwards_total{end="panicked"}"#), 1.0);
    assert_eq!(stage.append.len(), 12, "the step it had begun is done by another");
    let forwards: Vec<_> = stage.records().iter().map(|record| record.step.forward.0).collect();
    assert_eq!(forwards, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3]);
    assert_eq!(stage.shutdown.reason(), Some(Reason::Finished));
}

#[actix::test]
async fn a_shutdown_ends_every_lane() {
    let stage = Stage::new(Cast::default());
    let lanes = stage.lanes(&Config { concurrent_forwards: 4, ..Config::default() });
    let shutdown = stage.shutdown.clone();
    let work = async move {
        let stopping = async {
            for _ in 0..50 {
                settle_down().await;
            }
            shutdown.request(Reason::Signal("SIGTERM"));
        };
        futures::future::join(lanes.run(ForwardId(1)), stopping).await;
    };
    stage.drive(work).await;
    assert!(stage.append.len() > 9);
    assert_eq!(stage.append.len(), stage.store_outcome.len(), "what was appended is settled");
}
