//! Metadata and values as a node sends them, spoilt: an answer or an error, no panic, and no more memory than the bytes and some.
//!
//! Seeded: a failure names its round. `OPENVALIDATORS_FUZZ_SECONDS` asks for more than the rounds of an ordinary run.

use std::time::Duration;

use openvalidators_runtime::{Clock, Seed, SystemClock};
use rand::{Rng, RngCore};

use super::metadata;
use crate::remote::{
    runtime::Runtime,
    scale::{Fields, cut, elements, variant},
};

const ROUNDS: u64 = 200;
/// More than this, over what there was before, no round may take.
const MOST_GROWTH_MIB: f64 = 128.0;
/// Elements of a sequence that are taken.
const ELEMENTS: usize = 4_096;

fn spoil(what: &str, mut see: impl FnMut(u64)) {
    let seconds = std::env::var("OPENVALIDATORS_FUZZ_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    let (clock, before) = (SystemClock::new(), peak_mib());
    let mut round = 0;
    while seconds.map_or(round < ROUNDS, |seconds| clock.now() < Duration::from_secs(seconds)) {
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| see(round)));
        assert!(watched.is_ok(), "{what}: round {round} panicked");
        round += 1;
    }
    let grown = peak_mib() - before;
    println!("{what}: {round} rounds in {:.0} s, {grown:.0} MiB at most", clock.now().as_secs_f64());
    assert!(grown < MOST_GROWTH_MIB, "{what} took {grown} MiB");
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
}

/// Up to eight wounds: bits, bytes, lengths, pieces left out or doubled.
fn wound(bytes: &mut Vec<u8>, random: &mut impl Rng) {
    for _ in 0..random.random_range(1..=8) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..32)).min(bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.next_u32() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            // The largest length that SCALE's compact numbers can claim.
            4 => drop(bytes.splice(at..at, [0x03, 0xff, 0xff, 0xff, 0xff])),
            _ => {
                let piece = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
}

#[test]
fn spoilt_metadata_is_read_or_refused() {
    let corpus = [metadata::old(), metadata::new(), metadata::foreign()];
    spoil("metadata", |round| {
        let mut random = Seed(11).rng("spoilt metadata", &[round]);
        let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
        wound(&mut bytes, &mut random);
        if let Ok(runtime) = Runtime::new(1, 1, &bytes) {
            // What is left of it is good for questions, too.
            for item in ["Tempo", "Weights", "CommitRevealWeightsEnabled"] {
                let _ = (runtime.has_item(item), runtime.stored::<u16>(item, Some(&bytes[..bytes.len().min(64)])));
            }
        }
    });
}

#[test]
fn spoilt_values_are_read_or_refused() {
    let runtime = Runtime::new(1, 1, &metadata::new()).unwrap();
    let types = runtime.metadata().types();
    let readable: Vec<u32> =
        (0..types.types.len() as u32).filter(|type_id| runtime.check_type(*type_id).is_ok()).collect();
    assert!(readable.len() > 20, "{}", readable.len());
    spoil("values", |round| {
        let mut random = Seed(12).rng("spoilt values", &[round]);
        let mut bytes = vec![0; random.random_range(0..512)];
        random.fill_bytes(&mut bytes);
        // Small numbers are lengths and indices that fit.
        bytes.iter_mut().filter(|byte| **byte > 40).for_each(|byte| *byte &= 0x0f);
        wound(&mut bytes, &mut random);
        for type_id in &readable {
            let _ = cut(&mut &bytes[..], *type_id, types);
            let _ = variant(&mut &bytes[..], *type_id, types).map(|chosen| chosen.name.len());
            let _ = Fields::of(&bytes, *type_id, types).map(|fields| fields.get::<u64>("stake"));
            if let Ok((_, found)) = elements(&bytes, *type_id, types, ELEMENTS) {
                assert!(found.len() <= ELEMENTS);
            }
        }
    });
}
