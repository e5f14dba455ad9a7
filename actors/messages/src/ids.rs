//! Typed ids that refuse to mix.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A miner's or validator's place on the subnet. Places are recycled: never key state by uid alone, use [`Hotkey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u16);

/// The number of a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Netuid(pub u16);

/// A block number of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Block(pub u64);

/// One conversation: augment, then four times followup and answer. Not reused within a state directory once
/// a step of it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForwardId(pub u64);

/// One step of a forward; `index` counts from 0 (augment).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepId {
    /// The conversation it belongs to.
    pub forward: ForwardId,
    /// 0 for augment, then 1, 2, … in the order asked.
    pub index: u8,
}

/// The place of a step in the ledger: dense, from 1. 0 means "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

/// The place of a weight intent in the ledger: dense, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntentId(pub u64);

/// An sr25519 public key that signs for a neuron. SS58 text exists only at the edges (`actors/keys`); files and
/// logs of ours hold `0x` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hotkey(pub [u8; 32]);

/// What a step asks for, with its round: the reference's names `augment`, `followup0`…`followup3`, `answer0`…`answer3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepName {
    /// Summarise the context.
    Augment,
    /// Ask the next question about what was said.
    Followup(u8),
    /// Answer that question.
    Answer(u8),
}

/// A [`StepName`] without its round: the label of metrics, and what filters compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// See [`StepName::Augment`].
    Augment,
    /// See [`StepName::Followup`].
    Followup,
    /// See [`StepName::Answer`].
    Answer,
}

// === impl Sequence ===

impl Sequence {
    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

// === impl Hotkey ===

impl fmt::Display for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hotkey({self})")
    }
}

impl FromStr for Hotkey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("expected 0x and 64 hexadecimal digits, found {} bytes of text", text.len()));
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|e| e.to_string())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|e| e.to_string())?;
        }
        Ok(Self(key))
    }
}

impl Serialize for Hotkey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hotkey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// === impl StepName ===

/// A step name that is none of `augment`, `followupK`, `answerK`.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no step name: expected augment, followupK or answerK")]
pub struct ParseStepNameError(String);

impl StepName {
    /// The name without its round.
    #[must_use]
    pub fn kind(self) -> StepKind {
        match self {
            Self::Augment => StepKind::Augment,
            Self::Followup(_) => StepKind::Followup,
            Self::Answer(_) => StepKind::Answer,
        }
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Augment => f.write_str("augment"),
            Self::Followup(round) => write!(f, "followup{round}"),
            Self::Answer(round) => write!(f, "answer{round}"),
        }
    }
}

impl FromStr for StepName {
    type Err = ParseStepNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let round = |digits: &str| digits.parse().map_err(|_| ParseStepNameError(text.to_owned()));
        match text {
            "augment" => Ok(Self::Augment),
            _ => match (text.strip_prefix("followup"), text.strip_prefix("answer")) {
                (Some(digits), _) => round(digits).map(Self::Followup),
                (_, Some(digits)) => round(digits).map(Self::Answer),
                _ => Err(ParseStepNameError(text.to_owned())),
            },
        }
    }
}

impl Serialize for StepName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StepName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// === impl StepKind ===

impl StepKind {
    /// Every kind, in the order of a forward.
    pub const ALL: [Self; 3] = [Self::Augment, Self::Followup, Self::Answer];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Augment => "augment",
            Self::Followup => "followup",
            Self::Answer => "answer",
        }
    }
}

// === Display of the plain numbers ===

macro_rules! display_number {
    ($($id:ty),*) => { $(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )* };
}
display_number!(Uid, Netuid, Block, ForwardId, Sequence, IntentId);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.forward, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_survive_the_round_trip() {
        for name in [StepName::Augment, StepName::Followup(0), StepName::Answer(3)] {
            assert_eq!(name.to_string().parse::<StepName>().unwrap(), name);
        }
        assert!("followup".parse::<StepName>().is_err());
        assert!("answer-1".parse::<StepName>().is_err());
        assert!("summary".parse::<StepName>().is_err());
    }

    #[test]
    fn a_hotkey_is_sixty_four_digits_in_json() {
        let key = Hotkey([0xab; 32]);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("\"0x{}\"", "ab".repeat(32)));
        assert_eq!(serde_json::from_str::<Hotkey>(&json).unwrap(), key);
        assert!(serde_json::from_str::<Hotkey>("\"0xab\"").is_err());
        assert!("é".repeat(32).parse::<Hotkey>().is_err());
    }
}
