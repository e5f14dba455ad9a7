//! Where the chain is: in this process, on this machine, or at nodes of a real network.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::config::ChainConfigError;

/// Most nodes that can be listed.
const MAX_NODES: usize = 16;
/// The longest address of a node.
const MAX_ADDRESS_BYTES: usize = 512;

/// Networks with names, as the SDK and the reference name them (`--subtensor.network`), and a node of each.
const NETWORKS: [(&str, &str); 3] = [
    ("finney", "wss://entrypoint-finney.opentensor.ai:443"),
    ("test", "wss://test.finney.opentensor.ai:443"),
    ("archive", "wss://archive.chain.opentensor.ai:443"),
];

/// Where the chain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Inside this process.
    InProcess,
    /// A local chain's server.
    LocalServer(SocketAddr),
    /// Nodes of one real network, the first preferred; never empty.
    Nodes(Vec<Node>),
}

/// A node of a real network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// As the operator wrote it: an address, or the name of a network.
    written: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    One(String),
    Several(Vec<String>),
}

// === impl Node ===

impl Node {
    /// Its WebSocket address.
    #[must_use]
    pub fn address(&self) -> &str {
        let named = NETWORKS.iter().find(|(name, _)| *name == self.written);
        named.map_or(self.written.as_str(), |(_, address)| address)
    }

    fn read(text: &str) -> Option<Self> {
        let named = NETWORKS.iter().any(|(name, _)| *name == text);
        let host = text.strip_prefix("wss://").or_else(|| text.strip_prefix("ws://"));
        let host = host.map(|rest| rest.split('/').next().unwrap_or_default());
        let address = host.is_some_and(|host| !host.is_empty() && !host.starts_with(':'))
            && text.len() <= MAX_ADDRESS_BYTES
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        (named || address).then(|| Self { written: text.to_owned() })
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Whether miners and validators of others are there.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Nodes(_))
    }

    /// What tells one network's records from another's: `local`, the network's name, or the first node's address.
    #[must_use]
    pub fn network(&self) -> &str {
        match self {
            Self::InProcess | Self::LocalServer(_) => "local",
            Self::Nodes(nodes) => {
                let address = nodes.first().map(Node::address).unwrap_or_default();
                // An archive node is one of mainnet's.
                match NETWORKS.iter().find(|(_, known)| *known == address) {
                    Some(("archive", _)) => "finney",
                    Some((name, _)) => name,
                    None => address,
                }
            }
        }
    }

    fn nodes(texts: &[&str]) -> Result<Self, ChainConfigError> {
        let none = |found: &str, reason: &str| ChainConfigError::Endpoint {
            found: found.to_owned(),
            reason: reason.to_owned(),
        };
        if texts.is_empty() || texts.len() > MAX_NODES {
            return Err(none(&texts.join(","), "a list has 1 to 16 nodes"));
        }
        let read = |text: &&str| {
            Node::read(text)
                .ok_or_else(|| none(text, "nodes are finney, test, archive, ws://HOST:PORT or wss://HOST:PORT"))
        };
        texts.iter().map(read).collect::<Result<_, _>>().map(Self::Nodes)
    }
}

impl FromStr for Endpoint {
    type Err = ChainConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let none = |reason: &str| ChainConfigError::Endpoint { found: text.to_owned(), reason: reason.to_owned() };
        if text == "local" {
            return Ok(Self::InProcess);
        }
        let Some(address) = text.strip_prefix("local://") else {
            return Self::nodes(&text.split(',').map(str::trim).collect::<Vec<_>>());
        };
        let address: SocketAddr = address.parse().map_err(|_| none("no IP address and port follow local://"))?;
        if !address.ip().is_loopback() {
            return Err(none("a local chain trusts its callers and is reached on loopback only"));
        }
        Ok(Self::LocalServer(address))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProcess => f.write_str("local"),
            Self::LocalServer(address) => write!(f, "local://{address}"),
            Self::Nodes(nodes) => {
                let written: Vec<_> = nodes.iter().map(|node| node.written.as_str()).collect();
                f.write_str(&written.join(","))
            }
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let endpoint = match Written::deserialize(deserializer)? {
            Written::One(text) => text.parse(),
            Written::Several(texts) => Self::nodes(&texts.iter().map(String::as_str).collect::<Vec<_>>()),
        };
        endpoint.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_or_refused_with_a_remedy() {
        for text in [
            "local",
            "local://127.0.0.1:9944",
            "local://[::1]:9944",
            "finney",
            "test",
            "ws://127.0.0.1:9944",
            "wss://node.example/path,finney",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "127.0.0.1:9944",
            "local://0.0.0.0:9944",
            "local://here",
            "wss://",
            "ws://:9944",
            "https://node.example",
            "finney,local",
            "wss://two words",
            "mainnet",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains("local://127.0.0.1:PORT") && error.contains("finney"), "{error}");
        }
        assert!(vec!["finney"; MAX_NODES + 1].join(",").parse::<Endpoint>().is_err());
    }

    #[test]
    fn names_become_addresses_and_records_are_kept_apart_by_network() {
        let endpoint: Endpoint = "finney,ws://10.0.0.5:9944".parse().unwrap();
        let Endpoint::Nodes(nodes) = &endpoint else { panic!() };
        let addresses: Vec<_> = nodes.iter().map(Node::address).collect();
        assert_eq!(addresses, ["wss://entrypoint-finney.opentensor.ai:443", "ws://10.0.0.5:9944"]);
        for (text, network) in [
            ("local", "local"),
            ("finney", "finney"),
            ("archive", "finney"),
            ("wss://test.finney.opentensor.ai:443", "test"),
            ("ws://10.0.0.5:9944,finney", "ws://10.0.0.5:9944"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().network(), network);
        }
    }

    #[test]
    fn a_list_can_be_written_as_a_list() {
        let list: Endpoint = serde_json::from_str("[\"wss://a:443\", \"test\"]").unwrap();
        assert_eq!(list.to_string(), "wss://a:443,test");
        assert!(serde_json::from_str::<Endpoint>("[]").is_err());
        assert!(serde_json::from_str::<Endpoint>("[\"local\"]").is_err());
    }
}
