use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::LazyLock,
};

use openvalidators_messages::Uid;
use openvalidators_runtime::Seed;
use parity_scale_codec::DecodeAll;
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// "hello tle", encrypted to round 1000 by `bittensor-drand`'s `encrypt_at_round`.
const HELLO: &str = include_str!("../../../../../tests/fixtures/bittensor/tle_round1000.hex");
/// More of the same, 2.0.0 (`commit_reveal.py encrypt`).
const THEIRS: &str = include_str!("../../../../../tests/fixtures/bittensor/containers_v2.0.0.json");
/// Containers of ours and what `bittensor-drand` 2.0.0 found in them (`commit_reveal.py open`).
const OURS: &str = include_str!("../../../../../tests/fixtures/bittensor/containers_opened_v2.0.0.json");
/// The script that asks the peer.
const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/commit_reveal.py");

const ROUND: u64 = 1000;
/// Quicknet's signature of round 1000, public since August 2023.
const SIGNATURE: &str =
    "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";

static SIGNED: LazyLock<RoundSignature> =
    LazyLock::new(|| RoundSignature::verify(ROUND, &hex::decode(SIGNATURE).unwrap()).unwrap());

#[derive(Deserialize)]
struct Theirs {
    containers: Vec<TheirCase>,
}

#[derive(Deserialize)]
struct TheirCase {
    text: String,
    wrapped: String,
}

#[derive(Deserialize)]
struct Opened {
    containers: Vec<String>,
    texts: Vec<Option<String>>,
}

fn vector(uids: u16) -> SetWeights {
    let weights = (0..uids).map(|uid| 65_535 - uid * 7).collect();
    SetWeights { uids: (0..uids).map(|uid| Uid(uid * 3)).collect(), weights, version_key: 10_005_000, salt: None }
}

/// What this crate commits for 0, 1, 2, 64 and 256 uids, in both versions: the same bytes in every run.
fn ours() -> Vec<TimelockedCommit> {
    let make = |version, uids: u16| {
        let mut rng = Seed(u64::from(uids)).rng("timelock", &[u64::from(version)]);
        TimelockedCommit::new(Hotkey([0xa5; 32]), &vector(uids), version, ROUND, &mut rng).unwrap()
    };
    [3, 4].into_iter().flat_map(|version| [0, 1, 2, 64, 256].map(|uids| make(version, uids))).collect()
}

fn texts() -> Vec<Vec<u8>> {
    let shapes = [PayloadShape::WithoutHotkey, PayloadShape::WithHotkey];
    let text = |shape, uids| Payload::new(Hotkey([0xa5; 32]), &vector(uids), shape).unwrap().encode();
    shapes.into_iter().flat_map(|shape| [0, 1, 2, 64, 256].map(|uids| text(shape, uids))).collect()
}

/// The Python of the SDK and `bittensor-drand` 2.0.0, where `tests/peers.sh` could install it.
fn peer() -> Option<PathBuf> {
    let folder = std::env::var_os("OPENVALIDATORS_PEERS").map(PathBuf::from);
    let folder = folder.or_else(|| Some(std::env::home_dir()?.join(".cache/openvalidators/peers")));
    let python = folder.unwrap_or_default().join("sdk10/bin/python");
    if python.exists() {
        return Some(python);
    }
    println!("skipped: no {}, a Python with bittensor 10.5.0", python.display());
    None
}

/// `encrypt_at_round` wraps its container: SCALE `{ Vec<u8>, u64 }`.
fn unwrapped(digits: &str) -> Vec<u8> {
    let (container, round) = <(Vec<u8>, u64)>::decode_all(&mut &hex::decode(digits.trim()).unwrap()[..]).unwrap();
    assert_eq!(round, ROUND);
    container
}

#[test]
fn what_the_peer_encrypted_is_opened() {
    assert_eq!(decrypt(&unwrapped(HELLO), &SIGNED).unwrap(), b"hello tle");
    let theirs: Theirs = serde_json::from_str(THEIRS).unwrap();
    assert_eq!(theirs.containers.len(), 10);
    for TheirCase { text, wrapped } in theirs.containers {
        let opened = decrypt(&unwrapped(&wrapped), &SIGNED).unwrap();
        assert_eq!(hex::encode(&opened), text);
        assert!(
            Payload::decode(&opened, PayloadShape::WithHotkey).is_ok() || {
                Payload::decode(&opened, PayloadShape::WithoutHotkey).is_ok()
            }
        );
    }
}

#[test]
fn what_is_encrypted_is_what_the_peer_opened() {
    let opened: Opened = serde_json::from_str(OURS).unwrap();
    let ours: Vec<_> = ours().iter().map(|commit| hex::encode(&commit.container)).collect();
    assert_eq!(ours, opened.containers, "made differently than when the peer was asked: ask it again");
    let texts: Vec<_> = texts().iter().map(|text| Some(hex::encode(text))).collect();
    assert_eq!(texts, opened.texts);
}

/// The real thing, where it is installed. `RECORD=1` writes its verdict down.
#[test]
fn the_peer_opens_what_is_encrypted() {
    let Some(python) = peer() else { return };
    let containers: Vec<_> = ours().iter().map(|commit| hex::encode(&commit.container)).collect();
    let mut asked = containers.clone();
    asked.push("00".to_owned() + &containers[0][2..]);
    let ask = serde_json::json!({ "signature": SIGNATURE, "round": ROUND, "containers": asked });
    let mut peer = Command::new(python)
        .args([PEER, "open"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the peer's Python starts");
    peer.stdin.take().unwrap().write_all(ask.to_string().as_bytes()).unwrap();
    let output = peer.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let mut answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut verdict: Vec<Option<String>> = serde_json::from_value(answer["texts"].take()).unwrap();
    assert_eq!(verdict.pop(), Some(None), "the peer refuses a damaged one");
    assert_eq!(verdict, texts().iter().map(|text| Some(hex::encode(text))).collect::<Vec<_>>());
    if std::env::var_os("RECORD").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/containers_opened_v2.0.0.json");
        let record = serde_json::json!({
            "bittensor_drand": answer["bittensor_drand"], "containers": containers, "texts": verdict,
        });
        std::fs::write(path, format!("{record}\n")).unwrap();
    }
}

#[test]
fn a_commit_has_the_length_the_chain_limits() {
    let long = |uids| {
        let mut rng = Seed(1).rng("timelock", &[]);
        TimelockedCommit::new(Hotkey([1; 32]), &vector(uids), 4, ROUND, &mut rng).map(|commit| commit.container.len())
    };
    assert_eq!(long(2), Ok(295), "as `get_encrypted_commit_v2` makes");
    assert_eq!(long(1177), Ok(4997));
    assert_eq!(
        long(1178).unwrap_err().to_string(),
        "encrypted, 4757 bytes of weights come to 5001, and the chain takes 5000: name fewer uids"
    );
    let mut rng = Seed(1).rng("timelock", &[]);
    let version = TimelockedCommit::new(Hotkey([1; 32]), &vector(2), 5, ROUND, &mut rng).unwrap_err();
    assert_eq!(version, NotEncrypted::Version(UnknownVersion { found: 5 }));
}

#[test]
fn only_the_beacons_own_signatures_count() {
    let bytes = hex::decode(SIGNATURE).unwrap();
    let wrong = |round, bytes: &[u8]| RoundSignature::verify(round, bytes).unwrap_err();
    assert_eq!(wrong(1001, &bytes).to_string(), "this is not quicknet's signature of round 1001 (it does not verify)");
    let other = SecretKey::key_gen(&[7; 32], &[]).unwrap().sign(&message(ROUND), DOMAIN, &[]);
    assert_eq!(wrong(ROUND, &other.compress()).reason, "it does not verify");
    assert_eq!(wrong(ROUND, &[]).reason, "bad encoding");
    assert_eq!(wrong(ROUND, &bytes[1..]).reason, "bad encoding");
    let infinity = [&[0xc0][..], &[0; 47]].concat();
    assert_eq!(wrong(ROUND, &infinity).reason, "the point at infinity");
}

#[test]
fn a_commit_for_another_round_stays_shut() {
    let container = encrypt(b"later", ROUND + 1, &mut Seed(1).rng("timelock", &[])).unwrap();
    assert_eq!(decrypt(&container, &SIGNED), Err(NotDecrypted::Key { round: ROUND }));
}

#[test]
fn a_generator_set_back_never_uses_a_key_for_two_texts() {
    let encrypted = |text: &[u8], round| {
        let bytes = encrypt(text, round, &mut Seed(1).rng("timelock", &[])).unwrap();
        Container::read(&bytes).unwrap()
    };
    let (one, again) = (encrypted(b"one", ROUND), encrypted(b"one", ROUND));
    assert_eq!(one, again);
    for other in [encrypted(b"two", ROUND), encrypted(b"one", ROUND + 1)] {
        assert_ne!((one.u, one.w, one.nonce), (other.u, other.w, other.nonce));
        assert_ne!(one.u, other.u);
        assert_ne!(one.nonce, other.nonce);
    }
}

/// The order fits into 256 bits once, and nearly twice more: each number of subtractions is seen.
#[test]
fn hashes_above_the_order_are_reduced() {
    let mut subtractions = [0; 3];
    for place in 0_u64..64 {
        let mut sigma = [0; 32];
        sigma[..8].copy_from_slice(&place.to_le_bytes());
        let hashed = hash(&[&sigma, &[0; 32]]);
        let reduced = scalar(&sigma, &[0; 32]).unwrap().to_bytes();
        assert!(reduced < ORDER);
        // hashed = reduced + n · order, with a carry over byte after byte.
        let fits = (0..3).find(|&times| {
            let mut carry = 0_u32;
            let mut sum = reduced;
            for (digit, order) in sum.iter_mut().zip(ORDER).rev() {
                carry += u32::from(*digit) + times * u32::from(order);
                *digit = carry as u8;
                carry >>= 8;
            }
            carry == 0 && sum == hashed
        });
        subtractions[fits.unwrap() as usize] += 1;
    }
    assert!(subtractions.iter().all(|count| *count > 0), "{subtractions:?}");
}

#[test]
fn points_outside_the_group_are_refused() {
    let good = Container::read(&unwrapped(HELLO)).unwrap();
    let refused = |u| decrypt(&Container { u, ..good.clone() }.write(), &SIGNED).unwrap_err();
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    assert_eq!(refused(infinity), NotDecrypted::Point("the point at infinity"));
    let mut flipped = good.u;
    flipped[0] ^= 0x20;
    assert_eq!(refused(flipped), NotDecrypted::Key { round: ROUND }, "the point's negative is in the group");
    // Points with a small x that lie on the curve but, as nearly all such, not in the group.
    let outside = (0..64_u8).find_map(|x| {
        let mut u = [0; 96];
        (u[0], u[95]) = (0x80, x);
        (refused(u) == NotDecrypted::Point("not in the group")).then_some(())
    });
    assert_eq!(outside, Some(()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_text_comes_back(text in proptest::collection::vec(any::<u8>(), 0..4_000), seed: u64) {
        let container = encrypt(&text, ROUND, &mut Seed(seed).rng("timelock", &[])).unwrap();
        prop_assert_eq!(decrypt(&container, &SIGNED).unwrap(), text);
    }

    /// One bit, anywhere: an error and no text.
    #[test]
    fn a_changed_bit_is_noticed(at in 0usize..262, bit in 0u8..8) {
        let mut container = unwrapped(HELLO);
        let length = container.len();
        container[at % length] ^= 1 << bit;
        prop_assert!(decrypt(&container, &SIGNED).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..6_000)) {
        prop_assert!(decrypt(&bytes, &SIGNED).is_err());
    }
}
