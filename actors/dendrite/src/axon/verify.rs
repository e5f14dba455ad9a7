//! Whether a request is who it says it is, and new.
//!
//! The SDK's rules (`default_verify`): the signature covers nonce, both hotkeys, uuid and body hash; the first nonce of a
//! `hotkey:uuid` is not older than 4 seconds plus the timeout, later ones rise. The SDK never forgets a nonce. Here they
//! are forgotten once the freshness rule alone refuses a replay, which takes three rules more: the timeout counts up to
//! [`MAX_TIMEOUT`], nonces are at most [`MAX_AHEAD`] in the future, and dendrites before 7.2, whose nonces are no time,
//! are refused.

use std::{collections::HashMap, time::Duration};

use openvalidators_keys::{SIGNATURE_BYTES, ss58, verify};
use openvalidators_messages::Hotkey;
use openvalidators_runtime::SharedClock;
use parking_lot::Mutex;

use crate::synapse::{TerminalInfo, signed_message};

/// Age allowed beyond the timeout.
const ALLOWED_DELTA: Duration = Duration::from_secs(4);

/// The longest timeout that counts.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// How far ahead of ours a dendrite's clock may be.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// Series of nonces remembered at a time; a newcomer beyond that is refused.
const MAX_SERIES: usize = 65_536;

/// Longest uuid taken.
const MAX_UUID_BYTES: usize = 64;

/// 7.2.0: from here on nonces are wall-clock time.
const FIRST_VERSION_WITH_TIME: u64 = 7_002_000;

/// Verifies requests to one axon.
pub(super) struct Verifier {
    address: String,
    clock: SharedClock,
    nonces: Mutex<Nonces>,
}

/// The last nonce of each `hotkey:uuid`.
struct Nonces {
    last: HashMap<(Hotkey, String), u64>,
    capacity: usize,
}

// === impl Verifier ===

impl Verifier {
    pub fn new(axon: Hotkey, clock: SharedClock) -> Self {
        let nonces = Nonces { last: HashMap::new(), capacity: MAX_SERIES };
        Self { address: ss58::encode(&axon), clock, nonces: Mutex::new(nonces) }
    }

    /// Who signed, or the words of the refusal.
    pub fn verify(&self, dendrite: &TerminalInfo, timeout: Duration, body_hash: &str) -> Result<Hotkey, String> {
        let address = dendrite.hotkey.as_deref().ok_or("Missing Hotkey")?;
        let hotkey = ss58::decode(address).map_err(|error| error.to_string())?;
        let nonce = dendrite.nonce.ok_or("Missing Nonce")?;
        let uuid = dendrite.uuid.as_deref().unwrap_or("None");
        if uuid.len() > MAX_UUID_BYTES {
            return Err(format!("The uuid has {} bytes, at most {MAX_UUID_BYTES} are taken", uuid.len()));
        }
        if dendrite.version.is_none_or(|version| version < FIRST_VERSION_WITH_TIME) {
            return Err("A dendrite of version 7.2.0 or later is required".to_owned());
        }
        let series = (hotkey, uuid.to_owned());
        // Cheap before dear; asked again below, for another request may come between.
        self.nonces.lock().check(&series, nonce, timeout, self.clock.unix())?;
        let signature = dendrite.signature.as_deref().ok_or("Missing Signature")?;
        let message = signed_message(nonce, address, &self.address, uuid, body_hash);
        let mut bytes = [0; SIGNATURE_BYTES];
        let digits = signature.strip_prefix("0x").unwrap_or(signature);
        if hex::decode_to_slice(digits, &mut bytes).is_err() || !verify(&hotkey, message.as_bytes(), &bytes) {
            return Err(format!("Signature mismatch with {message} and {signature}"));
        }
        self.nonces.lock().advance(series, nonce, timeout, self.clock.unix())?;
        Ok(hotkey)
    }
}

// === impl Nonces ===

impl Nonces {
    fn check(&self, series: &(Hotkey, String), nonce: u64, timeout: Duration, now: Duration) -> Result<(), String> {
        let sent = Duration::from_nanos(nonce);
        if sent > now + MAX_AHEAD {
            let ahead = (sent - now).as_secs_f64();
            return Err(format!("Nonce is {ahead:.2} seconds in the future"));
        }
        match self.last.get(series) {
            Some(last) if nonce <= *last => Err("Nonce is too old, a newer one was last processed".to_owned()),
            Some(_) => Ok(()),
            None => {
                let allowed = ALLOWED_DELTA + timeout.min(MAX_TIMEOUT);
                let age = now.saturating_sub(sent);
                if age < allowed {
                    return Ok(());
                }
                Err(format!(
                    "Nonce is too old: acceptable delta is {:.2} seconds but request was {:.2} seconds old",
                    allowed.as_secs_f64(),
                    age.as_secs_f64(),
                ))
            }
        }
    }

    fn advance(
        &mut self,
        series: (Hotkey, String),
        nonce: u64,
        timeout: Duration,
        now: Duration,
    ) -> Result<(), String> {
        self.check(&series, nonce, timeout, now)?;
        if self.last.len() >= self.capacity && !self.last.contains_key(&series) {
            // What is this old is refused as stale from now on, whatever the timeout.
            self.last.retain(|_, last| now.saturating_sub(Duration::from_nanos(*last)) < ALLOWED_DELTA + MAX_TIMEOUT);
            if self.last.len() >= self.capacity {
                return Err("Too many dendrites at once".to_owned());
            }
        }
        self.last.insert(series, nonce);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn series(uuid: u32) -> (Hotkey, String) {
        (Hotkey([1; 32]), uuid.to_string())
    }

    fn ns(time: Duration) -> u64 {
        u64::try_from(time.as_nanos()).unwrap()
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_cannot_be_replayed() {
        let mut nonces = Nonces { last: HashMap::new(), capacity: 10 };
        let timeout = Duration::from_secs(12);
        for uuid in 0..10 {
            nonces.advance(series(uuid), ns(NOW), timeout, NOW).unwrap();
        }
        let full = nonces.advance(series(10), ns(NOW), timeout, NOW).unwrap_err();
        assert!(full.contains("Too many"), "{full}");
        // Known series go on.
        nonces.advance(series(3), ns(NOW) + 1, timeout, NOW).unwrap();
        let later = NOW + ALLOWED_DELTA + MAX_TIMEOUT;
        nonces.advance(series(10), ns(later), timeout, later).unwrap();
        assert!(nonces.last.len() <= 2);
        let replay = nonces.check(&series(0), ns(NOW), Duration::from_secs(1_000_000_000), later).unwrap_err();
        assert!(replay.contains("too old"), "{replay}");
    }

    proptest! {
        /// Whatever comes in whatever order: a nonce of a series is never taken twice.
        #[test]
        fn no_nonce_is_taken_twice(
            requests in prop::collection::vec((0_u32..4, 0_u64..200, 0_u64..400, 0_u64..200), 1..200),
        ) {
            let mut nonces = Nonces { last: HashMap::new(), capacity: 3 };
            let mut taken = std::collections::HashSet::new();
            let mut now = NOW;
            for (uuid, sent_before, timeout, pause) in requests {
                let nonce = ns(now.saturating_sub(Duration::from_secs(sent_before)));
                let timeout = Duration::from_secs(timeout);
                if nonces.advance(series(uuid), nonce, timeout, now).is_ok() {
                    prop_assert!(taken.insert((uuid, nonce)), "taken twice");
                }
                prop_assert!(nonces.last.len() <= 3);
                now += Duration::from_secs(pause);
            }
        }
    }
}
