use std::time::Duration;

use openvalidators_messages::{
    Block, Completion, QueryOutcome, STEP_RECORD_VERSION, Scoring, StepId, StepName, StepOutcome, StepRecord, Uid,
    ledger::{LoadSnapshot, ReadSteps, SaveSnapshot, StoreOutcome},
    rewards::{Apply, Score},
};
use openvalidators_runtime::{Clock, DrivenClock, SystemClock, testing::recording_mailbox, within};

use super::*;

const FORWARDS: usize = prompts::MAX_CONCURRENT_FORWARDS;

/// Rewards with an empty ledger, on a device that never answers, by a clock that stands still.
async fn rewards_on_a_stuck_device(config: &Config, doors: &Doors) {
    let ledger = rewards::Ledger {
        load_snapshot: recording_mailbox(|_: &LoadSnapshot| Ok(None)).0,
        save_snapshot: recording_mailbox(|_: &SaveSnapshot| Ok(())).0,
        read_steps: recording_mailbox(|_: &ReadSteps| Ok(Vec::new())).0,
        store_outcome: recording_mailbox(|_: &StoreOutcome| Ok(())).0,
    };
    let (clock, metrics) =
        (Arc::new(DrivenClock::new(Duration::ZERO)), rewards::Metrics::new(&Registry::new()).unwrap());
    let inference = doors.inference_of_rewards();
    let actor = rewards::RewardsActor::recover(&config.rewards, ledger, inference, clock, metrics).await.unwrap();
    doors.rewards.attach(&actix::Actor::start(actor));
}

fn answered() -> Completion {
    Completion {
        uid: Uid(1),
        hotkey: openvalidators_messages::Hotkey([1; 32]),
        text: "A summary of the text.".to_owned(),
        outcome: QueryOutcome::Answered,
        status_code: 200,
        status_message: "Success".to_owned(),
        elapsed_seconds: 0.1,
    }
}

fn score() -> Score {
    Score {
        step: StepId { forward: ForwardId(1), index: 0 },
        name: StepName::Augment,
        prompt: "Summarise the text.".into(),
        base_text: "Summarise the text.".into(),
        used: [].into(),
        completions: [answered()].into(),
    }
}

pub(crate) fn unscored() -> StepRecord {
    StepRecord {
        version: STEP_RECORD_VERSION,
        step: StepId { forward: ForwardId(1), index: 0 },
        name: StepName::Augment,
        block: Block(1),
        started_at: 0.0,
        length_seconds: 1.0,
        seed: 0,
        code_version: String::new(),
        source: String::new(),
        prompt: String::new(),
        embedding: None,
        base_text: String::new(),
        asked: Vec::new(),
        completions: Vec::new(),
        scoring: Scoring::Unscored { reason: "a test".to_owned() },
        digests: Default::default(),
    }
}

/// With more forwards than an inbox had places, a step waited to be settled until others had been scored.
#[actix::test]
async fn a_step_is_settled_while_every_forward_waits_for_its_scores() {
    let mut config = Config::default();
    config.prompts.concurrent_forwards = FORWARDS;
    let doors = Doors::new(&config, &Registry::new()).unwrap();
    rewards_on_a_stuck_device(&config, &doors).await;
    let (clock, patience) = (SystemClock::new(), Duration::from_secs(20));

    let scoring: Vec<_> = (0..FORWARDS)
        .map(|_| {
            let desk = doors.rewards.score.clone();
            actix::spawn(async move { desk.call(score()).await })
        })
        .collect();
    let all_inside = async {
        while doors.rewards.inbox.health().depth < FORWARDS {
            clock.sleep(Duration::from_millis(1)).await;
        }
    };
    within(&clock, patience, all_inside).await.expect("every forward finds a place");
    let apply = Apply { sequence: Sequence(1), record: Arc::new(unscored()) };
    let folded = within(&clock, patience, doors.rewards.apply.call(apply)).await.expect("and so does settling");
    assert!(matches!(&*folded.unwrap().unwrap(), StepOutcome::Unscored { .. }));
    assert!(scoring.iter().all(|call| !call.is_finished()), "the device gave no answer");
}
