//! Whatever is sent to the chain, its state stays sound.

use std::collections::BTreeSet;

use openvalidators_messages::{Axon, Netuid};
use proptest::prelude::*;

use super::*;
use crate::local::{LocalChainConfig, SimulatedValidatorsConfig};

fn vector() -> impl Strategy<Value = WeightVector> {
    let entries = prop::collection::vec((0_u16..14, any::<u16>()), 0..12);
    (entries, 0_usize..14, prop_oneof![Just(0_u64), any::<u64>()]).prop_map(|(entries, cut, version_key)| {
        let (uids, mut weights): (Vec<u16>, Vec<u16>) = entries.into_iter().unzip();
        // Now and then as many weights as uids, now and then fewer.
        weights.truncate(cut);
        WeightVector { uids, weights, version_key }
    })
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        3 => vector().prop_map(Call::SetWeights),
        3 => (vector(), 0_u64..400).prop_map(|(vector, reveal_block)| Call::CommitWeights { vector, reveal_block }),
        1 => any::<u16>().prop_map(|port| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            Call::ServeAxon(Axon { address, protocol: 4, version: 0 })
        }),
        3 => Just(Call::Register { coldkey: Hotkey([99; 32]) }),
        2 => prop_oneof![Just(0_u64), any::<u64>(), 0..1_000_000_000_000_u64].prop_map(|rao| Call::SetStake { rao }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_transactions_leave_a_sound_subnet(
        blocks in prop::collection::vec(prop::collection::vec((0_u8..20, call()), 0..6), 1..120),
        commit_reveal in any::<bool>(),
        yuma3 in any::<bool>(),
        liquid_alpha in any::<bool>(),
    ) {
        let config = LocalChainConfig {
            tempo: 7,
            max_uids: 12,
            immunity_blocks: 9,
            commit_reveal,
            yuma3,
            liquid_alpha,
            late_epoch_probability: 0.2,
            validators: SimulatedValidatorsConfig { copying: 1, random: 1, ..SimulatedValidatorsConfig::default() },
            ..LocalChainConfig::default()
        };
        let rules = config.rules(Netuid(1)).unwrap();
        let mut subnet = Subnet::genesis(&rules, Seed(5));
        for transactions in blocks {
            let transactions: Vec<_> = transactions.into_iter().map(|(key, call)| (Hotkey([key; 32]), call)).collect();
            let before = subnet.block;
            let answers = subnet.next_block(&rules, Seed(5), &transactions);
            prop_assert_eq!(answers.len(), transactions.len());
            prop_assert_eq!(subnet.block, before + 1);
            prop_assert!(subnet.members.len() <= 12);
            prop_assert_eq!(subnet.members[0].hotkey, subnet.owner, "the owner keeps its place");
            let holders: BTreeSet<Hotkey> = subnet.members.iter().map(|member| member.hotkey).collect();
            prop_assert_eq!(holders.len(), subnet.members.len(), "one place for each hotkey");
            for member in &subnet.members {
                let uids: BTreeSet<u16> = member.weights.iter().map(|(uid, _)| *uid).collect();
                prop_assert_eq!(uids.len(), member.weights.len());
                prop_assert!(uids.iter().all(|uid| usize::from(*uid) < subnet.members.len()));
                prop_assert!(member.last_update <= subnet.block && member.registered_at <= subnet.block);
            }
            let most = subnet.commits.values().map(Vec::len).max().unwrap_or(0);
            prop_assert!(most <= 20 * 10 && subnet.commits.len() <= 2, "commits do not pile up");
            let seen = subnet.metagraph(&rules);
            let paid: u64 = seen.neurons.iter().map(|neuron| neuron.emission).sum();
            prop_assert!(paid <= 200 * rules.shared_rao_per_block);
            for (uid, neuron) in (0_u16..).zip(&seen.neurons) {
                prop_assert_eq!(neuron.uid.0, uid);
                for share in [neuron.incentive, neuron.consensus, neuron.dividends, neuron.validator_trust] {
                    prop_assert!((0.0..=1.0).contains(&share));
                }
            }
        }
        let saved = serde_json::to_string(&subnet).unwrap();
        prop_assert_eq!(serde_json::from_str::<Subnet>(&saved).unwrap(), subnet);
    }
}
