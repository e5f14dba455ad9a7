//! What is given up, and when: texts first, then whole steps. Never what somebody has still to read, and never an intent.

use std::sync::Arc;

use openvalidators_messages::{
    Sequence, StepRecord,
    ledger::{LedgerError, StoredStep},
};
use rusqlite::{OptionalExtension, Transaction};

use super::{Party, Store, digest, to_json};
use crate::{
    fault::{Fault, ledger_number, our_number},
    reader,
};

/// Most steps that one call of [`Store::prune`] removes, so that no append waits long for it.
pub const PRUNE_BATCH_STEPS: u64 = 256;

/// Where whole steps go when the ledger gives them up.
pub trait Archive: Send {
    /// Keeps steps, oldest first, [`PRUNE_BATCH_STEPS`] of them, without texts; durably before it returns, for then they go
    /// from the ledger. After a crash in between the very same ones come again.
    ///
    /// # Errors
    /// Why they could not be kept, in words; the ledger then keeps them.
    fn keep(&mut self, steps: &[StoredStep]) -> Result<(), String>;
}

/// Most steps whose texts one call of [`Store::forget_texts`] drops.
pub const FORGET_BATCH_STEPS: u64 = 128;

/// Most pages that one call of [`Store::shrink`] gives back to the file system: 16 MiB of 4 KiB pages.
const SHRINK_PAGES: u32 = 4_096;

// === impl Store ===

impl Store {
    /// Removes the oldest steps, at most [`PRUNE_BATCH_STEPS`], as far as nobody needs them: the latest `keep_steps` stay, and
    /// so does what follows any snapshot, or the place of any owner or reader that was seen since the ledger was opened.
    /// Snapshots, cursors and intents always stay. Returns how many were removed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn prune(&mut self, keep_steps: u64) -> Result<u64, LedgerError> {
        self.give_up(keep_steps, None)
    }

    /// As [`Self::prune`], [`PRUNE_BATCH_STEPS`] at a time or none, after an archive has kept them.
    ///
    /// # Errors
    /// When the archive or the disk refuses; nothing was removed then.
    pub fn roll(&mut self, keep_steps: u64, archive: &mut dyn Archive) -> Result<u64, LedgerError> {
        self.give_up(keep_steps, Some(archive))
    }

    fn give_up(&mut self, keep_steps: u64, archive: Option<&mut dyn Archive>) -> Result<u64, LedgerError> {
        let seen = self.seen.clone();
        self.write("prune old steps", |transaction| {
            let latest = reader::latest(transaction)?.0;
            let oldest = reader::oldest(transaction)?.0;
            // The latest step always stays: its place is where the next one is counted from.
            let last = latest.saturating_sub(keep_steps.max(1)).min(needed_after(transaction, &seen)?);
            if oldest == 0 || last < oldest {
                return Ok(0);
            }
            let batch_end = oldest + PRUNE_BATCH_STEPS - 1;
            if let Some(archive) = archive {
                if last < batch_end {
                    return Ok(0);
                }
                let steps = read_without_texts(transaction, oldest, batch_end)?;
                archive.keep(&steps).map_err(Fault::Refused)?;
            }
            let last = ledger_number("a sequence", last.min(batch_end))?;
            transaction.execute(
                "UPDATE pruned SET highest_forward =
                     (SELECT max(forward) FROM (SELECT forward FROM steps WHERE sequence <= ?1
                                                UNION ALL SELECT highest_forward FROM pruned))",
                [last],
            )?;
            let removed = transaction.execute("DELETE FROM steps WHERE sequence <= ?1", [last])? as u64;
            // Of the states put aside, the one that the oldest step left can be folded from is the oldest of use.
            transaction.execute(
                "DELETE FROM archive WHERE sequence <
                     (SELECT max(kept.sequence) FROM archive AS kept
                      WHERE kept.owner = archive.owner AND kept.sequence <= ?1)",
                [last],
            )?;
            Ok(removed)
        })
    }

    /// Drops the texts of steps that began before `unix_seconds`, oldest first, at most [`FORGET_BATCH_STEPS`]: prompts,
    /// contexts and completions. Every number stays, so folds and `replay` go on as before. Not of steps that somebody has
    /// still to read. Returns how many lost their texts.
    ///
    /// # Errors
    /// When the disk refuses, or a record cannot be read.
    pub fn forget_texts(&mut self, unix_seconds: f64) -> Result<u64, LedgerError> {
        let seen = self.seen.clone();
        self.write("drop old texts", |transaction| {
            let until: i64 = transaction.query_row("SELECT textless_until FROM pruned", [], |row| row.get(0))?;
            let first = our_number(until)?.max(reader::oldest(transaction)?.0.saturating_sub(1)) + 1;
            let last = needed_after(transaction, &seen)?.min(first + FORGET_BATCH_STEPS - 1);
            let mut forgotten = 0;
            for place in first..=last {
                if !forget(transaction, ledger_number("a sequence", place)?, unix_seconds)? {
                    break;
                }
                forgotten += 1;
            }
            if forgotten > 0 {
                let until = ledger_number("a sequence", first + forgotten - 1)?;
                transaction.execute("UPDATE pruned SET textless_until = ?1", [until])?;
            }
            Ok(forgotten)
        })
    }

    /// Gives a bounded part of the file's free pages back to the file system, while the ledger is in use. Returns how many. A
    /// file made before this was possible keeps its size and fills its free pages first.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn shrink(&mut self) -> Result<u64, LedgerError> {
        let run = || -> Result<u64, Fault> {
            let free = || -> rusqlite::Result<i64> {
                self.connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))
            };
            let before = free()?;
            if before > 0 {
                let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({SHRINK_PAGES})"))?;
                let mut rows = statement.query([])?;
                while rows.next()?.is_some() {}
            }
            our_number((before - free()?).max(0))
        };
        run().map_err(|fault| fault.during("shrink the file"))
    }

    /// Bytes of the file that hold something: what a limit is compared with, for free pages are used again.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn used_bytes(&self) -> Result<u64, LedgerError> {
        reader::used_bytes(&self.connection).map_err(|fault| fault.during("measure the ledger"))
    }
}

/// The last step that every snapshot contains and everybody seen has read.
fn needed_after<'a>(transaction: &Transaction<'_>, seen: impl IntoIterator<Item = &'a Party>) -> Result<u64, Fault> {
    let slowest: Option<i64> = transaction.query_row("SELECT min(sequence) FROM snapshots", [], |row| row.get(0))?;
    let mut last = slowest.map(our_number).transpose()?.unwrap_or(0);
    for party in seen {
        let place = match party {
            Party::Owner(owner) => reader::load_snapshot_place(transaction, owner)?,
            Party::Reader(reader) => reader::load_cursor(transaction, reader)?,
        };
        last = last.min(place.unwrap_or_default().0);
    }
    Ok(last)
}

/// Steps `first` to `last`, as an archive has them.
fn read_without_texts(transaction: &Transaction<'_>, first: u64, last: u64) -> Result<Vec<StoredStep>, Fault> {
    let (mut steps, mut after) = (Vec::new(), Sequence(first - 1));
    while after.0 < last {
        let wanted = usize::try_from(last - after.0).unwrap_or(usize::MAX);
        let page = reader::read_steps(transaction, after, wanted)?;
        let Some(read) = page.last() else { break };
        after = read.sequence;
        steps.extend(page.into_iter().map(|mut step| {
            without_texts(Arc::make_mut(&mut step.record));
            step
        }));
    }
    Ok(steps)
}

/// Whether the step is there and old enough; then its texts are gone.
fn forget(transaction: &Transaction<'_>, place: i64, unix_seconds: f64) -> Result<bool, Fault> {
    let found: Option<String> = transaction
        .prepare_cached("SELECT record FROM steps WHERE sequence = ?1")?
        .query_row([place], |row| row.get(0))
        .optional()?;
    let Some(json) = found else { return Ok(false) };
    let unreadable = |error| Fault::unreadable(format!("the record of step {place}"), &error);
    let mut record: StepRecord = serde_json::from_str(&json).map_err(unreadable)?;
    if record.started_at >= unix_seconds {
        return Ok(false);
    }
    without_texts(&mut record);
    let json = to_json("step record", &record)?;
    transaction.prepare_cached("UPDATE steps SET record = ?2, digest = ?3 WHERE sequence = ?1")?.execute((
        place,
        &json,
        digest(&json),
    ))?;
    Ok(true)
}

/// Numbers stay, and names of sources; what people and miners wrote goes.
pub(crate) fn without_texts(record: &mut StepRecord) {
    record.prompt.clear();
    record.base_text.clear();
    for completion in &mut record.completions {
        completion.text.clear();
        completion.status_message.clear();
    }
}

#[cfg(test)]
mod tests;
