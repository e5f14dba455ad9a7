//! What came back from a miner.

use serde::{Deserialize, Serialize};

use crate::{Hotkey, Uid};

/// One miner's reply to one step. There is one for every miner asked, in the order asked, whatever happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Whom we asked.
    pub uid: Uid,
    /// Who held that uid when we asked.
    pub hotkey: Hotkey,
    /// The miner's text, hostile until proven otherwise; empty unless the outcome is [`QueryOutcome::Answered`].
    pub text: String,
    /// What happened on the wire.
    pub outcome: QueryOutcome,
    /// Bittensor's status code: the axon's own, or the one its SDK's client would have made up (408, 422, 503, …).
    pub status_code: u16,
    /// The axon's words, or ours, cut to a bounded length.
    pub status_message: String,
    /// From the first byte sent until the outcome was known.
    pub elapsed_seconds: f64,
}

/// The closed set of ways a query can end; also the label of the dendrite's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryOutcome {
    /// Status 200 with a well-formed synapse (its text may still be empty).
    Answered,
    /// The deadline of the step came first.
    TimedOut,
    /// No connection, or it broke before an answer.
    Unreachable,
    /// The axon advertises an address we do not query (port 0, or a network we may not reach).
    BadAddress,
    /// The axon answered with a client error: 4xx.
    Refused,
    /// The axon answered with a server error: 5xx, or a status outside the known classes.
    Failed,
    /// The axon tried to send us elsewhere: 3xx, never followed.
    Redirected,
    /// The body passed the byte limit, or its completion the limit of characters.
    TooLarge,
    /// The bytes were no HTTP, or the headers passed their limits.
    BadProtocol,
    /// The body was not UTF-8.
    BadEncoding,
    /// The body was not the synapse we asked for.
    BadBody,
}

// === impl Completion ===

impl Completion {
    /// Whether there is a text to score.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.outcome == QueryOutcome::Answered
    }
}

// === impl QueryOutcome ===

impl QueryOutcome {
    /// Every outcome, so that each counter exists at zero from the start.
    pub const ALL: [Self; 11] = [
        Self::Answered,
        Self::TimedOut,
        Self::Unreachable,
        Self::BadAddress,
        Self::Refused,
        Self::Failed,
        Self::Redirected,
        Self::TooLarge,
        Self::BadProtocol,
        Self::BadEncoding,
        Self::BadBody,
    ];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::BadAddress => "bad_address",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Redirected => "redirected",
            Self::TooLarge => "too_large",
            Self::BadProtocol => "bad_protocol",
            Self::BadEncoding => "bad_encoding",
            Self::BadBody => "bad_body",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_serialised_names() {
        for outcome in QueryOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.label());
        }
    }
}
