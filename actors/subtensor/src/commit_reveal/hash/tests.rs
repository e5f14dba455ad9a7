use super::*;

/// What `generate_weight_hash` of SDK 10.5.0 answered (`commit_reveal.py`).
const RECORDED: &str = include_str!("../../../../../tests/fixtures/bittensor/commit_hashes_v10.5.0.json");

#[derive(Deserialize)]
struct Recorded {
    hashes: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    hotkey: Hotkey,
    netuid: Netuid,
    mechanism: u8,
    uids: Vec<Uid>,
    values: Vec<u16>,
    salt: Vec<u16>,
    version_key: u64,
    hash: String,
}

fn said(salt: u16) -> RevealWeights {
    RevealWeights {
        uids: vec![Uid(3), Uid(500)],
        weights: vec![65_535, 9],
        version_key: 10_005_000,
        salt: vec![salt; 8],
    }
}

#[test]
fn hashes_are_those_of_the_sdk() {
    let recorded: Recorded = serde_json::from_str(RECORDED).unwrap();
    assert_eq!(recorded.hashes.len(), 16);
    for Case { hotkey, netuid, mechanism, uids, values, salt, version_key, hash } in recorded.hashes {
        let mechanism = Mechanism { netuid, index: mechanism };
        let reveal = HashReveal { hotkey, mechanism, uids, weights: values, salt, version_key };
        assert_eq!(format!("0x{}", hex::encode(reveal.commit_hash())), hash, "{reveal:?}");
    }
}

#[test]
fn a_mechanism_has_a_place_of_its_own_in_storage() {
    let index = |index| Mechanism { netuid: Netuid(18), index }.storage_index();
    assert_eq!((index(0), index(1), index(15)), (18, 4114, 61_458));
    // No chain has it; the pallet saturates too.
    assert_eq!(index(255), u16::MAX);
}

#[test]
fn another_salt_hides_the_same_weights_in_another_hash() {
    let mechanism = Mechanism { netuid: Netuid(18), index: 1 };
    let reveal = |said| HashReveal::new(Hotkey([9; 32]), mechanism, said);
    assert_eq!(reveal(said(1)).unwrap().commit_hash(), reveal(said(1)).unwrap().commit_hash());
    assert_ne!(reveal(said(1)).unwrap().commit_hash(), reveal(said(2)).unwrap().commit_hash());
    let error = reveal(RevealWeights { weights: vec![1], ..said(1) }).unwrap_err();
    assert_eq!(error.to_string(), "a weight vector needs one weight for each uid, found 2 uids and 1 weights");
}
