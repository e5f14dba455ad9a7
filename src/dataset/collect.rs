//! `openvalidators dataset collect`: many sources, one file.

use std::{
    fs,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use openvalidators_reporting::wandb::RunPath;
use openvalidators_tables::{CsvWriter, StepRow, StoreWriter};

use super::{
    Output, Selected,
    download::download,
    export::{self, with_suffix},
    selected::spinner,
};
use crate::{
    cli::{Collect, Export, ExportFilter, ExportKind, MiningFormat, OldFlags, Select},
    console::print_text,
};

/// What `data_collector.py` of openvalidators 1.2.0 read: this project, and with `--download_all` its own version's runs.
const OLD_ENTITY: &str = "opentensor-dev";
const OLD_PROJECT: &str = "openvalidators";
const OLD_TAG: &str = "1.2.0";

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
    let Collect { select, output, force, downloads, .. } = command;
    let exports = exports(command);
    for export in &exports {
        ensure!(*force || !export.output.exists(), "{} exists: replace it with --force", export.output.display());
    }
    let made = Output::create(output, *force)?;
    let ours = with_suffix(output, ".downloads");
    let sources = match wandb(command)? {
        Some((path, tags)) => {
            let progress = spinner(select, "{spinner} {msg}");
            download(&path, &tags, select, downloads.as_ref().unwrap_or(&ours), &progress)?
        }
        None => Vec::new(),
    };
    let mut steps = Selected::open_with(select, sources)?;
    let mut writer = Writer::new(&made)?;
    let mut count = 0_u64;
    while let Some(row) = steps.next_step()? {
        writer.write(row).with_context(|| format!("writing {}", output.display()))?;
        count += 1;
    }
    writer.finish().with_context(|| format!("writing {}", output.display()))?;
    made.finish()?;
    if downloads.is_none() && ours.is_dir() {
        // What is in them is in the output now.
        fs::remove_dir_all(&ours).with_context(|| format!("removing {}", ours.display()))?;
    }
    if !select.quiet {
        print_text(&steps.summary());
        print_text(&format!("{count} steps are in {}", output.display()));
    }
    exports.iter().try_for_each(export::run)
}

/// What to read from wandb: as named, or as `data_collector.py` named it.
fn wandb(command: &Collect) -> anyhow::Result<Option<(RunPath, Vec<String>)>> {
    let Collect { wandb, tags, old, .. } = command;
    let OldFlags { download_all, wandb_run_id, include_tags, .. } = old;
    let project = RunPath { entity: OLD_ENTITY.to_owned(), project: OLD_PROJECT.to_owned(), run: None };
    let tagged: Vec<String> = include_tags.iter().flat_map(|tags| tags.split(',')).map(str::to_owned).collect();
    Ok(match (wandb, *download_all, wandb_run_id) {
        (Some(path), false, None) => Some((path.clone(), tags.iter().cloned().chain(tagged).collect())),
        (None, true, None) => Some((project, [OLD_TAG.to_owned()].into_iter().chain(tagged).collect())),
        (None, false, Some(run)) => Some((RunPath { run: Some(run.clone()), ..project }, Vec::new())),
        (None, false, None) if tagged.is_empty() && tags.is_empty() => None,
        (None, false, None) => bail!("--tags chooses among the runs of --wandb ENTITY/PROJECT: name that as well"),
        _ => bail!("--wandb, --download_all and --wandb_run_id exclude one another: keep one of them"),
    })
}

/// The exports of the old flags, made from the file that was collected, under the old names and in the same folder.
fn exports(command: &Collect) -> Vec<Export> {
    let Collect { select, output, force, old, .. } = command;
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
