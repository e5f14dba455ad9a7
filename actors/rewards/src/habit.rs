//! How often something happens to one hotkey, and what of that chance does not explain.

use serde::{Deserialize, Serialize};

/// What is left of a record each time its hotkey is asked: about the latest 50 times count.
const FADE: f64 = 0.98;
/// With fewer times on record nothing is believed.
const FEWEST_TIMES: f64 = 4.0;
/// Standard deviations of Wilson's interval: one honest hotkey in forty is beyond it by chance.
const DEVIATIONS: f64 = 2.0;

/// How often it could have happened, and did; fading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Habit {
    times: f64,
    happened: f64,
}

// === impl Habit ===

impl Habit {
    /// It could have happened, and did or not.
    pub fn note(&mut self, happened: bool) {
        self.times = self.times * FADE + 1.0;
        self.happened = self.happened * FADE + f64::from(u8::from(happened));
    }

    /// Times on record.
    #[must_use]
    pub fn times(&self) -> f64 {
        self.times
    }

    /// How often it happened, in 0..=1; `None` while too little is known.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        (self.times >= FEWEST_TIMES).then(|| self.happened / self.times)
    }

    /// Whether it happens more often than `ordinary` by more than chance explains.
    #[must_use]
    pub fn is_above(&self, ordinary: f64) -> bool {
        self.times >= FEWEST_TIMES && self.at_least() > ordinary
    }

    /// The lower end of Wilson's interval (Wilson 1927, "Probable inference, the law of succession, and statistical
    /// inference").
    fn at_least(&self) -> f64 {
        let (n, z) = (self.times, DEVIATIONS);
        let rate = self.happened / n;
        let centre = rate + z * z / (2.0 * n);
        let width = z * (rate * (1.0 - rate) / n + z * z / (4.0 * n * n)).max(0.0).sqrt();
        (centre - width) / (1.0 + z * z / n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilsons_lower_end() {
        // 8 of 10 at two deviations: (0.8 + 0.2 − 2·√(0.016 + 0.01)) / 1.4.
        let habit = Habit { times: 10.0, happened: 8.0 };
        assert!((habit.at_least() - 0.483_935).abs() < 1e-5, "{}", habit.at_least());
        assert_eq!(Habit { times: 9.0, happened: 0.0 }.at_least(), 0.0);
    }

    #[test]
    fn of_whom_little_is_known_nothing_is_believed() {
        let mut habit = Habit::default();
        for _ in 0..4 {
            assert!(!habit.is_above(0.0) && habit.rate().is_none());
            habit.note(true);
        }
        // Four times fade to a little less than four.
        habit.note(true);
        assert!(habit.is_above(0.5) && habit.rate() == Some(1.0));
    }
}
