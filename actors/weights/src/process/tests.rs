use std::{path::PathBuf, process::Command};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// What SDK 10.5.0 answered.
const RECORDED: &str = include_str!("../../../../tests/fixtures/bittensor/weights_v10.5.0.json");
/// What it answered for random weights, and the script that asks it.
const RANDOM: &str = include_str!("../../../../tests/fixtures/bittensor/weights_random_v10.5.0.json");
const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bittensor/weights_random.py");

#[derive(Deserialize)]
struct Recorded {
    process: Vec<Case>,
    convert: Vec<Conversion>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    inp: Input,
    processed_uids: Vec<u16>,
    processed_weights: Vec<f64>,
    emit_uids: Vec<u16>,
    emit_weights: Vec<u16>,
}

#[derive(Deserialize)]
struct Input {
    w: Vec<f32>,
    n: usize,
    min: usize,
    max: f64,
    #[serde(default)]
    exclude: f64,
}

#[derive(Deserialize)]
struct Conversion {
    w: Vec<f64>,
    emit_uids: Vec<u16>,
    emit_weights: Vec<u16>,
}

#[derive(Deserialize)]
struct RandomCases {
    cases: Vec<RandomCase>,
    /// Half-way between two integers.
    halves: Conversion,
}

#[derive(Debug, Deserialize)]
struct RandomCase {
    w: Vec<f32>,
    n: usize,
    min: usize,
    max: f64,
    /// The chain's u16.
    exclude: u16,
    uids: Vec<u16>,
    shares: Vec<f64>,
    emit_uids: Vec<u16>,
    emit_weights: Vec<u16>,
}

impl Conversion {
    fn agrees(self) {
        let weights: Vec<_> = self.w.iter().enumerate().map(|(uid, weight)| (uid_at(uid), *weight)).collect();
        assert_eq!(split(&emit(&weights).unwrap()), (self.emit_uids, self.emit_weights), "{:?}", self.w);
    }
}

fn split<T: Copy>(pairs: &[(Uid, T)]) -> (Vec<u16>, Vec<T>) {
    pairs.iter().map(|(uid, value)| (uid.0, *value)).unzip()
}

#[test]
fn every_recorded_vector_comes_out_bit_for_bit() {
    let recorded: Recorded = serde_json::from_str(RECORDED).unwrap();
    assert_eq!((recorded.process.len(), recorded.convert.len()), (6, 5));
    for Case { name, inp, processed_uids, processed_weights, emit_uids, emit_weights } in recorded.process {
        // The recording handed the quantile over as the chain's u16.
        let exclude_quantile = (inp.exclude * 65_535.0).floor() / 65_535.0;
        let limits = Limits { neurons: inp.n, min_allowed: inp.min, max_share: inp.max, exclude_quantile };
        let processed = process(&inp.w, &limits).unwrap();
        assert_eq!(split(&processed), (processed_uids, processed_weights), "{name}");
        assert_eq!(split(&emit(&processed).unwrap()), (emit_uids, emit_weights), "{name}");
    }
    recorded.convert.into_iter().for_each(Conversion::agrees);
}

/// The Python of the SDK, where `tests/peers.sh` could install it.
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

/// The uids, shares and vectors of the SDK for every case, to the last bit.
fn all_agree(answer: &str) -> usize {
    let RandomCases { cases, halves } = serde_json::from_str(answer).unwrap();
    halves.agrees();
    let mut wrong = Vec::new();
    for case in &cases {
        let exclude_quantile = f64::from(case.exclude) / 65_535.0;
        let limits = Limits { neurons: case.n, min_allowed: case.min, max_share: case.max, exclude_quantile };
        let shares = process(&case.w, &limits).unwrap();
        let (uids, values) = split(&shares);
        let (emit_uids, emit_weights) = split(&emit(&shares).unwrap());
        let same_shares = uids == case.uids && values == case.shares;
        if !same_shares || emit_uids != case.emit_uids || emit_weights != case.emit_weights {
            wrong.push((limits, same_shares, emit_uids == case.emit_uids, emit_weights == case.emit_weights));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ: {:#?}", wrong.len(), cases.len(), &wrong[..wrong.len().min(20)]);
    cases.len()
}

#[test]
fn random_vectors_come_out_bit_for_bit() {
    assert_eq!(all_agree(RANDOM), 50);
}

/// The real thing, where it is installed: a thousand cases of up to 300 uids.
#[test]
fn the_sdk_itself_agrees_on_a_thousand_random_vectors() {
    let Some(python) = peer() else { return };
    // The SDK makes folders in the home it finds.
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(python)
        .args([PEER, "1000", "2"])
        .env("HOME", home.path())
        .output()
        .expect("the peer's Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(all_agree(std::str::from_utf8(&output.stdout).unwrap()), 1000);
}

#[test]
fn what_is_no_weight_is_refused() {
    let limits = Limits { neurons: 3, min_allowed: 1, max_share: 1.0, exclude_quantile: 0.0 };
    for bad in [f32::NAN, f32::INFINITY, -0.5] {
        let error = process(&[0.5, bad], &limits).unwrap_err();
        assert_eq!(error.uid, Uid(1));
        assert!(emit(&[(Uid(4), f64::from(bad))]).is_err());
    }
    assert_eq!(emit(&[(Uid(4), 0.0)]), Ok(vec![]));
    assert_eq!(process(&[], &Limits { neurons: 0, ..limits }), Ok(vec![]));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the scores: shares sum to 1, nobody is far above the limit, order is kept, and the vector has a 65535.
    #[test]
    fn shares_obey_the_rules(
        weights in proptest::collection::vec(prop_oneof![Just(0.0f32), 1e-6f32..1.0], 1..300),
        min_allowed in 1usize..20,
        max_share in 0.01f64..1.0,
        exclude_quantile in 0.0f64..0.9,
    ) {
        let limits = Limits { neurons: weights.len(), min_allowed, max_share, exclude_quantile };
        let shares = process(&weights, &limits).unwrap();
        prop_assert!((shares.iter().map(|share| share.1).sum::<f64>() - 1.0).abs() < 1e-4);
        let limit = max_share.max(1.0 / shares.len() as f64);
        for (uid, share) in &shares {
            prop_assert!(*share <= limit * 1.01 + 1e-4, "{uid} has {share} of {limit}");
        }
        prop_assert!(shares.len() >= min_allowed.min(weights.len()));
        for pair in shares.windows(2) {
            let [(left, low), (right, high)] = pair else { unreachable!() };
            prop_assert!(left < right, "uids ascend");
            let (one, other) = (weights[usize::from(left.0)], weights[usize::from(right.0)]);
            prop_assert!(one > other || low <= high, "who earned more gets no less");
        }
        let vector = emit(&shares).unwrap();
        prop_assert_eq!(vector.iter().map(|entry| entry.1).max(), Some(65_535));
        prop_assert!(vector.iter().all(|entry| entry.1 > 0));
    }
}
