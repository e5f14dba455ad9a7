//! Inputs from outside, recorded and then spoilt: whatever the bytes, an answer or an error, no panic, and no more memory than the
//! input's own size and some.
//!
//! Seeded: a failure names the round, and the same round fails again. `OPENVALIDATORS_FUZZ_SECONDS` asks for more than the few
//! hundred rounds of an ordinary run. `OPENVALIDATORS_FUZZ_KEEP=1` keeps one input for each answer that no recorded or kept one
//! has had: what a long run found is then shown, and spoilt further, by every ordinary one.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use rand::{Rng, RngCore, seq::IndexedRandom};

use crate::{Clock, Seed, SystemClock};

const ROUNDS: u64 = 300;
/// More than this, over what there was before, no run may take.
const MOST_GROWTH_MIB: f64 = 128.0;
/// A kept input is at most so long, and there are at most so many of a kind.
const MOST_KEPT_BYTES: usize = 4_096;
const MOST_KEPT: usize = 64;
/// Letters of an answer that tell it from others.
const TELLING_LETTERS: usize = 60;

/// Pieces that parsers trip over.
const INTERESTING: [&[u8]; 13] = [
    b"",
    b"\0",
    b"\xff\xff\xff\xff",
    b"\xf0\x9f",
    b"{",
    b"[[[[[[[[",
    b"\"",
    b"1e999",
    b"-0",
    b"NaN",
    b"\\ud800",
    b"\r\n\r\n",
    // The largest length that SCALE's compact numbers can claim.
    b"\x03\xff\xff\xff\xff",
];

/// Shows `see` every input of `corpus` and of the folder `kept`, which need not be there, and then spoilt ones. `see` answers with
/// what it made of one, in words.
///
/// # Panics
/// When `see` does, or takes too much memory.
#[allow(clippy::print_stdout, clippy::panic, reason = "the loop of a test")]
pub fn spoil(what: &str, corpus: &[Vec<u8>], kept: &Path, mut see: impl FnMut(&[u8]) -> String) {
    assert!(!corpus.is_empty(), "{what} has no corpus");
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (seconds, keeps) = (number("OPENVALIDATORS_FUZZ_SECONDS"), number("OPENVALIDATORS_FUZZ_KEEP") == Some(1));
    let (clock, before) = (SystemClock::new(), peak_mib());
    let mut corpus = corpus.to_vec();
    corpus.extend(read_kept(kept));
    let mut shown = |input: &[u8], which: &str| {
        // A panic's own message has no round: this has.
        let answer = catch_unwind(AssertUnwindSafe(|| see(input)));
        answer.unwrap_or_else(|_| panic!("{what}: {which} panicked on {:?}", String::from_utf8_lossy(input)))
    };
    let mut answers = BTreeSet::new();
    for (place, input) in corpus.iter().enumerate() {
        answers.insert(telling(&shown(input, &format!("input {place}"))));
    }
    let (of_corpus, mut round) = (answers.len(), 0);
    while seconds.map_or(round < ROUNDS, |seconds| clock.now() < Duration::from_secs(seconds)) {
        let input = spoilt(&corpus, round);
        let is_new = answers.insert(telling(&shown(&input, &format!("round {round}"))));
        if keeps && is_new && input.len() <= MOST_KEPT_BYTES && answers.len() <= MOST_KEPT {
            let mut name = DefaultHasher::new();
            input.hash(&mut name);
            let file = kept.join(format!("{:016x}", name.finish()));
            fs::create_dir_all(kept).and_then(|()| fs::write(&file, &input)).unwrap_or_else(|error| panic!("{error}"));
        }
        round += 1;
    }
    let grown = peak_mib() - before;
    println!(
        "{what}: {} inputs and {round} rounds in {:.0} s, {} kinds of answers ({of_corpus} of the inputs), {grown:.0} MiB at most",
        corpus.len(),
        clock.now().as_secs_f64(),
        answers.len()
    );
    assert!(grown < MOST_GROWTH_MIB, "{what} took {grown} MiB");
}

/// By their names, so that a round is the same round everywhere.
fn read_kept(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files.iter().filter_map(|file| fs::read(file).ok()).collect()
}

/// What tells kinds of answers apart: their letters, without numbers and what was quoted.
fn telling(answer: &str) -> String {
    let unquoted: String = answer.split('`').step_by(2).collect();
    unquoted.chars().filter(char::is_ascii_alphabetic).take(TELLING_LETTERS).collect()
}

/// One of the inputs with up to eight wounds: bits, bytes, lengths, pieces left out, doubled, or from another input.
fn spoilt(corpus: &[Vec<u8>], round: u64) -> Vec<u8> {
    let mut random = Seed(9).rng("fuzz", &[round]);
    let mut bytes = corpus.choose(&mut random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(0..=8) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..64)).min(bytes.len());
        match random.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.next_u32() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].repeat(random.random_range(1..200));
                drop(bytes.splice(at..at, piece));
            }
            5 => {
                let other = corpus.choose(&mut random).map_or(&[][..], Vec::as_slice);
                let from = random.random_range(0..=other.len());
                drop(bytes.splice(at..end, other[from..(from + 64).min(other.len())].iter().copied()));
            }
            _ => drop(bytes.splice(at..at, INTERESTING[random.random_range(0..INTERESTING.len())].iter().copied())),
        }
    }
    bytes
}

/// The most this process ever had; 0 where the system does not say.
fn peak_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default() / 1_024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_the_same_again_and_what_is_found_is_kept() {
        let corpus = [b"a first input".to_vec(), b"another".to_vec()];
        assert!((0..50).all(|round| spoilt(&corpus, round) == spoilt(&corpus, round)));
        assert_ne!(spoilt(&corpus, 1), spoilt(&corpus, 2));
        assert_eq!(telling("key `a 1` is 7 too long"), telling("key `b` is 12 too long"));
        let told = catch_unwind(|| {
            spoil("test", &corpus, Path::new("/nowhere"), |input| {
                assert!(input.len() < 100);
                String::new()
            });
        });
        let told = told.unwrap_err().downcast::<String>().unwrap();
        assert!(told.contains("test: round "), "{told}");
    }
}
