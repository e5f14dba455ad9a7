//! Which wire a miner is asked on. Nothing on the chain says it: a miner declares a version, which it may have copied, and
//! the rest shows in its answers.

use std::{collections::HashMap, fmt};

use openvalidators_messages::{Hotkey, gating::Routed};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{response::Received, synapse::AXON};

/// From this declared version on, the SDK has no axon any more, and `btauth/1` instead.
const FIRST_VERSION_OF_BTAUTH: u32 = 11_000_000;

/// Miners whose wire is remembered. Beyond that all are forgotten: an answer tells again.
const MAX_REMEMBERED: usize = 16_384;

/// A wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The Synapse protocol of bittensor 6 to 10.
    Synapse,
    /// The signed requests of bittensor 11.
    Btauth,
}

/// What the operator says about wires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// By each miner's declared version, corrected by its answers.
    #[default]
    Auto,
    /// Synapse for everybody.
    Synapse,
    /// `btauth/1` for everybody.
    Btauth,
    /// Nobody is asked: every miner is given words of the prompt (`--neuron.mock_dendrite_pool`).
    Mock,
}

/// The wires that miners turned out to speak against what they declare.
#[derive(Default)]
pub(crate) struct Learned {
    wires: Mutex<HashMap<Hotkey, Transport>>,
}

// === impl Transport ===

impl Transport {
    /// What a declared version suggests.
    #[must_use]
    pub fn of_version(version: u32) -> Self {
        if version >= FIRST_VERSION_OF_BTAUTH { Self::Btauth } else { Self::Synapse }
    }

    /// The other wire, when this reply shows that its sender speaks that one and not this.
    ///
    /// An SDK's axon marks every reply of its own with `bt_header_axon_status_code`, refusals too. So one that refuses
    /// Synapse without the mark is another kind of server, and one that refuses `btauth/1` with it is an axon. A timeout
    /// or a broken connection says nothing.
    #[must_use]
    pub fn suggested(self, reply: &Received) -> Option<Self> {
        let marked = reply.headers.contains_key(&AXON[0]);
        match self {
            Self::Synapse => {
                let refused = matches!(reply.status.as_u16(), 400 | 401 | 403 | 404 | 405 | 422);
                (refused && !marked).then_some(Self::Btauth)
            }
            Self::Btauth => (reply.status.as_u16() != 200 && marked).then_some(Self::Synapse),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Synapse => "synapse",
            Self::Btauth => "btauth",
        })
    }
}

// === impl Choice ===

impl Choice {
    /// The only wire that may be used, if the operator says one.
    fn fixed(self) -> Option<Transport> {
        match self {
            Self::Auto | Self::Mock => None,
            Self::Synapse => Some(Transport::Synapse),
            Self::Btauth => Some(Transport::Btauth),
        }
    }
}

// === impl Learned ===

impl Learned {
    /// The wire to ask this miner on, and whether the other may be tried after it.
    pub fn choose(&self, miner: &Routed, choice: Choice) -> (Transport, bool) {
        if let Some(fixed) = choice.fixed() {
            return (fixed, false);
        }
        let learned = self.wires.lock().get(&miner.hotkey).copied();
        (learned.unwrap_or_else(|| Transport::of_version(miner.axon.version)), true)
    }

    /// Keeps what the miner answered on, where its version says otherwise.
    pub fn remember(&self, miner: &Routed, spoken: Transport) {
        let mut wires = self.wires.lock();
        if spoken == Transport::of_version(miner.axon.version) {
            wires.remove(&miner.hotkey);
            return;
        }
        if wires.len() >= MAX_REMEMBERED && !wires.contains_key(&miner.hotkey) {
            wires.clear();
        }
        wires.insert(miner.hotkey, spoken);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::{HeaderMap, StatusCode, header::HeaderValue};

    use super::*;
    use crate::testing::query;

    fn reply(status: u16, marked: bool) -> Received {
        let mut headers = HeaderMap::new();
        if marked {
            headers.insert(AXON[0].clone(), HeaderValue::from(status));
        }
        Received { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() }
    }

    fn miner(version: u32) -> Routed {
        let mut miner = query(&["127.0.0.1:80".parse().unwrap()], std::time::Duration::ZERO).miners[0];
        miner.axon.version = version;
        miner
    }

    #[test]
    fn the_declared_version_comes_first() {
        let learned = Learned::default();
        for (version, wire) in [
            (0, Transport::Synapse),
            (724, Transport::Synapse),
            (10_005_000, Transport::Synapse),
            (11_000_000, Transport::Btauth),
            (u32::MAX, Transport::Btauth),
        ] {
            assert_eq!(learned.choose(&miner(version), Choice::Auto), (wire, true), "{version}");
        }
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let learned = Learned::default();
        learned.remember(&miner(0), Transport::Btauth);
        assert_eq!(learned.choose(&miner(0), Choice::Synapse), (Transport::Synapse, false));
        assert_eq!(learned.choose(&miner(0), Choice::Btauth), (Transport::Btauth, false));
    }

    #[test]
    fn only_an_answer_that_shows_the_other_wire_leads_to_it() {
        for status in [400, 401, 403, 404, 405, 422] {
            assert_eq!(Transport::Synapse.suggested(&reply(status, false)), Some(Transport::Btauth), "{status}");
            assert_eq!(Transport::Synapse.suggested(&reply(status, true)), None, "an axon's own refusal: {status}");
        }
        for status in [200, 301, 408, 429, 500, 503] {
            assert_eq!(Transport::Synapse.suggested(&reply(status, false)), None, "{status}");
        }
        for status in [401, 403, 404, 500] {
            assert_eq!(Transport::Btauth.suggested(&reply(status, true)), Some(Transport::Synapse), "{status}");
            assert_eq!(Transport::Btauth.suggested(&reply(status, false)), None, "{status}");
        }
        assert_eq!(Transport::Btauth.suggested(&reply(200, true)), None);
    }

    #[test]
    fn what_was_learned_is_kept_until_it_is_the_rule() {
        let learned = Learned::default();
        learned.remember(&miner(0), Transport::Btauth);
        assert_eq!(learned.choose(&miner(0), Choice::Auto), (Transport::Btauth, true));
        learned.remember(&miner(0), Transport::Synapse);
        assert_eq!(learned.choose(&miner(0), Choice::Auto), (Transport::Synapse, true));
        assert!(learned.wires.lock().is_empty());
        for i in 0..=MAX_REMEMBERED as u32 {
            let mut miner = miner(0);
            miner.hotkey.0[..4].copy_from_slice(&i.to_le_bytes());
            learned.remember(&miner, Transport::Btauth);
        }
        assert!(learned.wires.lock().len() <= MAX_REMEMBERED);
    }
}
