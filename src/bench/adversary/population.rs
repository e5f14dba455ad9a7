//! Who the miners of the benchmark are, and where they come from.

use std::net::{IpAddr, Ipv4Addr};

use openvalidators_messages::{Hotkey, Origin, Uid};

/// Honest miners come in groups of so many, four of each tier.
const GROUP: usize = 12;

/// What one honest miner has in common with others of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Common {
    /// Nothing.
    Nothing,
    /// Its owner: three good miners have one, and two of different tiers another.
    Coldkey,
    /// Its network: four strangers, two of each lesser tier, are in one /24.
    Network,
}

/// The uid and hotkey of a miner.
#[must_use]
pub fn identity(place: usize) -> (Uid, Hotkey) {
    let uid = u16::try_from(place).unwrap_or(u16::MAX);
    (Uid(uid), key(0, place))
}

/// What an honest miner has in common with others.
#[must_use]
pub fn common(place: usize) -> Common {
    match place % GROUP {
        0..=3 | 6 => Common::Coldkey,
        4 | 5 | 7 | 8 => Common::Network,
        _ => Common::Nothing,
    }
}

/// Whether an honest miner, of the best tier, answers questions in one short sentence where short answers are played.
#[must_use]
pub fn is_brief(place: usize) -> bool {
    place % GROUP == 9
}

/// Where a miner comes from. Attackers have one owner and one network, where they do not spare the expense of several.
#[must_use]
pub fn origin(place: usize, is_attacker: bool) -> Origin {
    const ATTACKERS: usize = 0;
    // Owners and networks are numbered; that of the attackers comes before all.
    let group = GROUP * (1 + place / GROUP);
    let (owner, network) = match (place % GROUP, common(place)) {
        _ if is_attacker => (ATTACKERS, ATTACKERS),
        (1 | 2, _) => (group + 1, group + place % GROUP),
        (_, Common::Coldkey) => (group, group + place % GROUP),
        (_, Common::Network) => (group + place % GROUP, group + 4),
        (of_group, Common::Nothing) => (group + of_group, group + of_group),
    };
    let [high, low] = u16::try_from(network).unwrap_or(u16::MAX).to_be_bytes();
    let host = (place % 250) as u8 + 1;
    Origin::new(Some(key(1, owner)), IpAddr::V4(Ipv4Addr::new(100, high, low, host)))
}

fn key(kind: u8, number: usize) -> Hotkey {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes());
    key[31] = kind;
    Hotkey(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honest_miners_share_owners_and_networks_and_attackers_both() {
        let origins: Vec<Origin> = (0..256).map(|place| origin(place, false)).collect();
        let sharing = |one: usize, shares: fn(&Origin, &Origin) -> bool| {
            (0..256).filter(|other| *other != one && shares(&origins[one], &origins[*other])).collect::<Vec<_>>()
        };
        for place in 0..240 {
            let (owner, network) = (sharing(place, Origin::shares_coldkey), sharing(place, Origin::shares_network));
            let expected = match common(place) {
                Common::Nothing => (true, true),
                Common::Coldkey => (false, true),
                Common::Network => (true, false),
            };
            assert_eq!((owner.is_empty(), network.is_empty()), expected, "{place}: {owner:?} {network:?}");
        }
        assert_eq!(sharing(0, Origin::shares_coldkey), [3, 6], "all of the best tier");
        let (one, other) = (origin(0, true), origin(200, true));
        assert!(one.shares_coldkey(&other) && one.shares_network(&other));
        assert!(origins.iter().all(|honest| !honest.shares_coldkey(&one) && !honest.shares_network(&one)));
    }
}
