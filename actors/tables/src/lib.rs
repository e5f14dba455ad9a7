//! Recorded steps as rows: one shape for what the ledger, event logs and old data sets hold, read as a stream, kept as
//! Parquet or CSV.
//!
//! A leaf; beside the readers of texts in `prompts`, the only crate that sees Arrow and Parquet. It is no actor: the offline
//! tools (`openvalidators dataset`, `openvalidators analyze`) call it, and of the validator only the archive that the ledger
//! gives old steps to.
//!
//! [`Source`] is what every reader implements; [`Merged`] makes one stream of several, without the steps that came twice,
//! and says which forward each step belongs to. What cannot be read is skipped one record at a time, counted and named in
//! the [`Tally`]; a reader of a new kind of file is one [`Source`], and [`event::read`] reads the events that most hold.

mod bounded;
mod cells;
pub mod csv_file;
pub mod event;
pub mod event_log;
pub mod figures;
mod forwards;
pub mod list;
mod merged;
pub mod moment;
mod row;
mod source;
pub mod store;

pub use csv_file::{CsvFile, CsvWriter};
pub use event_log::{EventLog, tolerant_json};
pub use forwards::OPEN_FORWARDS_LIMIT;
pub use merged::Merged;
pub use row::{COLUMN_NAMES, Column, MICROS_PER_SECOND, Shadow, StepRow, text_digest};
pub use source::{Item, RECORD_LIMIT_BYTES, Skip, Source, SourceError, Tally};
pub use store::{Store, StoreWriter};
