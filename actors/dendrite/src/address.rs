//! Which advertised addresses are queried. An axon's address is whatever its owner wrote on the chain: left unchecked,
//! a miner points the validator at its own database or at a cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why an address is not queried; `None` when it is.
///
/// `allow_private` admits networks that are not global. Port 0, unspecified, multicast and broadcast addresses, and our
/// own, are never queried.
#[must_use]
pub fn objection(address: SocketAddr, allow_private: bool, own: &[SocketAddr]) -> Option<&'static str> {
    let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
    let is_broadcast = matches!(canonical.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    if canonical.port() == 0 {
        Some("port 0")
    } else if canonical.ip().is_unspecified() {
        Some("the unspecified address")
    } else if canonical.ip().is_multicast() || is_broadcast {
        Some("a multicast or broadcast address")
    } else if own.contains(&canonical) {
        Some("our own address")
    } else if !allow_private && !is_global(canonical.ip()) {
        Some("not a global address; see `allow_private_addresses`")
    } else {
        None
    }
}

/// By the IANA special-purpose registries (RFC 6890 and its updates).
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_global_v4(ip),
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && b & 0b1100_0000 == 64) // shared address space, RFC 6598
        || (a == 192 && b == 0 && c == 0) // protocol assignments
        || (a == 192 && b == 88 && c == 99) // 6to4 relays
        || (a == 198 && b & 0b1111_1110 == 18); // benchmarks
    !special
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    // Only 2000::/3 is handed out, and within it some blocks carry an IPv4 address or none at all.
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_global_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low), // NAT64
        [0x2002, high, low, ..] => embedded(high, low),               // 6to4
        [0x2001, second, ..] if second < 0x0200 => false,             // protocol assignments, Teredo
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => false,     // documentation
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, allow_private: bool) -> bool {
        let own = ["203.0.113.9:8091".parse().unwrap(), "9.9.9.9:8091".parse().unwrap()];
        objection(address.parse().unwrap(), allow_private, &own).is_some()
    }

    #[test]
    fn what_is_not_global_is_not_queried() {
        let bad = [
            "127.0.0.1:8091",
            "10.1.2.3:80",
            "172.16.0.1:80",
            "192.168.1.1:80",
            "169.254.169.254:80",
            "100.64.0.1:80",
            "0.1.2.3:80",
            "198.18.0.1:80",
            "192.0.0.8:80",
            "240.0.0.1:80",
            "198.51.100.7:80",
            "[::1]:80",
            "[fe80::1]:80",
            "[fd00::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:10.0.0.1]:80",
            "[64:ff9b::7f00:1]:80",
            "[2002:7f00:1::]:80",
            "[2001::1]:80",
            "[2001:db8::1]:80",
            "[3fff:1::1]:80",
            "[100::1]:80",
        ];
        for address in bad {
            assert!(refused(address, false), "{address}");
            assert!(!refused(address, true), "{address}");
        }
    }

    #[test]
    fn some_addresses_are_never_queried() {
        let bad = [
            "8.8.8.8:0",
            "0.0.0.0:80",
            "[::]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[ff02::1]:80",
            "9.9.9.9:8091",
            "[::ffff:9.9.9.9]:8091",
            "[::ffff:0.0.0.0]:80",
        ];
        for address in bad {
            assert!(refused(address, true), "{address}");
        }
    }

    #[test]
    fn the_rest_of_the_world_is() {
        for address in ["8.8.8.8:8091", "9.9.9.9:8092", "[2606:4700::1111]:80", "[::ffff:8.8.8.8]:80", "172.32.0.1:80"]
        {
            assert!(!refused(address, false), "{address}");
        }
    }
}
