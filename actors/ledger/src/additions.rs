//! What was added to schema version 1 since it was first written. Each addition leaves the file readable and writable by the
//! release before: columns may be missing from its `INSERT`s, tables it does not know stay as they are. So going back to that
//! release, and forward again, loses nothing. A change that cannot be such an addition raises
//! [`SCHEMA_VERSION`](crate::SCHEMA_VERSION), and copies the file first.

use rusqlite::{Connection, TransactionBehavior};

/// Table, column, and what adds it.
const COLUMNS: [(&str, &str, &str); 2] = [
    ("steps", "digest", "ALTER TABLE steps ADD COLUMN digest BLOB"),
    ("pruned", "textless_until", "ALTER TABLE pruned ADD COLUMN textless_until INTEGER NOT NULL DEFAULT 0"),
];

/// Tables, as in `schema.sql`.
const TABLES: &str = "CREATE TABLE IF NOT EXISTS archive (
    owner    TEXT NOT NULL,
    sequence INTEGER NOT NULL CHECK (sequence >= 0),
    version  INTEGER NOT NULL,
    state    BLOB NOT NULL,
    PRIMARY KEY (owner, sequence)
) STRICT, WITHOUT ROWID";

/// Adds what an older file lacks, in one transaction.
pub(crate) fn add(connection: &mut Connection) -> rusqlite::Result<()> {
    if is_complete(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (table, column, sql) in COLUMNS {
        if !has_column(&transaction, table, column)? {
            transaction.execute_batch(sql)?;
        }
    }
    transaction.execute_batch(TABLES)?;
    transaction.commit()?;
    tracing::info!("the ledger of an earlier release was completed; that release can still use it");
    Ok(())
}

/// Whether a file has everything; one that is only read may not.
pub(crate) fn is_complete(connection: &Connection) -> rusqlite::Result<bool> {
    for (table, column, _) in COLUMNS {
        if !has_column(connection, table, column)? {
            return Ok(false);
        }
    }
    connection.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'archive'")?.exists([])
}

fn has_column(connection: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    connection.prepare("SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2")?.exists([table, column])
}

#[cfg(test)]
mod tests;
