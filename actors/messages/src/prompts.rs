//! Inbox of `actors/prompts`: contexts for new forwards.

use std::sync::Arc;

use actix::Message;

use crate::ForwardId;

/// Asks for the text a forward will be about.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Context, SourceError>")]
pub struct Draw {
    /// Same forward and seed, same text.
    pub forward: ForwardId,
}

/// A text drawn from a source, long enough to be summarised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The source's name and the place within it, e.g. `embedded:42`.
    pub source: String,
    /// The text, whole; the forward cuts it.
    pub text: Arc<str>,
}

/// No text could be drawn.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no text could be drawn from {source_name}: {reason}")]
pub struct SourceError {
    /// Which source.
    pub source_name: String,
    /// What was found.
    pub reason: String,
}
