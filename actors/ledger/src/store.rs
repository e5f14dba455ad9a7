//! The database itself: synchronous, no actix, no clock. Every write is one transaction, durable when it returns.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use openvalidators_messages::{
    ForwardId, IntentId, Sequence, StepId, StepOutcome, StepRecord,
    ledger::{LedgerError, Settlement, Snapshot, StoredIntent, StoredStep, WeightIntent},
};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{
    fault::{Fault, ledger_number, our_number},
    open::{DirectoryLock, Identity, LEDGER_FILE, OpenError, open_for_writing},
    reader,
};

mod retention;

pub(crate) use retention::without_texts;
pub use retention::{Archive, FORGET_BATCH_STEPS, PRUNE_BATCH_STEPS};

#[cfg(test)]
mod crash;
#[cfg(test)]
pub(crate) mod tests;

/// After so many steps an owner's snapshot is not replaced but put aside: from it `replay` folds what followed.
pub const ARCHIVE_EVERY_STEPS: u64 = 5_000;

/// An open ledger. While it lives, no other process can open the same state directory for writing.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    file: PathBuf,
    /// Who asked for a snapshot or cursor since the ledger was opened: pruning waits for these readers.
    seen: BTreeSet<Party>,
    // Declared last: released only when the connection is closed.
    _lock: DirectoryLock,
}

/// Someone whose place in the ledger pruning respects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Party {
    Owner(&'static str),
    Reader(&'static str),
}

impl Store {
    /// Opens the ledger of a state directory, or makes it. A file of at most `check_up_to_bytes` is checked for damage first.
    ///
    /// # Errors
    /// At once when another process is inside, when the file is another validator's, another version's, foreign or damaged;
    /// the database is then as it was.
    pub fn open(directory: &Path, identity: &Identity, check_up_to_bytes: u64) -> Result<Self, OpenError> {
        let (connection, lock) = open_for_writing(directory, identity, check_up_to_bytes)?;
        Ok(Self { connection, file: directory.join(LEDGER_FILE), seen: BTreeSet::new(), _lock: lock })
    }

    // --- steps ---

    /// Appends a step at the next place. The same step again gets the place it has.
    ///
    /// # Errors
    /// When the same step id lies there with other contents, when the record holds a number JSON cannot (NaN, infinity), or
    /// when the disk refuses.
    pub fn append(&mut self, record: &StepRecord) -> Result<Sequence, LedgerError> {
        let attempted = "append a step";
        let json = to_json("step record", record).map_err(|fault| fault.during(attempted))?;
        self.write(attempted, |transaction| {
            let forward = ledger_number("a forward id", record.step.forward.0)?;
            if let Some((sequence, there)) = find_step(transaction, forward, record.step)? {
                return if there == json {
                    Ok(sequence)
                } else {
                    Err(Fault::Refused(format!("step {} is at {sequence} already, with other contents", record.step)))
                };
            }
            let next = reader::latest(transaction)?.next();
            transaction
                .prepare_cached(
                    "INSERT INTO steps (sequence, forward, idx, record, digest) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute((ledger_number("a sequence", next.0)?, forward, record.step.index, &json, digest(&json)))?;
            Ok(next)
        })
    }

    /// Stores what the folds made of a step, replacing what was there.
    ///
    /// # Errors
    /// When there is no such step (never appended, or pruned), when the outcome holds a number JSON cannot, or when the disk
    /// refuses.
    pub fn store_outcome(&mut self, sequence: Sequence, outcome: &StepOutcome) -> Result<(), LedgerError> {
        let attempted = "store an outcome";
        let json = to_json("outcome", outcome).map_err(|fault| fault.during(attempted))?;
        self.write(attempted, |transaction| {
            let place = ledger_number("a sequence", sequence.0)?;
            if !transaction.prepare_cached("SELECT 1 FROM steps WHERE sequence = ?1")?.exists([place])? {
                return Err(Fault::Refused(format!("step {sequence} is not in the ledger: never appended, or pruned")));
            }
            transaction
                .prepare_cached("INSERT OR REPLACE INTO outcomes (sequence, outcome) VALUES (?1, ?2)")?
                .execute((place, json))?;
            Ok(())
        })
    }

    /// As [`crate::Reader::read_steps`].
    ///
    /// # Errors
    /// When the database cannot be read, or a row is not what it should be.
    pub fn read_steps(&self, after: Sequence, limit: usize) -> Result<Vec<StoredStep>, LedgerError> {
        reader::read_steps(&self.connection, after, limit).map_err(|fault| fault.during("read steps"))
    }

    /// The place of the latest step; 0 when there is none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn latest(&self) -> Result<Sequence, LedgerError> {
        reader::latest(&self.connection).map_err(|fault| fault.during("read the latest place"))
    }

    /// The first forward id that no step of this directory ever had, pruned ones included.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn next_forward(&self) -> Result<ForwardId, LedgerError> {
        let highest = || -> Result<Option<u64>, Fault> {
            let highest: Option<i64> = self.connection.query_row(
                "SELECT max(forward) FROM (SELECT max(forward) AS forward FROM steps
                                           UNION ALL SELECT highest_forward FROM pruned)",
                [],
                |row| row.get(0),
            )?;
            highest.map(our_number).transpose()
        };
        let highest = highest().map_err(|fault| fault.during("find the next forward"))?;
        Ok(ForwardId(highest.map_or(1, |forward| forward + 1)))
    }

    // --- owners of state, and readers ---

    /// Keeps an owner's state, replacing its earlier snapshot; one in [`ARCHIVE_EVERY_STEPS`] is put aside, and one from before
    /// the first step: nothing else says what an import began with.
    ///
    /// # Errors
    /// When the snapshot is ahead of the ledger or behind the one it would replace, or when the disk refuses.
    pub fn save_snapshot(&mut self, owner: &'static str, snapshot: &Snapshot) -> Result<(), LedgerError> {
        self.seen.insert(Party::Owner(owner));
        self.write("save a snapshot", |transaction| {
            refuse_ahead(transaction, snapshot.sequence)?;
            let place = ledger_number("a sequence", snapshot.sequence.0)?;
            let there: Option<i64> = transaction
                .prepare_cached("SELECT sequence FROM snapshots WHERE owner = ?1")?
                .query_row([owner], |row| row.get(0))
                .optional()?;
            if let Some(there) = there.filter(|there| *there > place) {
                return Err(Fault::Refused(format!("`{owner}` has a snapshot at {there}, this one is at {place}")));
            }
            let every = ledger_number("a distance", ARCHIVE_EVERY_STEPS)?;
            transaction
                .prepare_cached(
                    "INSERT INTO archive SELECT * FROM snapshots WHERE owner = ?1 AND sequence < ?2 AND (sequence = 0 OR
                         sequence >= coalesce((SELECT max(sequence) + ?3 FROM archive WHERE owner = ?1 AND sequence > 0), 1))",
                )?
                .execute((owner, place, every))?;
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO snapshots (owner, sequence, version, state) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute((owner, place, snapshot.version, &snapshot.state))?;
            Ok(())
        })
    }

    /// An owner's latest snapshot. From now on pruning keeps what comes after it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn load_snapshot(&mut self, owner: &'static str) -> Result<Option<Snapshot>, LedgerError> {
        self.seen.insert(Party::Owner(owner));
        reader::load_snapshot(&self.connection, owner).map_err(|fault| fault.during("load a snapshot"))
    }

    /// Keeps how far a reader has come. It may go back.
    ///
    /// # Errors
    /// When the place is ahead of the ledger, or when the disk refuses.
    pub fn save_cursor(&mut self, reader: &'static str, sequence: Sequence) -> Result<(), LedgerError> {
        self.seen.insert(Party::Reader(reader));
        self.write("save a cursor", |transaction| {
            refuse_ahead(transaction, sequence)?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO cursors (reader, sequence) VALUES (?1, ?2)")?
                .execute((reader, ledger_number("a sequence", sequence.0)?))?;
            Ok(())
        })
    }

    /// How far a reader had come; 0 for a new one. From now on pruning waits for it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn load_cursor(&mut self, reader: &'static str) -> Result<Sequence, LedgerError> {
        self.seen.insert(Party::Reader(reader));
        let found = reader::load_cursor(&self.connection, reader).map_err(|fault| fault.during("load a cursor"))?;
        Ok(found.unwrap_or_default())
    }

    // --- weight intents ---

    /// Records an intent. If the latest intent is the same and still open, it is the one meant.
    ///
    /// # Errors
    /// When its columns are not of one length, or when the disk refuses.
    pub fn record_intent(&mut self, intent: &WeightIntent) -> Result<IntentId, LedgerError> {
        let attempted = "record an intent";
        let (uids, hotkeys, weights) = (intent.uids.len(), intent.hotkeys.len(), intent.weights.len());
        if uids != hotkeys || uids != weights {
            let reason = format!("it names {uids} uids, {hotkeys} hotkeys and {weights} weights");
            return Err(Fault::Refused(reason).during(attempted));
        }
        let json = to_json("intent", intent).map_err(|fault| fault.during(attempted))?;
        self.write(attempted, |transaction| {
            let latest = reader::read_intents(transaction, 1)?.pop();
            if let Some(latest) = &latest
                && latest.settlement == Settlement::Open
                && latest.intent == *intent
            {
                return Ok(latest.id);
            }
            let next = IntentId(latest.map_or(0, |latest| latest.id.0) + 1);
            transaction
                .prepare_cached("INSERT INTO intents (id, intent) VALUES (?1, ?2)")?
                .execute((ledger_number("an intent id", next.0)?, json))?;
            Ok(next)
        })
    }

    /// Records how far an intent has come. The same again changes nothing; an end is final.
    ///
    /// # Errors
    /// When there is no such intent, when it has ended otherwise, or when the disk refuses.
    pub fn settle_intent(&mut self, id: IntentId, settlement: &Settlement) -> Result<(), LedgerError> {
        let attempted = "settle an intent";
        let json = to_json("settlement", settlement).map_err(|fault| fault.during(attempted))?;
        self.write(attempted, |transaction| {
            let place = ledger_number("an intent id", id.0)?;
            if !transaction.prepare_cached("SELECT 1 FROM intents WHERE id = ?1")?.exists([place])? {
                return Err(Fault::Refused(format!("there is no intent {id}")));
            }
            let latest: Option<(i64, String)> = transaction
                .prepare_cached(
                    "SELECT ordinal, settlement FROM settlements WHERE intent = ?1 ORDER BY ordinal DESC LIMIT 1",
                )?
                .query_row([place], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let (ordinal, there) = match latest {
                Some((ordinal, there)) => {
                    let there = serde_json::from_str(&there)
                        .map_err(|error| Fault::unreadable(format!("the settlement of intent {id}"), &error))?;
                    (ordinal, there)
                }
                None => (0, Settlement::Open),
            };
            if there == *settlement {
                return Ok(());
            }
            if !matches!(there, Settlement::Open | Settlement::Committed { .. }) || *settlement == Settlement::Open {
                return Err(Fault::Refused(format!("intent {id} is {there:?}, it cannot become {settlement:?}")));
            }
            transaction
                .prepare_cached("INSERT INTO settlements (intent, ordinal, settlement) VALUES (?1, ?2, ?3)")?
                .execute((place, ordinal + 1, json))?;
            Ok(())
        })
    }

    /// As [`crate::Reader::read_intents`].
    ///
    /// # Errors
    /// When the database cannot be read, or a row is not what it should be.
    pub fn read_intents(&self, limit: usize) -> Result<Vec<StoredIntent>, LedgerError> {
        reader::read_intents(&self.connection, limit).map_err(|fault| fault.during("read intents"))
    }

    /// Bytes on disk: the database and its write-ahead log.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let mut log = self.file.clone().into_os_string();
        log.push("-wal");
        let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
        size(&self.file) + size(Path::new(&log))
    }

    fn write<T>(
        &mut self,
        attempted: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, LedgerError> {
        // Dropping a transaction that was not committed rolls it back.
        let run = || -> Result<T, Fault> {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|fault| fault.during(attempted))
    }
}

/// sha256 of a record as it lies there: SQLite itself would not notice a letter that has become another.
pub(crate) fn digest(json: &str) -> [u8; 32] {
    Sha256::digest(json).into()
}

fn find_step(transaction: &Transaction<'_>, forward: i64, step: StepId) -> Result<Option<(Sequence, String)>, Fault> {
    let found: Option<(i64, String)> = transaction
        .prepare_cached("SELECT sequence, record FROM steps WHERE forward = ?1 AND idx = ?2")?
        .query_row((forward, step.index), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found.map(|(sequence, record)| Ok((Sequence(our_number(sequence)?), record))).transpose()
}

/// No owner and no reader can know more than the ledger.
fn refuse_ahead(transaction: &Transaction<'_>, sequence: Sequence) -> Result<(), Fault> {
    let latest = reader::latest(transaction)?;
    if sequence > latest {
        return Err(Fault::Refused(format!("{sequence} is ahead of the ledger, whose latest step is {latest}")));
    }
    Ok(())
}

/// Whatever is acknowledged can be read back: JSON turns NaN and infinity into null, so the text is read once before it is
/// written.
fn to_json<T: Serialize + DeserializeOwned + PartialEq>(what: &str, value: &T) -> Result<String, Fault> {
    let refuse = |error: &dyn std::fmt::Display| Fault::Refused(format!("the {what} does not survive JSON: {error}"));
    let json = serde_json::to_string(value).map_err(|error| refuse(&error))?;
    let back: T = serde_json::from_str(&json).map_err(|error| refuse(&error))?;
    if back == *value { Ok(json) } else { Err(refuse(&"it holds a number that is not finite")) }
}
