//! Small subnets for tests.

use openvalidators_messages::{Axon, Block, Hotkey, Hyperparameters, Metagraph, Netuid, Neuron, Uid};

pub fn miner(uid: u16) -> Neuron {
    Neuron {
        uid: Uid(uid),
        hotkey: Hotkey([uid as u8; 32]),
        axon: Some(Axon { address: ([10, 0, 0, uid as u8], 8091).into(), protocol: 4, version: 1 }),
        stake: 0.0,
        validator_permit: false,
        active: true,
        last_update: Block(0),
        registered_at: Block(0),
        incentive: 0.0,
        consensus: 0.0,
        dividends: 0.0,
        validator_trust: 0.0,
        emission: 0,
    }
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
            reveal_period_epochs: 1,
            stake_threshold: 0.0,
        },
        owner_uid: None,
        neurons,
    }
}
