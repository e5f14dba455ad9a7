//! `openvalidators dataset collect`: many sources, one file.

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use openvalidators_tables::{CsvWriter, StepRow, StoreWriter};

use super::{Output, Selected, export};
use crate::{
    cli::{Collect, Export, ExportFilter, ExportKind, MiningFormat, OldFlags, Select},
    console::print_text,
};

/// Either kind of table.
enum Writer {
    Parquet(Box<StoreWriter>),
    Csv(Box<CsvWriter<BufWriter<std::fs::File>>>),
}

/// Collects, and exports what the old flags ask for.
///
/// # Errors
/// What cannot be read or written; nothing is left of the file then.
pub fn run(command: &Collect) -> anyhow::Result<()> {
    let Collect { select, output, force, old } = command;
    refuse_wandb(old)?;
    let exports = exports(command);
    for export in &exports {
        ensure!(*force || !export.output.exists(), "{} exists: replace it with --force", export.output.display());
    }
    let made = Output::create(output, *force)?;
    let mut steps = Selected::open(select)?;
    let mut writer = Writer::new(&made)?;
    let mut count = 0_u64;
    while let Some(row) = steps.next_step()? {
        writer.write(row).with_context(|| format!("writing {}", output.display()))?;
        count += 1;
    }
    writer.finish().with_context(|| format!("writing {}", output.display()))?;
    made.finish()?;
    if !select.quiet {
        print_text(&steps.summary());
        print_text(&format!("{count} steps are in {}", output.display()));
    }
    exports.iter().try_for_each(export::run)
}

/// What `data_collector.py` fetched, we do not: it is better said than ignored.
fn refuse_wandb(old: &OldFlags) -> anyhow::Result<()> {
    let OldFlags { download_all, wandb_run_id, include_tags, .. } = old;
    if *download_all || wandb_run_id.is_some() || include_tags.is_some() {
        bail!(
            "--download_all, --wandb_run_id and --include_tags read from wandb, which this program does not: leave them out \
             and name what is on this disk with --from"
        );
    }
    Ok(())
}

/// The exports of the old flags, made from the file that was collected, under the old names and in the same folder.
fn exports(command: &Collect) -> Vec<Export> {
    let Collect { select, output, force, old } = command;
    let folder = output.parent().unwrap_or(Path::new(""));
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let extension = match old.format {
        MiningFormat::Json => "json",
        MiningFormat::Csv => "csv",
    };
    let mining = format!("mining_dataset_{stem}.{extension}");
    let wanted = [
        (old.mining, ExportKind::Mining, mining.clone()),
        (old.scored_mining, ExportKind::ScoredMining, format!("scored_{mining}")),
        (old.openai, ExportKind::Openai, "openai_mining_dataset_openvalidators.jsonl".to_owned()),
    ];
    let select = Select { from: vec![output.clone()], ..select.clone() };
    let filter = ExportFilter {
        blacklist: old.blacklist.clone(),
        min_reward: None,
        duplicates: None,
        margin: 0.0,
        validation: None,
    };
    let export = |(_, kind, name)| Export {
        kind,
        select: select.clone(),
        output: folder.join(name),
        filter: filter.clone(),
        format: old.format,
        force: *force,
    };
    wanted.into_iter().filter(|(wanted, ..)| *wanted).map(export).collect()
}

// === impl Writer ===

impl Writer {
    fn new(output: &Output) -> anyhow::Result<Self> {
        let extension = output.path().extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        Ok(match extension.as_str() {
            "parquet" => Self::Parquet(Box::new(StoreWriter::new(output.handle()?)?)),
            "csv" => Self::Csv(Box::new(CsvWriter::new(BufWriter::new(output.handle()?))?)),
            _ => bail!("--output {}: its name must end with .parquet or .csv", output.path().display()),
        })
    }

    fn write(&mut self, row: StepRow) -> anyhow::Result<()> {
        match self {
            Self::Parquet(writer) => Ok(writer.write(row)?),
            Self::Csv(writer) => Ok(writer.write(&row)?),
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Parquet(writer) => writer.finish().map(drop)?,
            Self::Csv(writer) => writer.finish()?.flush()?,
        }
        Ok(())
    }
}
