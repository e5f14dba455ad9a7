//! The rows of a `.wandb` file, for those who analyse: ours, and those of any real client.

use std::path::Path;

use super::{
    log_file::{LogError, LogReader, Next},
    record::{Item, Kind},
};

/// A file being read.
#[derive(Debug)]
pub struct LoggedRun {
    reader: LogReader,
    run: String,
    ended: bool,
}

/// What a file holds next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logged {
    /// A row: the names of its values, each with the JSON that the client wrote, in which NaN may be a bare word.
    Row(Vec<(String, String)>),
    /// Bytes that are no record.
    Damage {
        /// The first of them.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The beginning of a record whose rest is not there: its writer was cut off, or is writing still.
    Cut {
        /// Where it begins.
        at: u64,
    },
}

// === impl LoggedRun ===

impl LoggedRun {
    /// Opens a file. Until it names its run, that is called by the name of the file, `run-ID.wandb`.
    ///
    /// # Errors
    /// When it cannot be read, or is no log.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let run = stem.strip_prefix("run-").unwrap_or(&stem).to_owned();
        Ok(Self { reader: LogReader::open(path)?, run, ended: false })
    }

    /// The id of the run.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Where the last record ended, in bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// What is next; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read on.
    pub fn next_logged(&mut self) -> Result<Option<Logged>, LogError> {
        while !self.ended {
            match self.reader.next()? {
                Next::Record(record) => match record.kind {
                    Some(Kind::History(history)) => {
                        let value = |item: Item| (item.name().to_owned(), item.value_json);
                        return Ok(Some(Logged::Row(history.item.into_iter().map(value).collect())));
                    }
                    Some(Kind::Run(run)) if !run.run_id.is_empty() => self.run = run.run_id,
                    _ => {}
                },
                Next::Damage { at, what } => return Ok(Some(Logged::Damage { at, what })),
                Next::End => {
                    self.ended = true;
                    if self.reader.left()? > 0 {
                        return Ok(Some(Logged::Cut { at: self.reader.position() }));
                    }
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::steps,
        wandb::journal::{FINISHED, tests::journal},
    };

    fn read(path: &Path) -> (String, Vec<Logged>) {
        let mut run = LoggedRun::open(path).unwrap();
        let logged: Vec<_> = std::iter::from_fn(|| run.next_logged().unwrap()).collect();
        (run.run().to_owned(), logged)
    }

    #[test]
    fn rows_are_read_and_a_record_that_was_cut_off_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(folder.path(), true, 1_500);
        journal.append(&steps(1..=3)).unwrap();
        journal.finish(FINISHED).unwrap();
        let path = crate::wandb::runs::list(folder.path()).unwrap().remove(0).log();
        let (run, whole) = read(&path);
        assert!(path.to_string_lossy().contains(&run) && !run.contains("run-"), "{run}");
        assert_eq!(whole.len(), 3);
        let Logged::Row(row) = &whole[0] else { panic!("{whole:?}") };
        let value = |name: &str| row.iter().find(|(found, _)| found == name).map(|(_, json)| json.as_str());
        assert_eq!((value("name"), value("uids")), (Some("\"followup1\""), Some("[3,7]")));
        assert!(value("_timestamp").is_some());

        let bytes = std::fs::read(&path).unwrap();
        let rows_end = {
            let mut run = LoggedRun::open(&path).unwrap();
            (0..3).for_each(|_| drop(run.next_logged().unwrap()));
            usize::try_from(run.position()).unwrap()
        };
        std::fs::write(&path, &bytes[..rows_end - 5]).unwrap();
        let (_, cut) = read(&path);
        assert_eq!(cut[..2], whole[..2]);
        assert!(matches!(cut[2..], [Logged::Cut { .. }]), "{cut:?}");
        std::fs::write(&path, "no log").unwrap();
        assert!(LoggedRun::open(&path).unwrap_err().to_string().contains("is no .wandb log"));
    }
}
