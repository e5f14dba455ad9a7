//! Randomness derived from one seed, so that a step can be played again.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The root of all random choices of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// An independent stream for one purpose at one place, e.g. `rng("route", &[forward, index])`. The same arguments
    /// give the same stream on every machine and in every version (ChaCha8 seeded by SHA-256).
    #[must_use]
    pub fn rng(&self, purpose: &str, path: &[u64]) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(self.0.to_le_bytes());
        // The length keeps ("ab", …) and ("a", "b…") apart.
        hash.update((purpose.len() as u64).to_le_bytes());
        hash.update(purpose.as_bytes());
        for part in path {
            hash.update(part.to_le_bytes());
        }
        ChaCha8Rng::from_seed(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed: u64, purpose: &str, path: &[u64]| Seed(seed).rng(purpose, path).random::<u64>();
        assert_eq!(draw(1, "route", &[2, 3]), draw(1, "route", &[2, 3]));
        let others = [draw(2, "route", &[2, 3]), draw(1, "prompt", &[2, 3]), draw(1, "route", &[3, 2])];
        assert!(others.iter().all(|other| *other != draw(1, "route", &[2, 3])));
    }

    #[test]
    fn the_stream_is_the_same_in_every_version() {
        assert_eq!(Seed(42).rng("route", &[7, 1]).random::<u64>(), RECORDED);
    }

    /// Changing it breaks the replay of every recorded step.
    const RECORDED: u64 = 13_417_843_660_456_389_291;
}
