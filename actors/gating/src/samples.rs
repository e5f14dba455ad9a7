//! Small subnets and their steps, for tests.

use std::sync::Arc;

use openvalidators_messages::{
    Asked, Axon, Block, Completion, ForwardId, Hotkey, Hyperparameters, Metagraph, Netuid, Neuron, PromptEmbedding,
    QueryOutcome, RawScores, Reward, STEP_RECORD_VERSION, Scored, Scoring, StepId, StepName, StepOutcome, StepRecord,
    Uid,
};

use crate::config::Config;

pub fn miner(uid: u16) -> Neuron {
    let [low, high] = uid.to_le_bytes();
    let mut hotkey = [low; 32];
    hotkey[0] = low.wrapping_add(high);
    Neuron::newcomer(
        Uid(uid),
        Hotkey(hotkey),
        Some(Axon { address: ([10, 0, 0, uid as u8], 8091).into(), protocol: 4, version: 1 }),
    )
}

pub fn metagraph(neurons: Vec<Neuron>) -> Metagraph {
    Metagraph {
        netuid: Netuid(1),
        block: Block(7),
        last_epoch_block: Block(0),
        epoch_index: 0,
        hyperparameters: Hyperparameters {
            tempo: 360,
            min_allowed_weights: 1,
            max_weight_limit: 1.0,
            weights_rate_limit: 0,
            weights_version_key: 0,
            commit_reveal: false,
            commit_by_hash: false,
            reveal_period_epochs: 1,
            activity_cutoff: 5_000,
            stake_threshold: 0.0,
        },
        owner_uid: None,
        neurons,
    }
}

/// A settled step that asked `rewards` about a prompt.
pub fn step(
    number: u64,
    block: u64,
    row: Option<&[f32]>,
    rewards: &[(u16, f32)],
) -> (Arc<StepRecord>, Arc<StepOutcome>) {
    let completion = |(uid, _): &(u16, f32)| Completion {
        uid: Uid(*uid),
        hotkey: miner(*uid).hotkey,
        text: String::new(),
        outcome: QueryOutcome::Answered,
        status_code: 200,
        status_message: String::new(),
        elapsed_seconds: 1.0,
    };
    let asked = |(uid, _): &(u16, f32)| Asked {
        uid: Uid(*uid),
        hotkey: miner(*uid).hotkey,
        propensity: 0.5,
        uniform_propensity: None,
        origin: Default::default(),
    };
    let record = StepRecord {
        version: STEP_RECORD_VERSION,
        step: StepId { forward: ForwardId(number), index: 0 },
        name: StepName::Augment,
        block: Block(block),
        started_at: 0.0,
        length_seconds: 1.0,
        seed: 0,
        code_version: String::new(),
        source: "embedded:physics/3".to_owned(),
        prompt: format!("Prompt {number}."),
        embedding: row.map(|row| PromptEmbedding { encoder: Config::default().encoder(), row: row.into() }),
        base_text: String::new(),
        asked: rewards.iter().map(asked).collect(),
        completions: rewards.iter().map(completion).collect(),
        scoring: Scoring::Scored(RawScores::default()),
        digests: Default::default(),
    };
    let rewards = rewards.iter().map(|(_, reward)| Reward::new(*reward).unwrap()).collect();
    let outcome =
        Scored { normalised: vec![], filters: vec![], rewards, best: None, gating_loss: None, shadows: vec![] };
    (Arc::new(record), Arc::new(StepOutcome::Scored(outcome)))
}

/// Two kinds of prompts.
pub const EAST: [f32; 4] = [1.0, 0.1, 0.3, 0.0];
pub const NORTH: [f32; 4] = [0.1, 1.0, 0.3, 0.0];

/// Steps about both kinds in turn, each asking miners 0 to 5: 0 is good at the one, 1 at the other, the rest are poor.
pub fn history(steps: u64) -> Vec<(Arc<StepRecord>, Arc<StepOutcome>)> {
    let of_step = |number: u64| {
        let east = number.is_multiple_of(2);
        let reward = |uid: u16| match uid {
            0 if east => 0.9,
            1 if !east => 0.9,
            _ => 0.1,
        };
        let rewards: Vec<_> = (0..6).map(|uid| (uid, reward(uid))).collect();
        step(number, number, Some(if east { &EAST } else { &NORTH }), &rewards)
    };
    (1..=steps).map(of_step).collect()
}
