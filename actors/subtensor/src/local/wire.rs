//! One line of JSON each way, of limited length.

use openvalidators_messages::subtensor::ChainError;
use serde::{Deserialize, Serialize};
use tokio_util::codec::LinesCodec;

use super::node::{Answer, Request};

/// Raised when either side would misread the other.
pub(super) const VERSION: u16 = 2;
/// A weight vector for 1024 uids, written out, has less than 16 KiB.
pub(super) const MAX_REQUEST_BYTES: usize = 64 << 10;
/// A metagraph of 1024 neurons, written out, has less than 1 MiB.
pub(super) const MAX_ANSWER_BYTES: usize = 4 << 20;

/// What the client writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    pub version: u16,
    pub request: Request,
}

/// What the server writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Reply {
    Answer(Box<Answer>),
    Error(ChainError),
    /// The line was no request; the connection is closed after it.
    Unread {
        version: u16,
        reason: String,
    },
}

pub(super) fn codec(max_bytes: usize) -> LinesCodec {
    LinesCodec::new_with_max_length(max_bytes)
}
