//! Whether the validator is alive and ready, as a table of named checks that the program fills.

use std::collections::BTreeMap;

use serde::Serialize;

/// Answers at once, from state that is there already: `Err` says why not.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks behind `/health` and `/ready`.
#[derive(Default)]
pub struct Health {
    live: Vec<(String, Check)>,
    ready: Vec<(String, Check)>,
}

/// The answer of either endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// Whether every part is well.
    pub ok: bool,
    /// Each part: `ok`, or what is wrong with it.
    pub parts: BTreeMap<String, String>,
}

// === impl Health ===

impl Health {
    /// Nothing to check: always well.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check of both endpoints: a part that makes no progress needs a restart.
    #[must_use]
    pub fn live(mut self, part: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.live.push((part.to_owned(), Box::new(check)));
        self
    }

    /// Adds a check of `/ready` only: a part that is not there yet needs time.
    #[must_use]
    pub fn ready(mut self, part: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.ready.push((part.to_owned(), Box::new(check)));
        self
    }

    /// Whether every part makes progress.
    #[must_use]
    pub fn is_live(&self) -> HealthReport {
        HealthReport::of(self.live.iter())
    }

    /// Whether the validator does its work.
    #[must_use]
    pub fn is_ready(&self) -> HealthReport {
        HealthReport::of(self.live.iter().chain(&self.ready))
    }
}

impl HealthReport {
    fn of<'a>(checks: impl Iterator<Item = &'a (String, Check)>) -> Self {
        let mut report = Self { ok: true, parts: BTreeMap::new() };
        for (part, check) in checks {
            let found = check();
            report.ok &= found.is_ok();
            let words = found.err().unwrap_or_else(|| "ok".to_owned());
            // Two checks of one part: the one that complains is heard.
            if words != "ok" || !report.parts.contains_key(part) {
                report.parts.insert(part.clone(), words);
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_asks_more_than_live() {
        let health = Health::new()
            .live("ledger", || Ok(()))
            .ready("ledger", || Err("replaying".into()))
            .ready("chain", || Ok(()));
        assert!(health.is_live().ok);
        let ready = health.is_ready();
        assert!(!ready.ok);
        assert_eq!(ready.parts["ledger"], "replaying");
        assert_eq!(ready.parts["chain"], "ok");
        assert!(Health::new().is_ready().ok);
    }
}
