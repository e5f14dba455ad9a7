//! The command line.

use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use openvalidators_inference::{DeviceName, synthetic::Size};

use crate::{
    bench::work::Part,
    config::{profiles::Profile, reference_flags},
};

mod adversary;
mod analyze;
mod dataset;
mod doctor;
mod ledger;
mod prompts;
mod query;
mod update;
mod wallet;
mod what_if;

pub use adversary::BenchAdversary;
pub use analyze::{Aggregate, Analyze, FigureOptions, RankedBy};
pub use dataset::{
    Collect, Dataset, DatasetAction, Duplicates, Export, ExportFilter, ExportKind, MiningFormat, OldFlags, Select,
};
pub use doctor::Doctor;
pub use ledger::{Explain, Ledger, LedgerAction, Place, Replay, Steps};
pub use prompts::{Prompts, PromptsAction, PromptsSample};
pub use query::{Query, Wire};
pub use update::{Update, UpdateAction};
pub use wallet::{Wallet, WalletAction, WalletCheck};
pub use what_if::WhatIf;

/// A Bittensor text-prompting validator: asks miners, scores their completions with a stack of reward models, keeps a
/// moving-average score for each and sets weights on chain.
#[derive(Debug, Parser)]
#[command(name = "openvalidators", version, arg_required_else_help = true)]
#[command(after_help = "Start here:  openvalidators run --steps 18\n\
    It fetches two small models once (190 MB), starts a network of 16 miners on this machine, validates it for two \
    forwards and prints what each miner earned.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Task,
    /// What to log on standard error: a level, or directives such as `info,openvalidators_dendrite=debug` [default: warn; for
    /// `run`, `logging.filter`].
    #[arg(long, global = true, value_name = "FILTER", env = "OPENVALIDATORS_LOG")]
    pub log: Option<String>,
    /// Log as one JSON object a line.
    #[arg(long, global = true, visible_alias = "logging.json")]
    pub log_json: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Validate. Without --chain, on a local network that is started with it.
    Run(Run),
    /// Run the local network alone, chain and miners, so that a validator can come and go.
    Localnet(Localnet),
    /// Go on with what openvalidators 1.2.0 has learned: scores, gating head, diversity history.
    Import(Import),
    /// Fetch the models, or say which are here.
    Models(Models),
    /// Look at the texts that forwards would be about.
    Prompts(Prompts),
    /// Score completions from a file, as the validator scores those of miners.
    Score(Score),
    /// Make tables and training data of recorded steps.
    Dataset(Dataset),
    /// Show what recorded steps say about miners, models and texts.
    Analyze(Analyze),
    /// Play recorded steps again under other settings, and show who would rank where.
    WhatIf(WhatIf),
    /// Measure what this machine can do.
    Bench(Bench),
    /// Look at the wallet that holds the hotkey.
    Wallet(Wallet),
    /// Look at everything a validator needs, and say what to do about each finding.
    Doctor(Doctor),
    /// Look for a newer version, put it in place, take it back.
    Update(Update),
    /// Ask one miner by hand.
    Query(Query),
    /// Check, copy, measure or print the records.
    Ledger(Ledger),
    /// Make scores and weights again from the records, and compare every bit.
    Replay(Replay),
    /// Say why a miner has its weight.
    Explain(Explain),
}

/// `openvalidators run`
#[derive(Debug, Args)]
#[command(after_help = crate::shutdown::EXIT_CODES)]
pub struct Run {
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// Stop after so many steps (nine make a forward). Without it: until Ctrl-C or SIGTERM.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Join the local network that `openvalidators localnet` serves at this address, instead of starting one.
    #[arg(long, value_name = "ADDRESS")]
    pub chain: Option<String>,
    /// Print progress and summary as JSON lines instead of text.
    #[arg(long)]
    pub json: bool,
    /// Print neither progress nor summary.
    #[arg(long, conflicts_with = "json")]
    pub quiet: bool,
}

/// `openvalidators localnet`
#[derive(Debug, Args)]
pub struct Localnet {
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// Serve the chain at this loopback address; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: std::net::SocketAddr,
}

/// Settings common to the long-running commands: defaults, then the profile, then the file, then the environment, then flags.
#[derive(Debug, Default, Args)]
pub struct Settings {
    /// A stack of models for a machine of this size, over the defaults and under your file; `docs/models.md` has the sizes.
    #[arg(long, value_enum, env = "OPENVALIDATORS_PROFILE", global = true)]
    pub profile: Option<Profile>,
    /// A TOML file over the defaults; `configs/local.toml` explains every key.
    #[arg(long, value_name = "FILE", env = "OPENVALIDATORS_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Set one key, e.g. `--set prompts.concurrent_forwards=4`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
    /// Where records and scores are kept. One process at a time.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Score as openvalidators 1.2.0 did, in every way that was given up since (`compat.all = true`).
    #[arg(long)]
    pub compat: bool,
    /// Check the configuration and stop.
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration in force, as TOML, and stop.
    #[arg(long)]
    pub print_config: bool,
}

/// `openvalidators import`
///
/// Reads the state directory of openvalidators 1.2.0 (model.torch, *_gating_linear_layer.pth, diversity_model.pth) and writes what
/// is in it as the beginning of a fresh state directory, for the hotkey, network and subnet of the settings: give those that
/// `run` will get. What another encoder made than the settings name is left, with a word on it.
#[derive(Debug, Args)]
pub struct Import {
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// The state directory of openvalidators 1.2.0; nothing in it is changed.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `openvalidators models`
#[derive(Debug, Args)]
pub struct Models {
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// Print JSON lines instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do with them.
    #[command(subcommand)]
    pub action: ModelAction,
}

/// What to do with the models. Without names: with those that the configuration in force asks for.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelAction {
    /// Fetch what is not here, and verify all.
    Fetch {
        /// Models of the catalogue.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Say what is here, and how large it is on the disk and in memory. At once: sizes are compared, not contents.
    List {
        /// Every model of the catalogue.
        #[arg(long)]
        all: bool,
    },
    /// Read every file and compare its sha256 with what it must be. The exit code is 1 where one is missing or damaged.
    Verify {
        /// Models of the catalogue.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
}

/// `openvalidators score`
///
/// Each line of the input is a step: `{"name": "augment" | "followupK" | "answerK", "prompt": …, "base_prompt": … | null,
/// "completions": [… | null, …]}`, null where the call failed. Each line of the output has its rewards, the index of the
/// best, and for each reward model and filter the raw and normalised numbers. Lines are one stream, in order: normalisers,
/// diversity history and blacklist carry over; the blacklist is reset at `augment`, and the best completion of each
/// followup and answer joins it.
#[derive(Debug, Args)]
pub struct Score {
    /// A folder with a folder of model files for each role: dpo rlhf reciprocate dahoas prompt relevance_bert
    /// relevance_mpnet diversity nsfw. A role without one is left out.
    #[arg(long, value_name = "DIR")]
    pub models: PathBuf,
    /// JSON lines; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// JSON lines; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// The share of each reward model, e.g. `dpo=0.3,rlhf=0.4,reciprocate=0.3`. They add up to 1. One that is not named
    /// counts for nothing but is computed when it has a folder; one of 0 is not computed.
    #[arg(long, value_name = "ROLE=SHARE,…", value_delimiter = ',')]
    pub weights: Vec<String>,
    /// Where to compute: `cpu`, or `cuda:0` in a program built for GPUs (`inference.device`).
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Score as openvalidators 1.2.0 did, in every way that was given up since (`compat.all = true`).
    #[arg(long)]
    pub compat: bool,
    /// A TOML file over the defaults: `configs/local.toml`, and `configs/score.toml` over it.
    #[arg(long, value_name = "FILE", env = "OPENVALIDATORS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set one key, e.g. `--set rewards.diversity.batch_midpoint=0.05`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// No progress and no summary on standard error.
    #[arg(long)]
    pub quiet: bool,
}

/// `openvalidators bench`
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure.
    #[command(subcommand)]
    pub what: Benchmark,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Benchmark {
    /// How fast a step is scored.
    Scoring(BenchScoring),
    /// What miners earn that do not do the work.
    Adversary(BenchAdversary),
}

/// `openvalidators bench scoring`
///
/// Makes the reward models and filters of openvalidators 1.2.0 with random weights, downloads nothing, and scores a step of
/// random words: one model after another, then all as the validator does. Says for each what it took, how near it came to
/// the device's matrix products, and how many steps an hour this machine can score. A network's answers mean nothing here,
/// but those of a batch must equal those of single rows; where they do not, the exit code says so.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  openvalidators bench scoring --tiny                              does it work here? a few seconds
  openvalidators bench scoring --base                              two cores and 8 GB: some ten minutes
  openvalidators bench scoring --base --ours --only dpo,nsfw       two of the models, and only our order of work
  openvalidators bench scoring --device cuda:0 --dtype bf16 --set inference.batch_tokens=16384
                                                                   the full stack on a GPU of 40 GB or more

The columns: `ratio` is to the order of work of openvalidators 1.2.0, which computes completion by completion; `of the peak`
is the share of what a bare matrix product reaches on this device (--peak-tflops states another). The full stack is GPT-J-6B,
BTLM-3B, DeBERTa-v3-large, MPNet, BERT and RoBERTa: 19 GB in two-byte numbers, twice that in f32.")]
pub struct BenchScoring {
    /// Networks of base size (twelve layers of 768) instead of the full ones.
    #[arg(long, conflicts_with = "tiny")]
    pub base: bool,
    /// Networks of two narrow layers, and few, short texts: whether it works, not how fast it is.
    #[arg(long)]
    pub tiny: bool,
    /// Where to compute: `cpu`, or `cuda:0` in a program built for GPUs (`inference.device`).
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// The numbers to compute in: `f32`, `f16` or `bf16` (`inference.dtype`).
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,
    /// Completions of the step [default: 50; tiny: 6].
    #[arg(long, value_name = "N")]
    pub completions: Option<usize>,
    /// Tokens of the prompt [default: 600; tiny: 150].
    #[arg(long, value_name = "N")]
    pub prompt_tokens: Option<usize>,
    /// Tokens of each completion [default: 150; tiny: 20].
    #[arg(long, value_name = "N")]
    pub completion_tokens: Option<usize>,
    /// Only these.
    #[arg(long, value_enum, value_name = "PART,…", value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Only our order of work: neither one by one nor batched without sharing.
    #[arg(long)]
    pub ours: bool,
    /// Measure everything so often and take the fastest [default: 1 on a processor, 3 on a GPU].
    #[arg(long, value_name = "N")]
    pub repeats: Option<usize>,
    /// What the device can do, in TFLOP/s, instead of what a bare product reaches.
    #[arg(long, value_name = "TFLOPS")]
    pub peak_tflops: Option<f64>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// A TOML file over the defaults: `configs/local.toml`, and `configs/score.toml` over it.
    #[arg(long, value_name = "FILE", env = "OPENVALIDATORS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set one key, e.g. `--set inference.batch_tokens=16384`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// What a step to measure is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Completions.
    pub completions: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of each completion.
    pub completion_tokens: usize,
}

/// The command line as parsed, with the reference's flags apart.
pub struct Parsed {
    /// The typed part.
    pub cli: Cli,
    /// The matches of the innermost subcommand, where [`reference_flags::values`] finds the flags of openvalidators 1.2.0.
    pub subcommand: ArgMatches,
}

/// Parses the process's arguments; on `--help` or bad usage prints and exits, as clap does.
#[must_use]
pub fn parse() -> Parsed {
    let matches = command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let mut innermost = &matches;
    while let Some((_, inner)) = innermost.subcommand() {
        innermost = inner;
    }
    Parsed { cli, subcommand: innermost.clone() }
}

/// The whole command line. The flags of openvalidators 1.2.0 come from their table, not from the structs above.
#[must_use]
pub fn command() -> Command {
    Cli::command()
        .mut_subcommand("run", |run| run.args(reference_flags::arguments()))
        .mut_subcommand("query", |query| {
            query.args(reference_flags::arguments_of(&["wallet.", "no_prompt", "subtensor.", "netuid"]))
        })
        .mut_subcommand("doctor", |doctor| doctor.args(reference_flags::arguments()))
        .mut_subcommand("import", |import| import.args(reference_flags::arguments()))
        .mut_subcommand("wallet", |wallet| {
            wallet.mut_subcommand("check", |check| check.args(reference_flags::arguments_of(&["wallet.", "no_prompt"])))
        })
}

// === impl Score ===

impl Score {
    /// Where its settings come from.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let Self { config, set, compat, .. } = self;
        Settings { config: config.clone(), set: set.clone(), compat: *compat, ..Settings::default() }
    }
}

// === impl BenchScoring ===

impl BenchScoring {
    /// Where its settings come from.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut set = self.set.clone();
        set.extend(self.device.map(|device| format!("inference.device={device}")));
        set.extend(self.dtype.as_ref().map(|dtype| format!("inference.dtype={dtype}")));
        Settings { config: self.config.clone(), set, ..Settings::default() }
    }

    /// How large the networks are.
    #[must_use]
    pub fn size(&self) -> Size {
        match (self.base, self.tiny) {
            (true, _) => Size::Base,
            (_, true) => Size::Tiny,
            _ => Size::Full,
        }
    }

    /// What the step is made of.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let [completions, prompt, completion] = if self.tiny { [6, 150, 20] } else { [50, 600, 150] };
        Sizes {
            completions: self.completions.unwrap_or(completions).max(1),
            prompt_tokens: self.prompt_tokens.unwrap_or(prompt).max(2),
            completion_tokens: self.completion_tokens.unwrap_or(completion).max(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
