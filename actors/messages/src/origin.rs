//! Where a miner comes from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::Hotkey;

/// What one owner behind many hotkeys seldom varies, as the chain told when the miner was asked. A part that is not known is
/// shared with nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Who owns the hotkey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coldkey: Option<Hotkey>,
    /// The network of its axon: the first 24 bits of an IPv4 address, or 48 of an IPv6 address, the others 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<IpAddr>,
}

// === impl Origin ===

impl Origin {
    /// Of a miner at this address. A loopback address says nothing: on a local network it is everybody's.
    #[must_use]
    pub fn new(coldkey: Option<Hotkey>, address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { coldkey, network: (!address.is_loopback()).then(|| network(address)) }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// Whether both have one owner.
    #[must_use]
    pub fn shares_coldkey(&self, other: &Self) -> bool {
        self.coldkey.is_some() && self.coldkey == other.coldkey
    }

    /// Whether both are in one network.
    #[must_use]
    pub fn shares_network(&self, other: &Self) -> bool {
        self.network.is_some() && self.network == other.network
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) & (u32::MAX << 8)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & (u128::MAX << 80)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Origin {
        Origin::new(None, address.parse().unwrap())
    }

    #[test]
    fn neighbours_share_a_network() {
        assert_eq!(at("203.0.113.7").network, Some("203.0.113.0".parse().unwrap()));
        assert!(at("203.0.113.7").shares_network(&at("203.0.113.254")));
        assert!(at("203.0.113.7").shares_network(&at("::ffff:203.0.113.9")), "the same address, written as IPv6");
        assert!(!at("203.0.113.7").shares_network(&at("203.0.114.7")));
        assert!(at("2001:db8:1:2::1").shares_network(&at("2001:db8:1:ffff::2")));
        assert!(!at("2001:db8:1::1").shares_network(&at("2001:db8:2::1")));
    }

    #[test]
    fn what_is_not_known_is_shared_with_nobody() {
        let unknown = Origin::default();
        assert!(at("127.0.0.1").is_unknown() && at("::1").is_unknown());
        assert!(!unknown.shares_coldkey(&unknown) && !unknown.shares_network(&unknown));
        let owned = |byte| Origin { coldkey: Some(Hotkey([byte; 32])), network: None };
        assert!(owned(1).shares_coldkey(&owned(1)) && !owned(1).shares_coldkey(&owned(2)));
    }
}
