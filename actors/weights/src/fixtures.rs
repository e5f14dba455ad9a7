//! Metagraphs and steps for the tests.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use openvalidators_messages::{
    Asked, Axon, Block, Completion, ForwardId, Hotkey, Hyperparameters, Metagraph, Netuid, Neuron, QueryOutcome,
    RawScores, Reward, STEP_RECORD_VERSION, Scored, Scoring, StepId, StepName, StepOutcome, StepRecord, Uid,
};

/// Our own hotkey, at uid 0.
pub const OWN: Hotkey = key(0);
pub const TEMPO: u64 = 360;
const AXON: Axon =
    Axon { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 8_091), protocol: 4, version: 700 };
/// The latest epoch of [`metagraph`] ran at this block.
pub const EPOCH_START: u64 = 3_600;
pub const EPOCH_INDEX: u64 = 10;

pub const fn key(number: u8) -> Hotkey {
    Hotkey([number; 32])
}

/// We at uid 0 with a permit, miners that serve an axon with `key(uid)` after us; at `block` of epoch 10.
pub fn metagraph(neurons: u8, block: u64) -> Metagraph {
    let neuron = |uid: u8| Neuron {
        stake: if uid == 0 { 10_000.0 } else { 0.0 },
        validator_permit: uid == 0,
        last_update: Block(if uid == 0 { EPOCH_START - 180 } else { 5 }),
        registered_at: Block(5),
        ..Neuron::newcomer(Uid(uid.into()), key(uid), (uid > 0).then_some(AXON))
    };
    Metagraph {
        netuid: Netuid(1),
        block: Block(block),
        last_epoch_block: Block(EPOCH_START),
        epoch_index: EPOCH_INDEX,
        hyperparameters: Hyperparameters {
            tempo: TEMPO,
            min_allowed_weights: 1,
            max_weight_limit: 1.0,
            weights_rate_limit: 100,
            weights_version_key: 7,
            commit_reveal: false,
            commit_by_hash: false,
            reveal_period_epochs: 1,
            activity_cutoff: 5_000,
            stake_threshold: 1_000.0,
        },
        owner_uid: None,
        neurons: (0..neurons).map(neuron).collect(),
    }
}

/// A scored step: each hotkey with its reward; `None` is a failed completion.
pub fn step(number: u64, block: u64, asked: &[(Hotkey, Option<f32>)]) -> (Arc<StepRecord>, Arc<StepOutcome>) {
    let completion = |(uid, (hotkey, reward)): (usize, &(Hotkey, Option<f32>))| Completion {
        uid: Uid(uid as u16),
        hotkey: *hotkey,
        text: String::new(),
        outcome: if reward.is_some() { QueryOutcome::Answered } else { QueryOutcome::TimedOut },
        status_code: 200,
        status_message: String::new(),
        elapsed_seconds: 1.0,
    };
    let record = StepRecord {
        version: STEP_RECORD_VERSION,
        step: StepId { forward: ForwardId(number), index: 0 },
        name: StepName::Augment,
        block: Block(block),
        started_at: number as f64,
        length_seconds: 1.0,
        seed: 0,
        code_version: "test".into(),
        source: "test".into(),
        prompt: String::new(),
        embedding: None,
        base_text: String::new(),
        asked: asked
            .iter()
            .map(|(hotkey, _)| Asked {
                uid: Uid(0),
                hotkey: *hotkey,
                propensity: 0.5,
                uniform_propensity: None,
                origin: Default::default(),
            })
            .collect(),
        completions: asked.iter().enumerate().map(completion).collect(),
        scoring: Scoring::Scored(RawScores::default()),
        digests: Default::default(),
    };
    let rewards = asked.iter().map(|(_, reward)| Reward::new(reward.unwrap_or(0.0)).unwrap()).collect();
    let outcome = StepOutcome::Scored(Scored {
        normalised: vec![],
        filters: vec![],
        rewards,
        best: None,
        gating_loss: None,
        shadows: vec![],
    });
    (Arc::new(record), Arc::new(outcome))
}
