//! Whether a ledger is whole: by SQLite's own account of the file, and by ours of what lies in it.

use openvalidators_messages::{Sequence, StepOutcome, StepRecord, ledger::LedgerError};
use rusqlite::types::ValueRef;

use crate::{Reader, additions, fault::Fault, fault::our_number, store::digest};

/// Most findings that one check reports; after so many it is clear enough.
pub const CHECK_FINDINGS: usize = 100;

/// What a check saw, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Place of the oldest step; 0 when there is none.
    pub oldest: Sequence,
    /// Place of the latest step.
    pub latest: Sequence,
    /// Steps read.
    pub steps: u64,
    /// Steps that have an outcome.
    pub outcomes: u64,
    /// Steps whose record was compared with its digest; the others were written by a release that made none.
    pub digests: u64,
    /// Intents read.
    pub intents: u64,
    /// Owners with a snapshot, and where it is.
    pub snapshots: Vec<(String, Sequence)>,
    /// What is wrong, at most [`CHECK_FINDINGS`].
    pub findings: Vec<String>,
}

// === impl Reader ===

impl Reader {
    /// Reads the whole ledger once: pages, indices and references of the file; that places are dense, records are what was
    /// written and can be read, no outcome is missing before a stored one, and no owner or reader is ahead of the steps.
    /// A validator may go on writing meanwhile.
    ///
    /// # Errors
    /// When the file cannot be read at all; what can be read and is wrong is a finding.
    pub fn check(&self) -> Result<Checked, LedgerError> {
        let run = || -> Result<Checked, Fault> {
            // One view of everything, whatever is written meanwhile.
            let transaction = self.connection.unchecked_transaction()?;
            let mut checked = Checked::default();
            self.check_file(&mut checked)?;
            self.check_steps(&mut checked)?;
            self.check_places(&mut checked)?;
            self.check_intents(&mut checked)?;
            transaction.finish()?;
            Ok(checked)
        };
        run().map_err(|fault| fault.during("check the ledger"))
    }

    fn check_file(&self, checked: &mut Checked) -> Result<(), Fault> {
        let mut statement = self.connection.prepare(&format!("PRAGMA integrity_check({CHECK_FINDINGS})"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let found: String = row.get(0)?;
            if found != "ok" {
                checked.find(format!("the file: {found}"));
            }
        }
        let mut statement = self.connection.prepare("PRAGMA foreign_key_check")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (table, place): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
            checked.find(format!("a row of `{table}` belongs to nothing: {}", place.unwrap_or_default()));
        }
        Ok(())
    }

    fn check_steps(&self, checked: &mut Checked) -> Result<(), Fault> {
        let digest_column = if additions::is_complete(&self.connection)? { "digest" } else { "NULL" };
        let mut statement = self.connection.prepare(&format!(
            "SELECT sequence, record, {digest_column}, outcome FROM steps LEFT JOIN outcomes USING (sequence)
             ORDER BY sequence"
        ))?;
        let mut rows = statement.query([])?;
        let mut waiting: Vec<Sequence> = Vec::new();
        while let Some(row) = rows.next()? {
            let sequence = Sequence(our_number(row.get(0)?)?);
            if checked.steps == 0 {
                checked.oldest = sequence;
            } else if sequence != checked.latest.next() {
                checked.find(format!("after step {} comes step {sequence}", checked.latest));
            }
            checked.latest = sequence;
            checked.steps += 1;
            let record = row.get_ref(1)?.as_str()?;
            if let Err(error) = serde_json::from_str::<StepRecord>(record) {
                checked.find(format!("the record of step {sequence} cannot be read: {error}"));
            }
            match row.get_ref(2)? {
                ValueRef::Null => {}
                ValueRef::Blob(there) if there == digest(record) => checked.digests += 1,
                _ => checked.find(format!("the record of step {sequence} is not the one that was written")),
            }
            let Some(outcome) = row.get_ref(3)?.as_str_or_null()? else {
                waiting.push(sequence);
                continue;
            };
            checked.outcomes += 1;
            if let Err(error) = serde_json::from_str::<StepOutcome>(outcome) {
                checked.find(format!("the outcome of step {sequence} cannot be read: {error}"));
            }
            for missing in waiting.drain(..) {
                checked.find(format!("step {missing} has no outcome, though step {sequence} after it has"));
            }
        }
        Ok(())
    }

    fn check_places(&self, checked: &mut Checked) -> Result<(), Fault> {
        let mut statement = self.connection.prepare("SELECT owner, sequence FROM snapshots ORDER BY owner")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (owner, place) = (row.get::<_, String>(0)?, Sequence(our_number(row.get(1)?)?));
            if place > checked.latest {
                checked.find(format!("the snapshot of `{owner}` is at {place}, the latest step is {}", checked.latest));
            }
            if place.next() < checked.oldest {
                checked
                    .find(format!("steps between {place}, the snapshot of `{owner}`, and {} are gone", checked.oldest));
            }
            checked.snapshots.push((owner, place));
        }
        let mut statement = self.connection.prepare("SELECT reader, sequence FROM cursors")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (reader, place) = (row.get::<_, String>(0)?, Sequence(our_number(row.get(1)?)?));
            if place > checked.latest {
                checked.find(format!("`{reader}` has read up to {place}, the latest step is {}", checked.latest));
            }
        }
        Ok(())
    }

    fn check_intents(&self, checked: &mut Checked) -> Result<(), Fault> {
        let count: i64 = self.connection.query_row("SELECT count(*) FROM intents", [], |row| row.get(0))?;
        let highest: i64 =
            self.connection.query_row("SELECT coalesce(max(id), 0) FROM intents", [], |row| row.get(0))?;
        if count != highest {
            checked.find(format!("there are {count} intents, and the latest is {highest}"));
        }
        checked.intents = our_number(count)?;
        let mut statement = self.connection.prepare("SELECT id, intent FROM intents")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let intent = row.get_ref(1)?.as_str()?;
            if let Err(error) = serde_json::from_str::<openvalidators_messages::ledger::WeightIntent>(intent) {
                checked.find(format!("intent {id} cannot be read: {error}"));
            }
        }
        let mut statement = self.connection.prepare("SELECT intent, settlement FROM settlements")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let settlement = row.get_ref(1)?.as_str()?;
            if let Err(error) = serde_json::from_str::<openvalidators_messages::ledger::Settlement>(settlement) {
                checked.find(format!("a settlement of intent {id} cannot be read: {error}"));
            }
        }
        Ok(())
    }
}

// === impl Checked ===

impl Checked {
    /// Adds a finding, up to the limit.
    pub fn find(&mut self, finding: String) {
        if self.findings.len() < CHECK_FINDINGS {
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests;
