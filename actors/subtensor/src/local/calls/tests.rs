use openvalidators_messages::Netuid;
use openvalidators_runtime::Seed;

use super::*;
use crate::local::{LocalChainConfig, SimulatedValidatorsConfig};

const SEED: Seed = Seed(7);

fn key(byte: u8) -> Hotkey {
    Hotkey([byte; 32])
}

/// A subnet without simulated validators, late epochs or commits; uid 0 is the owner.
fn quiet() -> LocalChainConfig {
    LocalChainConfig {
        commit_reveal: false,
        late_epoch_probability: 0.0,
        validators: SimulatedValidatorsConfig { copying: 0, random: 0, ..SimulatedValidatorsConfig::default() },
        ..LocalChainConfig::default()
    }
}

struct Net {
    rules: Rules,
    subnet: Subnet,
}

impl Net {
    /// Validator 1 (uid 1) with stake and permit, miners 2 and 3 (uids 2 and 3), at block 21.
    fn new(config: &LocalChainConfig) -> Self {
        let rules = config.rules(Netuid(1)).unwrap();
        let subnet = Subnet::genesis(&rules, SEED);
        let mut net = Self { rules, subnet };
        let register = |byte| (key(byte), Call::Register { coldkey: key(100) });
        net.block(&[register(1), register(2), register(3), (key(1), Call::SetStake { rao: 1_000_000_000_000 })]);
        net.run(20);
        assert_eq!(net.subnet.block, 21);
        net
    }

    fn block(&mut self, transactions: &[(Hotkey, Call)]) -> Vec<Result<Applied, DispatchError>> {
        self.subnet.next_block(&self.rules, SEED, transactions)
    }

    fn run(&mut self, blocks: usize) {
        for _ in 0..blocks {
            self.block(&[]);
        }
    }

    fn set(&mut self, sender: u8, uids: &[u16], weights: &[u16]) -> Result<Applied, DispatchError> {
        let call = Call::SetWeights(vector(uids, weights));
        self.block(&[(key(sender), call)]).remove(0)
    }
}

fn vector(uids: &[u16], weights: &[u16]) -> WeightVector {
    WeightVector { uids: uids.to_vec(), weights: weights.to_vec(), version_key: 0 }
}

#[test]
fn weights_are_stored_upscaled_and_move_last_update() {
    let mut net = Net::new(&quiet());
    assert_eq!(net.set(1, &[2, 3], &[30, 10]), Ok(Applied::Done));
    assert_eq!(net.subnet.members[1].weights, [(2, 65535), (3, 21845)]);
    assert_eq!(net.subnet.members[1].last_update, 22);
    assert_eq!(max_upscale(&[0, 0]), [0, 0]);
    assert_eq!(max_upscale(&[65535, 1]), [65535, 1]);
    assert_eq!(max_upscale(&[3, 2]), [65535, 43690]);
}

#[test]
fn each_check_of_set_weights_has_its_name() {
    let mut net = Net::new(&LocalChainConfig { min_allowed_weights: 2, stake_threshold: 10.0, ..quiet() });
    net.rules.weights_version_key = 5;
    let ok = WeightVector { version_key: 5, ..vector(&[2, 3], &[1, 1]) };
    let refused = |sender: u8, change: &dyn Fn(&mut WeightVector)| {
        let mut vector = ok.clone();
        change(&mut vector);
        let mut subnet = net.subnet.clone();
        let rules = &net.rules;
        subnet.next_block(rules, SEED, &[(key(sender), Call::SetWeights(vector))]).remove(0).unwrap_err()
    };
    assert_eq!(refused(1, &|v| v.weights = vec![1]), DispatchError::WeightVecNotEqualSize);
    assert_eq!(
        refused(1, &|v| (v.uids, v.weights) = (vec![0; 5], vec![0; 5])),
        DispatchError::UidsLengthExceedUidsInSubNet
    );
    assert_eq!(refused(9, &|_| ()), DispatchError::HotKeyNotRegisteredInSubNet);
    assert_eq!(refused(2, &|_| ()), DispatchError::NotEnoughStakeToSetWeights);
    assert_eq!(refused(1, &|v| v.version_key = 4), DispatchError::IncorrectWeightVersionKey);
    assert_eq!(refused(1, &|v| v.uids = vec![2, 2]), DispatchError::DuplicateUids);
    assert_eq!(refused(1, &|v| v.uids = vec![2, 4]), DispatchError::UidVecContainInvalidOne);
    assert_eq!(refused(1, &|v| (v.uids, v.weights) = (vec![2], vec![1])), DispatchError::WeightVecLengthIsLow);
    // The first of two faults is the one told.
    assert_eq!(refused(1, &|v| (v.version_key, v.uids) = (4, vec![2, 2])), DispatchError::IncorrectWeightVersionKey);

    net.rules.yuma.stake_threshold = 0.0;
    let sender = |byte: u8, uids: &[u16]| {
        let vector = WeightVector { version_key: 5, ..vector(uids, &vec![1; uids.len()]) };
        (key(byte), Call::SetWeights(vector))
    };
    let answers = net.block(&[sender(2, &[1, 3]), sender(2, &[2]), sender(1, &[2, 3]), sender(1, &[2, 3])]);
    assert_eq!(answers[0], Err(DispatchError::NeuronNoValidatorPermit));
    assert_eq!(answers[1], Ok(Applied::Done), "a lone weight for oneself needs neither permit nor length");
    assert_eq!(answers[2], Ok(Applied::Done));
    assert_eq!(answers[3], Err(DispatchError::SettingWeightsTooFast));
}

#[test]
fn the_pool_refuses_little() {
    let mut net = Net::new(&LocalChainConfig { stake_threshold: 10.0, ..quiet() });
    let ask = |net: &Net, sender: u8, call: Call| net.subnet.admit(&net.rules, &key(sender), &call);
    let weights = || Call::SetWeights(vector(&[7, 7], &[1]));
    assert_eq!(ask(&net, 1, weights()), Ok(()), "nonsense is let in and fails inside the block");
    assert_eq!(ask(&net, 2, weights()), Err(PoolError::StakeAmountTooLow));
    assert_eq!(net.set(1, &[2], &[1]), Ok(Applied::Done));
    assert_eq!(ask(&net, 1, weights()), Err(PoolError::RateLimitExceeded));
    net.run(4);
    assert_eq!(ask(&net, 1, weights()), Ok(()), "the next block is the fifth after");

    // A timelocked commit that comes too early is let in.
    net.rules.yuma.commit_reveal = true;
    net.subnet.members[1].last_update = net.subnet.block;
    let commit = Call::CommitWeights { vector: vector(&[2], &[1]), reveal_block: 0 };
    assert_eq!(ask(&net, 1, commit.clone()), Ok(()));
    assert_eq!(net.block(&[(key(1), commit)]), [Err(DispatchError::CommittingWeightsTooFast)]);
    let direct = net.block(&[(key(1), Call::SetWeights(vector(&[2], &[1])))]);
    assert_eq!(direct, [Err(DispatchError::CommitRevealEnabled)]);
}

#[test]
fn a_newcomer_waits_a_whole_rate_limit() {
    let mut net = Net::new(&quiet());
    net.block(&[(key(8), Call::Register { coldkey: key(100) }), (key(8), Call::SetStake { rao: 1 << 50 })]);
    let call = Call::SetWeights(vector(&[2], &[1]));
    assert_eq!(net.subnet.admit(&net.rules, &key(8), &call), Err(PoolError::RateLimitExceeded));
    assert_eq!(net.subnet.members[4].last_update, 22);
}

#[test]
fn axons_are_checked_in_the_pool() {
    let mut net = Net::new(&quiet());
    let axon =
        |address: &str| Call::ServeAxon(Axon { address: address.parse().unwrap(), protocol: 4, version: 10_005_000 });
    let ask = |net: &Net, sender: u8, call: &Call| net.subnet.admit(&net.rules, &key(sender), call);
    assert_eq!(ask(&net, 9, &axon("127.0.0.1:80")), Err(PoolError::HotKeyNotRegisteredInNetwork));
    assert_eq!(ask(&net, 2, &axon("127.0.0.1:0")), Err(PoolError::InvalidPort));
    assert_eq!(ask(&net, 2, &axon("255.255.255.255:80")), Err(PoolError::InvalidIpAddress));
    assert_eq!(net.block(&[(key(2), axon("127.0.0.1:80"))]), [Ok(Applied::Done)]);
    assert_eq!(ask(&net, 2, &axon("127.0.0.1:81")), Err(PoolError::ServingRateLimitExceeded));
    net.run(1);
    assert_eq!(ask(&net, 2, &axon("127.0.0.1:81")), Ok(()));
    let seen = net.subnet.metagraph(&net.rules).neurons[2].axon.unwrap();
    assert_eq!(seen.address, "127.0.0.1:80".parse().unwrap());
}

#[test]
fn at_most_ten_commits_of_an_epoch_wait() {
    let mut net = Net::new(&LocalChainConfig { commit_reveal: true, tempo: 40, ..quiet() });
    net.rules.weights_rate_limit = 1;
    net.run(19);
    assert_eq!((net.subnet.block, net.subnet.epoch_index), (40, 1));
    let commit = || (key(1), Call::CommitWeights { vector: vector(&[2], &[1]), reveal_block: 10_000 });
    for _ in 0..10 {
        assert!(matches!(net.block(&[commit()])[0], Ok(Applied::Committed { reveal_epoch: 2 })));
    }
    assert_eq!(net.block(&[commit()]), [Err(DispatchError::TooManyUnrevealedCommits)]);
}

#[test]
fn the_metagraph_tells_who_owns_each_hotkey() {
    let net = Net::new(&LocalChainConfig::default());
    let metagraph = net.subnet.metagraph(&net.rules);
    let owner = |byte| metagraph.neuron(metagraph.uid_of(&key(byte)).unwrap()).unwrap().coldkey;
    assert_eq!([1, 2, 3].map(owner), [Some(key(100)); 3]);
}
