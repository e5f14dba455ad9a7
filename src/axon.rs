//! The axon of this validator on a real network: pings are answered, everything else is refused, and the chain says where it
//! is, so that miners' firewalls let us through.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use openvalidators_dendrite::{
    address::objection,
    axon::{Axon, AxonConfig},
};
use openvalidators_messages::{Axon as Advertised, Block, Hotkey, Metagraph};
use openvalidators_runtime::SharedClock;
use openvalidators_subtensor::ChainCalls;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What an axon of the Python SDK calls its protocol.
const PROTOCOL: u8 = 4;
/// Blocks from one attempt to advertise to the next: more than the chain's rate limit for it (50).
const RETRY_AFTER_BLOCKS: u64 = 100;
/// Largest request that is read: pings are small.
const MAX_BODY_BYTES: usize = 16 * 1_024;
/// An address in the net of documentation: asking for the way to it sends nothing.
const FAR_AWAY: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// What the operator sets about the served axon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AxonSettings {
    /// Serves none. (`--neuron.axon_off`)
    pub off: bool,
    /// Where to listen. (`--axon.ip`)
    pub ip: IpAddr,
    /// The port to listen at; 0 takes a free one. (`--axon.port`)
    pub port: u16,
    /// The address that the chain tells others; without it this machine's own, where that is a global one.
    /// (`--axon.external_ip`)
    pub external_ip: Option<IpAddr>,
    /// The port that the chain tells others; without it the one listened at. (`--axon.external_port`)
    pub external_port: Option<u16>,
    /// Connections at a time; further ones wait.
    pub max_connections: usize,
}

/// A setting that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is {found}: {remedy}")]
pub struct BadAxon {
    key: &'static str,
    found: String,
    remedy: &'static str,
}

// === impl AxonSettings ===

impl Default for AxonSettings {
    fn default() -> Self {
        Self {
            off: false,
            ip: Ipv4Addr::UNSPECIFIED.into(),
            port: 8_091,
            external_ip: None,
            external_port: None,
            max_connections: 256,
        }
    }
}

impl AxonSettings {
    /// # Errors
    /// The first setting that cannot be obeyed.
    pub fn check(&self) -> Result<(), BadAxon> {
        let bad = |key, found: &dyn ToString, remedy| Err(BadAxon { key, found: found.to_string(), remedy });
        match (self.external_ip, self.external_port) {
            (Some(ip), _) if ip.is_unspecified() || ip.is_multicast() => {
                bad("external_ip", &ip, "give the address at which others reach this machine")
            }
            (_, Some(0)) => bad("external_port", &0, "give a port from 1 to 65535"),
            _ if self.max_connections == 0 => bad("max_connections", &0, "give at least 1"),
            _ => Ok(()),
        }
    }

    /// Listens and answers pings; nothing when it is switched off.
    ///
    /// # Errors
    /// When the address cannot be bound; the error names it.
    pub async fn serve(&self, ours: Hotkey, clock: &SharedClock) -> std::io::Result<Option<Axon>> {
        if self.off {
            return Ok(None);
        }
        let config = AxonConfig {
            listen: SocketAddr::new(self.ip, self.port),
            max_connections: self.max_connections,
            max_body_bytes: MAX_BODY_BYTES,
            ..AxonConfig::default()
        };
        Axon::serve_pings(ours, config, clock.clone()).await.map(Some)
    }

    /// Where others reach an axon that listens there, as far as it is known.
    #[must_use]
    pub fn external(&self, listening: SocketAddr) -> Option<SocketAddr> {
        let port = self.external_port.unwrap_or(listening.port());
        if let Some(ip) = self.external_ip {
            return Some(SocketAddr::new(ip, port));
        }
        let here = SocketAddr::new(own_ip(listening.ip())?, port);
        objection(here, false, &[]).is_none().then_some(here)
    }
}

/// The address that others would see were there no translation on the way.
fn own_ip(listening: IpAddr) -> Option<IpAddr> {
    if !listening.is_unspecified() {
        return Some(listening);
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(FAR_AWAY).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Sees to it that the chain says where we are, for as long as we have a place; after a refusal it tries again later.
pub async fn advertise(
    address: SocketAddr,
    version: u32,
    calls: ChainCalls,
    mut metagraph: watch::Receiver<Arc<Metagraph>>,
    ours: Hotkey,
) {
    let wanted = Advertised { address, protocol: PROTOCOL, version };
    let mut tried: Option<Block> = None;
    loop {
        let (now, shown) = {
            let metagraph = metagraph.borrow_and_update();
            let neuron = metagraph.uid_of(&ours).and_then(|uid| metagraph.neuron(uid));
            (metagraph.block, neuron.map(|neuron| neuron.axon))
        };
        let is_due = tried.is_none_or(|tried| now.0 >= tried.0 + RETRY_AFTER_BLOCKS);
        if is_due && shown.is_some_and(|shown| shown != Some(wanted)) {
            tried = Some(now);
            match calls.serve_axon(wanted).await {
                Ok(block) => tracing::info!(%address, %block, "the chain says where our axon is"),
                Err(error) => {
                    tracing::warn!(%address, %error, retry_after_blocks = RETRY_AFTER_BLOCKS, "our axon is not advertised");
                }
            }
        }
        if metagraph.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_are_told_is_what_is_set_or_a_global_address() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let settings = AxonSettings::default();
        assert_eq!(settings.external(at("203.0.114.7:8091")), Some(at("203.0.114.7:8091")));
        for private in ["10.0.0.7:8091", "127.0.0.1:8091", "192.168.1.2:8091"] {
            assert_eq!(settings.external(at(private)), None, "{private}");
        }
        let mapped =
            AxonSettings { external_ip: Some([9, 9, 9, 9].into()), external_port: Some(4_000), ..settings.clone() };
        assert_eq!(mapped.external(at("0.0.0.0:8091")), Some(at("9.9.9.9:4000")));
        let ip_alone = AxonSettings { external_port: None, ..mapped };
        assert_eq!(ip_alone.external(at("0.0.0.0:1234")), Some(at("9.9.9.9:1234")), "the port that was bound");
    }

    #[test]
    fn nonsense_is_named() {
        let settings = AxonSettings::default();
        settings.check().unwrap();
        let told = |settings: AxonSettings| settings.check().unwrap_err().to_string();
        assert!(told(AxonSettings { external_port: Some(0), ..settings.clone() }).contains("`external_port` is 0"));
        let nowhere = AxonSettings { external_ip: Some(Ipv4Addr::UNSPECIFIED.into()), ..settings.clone() };
        assert!(told(nowhere).contains("`external_ip` is 0.0.0.0"));
        assert!(told(AxonSettings { max_connections: 0, ..settings }).contains("max_connections"));
    }
}
