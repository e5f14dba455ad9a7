use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use openvalidators_reporting::wandb::RunPath;
use openvalidators_tables::moment;

/// `openvalidators dataset`
///
/// For analysts and makers of data sets: recorded steps as tables, and data to train on. Nothing of a running validator is
/// changed; its ledger may be read while it works.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  openvalidators dataset collect --from state --output steps.parquet
  openvalidators dataset collect --from old/completions.log --from runs.csv --output steps.parquet
  openvalidators dataset collect --wandb opentensor-dev/openvalidators --tags 1.2.0 --since 2023-07-01 --output steps.parquet
  openvalidators dataset export chat --from steps.parquet --output chat.jsonl --min-reward 0.4 --validation 0.1
docs/analysis.md has a tutorial and the columns.")]
pub struct Dataset {
    /// What to make.
    #[command(subcommand)]
    pub action: DatasetAction,
}

/// What to make of recorded steps.
#[derive(Debug, Subcommand)]
pub enum DatasetAction {
    /// Gather steps in one Parquet file, or CSV. (`openvalidators_dataset` of the old Makefile)
    #[command(visible_alias = "openvalidators_dataset")]
    Collect(Collect),
    /// Make data to train on.
    Export(Export),
}

/// Which steps.
#[derive(Clone, Debug, Args)]
pub struct Select {
    /// Where steps are recorded: a state directory, a `completions.log` of ours or of openvalidators 1.2.0, a `.wandb` file or
    /// the `wandb` folder of such runs, a Parquet file, or a CSV of the old data_collector. May be repeated: a step that is in
    /// several of them counts once.
    #[arg(long, value_name = "PATH", required = true)]
    pub from: Vec<PathBuf>,
    /// Not before this time, UTC: `2026-11-22` or `2026-11-22T09:00`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<i64>,
    /// Before this time, UTC.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<i64>,
    /// Only steps of this name or kind: `answer`, `followup0`.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub name: Vec<String>,
    /// Neither progress nor summary on standard error.
    #[arg(long)]
    pub quiet: bool,
}

/// `openvalidators dataset collect`
#[derive(Debug, Args)]
#[command(mut_arg("from", |from| from.required(false).required_unless_present_any(["wandb", "download_all", "wandb_run_id"])))]
pub struct Collect {
    /// Which steps.
    #[command(flatten)]
    pub select: Select,
    /// Fetch runs from wandb by its public API: of a project, or one. The key is that of WANDB_API_KEY or of `wandb login`,
    /// the server that of WANDB_BASE_URL.
    #[arg(long, value_name = "ENTITY/PROJECT[/RUN]")]
    pub wandb: Option<RunPath>,
    /// Only runs that have all of these tags, such as a version or a hotkey.
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Keep what is fetched in this folder, so that the next time only what is new is fetched. Without it, it lies beside the
    /// output until that is done, and an interrupted command goes on from there.
    #[arg(long, value_name = "DIR")]
    pub downloads: Option<PathBuf>,
    /// The file to make: `.parquet` or `.csv`.
    #[arg(long, alias = "export_path", value_name = "FILE")]
    pub output: PathBuf,
    /// Replace files that exist.
    #[arg(long)]
    pub force: bool,
    /// The flags of the old data_collector.
    #[command(flatten)]
    pub old: OldFlags,
}

/// What `scripts/data_collector.py` of openvalidators 1.2.0 took, so that its commands go on working: the exports it made
/// beside the collected file, under its names.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "As in the old data_collector")]
pub struct OldFlags {
    /// Also make `mining_dataset_OUTPUT`.
    #[arg(long = "export_mining_dataset")]
    pub mining: bool,
    /// Also make `scored_mining_dataset_OUTPUT`.
    #[arg(long = "export_mining_with_scoring_dataset")]
    pub scored_mining: bool,
    /// Also make `openai_mining_dataset_openvalidators.jsonl`.
    #[arg(long = "export_openai_dataset")]
    pub openai: bool,
    /// The format of the mining data sets.
    #[arg(long = "mining_dataset_output_format", value_enum, value_name = "FORMAT", default_value = "json")]
    pub format: MiningFormat,
    /// A file of completions that no export takes, one a line.
    #[arg(long = "blacklist_path", value_name = "FILE")]
    pub blacklist: Option<PathBuf>,
    /// Fetch the runs of 1.2.0 of opentensor-dev/openvalidators.
    #[arg(long = "download_all")]
    pub download_all: bool,
    /// Fetch this run of opentensor-dev/openvalidators.
    #[arg(long = "wandb_run_id", value_name = "RUN")]
    pub wandb_run_id: Option<String>,
    /// As --tags, beside 1.2.0. (The old tool took runs that had any of the tags; here they must have all.)
    #[arg(long = "include_tags", value_name = "TAG,…")]
    pub include_tags: Option<String>,
}

/// `openvalidators dataset export`
#[derive(Debug, Args)]
pub struct Export {
    /// What to make.
    #[arg(value_enum)]
    pub kind: ExportKind,
    /// Which steps; without --name the exports for miners take followups and answers.
    #[command(flatten)]
    pub select: Select,
    /// The file to make. Beside it comes `FILE.about.json`: what it was made of and how.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// What is left out, and how what is left is arranged.
    #[command(flatten)]
    pub filter: ExportFilter,
    /// The format of `mining` and `scored-mining`; the others are JSON lines.
    #[arg(long, value_enum, default_value = "json")]
    pub format: MiningFormat,
    /// Replace files that exist.
    #[arg(long)]
    pub force: bool,
}

/// What an export leaves out, and how it arranges the rest.
#[derive(Clone, Debug, Args)]
pub struct ExportFilter {
    /// A file of completions to leave out, one a line; whole completions are compared.
    #[arg(long, value_name = "FILE")]
    pub blacklist: Option<PathBuf>,
    /// Leave out completions that earned less.
    #[arg(long, value_name = "REWARD", allow_negative_numbers = true)]
    pub min_reward: Option<f64>,
    /// Which of several examples of the same prompt to keep [default: last for `mining` and `scored-mining` as JSON, where a
    /// prompt is a key; all otherwise].
    #[arg(long, value_enum)]
    pub duplicates: Option<Duplicates>,
    /// For `dpo`: how much more the chosen completion must have earned than the rejected one.
    #[arg(long, value_name = "REWARD", default_value_t = 0.1)]
    pub margin: f64,
    /// Put so large a share of the contexts, in 0..1, into `NAME.validation.EXT` and the rest into `NAME.train.EXT`; all steps
    /// about one text fall on the same side, in every export.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub validation: Option<f64>,
}

/// What can be exported. The names of the old Makefile's targets are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportKind {
    /// An object of prompts and their best completions.
    #[value(alias = "mining_dataset")]
    Mining,
    /// As `mining`, each completion with its reward.
    #[value(alias = "scored_mining_dataset")]
    ScoredMining,
    /// OpenAI fine-tuning, legacy: a prompt and its best completion a line.
    #[value(alias = "openai_mining_dataset")]
    Openai,
    /// OpenAI fine-tuning, chat: messages of user and assistant.
    Chat,
    /// For training a reward model: every completion with its reward, and what each model said.
    RewardModel,
    /// For direct preference optimisation: of each step the best completion against the worst.
    Dpo,
}

/// How to write a mining data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MiningFormat {
    /// One object, prompts its keys.
    #[default]
    Json,
    /// A row for each followup with its answer.
    Csv,
}

/// Which of several examples of the same prompt to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Duplicates {
    /// All.
    All,
    /// The first one.
    First,
    /// The last one, as openvalidators 1.2.0 did without saying so.
    Last,
    /// The one that earned most.
    Best,
}

fn time(text: &str) -> Result<i64, String> {
    moment::parse(text).ok_or_else(|| "expected a day or a time of day in UTC, as 2026-11-22T09:00".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a number above 0 and below 1".to_owned()),
    }
}
