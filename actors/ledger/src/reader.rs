//! Reading a ledger: what the writer and the offline tools share.

use std::{path::Path, sync::Arc};

use openvalidators_messages::{
    IntentId, Sequence,
    ledger::{LedgerError, Settlement, Snapshot, StoredIntent, StoredStep},
};
use rusqlite::{Connection, OptionalExtension, Rows};

use crate::{
    additions,
    fault::{Fault, ledger_number, our_number},
    open::{Identity, OpenError, open_for_reading},
};

/// Most steps that one read returns, whatever was asked.
pub const READ_LIMIT_STEPS: usize = 1_000;

/// A read stops after the step that brings its JSON past this size.
pub const READ_LIMIT_BYTES: usize = 32 << 20;

/// Most intents that one read returns, whatever was asked.
pub const READ_LIMIT_INTENTS: usize = 1_000;

/// Intents that [`Reader::intents`] has in memory at a time.
const PAGE_INTENTS: usize = 100;

/// An open ledger that is only read, for the offline tools. It may be opened while a validator writes.
#[derive(Debug)]
pub struct Reader {
    pub(crate) connection: Connection,
    identity: Identity,
}

// === impl Reader ===

impl Reader {
    /// Opens the ledger of a state directory; takes no lock and changes nothing.
    ///
    /// # Errors
    /// When there is no ledger of this version, or it cannot be read.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let (connection, identity) = open_for_reading(directory)?;
        Ok(Self { connection, identity })
    }

    pub(crate) fn over(connection: Connection, identity: Identity) -> Self {
        Self { connection, identity }
    }

    /// Whose ledger it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Steps after a place, in order: at most `limit`, at most [`READ_LIMIT_STEPS`], and not far past
    /// [`READ_LIMIT_BYTES`]. Only an empty answer means that there are no more. After pruning the first one may lie further on.
    ///
    /// # Errors
    /// When the database cannot be read, or a row is not what it should be.
    pub fn read_steps(&self, after: Sequence, limit: usize) -> Result<Vec<StoredStep>, LedgerError> {
        read_steps(&self.connection, after, limit).map_err(|fault| fault.during("read steps"))
    }

    /// Intents with their state now, latest first, at most [`READ_LIMIT_INTENTS`].
    ///
    /// # Errors
    /// As [`Self::read_steps`].
    pub fn read_intents(&self, limit: usize) -> Result<Vec<StoredIntent>, LedgerError> {
        read_intents(&self.connection, limit).map_err(|fault| fault.during("read intents"))
    }

    /// All intents with their state now, oldest first, read page by page.
    ///
    /// # Errors
    /// As [`Self::read_steps`]; nothing follows an error.
    pub fn intents(&self) -> impl Iterator<Item = Result<StoredIntent, LedgerError>> {
        let (mut page, mut after, mut is_over) = (Vec::new().into_iter(), IntentId(0), false);
        std::iter::from_fn(move || {
            if page.len() == 0 && !is_over {
                match intents_after(&self.connection, after, PAGE_INTENTS) {
                    Ok(next) => page = next.into_iter(),
                    Err(fault) => {
                        is_over = true;
                        return Some(Err(fault.during("read intents")));
                    }
                }
                is_over = page.len() < PAGE_INTENTS;
                after = page.as_slice().last().map_or(after, |stored| stored.id);
            }
            page.next().map(Ok)
        })
    }

    /// How an intent went on, oldest first.
    ///
    /// # Errors
    /// As [`Self::read_steps`].
    pub fn read_settlements(&self, id: IntentId) -> Result<Vec<Settlement>, LedgerError> {
        let read = || -> Result<Vec<Settlement>, Fault> {
            let mut statement = self
                .connection
                .prepare_cached("SELECT settlement FROM settlements WHERE intent = ?1 ORDER BY ordinal")?;
            let mut rows = statement.query([ledger_number("an intent id", id.0)?])?;
            let mut settlements = Vec::new();
            while let Some(row) = rows.next()? {
                let unreadable = |error| Fault::unreadable(format!("a settlement of intent {id}"), &error);
                settlements.push(serde_json::from_str(row.get_ref(0)?.as_str()?).map_err(unreadable)?);
            }
            Ok(settlements)
        };
        read().map_err(|fault| fault.during("read settlements"))
    }

    /// An owner's latest snapshot.
    ///
    /// # Errors
    /// As [`Self::read_steps`].
    pub fn load_snapshot(&self, owner: &str) -> Result<Option<Snapshot>, LedgerError> {
        load_snapshot(&self.connection, owner).map_err(|fault| fault.during("load a snapshot"))
    }

    /// The latest state of an owner that is not past a place: its snapshot, or one put aside.
    ///
    /// # Errors
    /// As [`Self::read_steps`].
    pub fn load_state_until(&self, owner: &str, last: Sequence) -> Result<Option<Snapshot>, LedgerError> {
        load_state_until(&self.connection, owner, last).map_err(|fault| fault.during("load a snapshot"))
    }

    /// Places of the states of an owner that can be loaded, ascending.
    ///
    /// # Errors
    /// As [`Self::read_steps`].
    pub fn states(&self, owner: &str) -> Result<Vec<Sequence>, LedgerError> {
        states(&self.connection, owner).map_err(|fault| fault.during("list snapshots"))
    }

    /// The place of the oldest step; 0 when there is none.
    ///
    /// # Errors
    /// As [`Self::read_steps`].
    pub fn oldest(&self) -> Result<Sequence, LedgerError> {
        oldest(&self.connection).map_err(|fault| fault.during("read the oldest place"))
    }

    /// Steps up to this one have no texts any more.
    ///
    /// # Errors
    /// As [`Self::read_steps`].
    pub fn textless_until(&self) -> Result<Sequence, LedgerError> {
        let read = || -> Result<Sequence, Fault> {
            if !additions::is_complete(&self.connection)? {
                return Ok(Sequence(0));
            }
            let until = self.connection.query_row("SELECT textless_until FROM pruned", [], |row| row.get(0))?;
            our_number(until).map(Sequence)
        };
        read().map_err(|fault| fault.during("read what retention took"))
    }

    /// The place of the latest step; 0 when there is none.
    ///
    /// # Errors
    /// As [`Self::read_steps`].
    pub fn latest(&self) -> Result<Sequence, LedgerError> {
        latest(&self.connection).map_err(|fault| fault.during("read the latest place"))
    }
}

// === Queries ===

pub(crate) fn read_steps(connection: &Connection, after: Sequence, limit: usize) -> Result<Vec<StoredStep>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, record, outcome FROM steps LEFT JOIN outcomes USING (sequence)
         WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let limit = limit.min(READ_LIMIT_STEPS);
    let mut rows = statement.query((ledger_number("a sequence", after.0)?, limit as i64))?;
    let (mut steps, mut bytes) = (Vec::new(), 0);
    while bytes < READ_LIMIT_BYTES
        && let Some(row) = rows.next()?
    {
        let sequence = Sequence(our_number(row.get(0)?)?);
        let (record, outcome) = (row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str_or_null()?);
        bytes += record.len() + outcome.map_or(0, str::len);
        let unreadable = |what| move |error| Fault::unreadable(format!("the {what} of step {sequence}"), &error);
        steps.push(StoredStep {
            sequence,
            record: Arc::new(serde_json::from_str(record).map_err(unreadable("record"))?),
            outcome: outcome.map(serde_json::from_str).transpose().map_err(unreadable("outcome"))?.map(Arc::new),
        });
    }
    Ok(steps)
}

pub(crate) fn read_intents(connection: &Connection, limit: usize) -> Result<Vec<StoredIntent>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT id, intent, (SELECT settlement FROM settlements WHERE intent = id ORDER BY ordinal DESC LIMIT 1)
         FROM intents ORDER BY id DESC LIMIT ?1",
    )?;
    stored_intents(statement.query([limit.min(READ_LIMIT_INTENTS) as i64])?)
}

fn intents_after(connection: &Connection, after: IntentId, limit: usize) -> Result<Vec<StoredIntent>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT id, intent, (SELECT settlement FROM settlements WHERE intent = id ORDER BY ordinal DESC LIMIT 1)
         FROM intents WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    stored_intents(statement.query((ledger_number("an intent id", after.0)?, limit as i64))?)
}

fn stored_intents(mut rows: Rows<'_>) -> Result<Vec<StoredIntent>, Fault> {
    let mut intents = Vec::new();
    while let Some(row) = rows.next()? {
        let id = IntentId(our_number(row.get(0)?)?);
        let unreadable = |what| move |error| Fault::unreadable(format!("the {what} {id}"), &error);
        let settlement = row.get_ref(2)?.as_str_or_null()?.map(serde_json::from_str).transpose();
        intents.push(StoredIntent {
            id,
            intent: serde_json::from_str(row.get_ref(1)?.as_str()?).map_err(unreadable("intent"))?,
            settlement: settlement.map_err(unreadable("settlement of intent"))?.unwrap_or(Settlement::Open),
        });
    }
    Ok(intents)
}

pub(crate) fn load_snapshot(connection: &Connection, owner: &str) -> Result<Option<Snapshot>, Fault> {
    let mut statement = connection.prepare_cached("SELECT sequence, version, state FROM snapshots WHERE owner = ?1")?;
    let row = statement.query_row([owner], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    row.map(|(sequence, version, state)| Ok(Snapshot { sequence: Sequence(our_number(sequence)?), version, state }))
        .transpose()
}

fn load_state_until(connection: &Connection, owner: &str, last: Sequence) -> Result<Option<Snapshot>, Fault> {
    let newest = load_snapshot_place(connection, owner)?;
    if newest.is_some_and(|newest| newest <= last) {
        return load_snapshot(connection, owner);
    }
    if !additions::is_complete(connection)? {
        return Ok(None);
    }
    let mut statement = connection.prepare_cached(
        "SELECT sequence, version, state FROM archive WHERE owner = ?1 AND sequence <= ?2 ORDER BY sequence DESC LIMIT 1",
    )?;
    let last = ledger_number("a sequence", last.0)?;
    let row = statement.query_row((owner, last), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    row.map(|(sequence, version, state)| Ok(Snapshot { sequence: Sequence(our_number(sequence)?), version, state }))
        .transpose()
}

fn states(connection: &Connection, owner: &str) -> Result<Vec<Sequence>, Fault> {
    let sql = match additions::is_complete(connection)? {
        true => {
            "SELECT sequence FROM (SELECT owner, sequence FROM archive UNION SELECT owner, sequence FROM snapshots)
             WHERE owner = ?1 ORDER BY sequence"
        }
        false => "SELECT sequence FROM snapshots WHERE owner = ?1",
    };
    let mut statement = connection.prepare_cached(sql)?;
    let places = statement.query_map([owner], |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()?;
    places.into_iter().map(|place| our_number(place).map(Sequence)).collect()
}

pub(crate) fn used_bytes(connection: &Connection) -> Result<u64, Fault> {
    let pragma =
        |name: &str| -> rusqlite::Result<i64> { connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)) };
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    our_number(pages * pragma("page_size")?)
}

/// Where an owner's snapshot is, without its bytes.
pub(crate) fn load_snapshot_place(connection: &Connection, owner: &str) -> Result<Option<Sequence>, Fault> {
    let mut statement = connection.prepare_cached("SELECT sequence FROM snapshots WHERE owner = ?1")?;
    let row: Option<i64> = statement.query_row([owner], |row| row.get(0)).optional()?;
    row.map(|sequence| our_number(sequence).map(Sequence)).transpose()
}

pub(crate) fn load_cursor(connection: &Connection, reader: &str) -> Result<Option<Sequence>, Fault> {
    let mut statement = connection.prepare_cached("SELECT sequence FROM cursors WHERE reader = ?1")?;
    let row: Option<i64> = statement.query_row([reader], |row| row.get(0)).optional()?;
    row.map(|sequence| our_number(sequence).map(Sequence)).transpose()
}

pub(crate) fn latest(connection: &Connection) -> Result<Sequence, Fault> {
    let mut statement = connection.prepare_cached("SELECT coalesce(max(sequence), 0) FROM steps")?;
    our_number(statement.query_row([], |row| row.get(0))?).map(Sequence)
}

pub(crate) fn oldest(connection: &Connection) -> Result<Sequence, Fault> {
    let mut statement = connection.prepare_cached("SELECT coalesce(min(sequence), 0) FROM steps")?;
    our_number(statement.query_row([], |row| row.get(0))?).map(Sequence)
}
