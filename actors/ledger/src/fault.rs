//! What can go wrong inside one operation, before it is named.

use std::fmt::Display;

use openvalidators_messages::ledger::LedgerError;
use rusqlite::types::FromSqlError;

/// A cause that does not know its operation yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Column(#[from] FromSqlError),
    #[error("{0}")]
    Refused(String),
}

impl Fault {
    pub(crate) fn unreadable(what: String, error: &impl Display) -> Self {
        Self::Refused(format!("{what} cannot be read back: {error}"))
    }

    pub(crate) fn during(self, attempted: &'static str) -> LedgerError {
        LedgerError { attempted, reason: self.to_string() }
    }
}

/// SQLite's integers are signed.
pub(crate) fn ledger_number(what: &str, number: u64) -> Result<i64, Fault> {
    i64::try_from(number).map_err(|_| Fault::Refused(format!("{what} must be below 2^63, found {number}")))
}

pub(crate) fn our_number(number: i64) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::Refused(format!("expected a number from 0, found {number}")))
}
