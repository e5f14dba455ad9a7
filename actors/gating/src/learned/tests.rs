use openvalidators_messages::{Metagraph, Sequence};
use openvalidators_runtime::Seed;

use super::*;
use crate::{
    config::Config,
    samples::{EAST, NORTH, history, metagraph, miner},
};

const STEPS: u64 = 60;

fn choice() -> Choice {
    let config = Config::default();
    Choice {
        memory: config.rules().memory,
        exploration: config.exploration,
        optimism: config.optimism,
        longest_wait_blocks: 1_000,
    }
}

fn learned() -> State {
    let (rules, mut state) = (Config::default().rules(), State::new(&Config::default().encoder()));
    for (number, (record, outcome)) in (1..).zip(history(STEPS)) {
        state.fold(&rules, Sequence(number), &record, &outcome);
    }
    state
}

fn subnet(miners: u16) -> Metagraph {
    Metagraph { block: Block(STEPS), ..metagraph((0..miners).map(miner).collect()) }
}

fn ask<'a>(
    metagraph: &Metagraph,
    prompt: &'a [f32],
    count: usize,
    exclude: &'a [Uid],
    pending: &'a BTreeMap<Hotkey, Block>,
) -> Ask<'a> {
    Ask { block: metagraph.block, embedding: prompt, count, exclude, pending }
}

/// The odds of each uid.
fn odds(prompt: &[f32], count: usize, exclude: &[u16]) -> Vec<f64> {
    let (metagraph, exclude) = (subnet(6), exclude.iter().copied().map(Uid).collect::<Vec<_>>());
    let available: Vec<&Neuron> = metagraph.neurons.iter().collect();
    let (mut rng, pending) = (Seed(1).rng("test", &[]), BTreeMap::new());
    let ask = ask(&metagraph, prompt, count, &exclude, &pending);
    let (routed, odds) = route(&mut learned(), choice(), ask, &available, &mut rng).unwrap();
    assert_eq!(routed.len(), count.min(6));
    for routed in routed {
        assert_eq!(routed.propensity, odds[usize::from(routed.uid.0)]);
        assert!(routed.propensity > 0.0 && routed.uniform_propensity.unwrap() > 0.0);
    }
    odds
}

#[test]
fn the_prompt_decides_who_is_asked() {
    for (prompt, good, other) in [(EAST, 0, 1), (NORTH, 1, 0)] {
        let odds = odds(&prompt, 1, &[]);
        assert!(odds[good] > 0.8, "{odds:?}");
        assert!((odds[other] - 0.2 / 6.0).abs() < 1e-9, "the floor: {odds:?}");
    }
}

#[test]
fn who_was_asked_in_this_forward_comes_last() {
    let found = odds(&EAST, 2, &[0]);
    assert_eq!(found[0], 0.0, "{found:?}");
    assert!((found.iter().sum::<f64>() - 2.0).abs() < 1e-9);
    // Four others for five places: they have theirs for certain, and the one left goes by the forecast again.
    let found = odds(&EAST, 5, &[0, 3]);
    assert_eq!(found[1..3], [1.0, 1.0]);
    assert!(found[0] > 0.8 && (found[0] + found[3] - 1.0).abs() < 1e-9, "{found:?}");
    assert_eq!(odds(&EAST, 60, &[0]), [1.0; 6]);
}

#[test]
fn a_stranger_is_worth_a_try_and_who_waited_too_long_is_asked() {
    let (metagraph, mut state) = (subnet(7), learned());
    let available: Vec<&Neuron> = metagraph.neurons.iter().collect();
    let (mut rng, none) = (Seed(1).rng("test", &[]), BTreeMap::new());
    let (_, odds) = route(&mut state, choice(), ask(&metagraph, &EAST, 2, &[], &none), &available, &mut rng).unwrap();
    assert!(odds[6] > 0.8, "nobody knows what it is worth: {odds:?}");

    let late = Metagraph { block: Block(STEPS + 900), ..metagraph.clone() };
    let (routed, odds) = route(&mut state, choice(), ask(&late, &EAST, 1, &[], &none), &available, &mut rng).unwrap();
    assert_eq!(
        (routed[0].uid, odds[6]),
        (Uid(6), 1.0),
        "uid 6 has waited since the first step, the others since the last"
    );
    // Asked a moment ago in a step that is not settled yet: it is not overdue any more.
    let pending = BTreeMap::from([(miner(6).hotkey, Block(STEPS + 899))]);
    let (_, odds) = route(&mut state, choice(), ask(&late, &EAST, 1, &[], &pending), &available, &mut rng).unwrap();
    assert_eq!(odds[6], 0.0);
    assert!(odds[..6].iter().all(|odd| (odd - 1.0 / 6.0).abs() < 1e-9), "these have waited alike: {odds:?}");
}

/// Forty steps of one place: with every wait bounded, everyone of ten is asked within the bound.
#[test]
fn nobody_starves() {
    let (metagraph, mut state, rules) = (subnet(10), learned(), Config::default().rules());
    let available: Vec<&Neuron> = metagraph.neurons.iter().collect();
    let choice = Choice { longest_wait_blocks: 20, exploration: 0.01, ..choice() };
    let (mut last, pending) = ([STEPS; 10], BTreeMap::new());
    for number in STEPS + 1..STEPS + 300 {
        let now = Metagraph { block: Block(number), ..metagraph.clone() };
        let mut rng = Seed(3).rng("test", &[number]);
        let (routed, _) = route(&mut state, choice, ask(&now, &EAST, 1, &[], &pending), &available, &mut rng).unwrap();
        let rewards: Vec<_> = routed.iter().map(|routed| (routed.uid.0, 0.5)).collect();
        let (record, outcome) = crate::samples::step(number, number, Some(&EAST), &rewards);
        state.fold(&rules, Sequence(number), &record, &outcome);
        last[usize::from(routed[0].uid.0)] = number;
        assert!(last.iter().all(|last| number - last <= 25), "{last:?} at {number}");
    }
}

#[test]
fn four_thousand_miners_of_equal_rewards_are_asked_alike_if_as_much_is_known_of_them() {
    let (rules, mut state) = (Config::default().rules(), State::new(&Config::default().encoder()));
    for number in 1..=STEPS {
        let rewards: Vec<_> = (0..50).map(|place| ((number as u16 * 50 + place) % 4_096, 0.25)).collect();
        let (record, outcome) = crate::samples::step(number, number, Some(&EAST), &rewards);
        state.fold(&rules, Sequence(number), &record, &outcome);
    }
    let metagraph = subnet(4_096);
    let available: Vec<&Neuron> = metagraph.neurons.iter().collect();
    let (mut rng, none) = (Seed(1).rng("test", &[]), BTreeMap::new());
    let (routed, odds) =
        route(&mut state, choice(), ask(&metagraph, &NORTH, 50, &[], &none), &available, &mut rng).unwrap();
    assert_eq!(routed.len(), 50);
    let promised = 0.8 * 50.0 / 4_096.0;
    // Uids 50 to 3049 were asked once, the others never.
    for (uid, odd) in odds.iter().enumerate() {
        let as_known = odds[if (50..3_050).contains(&uid) { 50 } else { 0 }];
        assert!((odd - as_known).abs() < 1e-12 && *odd > promised, "{uid}: {odd}");
    }
    assert!(((odds[0] - promised) / (odds[50] - promised) - 2.0).abs() < 1e-9);
}
