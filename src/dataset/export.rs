//! `openvalidators dataset export`: data to train on.

use std::{
    collections::HashMap,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{
    Output, Selected,
    example::{Example, LeftOut, Maker},
    shape::Shape,
};
use crate::{
    cli::{Duplicates, Export, ExportKind, MiningFormat, Select},
    console::print_text,
};

/// What whoever publishes such data should know.
const LICENCE_NOTE: &str = "Completions were written by miners of the subnet and prompts quote the texts they are about; \
                            nobody has licensed either to you. Ask, or keep the data to yourself, and name the source of the texts.";

/// A file and the examples going into it.
struct Side {
    output: Output,
    shape: Shape<BufWriter<File>>,
}

/// Where examples go: one file, or two.
struct Sides {
    all: Vec<Side>,
    validation: Option<f64>,
}

/// Which of several examples of one prompt are kept.
struct Kept {
    policy: Duplicates,
    places: HashMap<u64, usize>,
    examples: Vec<Example>,
}

/// Exports.
///
/// # Errors
/// What cannot be read or written, and what does not go together; no file is left then.
pub fn run(command: &Export) -> anyhow::Result<()> {
    let policy = policy(command)?;
    let blacklist = command.filter.blacklist.as_deref().map_or_else(|| Ok(Vec::new()), phrases)?;
    let about = Output::create(&with_suffix(&command.output, ".about.json"), command.force)?;
    let mut sides = Sides::create(command)?;
    let select = Select { name: names(command), ..command.select.clone() };
    let mut steps = Selected::open(&select)?;
    let mut maker = Maker::new(command.kind, &command.filter, blacklist);
    let mut kept = Kept { policy, places: HashMap::new(), examples: Vec::new() };
    let mut duplicates = 0;
    while let Some(row) = steps.next_step()? {
        for example in maker.examples(&row) {
            let key = key(command.kind, &example);
            match kept.take(key, example) {
                Taken::Now(example) => sides.write(*example)?,
                Taken::Later => {}
                Taken::Never => duplicates += 1,
            }
        }
    }
    for example in kept.examples {
        sides.write(example)?;
    }
    let mut left_out = maker.left_out;
    if duplicates > 0 {
        left_out.insert("an example of a prompt that is there already", duplicates);
    }
    let written = sides.finish(&mut left_out)?;
    describe(&about, command, policy, &steps.summary(), &left_out, &written)?;
    about.finish()?;
    if !command.select.quiet {
        print_text(&steps.summary());
        left_out.iter().for_each(|(reason, count)| print_text(&format!("left out {count}: {reason}")));
        written.iter().for_each(|(path, count)| print_text(&format!("{count} examples are in {}", path.display())));
        print_text(LICENCE_NOTE);
    }
    Ok(())
}

/// The policy on duplicates, and what does not go together.
fn policy(command: &Export) -> anyhow::Result<Duplicates> {
    let is_mining = matches!(command.kind, ExportKind::Mining | ExportKind::ScoredMining);
    let is_table = command.format == MiningFormat::Csv;
    ensure!(is_mining || !is_table, "--format csv is for mining and scored-mining; the others are JSON lines");
    let given = command.filter.duplicates;
    ensure!(
        !(is_mining && !is_table && given == Some(Duplicates::All)),
        "--duplicates all: in this JSON a prompt is a key and can be there once; choose first, last or best, or --format csv"
    );
    ensure!(
        !is_table || matches!(given, None | Some(Duplicates::All)),
        "--duplicates is not for --format csv, which has a row for every followup with its answer"
    );
    Ok(given.unwrap_or(if is_mining && !is_table { Duplicates::Last } else { Duplicates::All }))
}

/// For miners: what they are asked most, and what the old exports had. For training judges: every step.
fn names(command: &Export) -> Vec<String> {
    let for_judges = matches!(command.kind, ExportKind::RewardModel | ExportKind::Dpo);
    match &command.select.name {
        given if for_judges || !given.is_empty() => given.clone(),
        _ => vec!["followup".to_owned(), "answer".to_owned()],
    }
}

fn phrases(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the blacklist {}", path.display()))?;
    Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}

/// What two examples share when one is the duplicate of the other.
fn key(kind: ExportKind, example: &Example) -> u64 {
    let mut hasher = DefaultHasher::new();
    example.prompt.hash(&mut hasher);
    if kind == ExportKind::RewardModel {
        example.completion.hash(&mut hasher);
    }
    hasher.finish()
}

fn describe(
    about: &Output,
    command: &Export,
    policy: Duplicates,
    read: &str,
    left_out: &LeftOut,
    written: &[(PathBuf, u64)],
) -> anyhow::Result<()> {
    let files: Vec<_> = written
        .iter()
        .map(|(path, count)| json!({ "file": path.file_name().map(|name| name.to_string_lossy()), "examples": count }))
        .collect();
    let filter = &command.filter;
    let text = json!({
        "made_by": format!("openvalidators {}", env!("CARGO_PKG_VERSION")),
        "kind": format!("{:?}", command.kind),
        "sources": command.select.from,
        "read": read,
        "files": files,
        "left_out": left_out,
        "duplicates": format!("{policy:?}").to_lowercase(),
        "min_reward": filter.min_reward,
        "margin": (command.kind == ExportKind::Dpo).then_some(filter.margin),
        "validation_share": filter.validation,
        "licence": LICENCE_NOTE,
    });
    serde_json::to_writer_pretty(about.handle()?, &text).context("describing the export")
}

/// A path with something behind its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

// === impl Sides ===

impl Sides {
    fn create(command: &Export) -> anyhow::Result<Self> {
        let named = |side: &str| {
            let stem = command.output.file_stem().unwrap_or_default().to_string_lossy();
            let extension = command.output.extension().unwrap_or_default().to_string_lossy();
            command.output.with_file_name(format!("{stem}.{side}.{extension}"))
        };
        let paths = match command.filter.validation {
            None => vec![command.output.clone()],
            Some(_) => vec![named("train"), named("validation")],
        };
        let side = |path: PathBuf| -> anyhow::Result<Side> {
            let output = Output::create(&path, command.force)?;
            let shape = Shape::begin(BufWriter::new(output.handle()?), command)?;
            Ok(Side { output, shape })
        };
        Ok(Self {
            all: paths.into_iter().map(side).collect::<anyhow::Result<_>>()?,
            validation: command.filter.validation,
        })
    }

    fn write(&mut self, example: Example) -> anyhow::Result<()> {
        let validates = self.validation.is_some_and(|share| place_of(&example.origin.context) < share);
        self.all[usize::from(validates)].shape.write(example)
    }

    fn finish(self, left_out: &mut LeftOut) -> anyhow::Result<Vec<(PathBuf, u64)>> {
        let finish = |Side { output, shape }: Side| {
            let (path, written) = (output.path().to_owned(), shape.written);
            for (reason, count) in shape.finish()? {
                *left_out.entry(reason).or_default() += count;
            }
            output.finish()?;
            Ok((path, written))
        };
        self.all.into_iter().map(finish).collect()
    }
}

/// Where a context lies in 0..1, evenly spread by its digest and the same in every export.
fn place_of(context: &str) -> f64 {
    // The digest of similar texts is similar in its high bits: once more through a mixer (splitmix64; Steele et al. 2014).
    let mut bits = u64::from_str_radix(context, 16).unwrap_or_default();
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ (bits >> 31)) as f64 / u64::MAX as f64
}

// === impl Kept ===

/// What becomes of an example.
enum Taken {
    /// It is written at once.
    Now(Box<Example>),
    /// It waits: one to come may take its place.
    Later,
    /// It, or the one whose place it takes, is left out.
    Never,
}

impl Kept {
    fn take(&mut self, key: u64, example: Example) -> Taken {
        if self.policy == Duplicates::All {
            return Taken::Now(Box::new(example));
        }
        let Some(&place) = self.places.get(&key) else {
            self.places.insert(key, self.examples.len());
            if self.policy == Duplicates::First {
                return Taken::Now(Box::new(example));
            }
            self.examples.push(example);
            return Taken::Later;
        };
        let replaces = match self.policy {
            Duplicates::Last => true,
            Duplicates::Best => example.reward > self.examples[place].reward,
            Duplicates::All | Duplicates::First => false,
        };
        if replaces {
            self.examples[place] = example;
        }
        Taken::Never
    }
}
