//! The program behind `openvalidators`: command line, configuration, wiring, console. `docs/architecture.md` is the map.

pub mod analysis;
pub mod archive;
pub mod axon;
pub mod bench;
pub mod cli;
pub mod config;
pub mod console;
pub mod dataset;
pub mod doctor;
pub mod engine;
pub mod explain;
mod health;
mod import;
pub mod ledger;
pub mod localnet;
mod logging;
#[cfg(test)]
mod manual;
pub mod models;
pub mod network;
mod open_files;
pub mod progress;
pub mod prompts;
pub mod query;
pub mod replay;
pub mod run;
pub mod score;
pub mod serve;
mod service;
pub mod shutdown;
pub mod standing;
mod status;
pub mod topology;
mod traces;
mod update;
pub mod wallet;
mod wandb;
mod web;
pub mod what_if;

use std::process::ExitCode;

use cli::{Parsed, Task};
use config::Config;
use console::{Style, print_text};
use time::UtcOffset;
use traces::Traces;

/// Parses the command line, loads the configuration and runs the subcommand.
#[must_use]
#[allow(clippy::print_stderr, reason = "the last words of a program that did not start")]
pub fn main() -> ExitCode {
    // Only a process with one thread may ask the system for its time zone.
    let offset = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
    let parsed = cli::parse();
    dispatch(&parsed, offset).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(shutdown::code_of(&error))
    })
}

fn dispatch(parsed: &Parsed, offset: UtcOffset) -> anyhow::Result<ExitCode> {
    let mut log = parsed.cli.log.clone().unwrap_or_else(|| logging::DEFAULT_FILTER.to_owned());
    if matches!(parsed.cli.command, Task::Bench(_)) {
        // It warns of random weights, which are what was asked for here.
        log += ",openvalidators_inference::catalogue=error";
    }
    // Dropped at the very end: then the last spans are sent.
    let traces = Traces::start()?;
    let mut logging = logging::start(&log, parsed.cli.log_json, traces.as_ref())?;
    match &parsed.cli.command {
        Task::Models(command) => {
            let config = Config::load(&command.settings, &parsed.subcommand, None)?;
            if let Some(code) = only_show(&command.settings, &config)? {
                return Ok(code);
            }
            runtime()?.block_on(models::run(command, &config))
        }
        Task::Run(command) => {
            let mut config = Config::load(&command.settings, &parsed.subcommand, command.steps)?;
            if let Some(address) = &command.chain {
                config.chain.endpoint = format!("local://{}", address.trim_start_matches("local://")).parse()?;
            }
            if let Some(code) = only_show(&command.settings, &config)? {
                return Ok(code);
            }
            if parsed.cli.log.is_none() {
                logging.filter_by(&config.logging.filter)?;
            }
            let style = match (command.json, command.quiet) {
                (true, _) => Style::Json,
                (_, true) => Style::Quiet,
                _ => Style::Text,
            };
            open_files::raise_limit(config.dendrite.pool_max_idle_per_miner);
            // Before signals are listened for, so that Ctrl-C ends a prompt.
            let signer = wallet::signer(&config)?;
            system().block_on(run::run(config, signer, style, offset, logging))
        }
        Task::Doctor(command) => {
            let loaded = Config::load(&command.settings, &parsed.subcommand, None);
            if let Ok(config) = &loaded
                && let Some(code) = only_show(&command.settings, config)?
            {
                return Ok(code);
            }
            runtime()?.block_on(doctor::run(command, loaded))
        }
        Task::Update(command) => {
            let config = Config::load(&command.settings, &parsed.subcommand, None)?;
            runtime()?.block_on(update::run(command, &config))
        }
        Task::Score(command) => {
            let config = Config::load_over(
                &[config::DEFAULT_TOML, config::SCORE_TOML],
                &command.settings(),
                &parsed.subcommand,
                None,
            )?;
            system().block_on(score::run(command, config))
        }
        Task::Bench(cli::Bench { what: cli::Benchmark::Scoring(command) }) => {
            let config = Config::load_over(
                &[config::DEFAULT_TOML, config::SCORE_TOML],
                &command.settings(),
                &parsed.subcommand,
                None,
            )?;
            system().block_on(bench::run(command, config))
        }
        Task::Bench(cli::Bench { what: cli::Benchmark::Adversary(command) }) => {
            let load = |compat| {
                let settings = command.settings(compat);
                Config::load(&settings, &parsed.subcommand, None)
            };
            system().block_on(bench::adversary::run(command, load(false)?, load(true)?))
        }
        Task::Dataset(command) => dataset::run(command),
        Task::Analyze(command) => analysis::run(command),
        Task::WhatIf(command) => {
            let load = |settings: &cli::Settings| Config::load(settings, &parsed.subcommand, None);
            what_if::run(command, &load(&command.before())?, &load(&command.after())?)
        }
        Task::Wallet(command) => {
            let cli::WalletAction::Check(command) = &command.action;
            let config = Config::load(&command.settings(), &parsed.subcommand, None)?;
            wallet::check(&config.wallet, command.json)
        }
        Task::Prompts(command) => {
            let config = Config::load(&command.settings, &parsed.subcommand, None)?;
            if let Some(code) = only_show(&command.settings, &config)? {
                return Ok(code);
            }
            let cli::PromptsAction::Sample(sample) = &command.action;
            runtime()?.block_on(prompts::sample(sample, config))
        }
        Task::Query(command) => {
            let config = Config::load(&command.settings(), &parsed.subcommand, None)?;
            let signer = wallet::signer(&config)?;
            runtime()?.block_on(query::run(command, &config, signer))
        }
        Task::Import(command) => {
            let config = Config::load(&command.settings, &parsed.subcommand, None)?;
            if let Some(code) = only_show(&command.settings, &config)? {
                return Ok(code);
            }
            let signer = wallet::signer(&config)?;
            import::run(command, &config, &signer)
        }
        Task::Ledger(command) => {
            let config = Config::load(&command.place.settings(), &parsed.subcommand, None)?;
            ledger::run(command, &config)
        }
        Task::Replay(command) => {
            let config = Config::load(&command.place.settings(), &parsed.subcommand, None)?;
            system().block_on(replay::run(command, &config))
        }
        Task::Explain(command) => {
            let config = Config::load(&command.place.settings(), &parsed.subcommand, None)?;
            explain::run(command, &config)
        }
        Task::Localnet(command) => {
            let config = Config::load(&command.settings, &parsed.subcommand, None)?;
            if let Some(code) = only_show(&command.settings, &config)? {
                return Ok(code);
            }
            open_files::raise_limit(config.dendrite.pool_max_idle_per_miner);
            runtime()?.block_on(serve::run(config, command.listen))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `--check-config` and `--print-config`.
fn only_show(settings: &cli::Settings, config: &Config) -> anyhow::Result<Option<ExitCode>> {
    if settings.print_config {
        print_text(&toml::to_string(config)?);
    } else if settings.check_config {
        print_text("the configuration is fine");
    }
    Ok((settings.print_config || settings.check_config).then_some(ExitCode::SUCCESS))
}

/// Workers for signing, parsing, tokenising and the miners' servers.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// An actix system whose tasks outside actors run on several threads.
fn system() -> actix::SystemRunner {
    #[allow(clippy::expect_used, reason = "actix takes no error here; without threads there is no program")]
    actix::System::with_tokio_rt(|| runtime().expect("the system gives no threads"))
}
