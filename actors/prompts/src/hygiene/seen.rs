//! The passages seen lately, as fingerprints: bounded, and the oldest is forgotten first.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

pub struct Seen {
    most: usize,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

// === impl Seen ===

impl Seen {
    /// Remembers so many.
    pub fn new(most: usize) -> Self {
        Self { most, known: HashSet::new(), order: VecDeque::new() }
    }

    /// Whether nothing with the same letters and digits was seen; it is from now on.
    pub fn is_new(&mut self, text: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        let letters = text.chars().filter(|char| char.is_alphanumeric()).flat_map(char::to_lowercase);
        letters.for_each(|char| char.hash(&mut hasher));
        let fingerprint = hasher.finish();
        if self.most == 0 {
            return true;
        }
        if !self.known.insert(fingerprint) {
            return false;
        }
        self.order.push_back(fingerprint);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    pub fn forget(&mut self) {
        self.known.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut seen = Seen::new(2);
        assert_eq!(
            ["One.", "one!", "two", "three", "ONE", "three"].map(|text| seen.is_new(text)),
            [true, false, true, true, true, false]
        );
        assert_eq!((seen.known.len(), seen.order.len()), (2, 2));
        assert!(Seen::new(0).is_new("x"));
    }
}
