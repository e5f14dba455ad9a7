//! One reason to stop, told to everybody.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Carries the first reason to stop. Clones are the same token.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    reason: Arc<Mutex<Option<Reason>>>,
}

/// Why the program stops; decides its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The work asked for is done.
    Finished,
    /// The operator asked: Ctrl-C, SIGTERM.
    Signal(&'static str),
    /// Something cannot go on, e.g. an actor that spent its restart budget.
    Fault {
        /// Which part.
        part: String,
        /// What happened.
        what: String,
    },
}

impl Shutdown {
    /// Asks everybody to stop. Only the first reason is kept.
    pub fn request(&self, reason: Reason) {
        let mut kept = self.reason.lock();
        if kept.is_none() {
            match &reason {
                Reason::Fault { part, what } => tracing::error!(part, what, "stopping"),
                reason => tracing::info!(%reason, "stopping"),
            }
            *kept = Some(reason);
        }
        drop(kept);
        self.token.cancel();
    }

    /// Resolves when somebody asked.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The first reason, once there is one.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason.lock().clone()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Signal(name) => write!(f, "asked by {name}"),
            Self::Fault { part, what } => write!(f, "{part} cannot go on: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_is_kept() {
        let shutdown = Shutdown::default();
        assert!(!shutdown.is_requested());
        shutdown.request(Reason::Signal("SIGTERM"));
        shutdown.request(Reason::Finished);
        shutdown.requested().await;
        assert_eq!(shutdown.reason(), Some(Reason::Signal("SIGTERM")));
    }
}
