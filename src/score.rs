//! `openvalidators score`: completions from a file, scored as the validator scores those of miners.
//!
//! For miners who want to know what they would earn, for makers of data sets, and the door through which parity with
//! openvalidators 1.2.0 is checked from outside. It runs the inference engine, the [`Scorer`] and the fold of rewards, and
//! nothing else: no actors but the one in front of the engine, no ledger, no chain.
//!
//! [`Scorer`]: openvalidators_rewards::score::Scorer

mod input;
mod output;
mod roles;
mod stream;

use std::{fmt, process::ExitCode, sync::Arc, time::Duration};

use actix::Actor;
use openvalidators_inference::{self as inference, Engine, InferenceActor, ModelSource};
use openvalidators_messages::{StepOutcome, StepRecord};
use openvalidators_rewards as rewards;
use openvalidators_runtime::{SharedClock, SystemClock};
use prometheus::Registry;

use crate::{cli, config::Config, engine, models, shutdown};
use input::Input;
use output::Output;
use roles::Roles;
pub use {input::Line, stream::Stream};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What was scored so far.
struct Progress {
    clock: SharedClock,
    started: Duration,
    told: Duration,
    quiet: bool,
    lines: u64,
    completions: u64,
    failed_calls: u64,
    unscored: u64,
}

/// Scores the input to its end.
///
/// # Errors
/// What kept it from starting: folders, weights, files, models. What goes wrong later is told on standard error, with the
/// line it happened at, and in the exit code; lines before it are written.
pub async fn run(command: &cli::Score, mut config: Config) -> anyhow::Result<ExitCode> {
    config.inference.device = command.device.unwrap_or(config.inference.device);
    let roles = Roles::arrange(&mut config.rewards, &command.models, &command.weights)?;
    let mut input = Input::open(&command.input)?;
    let mut output = Output::create(&command.output, &command.input)?;
    let clock = SystemClock::shared();
    let inference = start_inference(&config, roles.sources.clone(), &clock).await?;
    let mut stream = Stream::new(&config.rewards, inference)?;
    let mut progress = Progress::new(clock, command.quiet);
    let scored = score(&mut stream, &mut input, &mut output, &roles, &mut progress).await;
    if let Err(error) = &scored {
        tell(&format!("error: {error:#}"));
    }
    if !command.quiet {
        tell(&format!("{progress}\n{}", roles.summary()));
    }
    let fine = scored.is_ok() && progress.unscored == 0;
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(shutdown::EXIT_FAULT) })
}

/// Reads, scores and writes line by line.
async fn score(
    stream: &mut Stream,
    input: &mut Input,
    output: &mut Output,
    roles: &Roles,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    while let Some(line) = input.next()? {
        let (record, outcome) = stream.step(line).await;
        output.write(&record, &outcome, &roles.columns)?;
        progress.note(&record, &outcome);
    }
    Ok(())
}

/// The models on the device, and an actor in front of them.
async fn start_inference(
    config: &Config,
    sources: Vec<ModelSource>,
    clock: &SharedClock,
) -> anyhow::Result<rewards::Inference> {
    let here = engine::computed_here(config, &sources);
    models::stack::Stack::of_sources(config, &here)?.check_fits(config, &models::memory::free)?;
    in_front_of(engine::start(config, &config.models_used(), &sources, &Registry::new(), clock).await?, config)
}

/// An actor in front of an engine, and the mailboxes to ask it by.
///
/// # Errors
/// When the metrics of the mailboxes cannot be registered.
pub fn in_front_of(engine: Arc<dyn Engine>, config: &Config) -> anyhow::Result<rewards::Inference> {
    let mailboxes = inference::Mailboxes::new(config.inference.mailbox_capacity, &Registry::new())?;
    mailboxes.attach(&InferenceActor::new(engine).start());
    let inference::Mailboxes { embed, log_prob, classify, generate, models, .. } = mailboxes;
    Ok(rewards::Inference { embed, log_prob, classify, generate, models })
}

#[allow(clippy::print_stderr, reason = "standard output may be where the scores go")]
fn tell(text: &str) {
    eprintln!("{text}");
}

// === impl Progress ===

impl Progress {
    fn new(clock: SharedClock, quiet: bool) -> Self {
        let started = clock.now();
        Self { clock, started, told: started, quiet, lines: 0, completions: 0, failed_calls: 0, unscored: 0 }
    }

    /// Counts a line, and now and then tells how far it is.
    fn note(&mut self, record: &StepRecord, outcome: &StepOutcome) {
        self.lines += 1;
        self.completions += record.completions.len() as u64;
        self.failed_calls += record.completions.iter().filter(|completion| !completion.is_success()).count() as u64;
        self.unscored += u64::from(outcome.scored().is_none());
        let now = self.clock.now();
        if !self.quiet && now.saturating_sub(self.told) >= TELL_EVERY {
            self.told = now;
            tell(&self.to_string());
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, completions, failed_calls, unscored, .. } = self;
        let seconds = self.clock.now().saturating_sub(self.started).as_secs_f64();
        let rate = *completions as f64 / seconds.max(f64::MIN_POSITIVE);
        write!(f, "{lines} lines, {completions} completions ({failed_calls} failed calls) in {seconds:.1} s: ")?;
        write!(f, "{rate:.1} completions/s")?;
        if *unscored > 0 {
            write!(f, "; {unscored} lines could not be scored")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
