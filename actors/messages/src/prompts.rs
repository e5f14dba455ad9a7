//! Inbox of `actors/prompts`: contexts for new forwards.

use std::sync::Arc;

use actix::Message;

use crate::ForwardId;

/// Asks for the text a forward will be about.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Context, SourceError>")]
pub struct Draw {
    /// Same forward and seed, same choice: of sources, and of the texts that a source has ready.
    pub forward: ForwardId,
}

/// A text drawn from a source, long enough to be summarised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The source's name and the place within it, e.g. `embedded:earth-and-climate/7`; [`topic`] reads it.
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

/// What a text is about, as far as its source says: `earth-and-climate` of `embedded:earth-and-climate/7`.
#[must_use]
pub fn topic(source: &str) -> Option<&str> {
    let (_, place) = source.split_once(':')?;
    let (topic, _) = place.rsplit_once('/')?;
    Some(topic).filter(|topic| !topic.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_stands_between_name_and_place() {
        assert_eq!(topic("embedded:earth-and-climate/7"), Some("earth-and-climate"));
        assert_eq!(topic("directory:physics/optics/a.txt:3"), Some("physics/optics"));
        assert_eq!(["", "embedded:7", "stdin", "a:/7"].map(topic), [None; 4]);
    }
}
