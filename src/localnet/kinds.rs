//! The ways a local miner can be, and how many there are of each.

use std::{fmt, ops::RangeInclusive};

use openvalidators_runtime::Seed;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::localnet::field::{FIELDS, Field};

/// Most miners one local network starts: each is a listening socket of this machine.
pub const MAX_MINERS: usize = 1_024;

/// How well an honest miner does its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Short, scrambled, with words missing.
    Poor,
    /// Sentences out of order, words missing, one sentence beside the point.
    Fair,
    /// What the others are degraded from.
    Good,
}

/// What a local miner does with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MinerKind {
    /// Does the task.
    Honest(Tier),
    /// Does the task well about one field, and poorly about others.
    Specialist(Field),
    /// Does the task well, but as a rule after the deadline.
    Slow,
    /// Says one stock sentence whatever is asked.
    Lazy,
    /// Gives the prompt back.
    Echo,
    /// Gives what an honest miner of the same network completes for that prompt.
    Copycat,
    /// Piles up the prompt's own key words.
    KeywordSpammer,
    /// Accepts connections and never says anything.
    Hanging,
    /// Answers with bytes that are no HTTP.
    Garbage,
    /// Answers with a body of many megabytes, or one without end.
    Oversized,
    /// Answers 200 with JSON that is not the synapse asked for.
    WrongJson,
    /// Turns every query away: 403 or 503.
    Refusing,
}

/// How many miners of each kind a local network has. The default has sixteen: every kind but specialists at least
/// once, and as many that do the task as then fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MinerMix {
    /// [`Tier::Good`].
    pub good: u16,
    /// [`Tier::Fair`].
    pub fair: u16,
    /// [`Tier::Poor`].
    pub poor: u16,
    /// [`MinerKind::Specialist`], the fields in turn.
    pub specialist: u16,
    /// [`MinerKind::Slow`].
    pub slow: u16,
    /// [`MinerKind::Lazy`].
    pub lazy: u16,
    /// [`MinerKind::Echo`].
    pub echo: u16,
    /// [`MinerKind::Copycat`]; needs an honest miner to copy.
    pub copycat: u16,
    /// [`MinerKind::KeywordSpammer`].
    pub keyword_spammer: u16,
    /// [`MinerKind::Hanging`].
    pub hanging: u16,
    /// [`MinerKind::Garbage`].
    pub garbage: u16,
    /// [`MinerKind::Oversized`].
    pub oversized: u16,
    /// [`MinerKind::WrongJson`].
    pub wrong_json: u16,
    /// [`MinerKind::Refusing`].
    pub refusing: u16,
}

/// A mix that makes no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMix {
    /// Too few or too many.
    #[error("the local network's mix has {found} miners: give between {} and {} in all", allowed.start(), allowed.end())]
    Size {
        /// Sum of all counts.
        found: usize,
        /// What is possible.
        allowed: RangeInclusive<usize>,
    },
    /// Nobody to copy.
    #[error(
        "the local network's mix has {copycats} copycats but no honest miner to copy: set `good`, `fair` or `poor`, or `copycat = 0`"
    )]
    NobodyToCopy {
        /// Their count.
        copycats: u16,
    },
}

// === impl MinerKind ===

impl MinerKind {
    /// Every kind there is; of specialists the first.
    pub const ALL: [Self; 14] = [
        Self::Honest(Tier::Good),
        Self::Honest(Tier::Fair),
        Self::Honest(Tier::Poor),
        Self::Specialist(Field(0)),
        Self::Slow,
        Self::Lazy,
        Self::Echo,
        Self::Copycat,
        Self::KeywordSpammer,
        Self::Hanging,
        Self::Garbage,
        Self::Oversized,
        Self::WrongJson,
        Self::Refusing,
    ];

    /// The name in tables and settings.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Honest(Tier::Good) => "good",
            Self::Honest(Tier::Fair) => "fair",
            Self::Honest(Tier::Poor) => "poor",
            Self::Specialist(_) => "specialist",
            Self::Slow => "slow",
            Self::Lazy => "lazy",
            Self::Echo => "echo",
            Self::Copycat => "copycat",
            Self::KeywordSpammer => "keyword_spammer",
            Self::Hanging => "hanging",
            Self::Garbage => "garbage",
            Self::Oversized => "oversized",
            Self::WrongJson => "wrong_json",
            Self::Refusing => "refusing",
        }
    }

    /// Whether it does the task in time, well or badly.
    #[must_use]
    pub fn is_honest(self) -> bool {
        matches!(self, Self::Honest(_))
    }
}

impl fmt::Display for MinerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Specialist(field) => f.pad(&format!("{}: {field}", self.label())),
            _ => f.pad(self.label()),
        }
    }
}

// === impl MinerMix ===

impl Default for MinerMix {
    fn default() -> Self {
        Self {
            good: 2,
            fair: 2,
            poor: 2,
            specialist: 0,
            slow: 1,
            lazy: 1,
            echo: 1,
            copycat: 1,
            keyword_spammer: 1,
            hanging: 1,
            garbage: 1,
            oversized: 1,
            wrong_json: 1,
            refusing: 1,
        }
    }
}

impl MinerMix {
    /// No miner of any kind: a start for mixes that want a few kinds only.
    pub const NONE: Self = Self {
        good: 0,
        fair: 0,
        poor: 0,
        specialist: 0,
        slow: 0,
        lazy: 0,
        echo: 0,
        copycat: 0,
        keyword_spammer: 0,
        hanging: 0,
        garbage: 0,
        oversized: 0,
        wrong_json: 0,
        refusing: 0,
    };

    /// How many there are of one kind.
    #[must_use]
    pub fn count(&self, kind: MinerKind) -> u16 {
        match kind {
            MinerKind::Honest(Tier::Good) => self.good,
            MinerKind::Honest(Tier::Fair) => self.fair,
            MinerKind::Honest(Tier::Poor) => self.poor,
            MinerKind::Specialist(_) => self.specialist,
            MinerKind::Slow => self.slow,
            MinerKind::Lazy => self.lazy,
            MinerKind::Echo => self.echo,
            MinerKind::Copycat => self.copycat,
            MinerKind::KeywordSpammer => self.keyword_spammer,
            MinerKind::Hanging => self.hanging,
            MinerKind::Garbage => self.garbage,
            MinerKind::Oversized => self.oversized,
            MinerKind::WrongJson => self.wrong_json,
            MinerKind::Refusing => self.refusing,
        }
    }

    /// # Errors
    /// [`BadMix`]: no network can be made of it.
    pub fn check(&self) -> Result<(), BadMix> {
        let found = MinerKind::ALL.iter().map(|kind| usize::from(self.count(*kind))).sum();
        if !(1..=MAX_MINERS).contains(&found) {
            return Err(BadMix::Size { found, allowed: 1..=MAX_MINERS });
        }
        if self.copycat > 0 && !MinerKind::ALL.iter().any(|kind| kind.is_honest() && self.count(*kind) > 0) {
            return Err(BadMix::NobodyToCopy { copycats: self.copycat });
        }
        Ok(())
    }

    /// The kind of every miner, by its index. The order is shuffled by the seed, so that an index tells nothing about
    /// a kind.
    ///
    /// # Errors
    /// As [`MinerMix::check`].
    pub fn kinds(&self, seed: Seed) -> Result<Vec<MinerKind>, BadMix> {
        self.check()?;
        let of_kind = |kind: MinerKind| {
            (0..self.count(kind)).map(move |nth| match kind {
                MinerKind::Specialist(_) => MinerKind::Specialist(Field((nth % u16::from(FIELDS)) as u8)),
                kind => kind,
            })
        };
        let mut kinds: Vec<_> = MinerKind::ALL.into_iter().flat_map(of_kind).collect();
        kinds.shuffle(&mut seed.rng("localnet/kinds", &[]));
        Ok(kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_mix_has_sixteen_and_every_kind_but_specialists() {
        let mix = MinerMix::default();
        let kinds = mix.kinds(Seed(1)).unwrap();
        assert_eq!(kinds.len(), 16);
        for kind in MinerKind::ALL.into_iter().filter(|kind| !matches!(kind, MinerKind::Specialist(_))) {
            assert!(kinds.contains(&kind), "{kind} is missing");
            let found = kinds.iter().filter(|found| **found == kind).count();
            assert_eq!(found, usize::from(mix.count(kind)), "{kind}");
            assert!(found == 1 || kind.is_honest(), "a second {kind} takes the place of one that does the task");
        }
    }

    #[test]
    fn specialists_share_the_fields_evenly() {
        let kinds = MinerMix { specialist: 20, ..MinerMix::NONE }.kinds(Seed(1)).unwrap();
        for field in 0..FIELDS {
            assert_eq!(kinds.iter().filter(|kind| **kind == MinerKind::Specialist(Field(field))).count(), 2);
        }
    }

    #[test]
    fn the_order_repeats_for_a_seed_and_differs_between_seeds() {
        let mix = MinerMix::default();
        assert_eq!(mix.kinds(Seed(7)).unwrap(), mix.kinds(Seed(7)).unwrap());
        let first: std::collections::HashSet<_> = (0..64).map(|seed| mix.kinds(Seed(seed)).unwrap()[0]).collect();
        assert!(first.len() >= 8, "the first place goes to {} kinds only", first.len());
    }

    #[test]
    fn an_impossible_mix_is_refused_before_anything_starts() {
        let seed = Seed(0);
        assert_eq!(MinerMix::NONE.kinds(seed), Err(BadMix::Size { found: 0, allowed: 1..=MAX_MINERS }));
        let crowd = MinerMix { good: u16::MAX, fair: u16::MAX, ..MinerMix::NONE };
        assert!(matches!(crowd.kinds(seed), Err(BadMix::Size { found: 131_070, .. })));
        let copycats = MinerMix { copycat: 2, slow: 1, ..MinerMix::NONE };
        assert_eq!(copycats.kinds(seed), Err(BadMix::NobodyToCopy { copycats: 2 }));
    }

    #[test]
    fn a_mix_is_read_strictly_and_missing_counts_are_the_defaults() {
        let mix: MinerMix = toml::from_str("good = 5").unwrap();
        assert_eq!(mix, MinerMix { good: 5, ..MinerMix::default() });
        assert!(toml::from_str::<MinerMix>("goood = 5").is_err());
    }

    #[test]
    fn labels_are_the_keys_of_the_mix() {
        let keys = serde_json::to_value(MinerMix::default()).unwrap();
        for kind in MinerKind::ALL {
            assert!(keys.get(kind.label()).is_some(), "{kind}");
        }
    }
}
