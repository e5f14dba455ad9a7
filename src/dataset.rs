//! `openvalidators dataset`: recorded steps as tables, and data to train on.
//!
//! Everything is read as one stream of [`StepRow`]s (`actors/tables`), so memory does not grow with the files, but for what a
//! policy on duplicates has to remember.
//!
//! [`StepRow`]: openvalidators_tables::StepRow

mod collect;
mod download;
mod example;
mod export;
mod ledger;
mod output;
mod selected;
mod shape;
mod wandb_log;

use std::process::ExitCode;

use crate::cli::{Dataset, DatasetAction};

pub use ledger::{LedgerSteps, row_of, shadows};
pub use output::Output;
pub use selected::Selected;

/// Collects or exports.
///
/// # Errors
/// What cannot be read or written, with its name.
pub fn run(command: &Dataset) -> anyhow::Result<ExitCode> {
    match &command.action {
        DatasetAction::Collect(collect) => collect::run(collect)?,
        DatasetAction::Export(export) => export::run(export)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
