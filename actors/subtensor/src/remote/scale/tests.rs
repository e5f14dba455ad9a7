use scale_info::{PortableRegistry, Registry, TypeInfo, meta_type};

use super::*;

/// As a node could describe it: a type whose parts are given by number.
fn registry(types: serde_json::Value) -> PortableRegistry {
    let portable = |(id, def): (usize, &serde_json::Value)| serde_json::json!({"id": id, "type": {"def": def}});
    let types: Vec<_> = types.as_array().unwrap().iter().enumerate().map(portable).collect();
    serde_json::from_value(serde_json::json!({ "types": types })).unwrap()
}

#[test]
fn types_that_cost_more_than_their_bytes_are_not_read() {
    let mut doubling = vec![serde_json::json!({"tuple": []})];
    doubling.extend((0..40).map(|below| serde_json::json!({"tuple": [below, below]})));
    let mut deep = vec![serde_json::json!({"primitive": "u8"})];
    deep.extend((0..60).map(|below| serde_json::json!({"tuple": [below]})));
    let deepest = deep.len() as u32 - 1;
    for (what, types, heavy) in [
        ("itself", serde_json::json!([{"tuple": [0]}]), 0),
        ("a list of itself", serde_json::json!([{"sequence": {"type": 0}}]), 0),
        ("a list of nothing", serde_json::json!([{"tuple": []}, {"sequence": {"type": 0}}]), 1),
        (
            "a list of arrays of nothing",
            serde_json::json!([{"tuple": []}, {"array": {"len": 9, "type": 0}}, {"sequence": {"type": 1}}]),
            2,
        ),
        ("a long array of nothing", serde_json::json!([{"tuple": []}, {"array": {"len": u32::MAX, "type": 0}}]), 1),
        ("nothing, doubled forty times", doubling.into(), 40),
        ("sixty tuples around a byte", deep.into(), deepest),
        ("a type that is not there", serde_json::json!([{"tuple": [7]}]), 0),
    ] {
        let weights = Weights::of(&registry(types));
        assert!(weights.check(heavy).is_err(), "{what}");
    }
    assert!(Weights::of(&registry(serde_json::json!([]))).check(0).is_err());
}

#[derive(TypeInfo)]
#[allow(dead_code, reason = "only its type is used")]
struct Record {
    name: Vec<u8>,
    number: Option<parity_scale_codec::Compact<u64>>,
}

fn record() -> (u32, PortableRegistry) {
    let mut registry = Registry::new();
    let id = registry.register_type(&meta_type::<Record>()).id;
    (id, registry.into())
}

#[test]
fn a_struct_is_read_by_the_names_of_its_fields() {
    let (id, types) = record();
    Weights::of(&types).check(id).unwrap();
    let fields = Fields::of(&[8, 7, 9, 1, 4], id, &types).unwrap();
    assert_eq!(fields.get::<Vec<u8>>("name").unwrap(), [7, 9]);
    assert_eq!(fields.get::<u64>("number").unwrap(), 1);
    assert!(fields.get::<u64>("other").unwrap_err().0.contains("no field `other`"));
    // A number that does not fit is not cut.
    let large = Fields::of(&[0, 1, 0x02, 0x00, 0x04, 0x00], id, &types).unwrap();
    assert!(large.get::<u8>("number").is_err() && large.get::<u32>("number").unwrap() == 1 << 16);
}

#[test]
fn bytes_that_end_early_go_on_or_claim_too_much_are_refused() {
    let (id, types) = record();
    for bytes in [&[][..], &[8, 7], &[8, 7, 9], &[8, 7, 9, 2], &[0, 0, 0], &[0xfe, 0xff, 0xff, 0xff, 7], &[0xff; 16]] {
        assert!(Fields::of(bytes, id, &types).is_err(), "{bytes:?}");
    }
    let fields = Fields::of(&[0, 0], id, &types).unwrap();
    assert!(fields.get::<u64>("number").unwrap_err().0.contains("left it out"));
}
