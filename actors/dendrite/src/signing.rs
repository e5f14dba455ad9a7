//! Nonces, uuids and signatures.
//!
//! An axon remembers the last nonce of each `hotkey:uuid` and refuses one that is not greater, and requests in flight at
//! the same time may arrive in any order. So a uuid is a *lane* that carries one request at a time: each axon has its own
//! lanes, as many as there have been requests to it at once.
//!
//! When it meets a uuid for the first time an axon wants a nonce of the last seconds; after that only a greater one, whatever its
//! time. A lane therefore goes on from its own last nonce when the wall clock is set back, be it rightly or by mistake: axons that
//! know it take it either way. Lanes that begin then begin at the time the clock shows.

use std::{collections::HashMap, sync::Arc};

use openvalidators_keys::{HotkeySigner, ss58};
use openvalidators_messages::Hotkey;
use openvalidators_runtime::SharedClock;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::synapse::signed_message;

/// How far fresh nonces may run ahead of the wall clock before it is taken to have been set back, in nanoseconds.
const MAX_AHEAD_NS: u64 = 1_000_000_000;

/// Axons with lanes kept at rest. Beyond that all are forgotten: fresh uuids are always good.
const MAX_AXONS_REMEMBERED: usize = 16_384;

/// Lanes kept at rest for one axon.
const MAX_LANES_PER_AXON: usize = 16;

/// Signs requests.
pub(crate) struct Signing {
    signer: Arc<HotkeySigner>,
    address: String,
    clock: SharedClock,
    nonces: Mutex<Nonces>,
    lanes: Mutex<HashMap<Hotkey, Vec<Lane>>>,
}

/// What makes a request ours.
#[derive(Debug)]
pub(crate) struct Signed {
    pub nonce: u64,
    pub uuid: String,
    /// `0x` and 128 digits.
    pub signature: String,
}

/// A uuid in use for one request; returned for the next one when dropped.
pub(crate) struct TakenLane {
    signing: Arc<Signing>,
    axon: Hotkey,
    lane: Lane,
}

#[derive(Clone, Copy)]
struct Lane {
    uuid: Uuid,
    /// Its latest nonce; 0 before the first.
    last: u64,
}

/// Wall-clock nanoseconds that rise, until the clock is set back.
#[derive(Default)]
struct Nonces {
    last: u64,
}

// === impl Nonces ===

impl Nonces {
    fn next(&mut self, now_ns: u64) -> u64 {
        if self.last > now_ns + MAX_AHEAD_NS {
            tracing::warn!(seconds = (self.last - now_ns) / 1_000_000_000, "the wall clock was set back");
            self.last = now_ns;
        } else {
            self.last = now_ns.max(self.last + 1);
        }
        self.last
    }
}

// === impl Signing ===

impl Signing {
    pub fn new(signer: Arc<HotkeySigner>, clock: SharedClock) -> Arc<Self> {
        let address = ss58::encode(&signer.hotkey());
        Arc::new(Self { signer, address, clock, nonces: Mutex::default(), lanes: Mutex::default() })
    }

    /// Our SS58 address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Signs whatever `message` makes of a fresh nonce; the signature as `0x` and 128 digits. For wires without lanes.
    pub fn sign_fresh(&self, message: impl FnOnce(u64) -> String) -> (u64, String) {
        let nonce = self.fresh_nonce();
        (nonce, self.sign(&message(nonce)))
    }

    /// The time, and greater than all before it unless the clock was set back.
    fn fresh_nonce(&self) -> u64 {
        let now_ns = u64::try_from(self.clock.unix().as_nanos()).unwrap_or(u64::MAX / 2);
        self.nonces.lock().next(now_ns)
    }

    fn sign(&self, message: &str) -> String {
        format!("0x{}", hex::encode(self.signer.sign(message.as_bytes())))
    }

    /// A lane to this axon that no other request uses.
    pub fn take_lane(self: &Arc<Self>, axon: Hotkey) -> TakenLane {
        let kept = self.lanes.lock().get_mut(&axon).and_then(Vec::pop);
        let lane = kept.unwrap_or_else(Lane::fresh);
        TakenLane { signing: self.clone(), axon, lane }
    }
}

// === impl Lane ===

impl Lane {
    /// Not derived from the seed: a uuid must never come back after a restart, for axons remember its nonces.
    fn fresh() -> Self {
        Self { uuid: Uuid::new_v4(), last: 0 }
    }
}

// === impl TakenLane ===

impl TakenLane {
    /// Signs a request that is about to be sent.
    pub fn sign(&mut self, axon_address: &str, body_hash: &str) -> Signed {
        let signing = &self.signing;
        let nonce = signing.fresh_nonce().max(self.lane.last + 1);
        self.lane.last = nonce;
        let uuid = self.lane.uuid.to_string();
        let signature = signing.sign(&signed_message(nonce, &signing.address, axon_address, &uuid, body_hash));
        Signed { nonce, uuid, signature }
    }

    /// Gives up the uuid, which the axon has seen with a greater nonce.
    pub fn renew(&mut self) {
        self.lane = Lane::fresh();
    }
}

impl Drop for TakenLane {
    fn drop(&mut self) {
        let mut axons = self.signing.lanes.lock();
        if axons.len() >= MAX_AXONS_REMEMBERED && !axons.contains_key(&self.axon) {
            axons.clear();
        }
        let lanes = axons.entry(self.axon).or_default();
        if lanes.len() < MAX_LANES_PER_AXON {
            lanes.push(self.lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use openvalidators_keys::verify;
    use openvalidators_runtime::{Clock, DrivenClock};

    use super::*;

    fn signing(unix: Duration) -> (Arc<Signing>, DrivenClock) {
        let clock = DrivenClock::new(unix);
        let signer = Arc::new(HotkeySigner::from_uri("//Alice").unwrap());
        (Signing::new(signer, Arc::new(clock.clone())), clock)
    }

    #[test]
    fn nonces_rise_though_the_clock_stands_still() {
        let (signing, clock) = signing(Duration::from_secs(1_795_000_000));
        let mut lane = signing.take_lane(Hotkey([1; 32]));
        let first = lane.sign("axon", "hash").nonce;
        assert_eq!(first, 1_795_000_000_000_000_000);
        assert_eq!(lane.sign("axon", "hash").nonce, first + 1);
        clock.advance(Duration::from_secs(1));
        assert_eq!(lane.sign("axon", "hash").nonce, first + 1_000_000_000);
    }

    /// The rule of axons since bittensor 7.2, by a clock that is right (`Axon.default_verify`).
    struct Axon {
        last: HashMap<String, u64>,
    }

    impl Axon {
        const WINDOW: Duration = Duration::from_secs(4 + 12);

        fn takes(&mut self, signed: &Signed, now: Duration) -> bool {
            let oldest = (now - Self::WINDOW).as_nanos() as u64;
            let least = self.last.get(&signed.uuid).copied().unwrap_or(oldest);
            let is_taken = signed.nonce > least;
            if is_taken {
                self.last.insert(signed.uuid.clone(), signed.nonce);
            }
            is_taken
        }
    }

    /// A wall clock that somebody sets an hour wrong, and right again: it was refused by every axon for that hour.
    #[test]
    fn a_clock_that_jumps_an_hour_and_back_is_refused_by_no_axon_that_knows_us() {
        const HOUR: u64 = 3_600;
        let start = Duration::from_secs(1_795_000_000);
        for (wrong, new_axon_takes_us) in [(start.as_secs() + HOUR, true), (start.as_secs() - HOUR, false)] {
            let (signing, clock) = signing(start);
            let (mut known, mut lanes) = (Axon { last: HashMap::new() }, vec![Hotkey([1; 32]); 3]);
            let mut last = HashMap::new();
            for minute in 0..60_u8 {
                let truth = start + clock.now();
                match minute {
                    20 => clock.set_unix(Duration::from_secs(wrong) + clock.now()),
                    40 => clock.set_unix(truth),
                    _ => {}
                }
                // Three at once, and again a moment later.
                for _ in 0..2 {
                    let mut taken: Vec<_> = lanes.drain(..).map(|axon| signing.take_lane(axon)).collect();
                    for lane in &mut taken {
                        let signed = lane.sign("axon", "hash");
                        assert!(known.takes(&signed, truth), "minute {minute}");
                        let before = last.insert(signed.uuid, signed.nonce).unwrap_or_default();
                        assert!(signed.nonce > before, "minute {minute}");
                    }
                    lanes = taken.iter().map(|lane| lane.axon).collect();
                }
                let met_first = signing.take_lane(Hotkey([minute + 2; 32])).sign("axon", "hash");
                let is_wrong = (20..40).contains(&minute);
                let expected = !is_wrong || new_axon_takes_us;
                let is_taken = Axon { last: HashMap::new() }.takes(&met_first, truth);
                assert_eq!(is_taken, expected, "minute {minute}: an axon that has never seen us goes by the time");
                clock.advance(Duration::from_secs(60));
            }
        }
    }

    #[test]
    fn fresh_nonces_follow_a_clock_that_is_set_back_and_bridge_a_small_step() {
        let mut nonces = Nonces::default();
        let hour = 3_600 * 1_000_000_000;
        assert_eq!(nonces.next(10 * hour), 10 * hour);
        assert_eq!(nonces.next(10 * hour - 5), 10 * hour + 1, "as NTP does");
        assert_eq!(nonces.next(9 * hour), 9 * hour, "btauth refuses what is of the future");
        assert_eq!(nonces.next(9 * hour), 9 * hour + 1);
    }

    #[test]
    fn requests_in_flight_to_one_axon_never_share_a_uuid() {
        let (signing, _) = signing(Duration::from_secs(100));
        let axon = Hotkey([1; 32]);
        let uuids = |lanes: &mut Vec<TakenLane>| {
            lanes.iter_mut().map(|lane| lane.sign("axon", "hash").uuid).collect::<HashSet<_>>()
        };
        let mut lanes: Vec<_> = (0..3).map(|_| signing.take_lane(axon)).collect();
        let first = uuids(&mut lanes);
        assert_eq!(first.len(), 3);
        drop(lanes);
        let mut lanes: Vec<_> = (0..3).map(|_| signing.take_lane(axon)).collect();
        assert_eq!(uuids(&mut lanes), first, "lanes at rest are used again");
        let mut other = vec![signing.take_lane(Hotkey([2; 32]))];
        assert!(first.is_disjoint(&uuids(&mut other)));
        lanes[0].renew();
        assert_eq!(uuids(&mut lanes).difference(&first).count(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (signing, _) = signing(Duration::from_secs(100));
        let many: Vec<_> = (0..MAX_LANES_PER_AXON * 2).map(|_| signing.take_lane(Hotkey([1; 32]))).collect();
        drop(many);
        assert_eq!(signing.lanes.lock()[&Hotkey([1; 32])].len(), MAX_LANES_PER_AXON);
        for i in 0..=MAX_AXONS_REMEMBERED as u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&i.to_le_bytes());
            drop(signing.take_lane(Hotkey(key)));
        }
        assert!(signing.lanes.lock().len() <= MAX_AXONS_REMEMBERED);
    }

    #[test]
    fn signatures_verify() {
        let (signing, _) = signing(Duration::from_secs(100));
        let signed = signing.take_lane(Hotkey([1; 32])).sign("axon", "hash");
        let message = signed_message(signed.nonce, signing.address(), "axon", &signed.uuid, "hash");
        let mut signature = [0; 64];
        hex::decode_to_slice(&signed.signature[2..], &mut signature).unwrap();
        assert!(verify(&signing.signer.hotkey(), message.as_bytes(), &signature));
    }
}
