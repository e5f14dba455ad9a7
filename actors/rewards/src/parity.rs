//! Reads recorded values of openvalidators 1.2.0 (`tests/fixtures` of the repository).

use std::{fs, path::PathBuf};

use serde_json::Value;

fn fixture(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path);
    fs::read(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

pub fn golden(name: &str) -> Value {
    serde_json::from_slice(&fixture(&format!("parity/golden/{name}.json"))).unwrap()
}

/// A list of numbers; `"nan"` becomes `None`, and so does a recorded error.
pub fn numbers(list: &Value) -> Vec<Option<f32>> {
    let number = |value: &Value| value.as_f64().or_else(|| value["ok"].as_f64()).map(|number| number as f32);
    list.as_array().unwrap().iter().map(number).collect()
}

pub fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Rows of 48 recorded in `tests/fixtures/rewards`.
pub fn rows(name: &str) -> Vec<Vec<f32>> {
    let bytes = fixture(&format!("rewards/{name}.f32"));
    let flat: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
    flat.chunks_exact(48).map(<[f32]>::to_vec).collect()
}
