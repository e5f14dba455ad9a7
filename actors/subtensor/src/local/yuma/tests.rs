//! Figures: the worked example was computed with an independent model of the same rules; the two others are asserted by
//! the pallet's own tests `test_bonds` and `test_yuma_3_kappa_moves_first` (`pallets/subtensor/src/tests/epoch.rs`).

use proptest::prelude::*;

use super::*;

type Stored = Vec<(u16, u16)>;

/// A subnet between epochs: what the tests carry from one to the next.
struct Subnet {
    rules: YumaRules,
    stake: Vec<f64>,
    permits: Vec<bool>,
    weights: Vec<Stored>,
    bonds: Vec<Stored>,
    block: u64,
}

impl Subnet {
    fn new(rules: YumaRules, stake: &[f64]) -> Self {
        let n = stake.len();
        Self {
            rules,
            stake: stake.to_vec(),
            permits: vec![false; n],
            weights: vec![Vec::new(); n],
            bonds: vec![Vec::new(); n],
            block: 1000,
        }
    }

    fn epoch(&mut self) -> Vec<SeatOutcome> {
        let previous = self.block;
        self.block += 1;
        let seats = (0..self.stake.len())
            .map(|i| Seat {
                stake: self.stake[i],
                validator_permit: self.permits[i],
                last_update: previous,
                registered_at: 0,
                earliest_commit: None,
                weights: &self.weights[i],
                bonds: &self.bonds[i],
            })
            .collect();
        let input = EpochInput {
            block: self.block,
            previous_epoch: Some(previous),
            owner: None,
            seats,
            emission_rao: 1_000_000_000,
        };
        let outcome = epoch(&self.rules, &input);
        self.permits = outcome.iter().map(|seat| seat.validator_permit).collect();
        self.bonds = outcome.iter().map(|seat| seat.bonds.clone()).collect();
        outcome
    }
}

#[track_caller]
fn near(found: impl IntoIterator<Item = f64>, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{found:?} against {expected:?}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{found:?} is not {expected:?} within {tolerance}");
    }
}

#[track_caller]
fn near_u16(found: impl IntoIterator<Item = u16>, expected: &[u16]) {
    near(found.into_iter().map(f64::from), &expected.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), 1.0);
}

fn bonds_of(row: &[(u16, u16)], columns: std::ops::Range<u16>) -> Vec<u16> {
    columns.map(|j| row.iter().find(|(k, _)| *k == j).map_or(0, |(_, bond)| *bond)).collect()
}

// === the worked example ===

struct Expected {
    consensus: [f64; 3],
    trust: [f64; 3],
    trust_u16: [u16; 3],
    incentive: [f64; 3],
    incentive_u16: [u16; 3],
    dividends: [f64; 3],
    bonds: [[u16; 3]; 3],
    server_rao: [f64; 3],
}

fn worked_example(yuma3: bool) -> Subnet {
    let rules = YumaRules { yuma3, commit_reveal: false, ..YumaRules::default() };
    let mut subnet = Subnet::new(rules, &[50.0, 30.0, 20.0, 0.0, 0.0, 0.0]);
    subnet.permits = vec![true, true, true, false, false, false];
    subnet.weights[0] = vec![(3, 65535), (4, 32768)];
    subnet.weights[1] = vec![(3, 65535), (4, 16384), (5, 16384)];
    subnet.weights[2] = vec![(5, 65535)];
    subnet
}

#[track_caller]
fn check(found: &[SeatOutcome], expected: &Expected) {
    const DIGITS: f64 = 6e-7;
    near(found.iter().take(3).map(|s| s.stake_share), &[0.5, 0.3, 0.2], DIGITS);
    near(found.iter().skip(3).map(|s| s.consensus), &expected.consensus, DIGITS);
    near(found.iter().take(3).map(|s| s.validator_trust), &expected.trust, DIGITS);
    near_u16(found.iter().take(3).map(|s| to_u16(s.validator_trust)), &expected.trust_u16);
    near(found.iter().skip(3).map(|s| s.incentive), &expected.incentive, DIGITS);
    near_u16(found.iter().skip(3).map(|s| to_u16(s.incentive)), &expected.incentive_u16);
    near(found.iter().take(3).map(|s| s.dividends), &expected.dividends, DIGITS);
    near(found.iter().skip(3).map(|s| s.server_rao as f64), &expected.server_rao, 1.0);
    for (row, bonds) in found.iter().zip(&expected.bonds) {
        near_u16(bonds_of(&row.bonds, 3..6), bonds);
    }
    assert!(found[3..].iter().all(|seat| seat.bonds.is_empty() && !seat.validator_permit && seat.dividends == 0.0));
}

fn first_epoch() -> Expected {
    Expected {
        consensus: [0.666663, 0.333337, 0.166668],
        trust: [1.0, 1.0, 0.166668],
        trust_u16: [65534, 65534, 10922],
        incentive: [0.639996, 0.260003, 0.100001],
        incentive_u16: [41942, 17039, 6553],
        dividends: [0.626588, 0.348010, 0.025402],
        bonds: [[4368, 2184, 0], [4368, 1092, 1092], [0, 0, 1092]],
        server_rao: [319_998_242.0, 130_001_269.0, 50_000_488.0],
    }
}

fn second_epoch() -> Expected {
    Expected {
        consensus: [0.666663, 0.333337, 0.0],
        trust: [1.0, 0.833332, 1.0],
        trust_u16: [65534, 54612, 65534],
        incentive: [0.701751, 0.298249, 0.0],
        incentive_u16: [45989, 19545, 0],
        dividends: [0.585945, 0.290684, 0.123370],
        bonds: [[8300, 4150, 0], [8300, 2075, 982], [4368, 2184, 982]],
        server_rao: [350_875_596.0, 149_124_403.0, 0.0],
    }
}

#[test]
fn the_worked_example_in_yuma_3() {
    let mut subnet = worked_example(true);
    let found = subnet.epoch();
    check(&found, &first_epoch());
    near_u16(found.iter().take(3).map(|s| to_u16(s.dividends)), &[41063, 22806, 1664]);
    near(found.iter().take(3).map(|s| s.validator_rao as f64), &[313_293_826.0, 174_004_946.0, 12_701_226.0], 1.0);

    subnet.weights[2] = vec![(3, 65535), (4, 32768)];
    let found = subnet.epoch();
    check(&found, &second_epoch());
    near_u16(found.iter().take(3).map(|s| to_u16(s.dividends)), &[38399, 19049, 8085]);
    near(found.iter().take(3).map(|s| s.validator_rao as f64), &[292_972_692.0, 145_342_152.0, 61_685_154.0], 1.0);
}

#[test]
fn the_worked_example_in_yuma_2() {
    let mut subnet = worked_example(false);
    let bonds = [[65535, 65535, 0], [39320, 19660, 65535], [0, 0, 43689]];
    check(&subnet.epoch(), &Expected { dividends: [0.6, 0.36, 0.04], bonds, ..first_epoch() });

    subnet.weights[2] = vec![(3, 65535), (4, 32768)];
    let bonds = [[65535, 65535, 0], [39320, 19660, 65535], [2139, 2052, 43688]];
    let dividends = [0.653852, 0.325096, 0.021053];
    check(&subnet.epoch(), &Expected { dividends, bonds, ..second_epoch() });
}

// === the pallet's own figures ===

#[test]
fn bonds_of_yuma_2_as_the_pallet_tests_them() {
    let rules = YumaRules {
        yuma3: false,
        commit_reveal: false,
        max_validators: 8,
        tempo: 1,
        activity_cutoff: 5000,
        ..YumaRules::default()
    };
    let mut subnet = Subnet::new(rules, &[1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
    subnet.epoch();
    assert_eq!(subnet.permits, [true, true, true, true, false, false, false, false]);

    let all = vec![(4, 16383), (5, 32767), (6, 49149), (7, 65535)];
    for uid in 0..4 {
        subnet.weights[uid].clone_from(&all);
    }
    // Column, then the bonds of the four validators, after each epoch.
    let expected: [(u16, [u16; 4], [f64; 8]); 6] = [
        (
            4,
            [16383, 32767, 49151, 65535],
            [49999998., 99999999., 150000000., 200000001., 49998779., 100000610., 149996337., 200004272.],
        ),
        (
            4,
            [14582, 32767, 49151, 65535],
            [44998351., 101110561., 151667215., 202223870., 49998779., 100000610., 149996337., 200004272.],
        ),
        (4, [12603, 28321, 49151, 65535], [f64::NAN; 8]),
        (7, [12602, 28320, 49150, 65535], [99999999., 199999999., 299999999., 399999999., 0., 0., 0., 0.]),
        (7, [10951, 24609, 49150, 65535], [36443733., 81898628., 163565493., 218092144., 0., 0., 0., 500000000.]),
        (7, [9559, 21482, 49150, 65535], [32799427., 73706612., 168638129., 224855830., 0., 0., 0., 500000000.]),
    ];
    for (turn, (column, bonds, emission)) in expected.into_iter().enumerate() {
        match turn {
            1..=3 => subnet.weights[turn - 1] = vec![(turn as u16 - 1, 65535)],
            4 => subnet.weights[2] = vec![(7, 65535)],
            _ => {}
        }
        let found = subnet.epoch();
        let row = |uid: usize| bonds_of(&found[uid].bonds, column..column + 1)[0];
        near_u16((0..4).map(row), &bonds);
        if emission[0].is_finite() {
            near(found.iter().map(|s| (s.server_rao + s.validator_rao) as f64), &emission, 2.0);
        }
    }
}

#[test]
fn liquid_bonds_of_yuma_3_as_the_pallet_tests_them() {
    let rules = YumaRules {
        commit_reveal: false,
        max_validators: 3,
        tempo: 1,
        activity_cutoff: 5000,
        bonds_penalty: 0.0,
        bonds_moving_average: 0.975,
        liquid_alpha: Some(LiquidAlpha { low: 0.1, high: 0.3, steepness: 1000.0 }),
        ..YumaRules::default()
    };
    let mut subnet = Subnet::new(rules, &[8.0, 1.0, 1.0, 0.0, 0.0]);
    subnet.epoch();

    let first = || vec![(3, 65535), (4, 0)];
    let second = || vec![(3, 0), (4, 65535)];
    let expected: [([[f64; 2]; 3], [f64; 3]); 6] = [
        ([[0.1013, 0.0], [0.1013, 0.0], [0.1013, 0.0]], [0.8, 0.1, 0.1]),
        ([[0.0908, 0.1013], [0.3697, 0.0], [0.3697, 0.0]], [1.0, 0.0, 0.0]),
        ([[0.0815, 0.1924], [0.3170, 0.1013], [0.5580, 0.0]], [0.9382, 0.0618, 0.0]),
        ([[0.0731, 0.2742], [0.2765, 0.1924], [0.4306, 0.1013]], [0.8819, 0.0773, 0.0407]),
        ([[0.0656, 0.3478], [0.2435, 0.2742], [0.3589, 0.1924]], [0.8564, 0.0844, 0.0592]),
        ([[0.0588, 0.4139], [0.2157, 0.3478], [0.3089, 0.2742]], [0.8418, 0.0884, 0.0697]),
    ];
    for (turn, (bonds, dividends)) in expected.into_iter().enumerate() {
        match turn {
            0 => (0..3).for_each(|uid| subnet.weights[uid] = first()),
            1..=3 => subnet.weights[turn - 1] = second(),
            _ => {}
        }
        let found = subnet.epoch();
        for (uid, bonds) in bonds.iter().enumerate() {
            let stored = bonds_of(&found[uid].bonds, 3..5);
            near(stored.iter().map(|&b| f64::from(b) / 65535.0), bonds, 1e-4);
        }
        near(found.iter().take(3).map(|s| s.dividends), &dividends, 1e-4);
    }
}

// === single rules ===

fn seat(stake: f64, weights: &[(u16, u16)]) -> Seat<'_> {
    Seat { stake, validator_permit: true, last_update: 90, registered_at: 10, weights, ..Seat::default() }
}

fn run(owner: Option<usize>, seats: Vec<Seat<'_>>) -> Vec<SeatOutcome> {
    epoch(&YumaRules::default(), &EpochInput { block: 100, previous_epoch: Some(80), owner, seats, emission_rao: 1000 })
}

#[test]
fn a_new_validator_waits_one_epoch_for_its_permit() {
    let weights = [(1, 65535)];
    let newcomer = Seat { validator_permit: false, ..seat(10.0, &weights) };
    let found = run(None, vec![newcomer, seat(0.0, &[])]);
    assert!(found[0].validator_permit && !found[1].validator_permit, "it has one for the next epoch");
    assert_eq!(found[1].incentive, 0.0, "its weights do not count in this one");
    let owner = run(Some(0), vec![newcomer, seat(0.0, &[])]);
    assert_eq!(owner[1].incentive, 1.0, "the owner needs none");
}

#[test]
fn stake_without_a_permit_does_not_weigh_down_the_majority() {
    let weights = [(2, 65535)];
    let newcomer = Seat { validator_permit: false, ..seat(90.0, &[]) };
    let found = run(None, vec![newcomer, seat(10.0, &weights), seat(0.0, &[])]);
    assert!(found[0].validator_permit);
    assert_eq!((found[2].consensus, found[2].incentive, found[1].dividends), (1.0, 1.0, 1.0));
}

#[test]
fn weights_set_before_a_registration_do_not_reach_the_newcomer() {
    let weights = [(1, 65535), (2, 65535)];
    let newcomer = Seat { registered_at: 90, ..seat(0.0, &[]) };
    let found = run(None, vec![seat(10.0, &weights), newcomer, seat(0.0, &[])]);
    assert_eq!((found[1].incentive, found[2].incentive), (0.0, 1.0));

    // With commit-reveal, so do weights whose commit is older, however late they are revealed.
    let committed = Seat { last_update: 95, earliest_commit: Some(89), ..seat(10.0, &weights) };
    let found = run(None, vec![committed, newcomer, seat(0.0, &[])]);
    assert_eq!((found[1].incentive, found[2].incentive), (0.0, 1.0));
}

#[test]
fn nobody_votes_for_itself_but_the_owner() {
    let selfish = [(0, 65535)];
    assert_eq!(run(None, vec![seat(10.0, &selfish), seat(0.0, &[])])[0].incentive, 0.0);
    assert_eq!(run(Some(0), vec![seat(10.0, &selfish), seat(0.0, &[])])[0].incentive, 1.0);
}

#[test]
fn an_inactive_validator_has_no_vote_and_no_dividends() {
    let (ones, twos) = ([(2, 65535)], [(3, 65535)]);
    let rules = YumaRules { activity_cutoff: 20, ..YumaRules::default() };
    let asleep = Seat { last_update: 79, ..seat(90.0, &ones) };
    let seats = vec![asleep, seat(10.0, &twos), seat(0.0, &[]), seat(0.0, &[])];
    let input = EpochInput { block: 100, previous_epoch: Some(80), owner: None, seats, emission_rao: 1000 };
    let found = epoch(&rules, &input);
    assert!(!found[0].active && found[1].active);
    assert_eq!((found[2].incentive, found[3].incentive), (0.0, 1.0));
    assert_eq!((found[0].dividends, found[1].dividends), (0.0, 1.0));
}

#[test]
fn without_weights_validators_are_paid_by_stake() {
    let found = run(None, vec![seat(30.0, &[]), seat(10.0, &[]), seat(0.0, &[])]);
    assert_eq!(found.iter().map(|s| s.validator_rao).collect::<Vec<_>>(), [750, 250, 0]);
    assert!(found.iter().all(|s| s.server_rao == 0 && s.incentive == 0.0));
}

#[test]
fn bonds_to_a_replaced_place_are_dropped() {
    let (weights, bonds) = ([(1, 65535), (2, 65535)], [(1, 60000), (2, 60000)]);
    let newcomer = Seat { registered_at: 85, ..seat(0.0, &[]) };
    let holder = Seat { bonds: &bonds, ..seat(10.0, &weights) };
    let found = run(None, vec![holder, newcomer, seat(0.0, &[])]);
    let stored = bonds_of(&found[0].bonds, 1..3);
    assert!(stored[0] < 3300 && stored[1] > 54_000, "{stored:?}: one begins at a tenth, the other goes on");
}

#[test]
fn on_equal_stake_the_higher_uid_has_the_permit() {
    assert_eq!(largest_nonzero(&[1.0, 2.0, 1.0, 0.0], 2), [false, true, true, false]);
    assert_eq!(largest_nonzero(&[0.0, 0.0], 2), [false, false]);
}

// === properties ===

fn rows_strategy(n: usize) -> impl Strategy<Value = Vec<Stored>> {
    let row = prop::collection::btree_map(0..n as u16 + 2, any::<u16>(), 0..=n)
        .prop_map(|row| row.into_iter().collect::<Vec<_>>());
    prop::collection::vec(row, n)
}

#[derive(Debug, Clone)]
struct Case {
    stake: Vec<f64>,
    permits: Vec<bool>,
    updates: Vec<u64>,
    registered: Vec<u64>,
    weights: Vec<Stored>,
    bonds: Vec<Stored>,
    yuma3: bool,
    liquid: bool,
    penalty: f64,
}

fn case() -> impl Strategy<Value = Case> {
    (1_usize..9).prop_flat_map(|n| {
        let stake = prop::collection::vec(prop_oneof![Just(0.0), 0.0..1e9_f64, Just(1e-300)], n);
        let blocks = || prop::collection::vec(0_u64..200, n);
        (
            (stake, prop::collection::vec(any::<bool>(), n), blocks(), blocks()),
            (rows_strategy(n), rows_strategy(n)),
            (any::<bool>(), any::<bool>(), prop_oneof![Just(0.0), Just(1.0), 0.0..1.0_f64]),
        )
            .prop_map(|((stake, permits, updates, registered), (weights, bonds), (yuma3, liquid, penalty))| {
                Case { stake, permits, updates, registered, weights, bonds, yuma3, liquid, penalty }
            })
    })
}

proptest! {
    #[test]
    fn every_epoch_is_sound(case in case()) {
        let rules = YumaRules {
            yuma3: case.yuma3,
            liquid_alpha: case.liquid.then(LiquidAlpha::default),
            bonds_penalty: case.penalty,
            activity_cutoff: 50,
            ..YumaRules::default()
        };
        let seats: Vec<Seat<'_>> = (0..case.stake.len())
            .map(|i| Seat {
                stake: case.stake[i],
                validator_permit: case.permits[i],
                last_update: case.updates[i],
                registered_at: case.registered[i],
                earliest_commit: None,
                weights: &case.weights[i],
                bonds: &case.bonds[i],
            })
            .collect();
        let input = EpochInput {
            block: 150,
            previous_epoch: Some(100),
            owner: None,
            seats,
            emission_rao: 1_000_000_000,
        };
        let found = epoch(&rules, &input);
        prop_assert_eq!(found.len(), case.stake.len());

        let sums_to_one_or_zero = |values: Vec<f64>| {
            let sum: f64 = values.iter().sum();
            values.iter().all(|v| (0.0..=1.0 + 1e-9).contains(v)) && (sum == 0.0 || (sum - 1.0).abs() < 1e-8)
        };
        prop_assert!(sums_to_one_or_zero(found.iter().map(|s| s.incentive).collect()));
        prop_assert!(sums_to_one_or_zero(found.iter().map(|s| s.dividends).collect()));
        prop_assert!(sums_to_one_or_zero(found.iter().map(|s| s.stake_share).collect()));
        for seat in &found {
            prop_assert!((0.0..=1.0 + 1e-9).contains(&seat.consensus), "{seat:?}");
            prop_assert!((0.0..=1.0 + 1e-9).contains(&seat.validator_trust), "{seat:?}");
            prop_assert!(seat.validator_permit || seat.bonds.is_empty());
        }
        let paid: u64 = found.iter().map(|s| s.server_rao + s.validator_rao).sum();
        prop_assert!(paid <= 1_000_000_000, "{paid} of 1000000000 rao paid");

        // What consensus accepts of a row never exceeds the consensus of its column.
        let permits: Vec<bool> = case.permits.clone();
        let consensus: Vec<f64> = found.iter().map(|s| s.consensus).collect();
        for row in masked_weights(&rules, &input, &permits) {
            for (j, weight) in rows::clip(&row, &consensus) {
                prop_assert!(weight <= consensus[j]);
            }
        }
    }
}
