//! Metadata and values as a node sends them, spoilt ([`spoil`]).

use std::path::{Path, PathBuf};

use openvalidators_runtime::{Seed, testing::spoil};
use rand::{Rng, RngCore};

use super::metadata;
use crate::remote::{
    runtime::Runtime,
    scale::{Fields, cut, elements, variant},
};

/// Elements of a sequence that are taken.
const ELEMENTS: usize = 4_096;
/// Made-up values that are spoilt.
const VALUES: u64 = 64;

fn kept(what: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/fuzz").join(what)
}

#[test]
fn spoilt_metadata_is_read_or_refused() {
    let corpus = [metadata::old(), metadata::new(), metadata::foreign()];
    spoil("metadata", &corpus, &kept("metadata"), |bytes| {
        let runtime = match Runtime::new(1, 1, bytes) {
            Ok(runtime) => runtime,
            Err(error) => return error.to_string(),
        };
        // What is left of it is good for questions, too.
        for item in ["Tempo", "Weights", "CommitRevealWeightsEnabled"] {
            let _ = (runtime.has_item(item), runtime.stored::<u16>(item, Some(&bytes[..bytes.len().min(64)])));
        }
        String::new()
    });
}

/// Four bytes from a node ended the process: found by ten minutes of the test above.
#[test]
fn metadata_that_begins_with_its_own_length_is_refused() {
    let error = Runtime::new(1, 1, &[4 << 2, 0, 0, 0]).err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("metadata that this version cannot read")));
}

#[test]
fn spoilt_values_are_read_or_refused() {
    let runtime = Runtime::new(1, 1, &metadata::new()).unwrap();
    let types = runtime.metadata().types();
    let readable: Vec<u32> =
        (0..types.types.len() as u32).filter(|type_id| runtime.check_type(*type_id).is_ok()).collect();
    assert!(readable.len() > 20, "{}", readable.len());
    let made_up = |number: u64| {
        let mut random = Seed(12).rng("spoilt values", &[number]);
        let mut bytes = vec![0; random.random_range(0..512)];
        random.fill_bytes(&mut bytes);
        // Small numbers are lengths and indices that fit.
        bytes.iter_mut().filter(|byte| **byte > 40).for_each(|byte| *byte &= 0x0f);
        bytes
    };
    let corpus: Vec<Vec<u8>> = (0..VALUES).map(made_up).collect();
    spoil("values", &corpus, &kept("values"), |bytes| {
        let mut refused = String::new();
        for type_id in &readable {
            if let Err(error) = cut(&mut &bytes[..], *type_id, types) {
                refused = error.to_string();
            }
            let _ = variant(&mut &bytes[..], *type_id, types).map(|chosen| chosen.name.len());
            let _ = Fields::of(bytes, *type_id, types).map(|fields| fields.get::<u64>("stake"));
            if let Ok((_, found)) = elements(bytes, *type_id, types, ELEMENTS) {
                assert!(found.len() <= ELEMENTS);
            }
        }
        refused
    });
}
