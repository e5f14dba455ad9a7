//! What each defence buys: the games of the strategies it is against, without it and with everything else.

use serde::Serialize;

use super::play::Outcome;
use crate::config::Config;

/// One defence.
pub struct Defence {
    /// Its switch in the configuration.
    pub switch: &'static str,
    /// What it does, and whose idea it is.
    pub idea: &'static str,
    /// The strategies it is against, as parts of their names.
    pub against: &'static [&'static str],
    /// Turns it off.
    pub turn_off: fn(&mut Config),
}

/// All of them, in the order of the second table.
pub const ALL: [Defence; 7] = [
    Defence {
        switch: "rewards.defences.robust_normaliser",
        idea: "median of the step and median absolute deviation of what filters pass (Huber 1964, Hampel 1974)",
        against: &["squeeze", "NaN inducer", "length bomb", "keyword"],
        turn_off: |config| config.rewards.defences.robust_normaliser = false,
    },
    Defence {
        switch: "rewards.defences.fold_lookalikes",
        idea: "look-alike letters and unseen characters unified before comparing (Unicode TS 39, NFKC)",
        against: &["disguised copycat"],
        turn_off: |config| config.rewards.defences.fold_lookalikes = false,
    },
    Defence {
        switch: "rewards.defences.echo",
        idea: "share of the prompt given back, and longest run of it (containment: Broder 1997)",
        against: &["prompt echo", "synonym paraphrase"],
        turn_off: |config| config.rewards.defences.echo = false,
    },
    Defence {
        switch: "rewards.defences.overused_phrases",
        idea: "lossy counting of phrases over all steps (Manku and Motwani 2002)",
        against: &["boilerplate", "padding", "injection"],
        turn_off: |config| config.rewards.defences.overused_phrases = false,
    },
    Defence {
        switch: "rewards.defences.followers",
        idea: "a record of who says again what others said before (Broder 1997; Wilson 1927)",
        against: &["disguised copycat", "paraphrase ring", "sybil split"],
        turn_off: |config| config.rewards.defences.followers = false,
    },
    Defence {
        switch: "rewards.defences.kin",
        idea: "diminishing returns for hotkeys of one coldkey or /24 that cannot be told apart (Broder 1997; Wilson 1927)",
        against: &["paraphrase ring", "sybil split", "boilerplate"],
        turn_off: |config| config.rewards.defences.kin = false,
    },
    Defence {
        switch: "weights.rest_half_life_turns",
        idea: "scores that are no longer earned fade by a half-life",
        against: &["join, then rest"],
        turn_off: |config| config.weights.rest_half_life_turns = 0.0,
    },
];

/// A strategy, with everything and without one defence.
#[derive(Clone, Debug, Serialize)]
pub struct Ablation {
    /// The defence's switch.
    pub switch: &'static str,
    /// What it does.
    pub idea: &'static str,
    /// The strategy's name; the population without attackers where it is `nobody`.
    pub strategy: &'static str,
    /// The attackers' share of the uids.
    pub share: f64,
    /// Without this defence.
    pub without: Outcome,
    /// With all.
    pub with: Outcome,
}

// === impl Defence ===

impl Defence {
    /// Whether it is against a strategy.
    #[must_use]
    pub fn is_against(&self, strategy: &str) -> bool {
        self.against.iter().any(|part| strategy.contains(part))
    }

    /// The settings with everything but this.
    #[must_use]
    pub fn without(&self, ours: &Config) -> Config {
        let mut config = ours.clone();
        (self.turn_off)(&mut config);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::adversary::strategies;

    #[test]
    fn every_defence_is_against_something_and_can_be_turned_off() {
        let ours = Config::default();
        for defence in &ALL {
            assert_ne!(defence.without(&ours), ours, "{}", defence.switch);
            for part in defence.against {
                let known = strategies::ALL.iter().any(|strategy| strategy.name().contains(part));
                assert!(known, "{} is against `{part}`, which is no strategy", defence.switch);
            }
        }
    }
}
