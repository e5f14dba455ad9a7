//! Uniform routing: which miners can be asked, and a draw among them with known odds. Pure.
//!
//! After `forward.py:get_random_uids` and `utils.py:check_uid_availability` of openvalidators 1.2.0, which fails when
//! fewer miners are available than are wanted; here fewer come back.

use openvalidators_messages::{Hotkey, Metagraph, Neuron, Uid, gating::Routed};
use rand::{Rng, seq::SliceRandom};

use crate::config::Config;

/// Why a neuron is never asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// It is ourselves.
    Own,
    /// It serves no axon: none is on chain, or one without a port or an address.
    NoAxon,
    /// It counts as a validator: it has a permit *and* more stake than the limit. On a subnet with free permits every miner has
    /// one.
    Validator,
}

impl Exclusion {
    /// Each, for whoever counts them.
    pub const ALL: [Self; 3] = [Self::Own, Self::NoAxon, Self::Validator];

    /// Its label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::NoAxon => "no_axon",
            Self::Validator => "validator",
        }
    }
}

/// Why a neuron is not asked; `None` for one that can be.
#[must_use]
pub fn exclusion(neuron: &Neuron, own_hotkey: &Hotkey, config: &Config) -> Option<Exclusion> {
    if neuron.hotkey == *own_hotkey {
        Some(Exclusion::Own)
    } else if !serves(neuron) {
        Some(Exclusion::NoAxon)
    } else if neuron.validator_permit && neuron.stake > config.vpermit_tao_limit {
        Some(Exclusion::Validator)
    } else {
        None
    }
}

/// The neurons that can be asked, in order of uid: they serve an axon, are not ourselves, and are no validators.
pub fn available<'a>(
    metagraph: &'a Metagraph,
    own_hotkey: &Hotkey,
    config: &Config,
) -> impl Iterator<Item = &'a Neuron> {
    metagraph.neurons.iter().filter(move |neuron| exclusion(neuron, own_hotkey, config).is_none())
}

fn serves(neuron: &Neuron) -> bool {
    neuron.axon.is_some_and(|axon| axon.address.port() != 0 && !axon.address.ip().is_unspecified())
}

/// Draws `count` of `available`, or all of them if they are fewer, in random order.
///
/// Those in `exclude` come last: only when the others do not suffice, the missing ones are drawn among them. So of `m`
/// others and `e` excluded each of the others is drawn with probability min(1, `count` / `m`), and each excluded one with
/// max(0, `count` − `m`) / `e`: its propensity, at most 1.
pub fn draw<'a>(
    available: impl Iterator<Item = &'a Neuron>,
    count: usize,
    exclude: &[Uid],
    rng: &mut impl Rng,
) -> Vec<Routed> {
    let (excluded, others): (Vec<_>, Vec<_>) = available.partition(|neuron| exclude.contains(&neuron.uid));
    let mut drawn = draw_uniformly(others, count, rng);
    let missing = count - drawn.len();
    if missing > 0 {
        drawn.extend(draw_uniformly(excluded, missing, rng));
        drawn.shuffle(rng);
    }
    drawn
}

fn draw_uniformly(mut neurons: Vec<&Neuron>, count: usize, rng: &mut impl Rng) -> Vec<Routed> {
    let count = count.min(neurons.len());
    let propensity = count as f64 / neurons.len().max(1) as f64;
    let (drawn, _) = neurons.partial_shuffle(rng, count);
    // Every neuron that serves has an axon: nobody is lost here.
    let route = |neuron: &&Neuron| {
        neuron.axon.map(|axon| Routed {
            uid: neuron.uid,
            hotkey: neuron.hotkey,
            axon,
            propensity,
            uniform_propensity: None,
        })
    };
    drawn.iter().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openvalidators_runtime::Seed;
    use proptest::prelude::*;

    use super::*;
    use crate::samples::{metagraph, miner};

    const OWN: Hotkey = Hotkey([200; 32]);

    fn uids<'a>(neurons: impl Iterator<Item = &'a Neuron>) -> Vec<u16> {
        neurons.map(|neuron| neuron.uid.0).collect()
    }

    #[test]
    fn who_does_not_serve_or_validates_or_is_ourselves_is_not_available() {
        let mut neurons: Vec<Neuron> = (0..9).map(miner).collect();
        neurons[1].axon = None;
        neurons[2].axon.as_mut().unwrap().address.set_port(0);
        neurons[3].axon.as_mut().unwrap().address = "0.0.0.0:8091".parse().unwrap();
        neurons[4].hotkey = OWN;
        (neurons[5].validator_permit, neurons[5].stake) = (true, 4096.5);
        (neurons[6].validator_permit, neurons[6].stake) = (true, 4096.0);
        (neurons[7].validator_permit, neurons[7].stake) = (false, 1e6);
        let metagraph = metagraph(neurons);
        assert_eq!(uids(available(&metagraph, &OWN, &Config::default())), [0, 6, 7, 8]);
        let why: Vec<_> =
            metagraph.neurons.iter().filter_map(|neuron| exclusion(neuron, &OWN, &Config::default())).collect();
        let (no_axon, own, validator) = (Exclusion::NoAxon, Exclusion::Own, Exclusion::Validator);
        assert_eq!(why, [no_axon, no_axon, no_axon, own, validator]);
        let strict = Config { vpermit_tao_limit: 0.0, ..Config::default() };
        assert_eq!(uids(available(&metagraph, &OWN, &strict)), [0, 7, 8]);
    }

    fn drawn(neurons: &[Neuron], count: usize, exclude: &[Uid], path: u64) -> Vec<Routed> {
        draw(neurons.iter(), count, exclude, &mut Seed(1).rng("route", &[path]))
    }

    #[test]
    fn the_order_is_random_too() {
        let neurons: Vec<Neuron> = (0..4).map(miner).collect();
        let mut first = BTreeSet::new();
        for path in 0..100 {
            first.insert(drawn(&neurons, 4, &[Uid(0), Uid(1)], path)[0].uid);
        }
        assert_eq!(first.len(), 4, "no place in the answer is reserved for anyone");
    }

    proptest! {
        #[test]
        fn nobody_twice_nobody_beyond_and_the_others_first(
            size in 0u16..30, count in 0usize..40, excluded in prop::collection::vec(0u16..40, 0..40), path: u64,
        ) {
            let neurons: Vec<Neuron> = (0..size).map(miner).collect();
            let exclude: Vec<Uid> = excluded.into_iter().map(Uid).collect();
            let routed = drawn(&neurons, count, &exclude, path);
            let uids: BTreeSet<Uid> = routed.iter().map(|routed| routed.uid).collect();
            prop_assert_eq!(uids.len(), routed.len());
            prop_assert_eq!(routed.len(), count.min(neurons.len()));
            let others = neurons.iter().filter(|neuron| !exclude.contains(&neuron.uid)).count();
            let repeated = uids.iter().filter(|uid| exclude.contains(uid)).count();
            prop_assert_eq!(repeated, routed.len().saturating_sub(others));
            prop_assert!(routed.iter().all(|routed| routed.propensity > 0.0 && routed.propensity <= 1.0));
            prop_assert_eq!(drawn(&neurons, count, &exclude, path), routed);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Over many draws each neuron comes as often as its propensity says, and those never drawn have none.
        #[test]
        fn propensities_are_frequencies(size in 1u16..7, count in 1usize..8, excluded in prop::collection::btree_set(0u16..7, 0..7)) {
            const DRAWS: u32 = 2000;
            let neurons: Vec<Neuron> = (0..size).map(miner).collect();
            let exclude: Vec<Uid> = excluded.into_iter().map(Uid).collect();
            let mut seen: BTreeMap<Uid, (u32, f64)> = BTreeMap::new();
            for path in 0..DRAWS {
                for routed in drawn(&neurons, count, &exclude, path.into()) {
                    let entry = seen.entry(routed.uid).or_insert((0, routed.propensity));
                    entry.0 += 1;
                    prop_assert_eq!(entry.1, routed.propensity, "the odds do not depend on the outcome");
                }
            }
            for (uid, (times, propensity)) in &seen {
                // Five standard deviations of a binomial frequency.
                let tolerance = 5.0 * (propensity * (1.0 - propensity) / f64::from(DRAWS)).sqrt() + 1e-9;
                let frequency = f64::from(*times) / f64::from(DRAWS);
                prop_assert!((frequency - propensity).abs() <= tolerance, "{uid}: {frequency} of {propensity}");
            }
            let expected = seen.values().map(|(_, propensity)| propensity).sum::<f64>();
            prop_assert!((expected - count.min(neurons.len()) as f64).abs() < 1e-9, "inclusion probabilities add up to the count");
        }
    }
}
