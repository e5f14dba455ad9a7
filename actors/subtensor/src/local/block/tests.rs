use openvalidators_messages::{Netuid, Uid};

use super::*;
use crate::local::{LocalChainConfig, SimulatedValidatorsConfig};

const SEED: Seed = Seed(7);
const TAO: u64 = 1_000_000_000;

fn key(byte: u8) -> Hotkey {
    Hotkey([byte; 32])
}

fn quiet() -> LocalChainConfig {
    LocalChainConfig {
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
    /// Owner (uid 0), validator 1 (uid 1, 1000 TAO), miners 2, 3, … (uids 2, 3, …); the head is block 1.
    fn new(config: &LocalChainConfig, miners: u8) -> Self {
        let rules = config.rules(Netuid(1)).unwrap();
        let subnet = Subnet::genesis(&rules, SEED);
        let mut net = Self { rules, subnet };
        let mut calls: Vec<_> = (1..=1 + miners).map(register).collect();
        calls.push((key(1), Call::SetStake { rao: 1000 * TAO }));
        assert!(net.block(&calls).iter().all(Result::is_ok));
        net
    }

    fn block(&mut self, transactions: &[(Hotkey, Call)]) -> Vec<Result<Applied, DispatchError>> {
        self.subnet.next_block(&self.rules, SEED, transactions)
    }

    fn run_to(&mut self, block: u64) {
        while self.subnet.block < block {
            self.block(&[]);
        }
    }

    fn weights(&mut self, sender: u8, weights: &[(u16, u16)]) -> Result<Applied, DispatchError> {
        let vector = WeightVector {
            uids: weights.iter().map(|(uid, _)| *uid).collect(),
            weights: weights.iter().map(|(_, weight)| *weight).collect(),
            version_key: 0,
        };
        let call = self.subnet.weights_call(&self.rules, vector, self.subnet.block + 1);
        self.block(&[(key(sender), call)]).remove(0)
    }

    fn stored(&self, uid: usize) -> &[(u16, u16)] {
        &self.subnet.members[uid].weights
    }
}

fn register(byte: u8) -> (Hotkey, Call) {
    (key(byte), Call::Register { coldkey: key(200) })
}

// === commit-reveal ===

#[test]
fn a_commit_is_revealed_at_the_next_epoch_and_counts_in_it() {
    let mut net = Net::new(&quiet(), 2);
    net.run_to(21);
    assert_eq!(net.weights(1, &[(2, 3), (3, 1)]), Ok(Applied::Committed { reveal_epoch: 2 }));
    assert_eq!(net.subnet.members[1].last_update, 22, "the commit moves it");
    net.run_to(39);
    assert!(net.stored(1).is_empty(), "nobody sees them before");
    net.run_to(40);
    assert_eq!(net.subnet.epoch_index, 2);
    assert_eq!(net.stored(1), [(2, 65535), (3, 21845)]);
    assert_eq!(net.subnet.members[1].last_update, 22, "the reveal does not move it");
    let seen = net.subnet.metagraph(&net.rules);
    assert!((seen.neurons[2].incentive - 0.75).abs() < 1e-4, "{:?}", seen.neurons[2]);
    assert!(seen.neurons[1].dividends > 0.999 && seen.neurons[1].validator_trust > 0.999);
}

#[test]
fn the_reveal_period_is_kept() {
    let mut net = Net::new(&LocalChainConfig { reveal_period_epochs: 3, ..quiet() }, 2);
    net.run_to(21);
    assert_eq!(net.weights(1, &[(2, 1)]), Ok(Applied::Committed { reveal_epoch: 4 }));
    net.run_to(79);
    assert!(net.stored(1).is_empty());
    net.run_to(80);
    assert_eq!(net.stored(1), [(2, 65535)]);
}

#[test]
fn a_commit_in_the_block_of_an_epoch_belongs_to_the_new_one() {
    let mut net = Net::new(&quiet(), 2);
    net.run_to(39);
    assert_eq!(net.weights(1, &[(2, 1)]), Ok(Applied::Committed { reveal_epoch: 3 }));
    net.run_to(59);
    assert!(net.stored(1).is_empty());
    net.run_to(60);
    assert_eq!(net.stored(1), [(2, 65535)]);
}

#[test]
fn a_commit_that_cannot_be_read_is_tried_again_and_then_expires() {
    let mut net = Net::new(&LocalChainConfig { reveal_delay_blocks: 3, ..quiet() }, 2);
    net.run_to(21);
    assert!(net.weights(1, &[(2, 1)]).is_ok());
    net.run_to(42);
    assert!(net.stored(1).is_empty() && net.subnet.commits.len() == 1);
    net.run_to(43);
    assert_eq!(net.stored(1), [(2, 65535)]);

    let mut net = Net::new(&LocalChainConfig { reveal_delay_blocks: 20, ..quiet() }, 2);
    net.run_to(21);
    assert!(net.weights(1, &[(2, 1)]).is_ok());
    net.run_to(59);
    assert_eq!(net.subnet.commits.len(), 1);
    net.run_to(100);
    assert!(net.stored(1).is_empty() && net.subnet.commits.is_empty(), "expired without a word");
}

#[test]
fn a_reveal_that_fails_is_silent() {
    let mut net = Net::new(&quiet(), 2);
    net.run_to(21);
    // Not looked at before the reveal: a uid that does not exist.
    assert!(matches!(net.weights(1, &[(99, 1)]), Ok(Applied::Committed { .. })));
    net.run_to(60);
    assert!(net.stored(1).is_empty() && net.subnet.commits.is_empty());

    // A permit lost between commit and reveal.
    let mut net = Net::new(&quiet(), 2);
    net.run_to(21);
    net.rules.reveal_period_epochs = 2;
    assert!(net.weights(1, &[(2, 1)]).is_ok());
    net.block(&[(key(1), Call::SetStake { rao: 0 })]);
    net.run_to(60);
    assert!(!net.subnet.members[1].validator_permit);
    assert!(net.stored(1).is_empty() && net.subnet.commits.is_empty());
}

// === epochs ===

#[test]
fn a_late_epoch_comes_a_block_or_more_later_and_shifts_the_next() {
    let mut net = Net::new(&LocalChainConfig { late_epoch_probability: 0.5, ..quiet() }, 1);
    let (mut epochs, mut late, mut last) = (0, 0, 0);
    while net.subnet.block < 2000 {
        let before = net.subnet.epoch_index;
        net.block(&[]);
        if net.subnet.epoch_index > before {
            let gap = net.subnet.block - last;
            assert!(gap >= 20, "epoch after {gap} blocks");
            late += u64::from(gap > 20);
            epochs += 1;
            last = net.subnet.block;
            assert_eq!((net.subnet.last_epoch_block, net.subnet.pending_epoch_at), (last, 0));
        }
    }
    assert!(late > epochs / 4 && late < epochs, "{late} of {epochs} came late");
}

#[test]
fn commits_survive_late_epochs() {
    let config = LocalChainConfig { late_epoch_probability: 0.6, ..quiet() };
    let mut net = Net::new(&config, 2);
    while net.subnet.epoch_index == 0 {
        net.block(&[]);
    }
    for round in 0..200_u16 {
        for _ in 0..7 {
            net.block(&[]);
        }
        let weight = 1 + round % 100;
        let answer = net.weights(1, &[(2, 100), (3, weight)]);
        let Ok(Applied::Committed { reveal_epoch }) = answer else { panic!("{answer:?} in round {round}") };
        while net.subnet.epoch_index < reveal_epoch {
            net.block(&[]);
        }
        let expected = max_of(100, weight);
        assert_eq!(net.stored(1), expected, "round {round} at block {}", net.subnet.block);
    }
}

fn max_of(a: u16, b: u16) -> [(u16, u16); 2] {
    let share = (u32::from(b) * 65535 * 2 + u32::from(a)) / (2 * u32::from(a));
    [(2, 65535), (3, u16::try_from(share).unwrap())]
}

#[test]
fn emission_is_divided_at_each_epoch() {
    let mut net = Net::new(&LocalChainConfig { commit_reveal: false, ..quiet() }, 2);
    net.run_to(25);
    assert!(net.weights(1, &[(2, 1), (3, 1)]).is_ok());
    net.run_to(40);
    let emission: Vec<u64> = net.subnet.members.iter().map(|member| member.emission_rao).collect();
    let expected = net.rules.shared_rao_per_block * 20;
    assert_eq!(emission[0], 0);
    assert!(emission[1].abs_diff(expected / 2) < 30, "{emission:?}");
    assert!(emission[2].abs_diff(expected / 4) < 30 && emission[3].abs_diff(expected / 4) < 30, "{emission:?}");
    assert_eq!(net.subnet.pending_rao, 0);
}

// === registration ===

#[test]
fn a_full_subnet_replaces_the_weakest_and_clears_its_place() {
    let config = LocalChainConfig { commit_reveal: false, max_uids: 5, immunity_blocks: 30, ..quiet() };
    let mut net = Net::new(&config, 3);
    net.run_to(25);
    assert!(net.weights(1, &[(2, 100), (3, 50), (4, 10)]).is_ok());
    net.block(&[(key(4), axon_at(4000))]);
    net.run_to(40);
    assert!(net.subnet.members.iter().skip(2).all(|member| member.emission_rao > 0));
    assert!(net.subnet.members[1].bonds.iter().any(|(uid, _)| *uid == 4));

    // Owner (uid 0) has emission 0 and stays; miner 5 at uid 4 has the least of the others.
    let answer = net.block(&[register(50)]);
    assert_eq!(answer, [Ok(Applied::Registered { uid: Uid(4) })]);
    let newcomer = &net.subnet.members[4];
    assert_eq!((newcomer.hotkey, newcomer.registered_at, newcomer.last_update), (key(50), 41, 41));
    assert!(newcomer.axon.is_none() && newcomer.weights.is_empty() && newcomer.bonds.is_empty());
    assert!(!newcomer.validator_permit && newcomer.emission_rao == 0 && newcomer.incentive == 0);
    assert_eq!(net.stored(1), [(2, 65535), (3, 32768), (4, 0)], "others' weights to the place are 0");

    net.run_to(60);
    let seen = net.subnet.metagraph(&net.rules);
    assert_eq!(seen.neurons[4].incentive, 0.0);
    assert!(seen.neurons[2].incentive > 0.6);
    assert_eq!(seen.uid_of(&key(5)), None);
    assert_eq!(seen.uid_of(&key(50)), Some(Uid(4)));
}

#[test]
fn weights_set_before_a_replacement_skip_the_newcomer() {
    let config = LocalChainConfig { max_uids: 5, immunity_blocks: 1, ..quiet() };
    let mut net = Net::new(&config, 3);
    net.run_to(25);
    assert!(net.weights(1, &[(2, 100), (3, 100), (4, 100)]).is_ok());
    // The commit names uid 2; its holder changes before the reveal.
    assert_eq!(net.block(&[register(60)]), [Ok(Applied::Registered { uid: Uid(2) })]);
    net.run_to(40);
    assert_eq!(net.stored(1).len(), 3, "the reveal stores what was committed");
    let seen = net.subnet.metagraph(&net.rules);
    assert_eq!(seen.neurons[2].incentive, 0.0, "but it does not count for the newcomer");
    assert!((seen.neurons[3].incentive - 0.5).abs() < 1e-4);
}

#[test]
fn immunity_holds_until_too_few_others_are_left() {
    let config = LocalChainConfig { max_uids: 5, immunity_blocks: 1000, ..quiet() };
    let mut net = Net::new(&config, 3);
    net.run_to(10);
    // All but the owner are immune: the weakest immune one goes, the oldest first, then the lower uid.
    assert_eq!(net.block(&[register(70)]), [Ok(Applied::Registered { uid: Uid(1) })]);
    assert_eq!(net.block(&[register(70)]), [Err(DispatchError::HotKeyAlreadyRegisteredInSubNet)]);

    let lonely = LocalChainConfig { max_uids: 1, ..quiet() };
    let rules = lonely.rules(Netuid(1)).unwrap();
    let mut subnet = Subnet::genesis(&rules, SEED);
    let answer = subnet.next_block(&rules, SEED, &[register(1)]);
    assert_eq!(answer, [Err(DispatchError::NoNeuronIdAvailable)], "the owner is never replaced");

    let mut net = Net::new(&LocalChainConfig { max_uids: 5, immunity_blocks: 50, ..quiet() }, 2);
    net.run_to(40);
    net.block(&[register(80)]);
    net.run_to(60);
    assert_eq!(net.block(&[register(81)]), [Ok(Applied::Registered { uid: Uid(2) })], "not the immune uid 4");
}

// === simulated validators ===

#[test]
fn copying_validators_follow_us_an_epoch_late() {
    let simulated = SimulatedValidatorsConfig { copying: 2, random: 0, stake: 100.0, noise: 0.05 };
    let config = LocalChainConfig { validators: simulated, commit_reveal: false, ..quiet() };
    let mut net = Net::new(&config, 2);
    let ours = usize::from(net.subnet.uid_of(&key(1)).unwrap());
    let miner = net.subnet.uid_of(&key(2)).unwrap();
    let other = net.subnet.uid_of(&key(3)).unwrap();
    net.run_to(25);
    assert!(net.weights(1, &[(miner, 100), (other, 50)]).is_ok());
    net.run_to(59);
    assert!(net.stored(1).is_empty() && net.stored(2).is_empty(), "seen at 40, copied after 60");
    net.run_to(65);
    let row = net.stored(1).to_vec();
    assert_eq!(row.iter().map(|(uid, _)| *uid).collect::<Vec<_>>(), [miner, other]);
    let ratio = f64::from(row[1].1) / f64::from(row[0].1);
    assert!((0.3..0.8).contains(&ratio) && ratio != 0.5, "a noisy copy of 0.5: {ratio}");
    assert_ne!(net.stored(1), net.stored(2), "each has its own noise");
    net.run_to(80);
    let seen = net.subnet.metagraph(&net.rules);
    assert!(seen.neurons[ours].validator_trust > 0.9 && seen.neurons[1].dividends > 0.0);
}

#[test]
fn random_validators_treat_every_miner_alike() {
    let simulated = SimulatedValidatorsConfig { copying: 0, random: 1, stake: 100.0, noise: 0.0 };
    let config = LocalChainConfig { validators: simulated, ..quiet() };
    let mut net = Net::new(&config, 10);
    let mut total = [0_u64; 10];
    for epoch in 2..=200 {
        net.run_to(epoch * 20);
        let row = net.stored(1).to_vec();
        if epoch >= 3 {
            assert_eq!(row.len(), 11, "our validator and ten miners, but not the owner and itself");
            row.iter().filter(|(uid, _)| *uid >= 3).for_each(|(uid, w)| total[usize::from(*uid) - 3] += u64::from(*w));
        }
    }
    let mean = total.iter().sum::<u64>() / 10;
    assert!(total.iter().all(|sum| sum.abs_diff(mean) < mean / 5), "{total:?}");
}

#[test]
fn the_same_seed_makes_the_same_chain() {
    let chain = |seed: u64| {
        let config = LocalChainConfig { late_epoch_probability: 0.3, ..LocalChainConfig::default() };
        let rules = config.rules(Netuid(1)).unwrap();
        let mut subnet = Subnet::genesis(&rules, Seed(seed));
        for block in 0..100 {
            let calls = if block == 3 { vec![register(1), register(2)] } else { Vec::new() };
            subnet.next_block(&rules, Seed(seed), &calls);
        }
        subnet
    };
    assert_eq!(chain(1), chain(1));
    assert_ne!(chain(1).members, chain(2).members);
}

fn axon_at(port: u16) -> Call {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    Call::ServeAxon(openvalidators_messages::Axon { address, protocol: 4, version: 0 })
}
