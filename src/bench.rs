//! `openvalidators bench scoring`: how fast this machine scores a step, model by model, with random weights and without a
//! download.
//!
//! The networks have the architectures and sizes of openvalidators 1.2.0 (or smaller ones), the texts are random words, and
//! everything between them is the validator's own: tokenising, batching, prefix sharing, heads, rewards and filters. What
//! the networks say means nothing; that it does not depend on the order of work is checked.

pub mod adversary;
pub mod cost;
pub mod spent;
pub mod table;
pub mod work;

use std::{collections::BTreeMap, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context, bail, ensure};
use openvalidators_inference::{
    self as inference, DeviceName, Dtype, LocalEngine, ModelSource,
    synthetic::{self, Size, Synthetic},
};
use openvalidators_messages::{Scoring, StepName, inference::ModelName};
use openvalidators_rewards as rewards;
use openvalidators_runtime::{SharedClock, SystemClock};
use prometheus::Registry;
use serde::Serialize;

use crate::{cli, config::Config, console::print_text, score, shutdown};
use cost::{Load, Network};
use spent::{Stopwatch, available_mib, gpu_mib};
use table::Line;
use work::{Order, Part, Step};

/// What the weights of every network grow from.
const SEED: u64 = 7;

/// Memory that is left to everything but weights, in MiB.
const ROOM_MIB: u64 = 2_048;

/// Rows by themselves that the rows of a batch are compared with, where not all are.
const COMPARED: usize = 2;

/// Steps of a forward: one summary, four questions, four answers.
const STEPS_OF_A_FORWARD: f64 = 9.0;

/// Networks in a folder for each role, and the engine settings to run them with.
pub struct Bench<'a> {
    /// The settings.
    pub config: Config,
    /// Where a folder for each role is.
    pub folder: &'a Path,
    /// The networks, by role.
    pub networks: BTreeMap<String, Synthetic>,
    /// Time.
    pub clock: SharedClock,
    /// How often everything is measured; the fastest counts.
    pub repeats: usize,
}

/// A running engine with the networks of some parts.
pub struct Running {
    engine: Arc<LocalEngine>,
    metrics: inference::Metrics,
}

/// What a run says.
#[derive(Serialize)]
struct Report<'a> {
    stack: &'a str,
    device: String,
    completions: usize,
    prompt_tokens: usize,
    completion_tokens: usize,
    peak_gflops: f64,
    largest_difference: f32,
    steps_per_hour: f64,
    lines: &'a [Line],
}

/// Measures and prints.
///
/// # Errors
/// What kept it from measuring: memory, devices, settings.
pub async fn run(command: &cli::BenchScoring, config: Config) -> anyhow::Result<ExitCode> {
    let size = command.size();
    let networks = synthetic::stack(size)?;
    let parts = if command.only.is_empty() { Part::ALL.to_vec() } else { command.only.clone() };
    let sizes = command.sizes();
    let words = networks.values().map(Synthetic::words).min().unwrap_or(0);
    let step = Step::random(words, sizes.prompt_tokens, sizes.completions, sizes.completion_tokens);
    let folder = tempfile::tempdir().context("making a folder for the networks' configs")?;
    for (role, network) in &networks {
        network.write(&folder.path().join(role), SEED).context("writing the networks' configs")?;
    }
    let on_gpu = is_gpu(&config);
    let repeats = command.repeats.unwrap_or(if on_gpu { 3 } else { 1 });
    let bench = Bench { config, folder: folder.path(), networks, clock: SystemClock::shared(), repeats };
    bench.check_memory(&parts)?;
    let peak = match command.peak_tflops {
        Some(tera) => tera * 1e12,
        None => bench.peak()?,
    };

    let mut lines = Vec::new();
    let mut largest = 0_f32;
    for &part in &parts {
        let running = bench.start(&[part]).await?;
        bench.warm_up(&running, part, &step).await?;
        let compared = if size == Size::Tiny { step.completions.len() } else { COMPARED };
        largest = largest.max(bench.difference(&running, part, &step.first(compared)).await?);
        for (order, how) in
            [(Order::OneByOne, "one by one"), (Order::Batched, "batched"), (Order::Shared, "shared: ours")]
        {
            if order != Order::Shared && command.ours {
                continue;
            }
            lines.push(bench.measure(&running, part, &step, order, how).await?);
        }
    }
    let whole = bench.whole(&parts, &step).await?;
    for how in ["one by one", "batched"].into_iter().filter(|_| !command.ours) {
        let sum = Line::sum(&whole.what, how, lines.iter().filter(|line| line.how == how));
        lines.push(sum);
    }
    let steps_per_hour = 3_600.0 / whole.spent.wall_seconds;
    lines.push(whole);

    let report = Report {
        stack: match size {
            Size::Full => "full",
            Size::Base => "base-size",
            Size::Tiny => "tiny",
        },
        device: format!("{} in {}", bench.config.inference.device, bench.config.inference.dtype),
        completions: sizes.completions,
        prompt_tokens: sizes.prompt_tokens,
        completion_tokens: sizes.completion_tokens,
        peak_gflops: peak / 1e9,
        largest_difference: largest,
        steps_per_hour,
        lines: &lines,
    };
    print_text(&if command.json { serde_json::to_string(&report)? } else { report.text(peak) });
    let tolerated = tolerated(bench.config.inference.dtype);
    if largest > tolerated {
        print_text(&format!(
            "FAILED: a row in a batch and by itself differ by {largest:e}; {tolerated:e} is tolerated"
        ));
        return Ok(ExitCode::from(shutdown::EXIT_FAULT));
    }
    Ok(ExitCode::SUCCESS)
}

// === impl Report ===

impl Report<'_> {
    fn text(&self, peak: f64) -> String {
        let Self { stack, device, completions, prompt_tokens, completion_tokens, peak_gflops, .. } = self;
        format!(
            "{stack} stack with random weights on {device}: {completions} completions of {completion_tokens} tokens, \
             prompt {prompt_tokens} tokens.\nPeak of bare matrix products: {peak_gflops:.0} GFLOP/s.\n\n{}\n\
             one by one: the reference's order of work, prompt and logits anew for each completion; batched: the same rows \
             together;\nshared: what the validator does. Rows in a batch and alone differ by {:.1e} at most.\n\
             Scoring keeps up with {:.0} steps an hour, {:.1} forwards of nine steps.",
            table::markdown(self.lines, peak),
            self.largest_difference,
            self.steps_per_hour,
            self.steps_per_hour / STEPS_OF_A_FORWARD,
        )
    }
}

// === impl Bench ===

impl Bench<'_> {
    /// Whether the weights of all parts fit this machine's memory.
    ///
    /// # Errors
    /// When they do not; the error says what would.
    pub fn check_memory(&self, parts: &[Part]) -> anyhow::Result<()> {
        let roles = parts.iter().flat_map(|part| part.roles());
        let weights: f64 = roles.map(|role| self.network(role).weights()).sum();
        let needed = (weights * bytes_of(self.config.inference.dtype)) as u64 / (1 << 20) + ROOM_MIB;
        match available_mib() {
            Some(available) if !is_gpu(&self.config) && needed > available => bail!(
                "the weights need about {needed} MiB and {available} MiB of memory are free; measure smaller networks \
                 (--base, --tiny), fewer (--only), or compute on a GPU (--device cuda:0)"
            ),
            _ => Ok(()),
        }
    }

    /// Operations a second of a bare matrix product on the configured device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn peak(&self) -> anyhow::Result<f64> {
        synthetic::peak_flops(&self.config.inference, &*self.clock)
            .map_err(|reason| anyhow::anyhow!("measuring the peak of matrix products: {reason}"))
    }

    /// An engine with the networks of `parts`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self, parts: &[Part]) -> anyhow::Result<Running> {
        let source = |role: &&str| ModelSource { name: ModelName::new(role), directory: self.folder.join(role) };
        let sources: Vec<ModelSource> = parts.iter().flat_map(|part| part.roles()).map(source).collect();
        let (mut settings, clock) = (self.config.inference.clone(), self.clock.clone());
        // Models of the operator's own are not here.
        settings.placement.retain(|model, _| sources.iter().any(|source| source.name == *model));
        let metrics = inference::Metrics::new(&Registry::new())?;
        let load = {
            let metrics = metrics.clone();
            move || LocalEngine::start(&settings, &sources, metrics, clock)
        };
        let engine = tokio::task::spawn_blocking(load).await.context("loading the networks")??;
        Ok(Running { engine: Arc::new(engine), metrics })
    }

    /// Touches every weight for the first time, and every kernel.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn warm_up(&self, running: &Running, part: Part, step: &Step) -> anyhow::Result<()> {
        for ask in part.asks(&step.first(COMPARED), Order::Shared) {
            ask.numbers(&*running.engine).await?;
        }
        Ok(())
    }

    /// Measures one part in one order of work.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn measure(
        &self,
        running: &Running,
        part: Part,
        step: &Step,
        order: Order,
        how: &str,
    ) -> anyhow::Result<Line> {
        let mut best: Option<Line> = None;
        for _ in 0..self.repeats.max(1) {
            let asks = part.asks(step, order);
            let before = running.tokens(part);
            let watch = Stopwatch::start(&*self.clock);
            for ask in asks {
                ask.numbers(&*running.engine).await?;
            }
            let mut spent = watch.stop();
            if is_gpu(&self.config) {
                spent.peak_mib = gpu_mib();
            }
            let line = Line {
                what: part.to_string(),
                how: how.to_owned(),
                spent,
                tokens: running.tokens(part) - before,
                operations: self.operations(part, &self.loads(part, step, order)),
            };
            let best_seconds = best.as_ref().map_or(f64::INFINITY, |best| best.spent.wall_seconds);
            best = if spent.wall_seconds < best_seconds { Some(line) } else { best };
        }
        best.context("nothing was measured")
    }

    /// How far the numbers of `step` are at most from those of its texts alone.
    ///
    /// # Errors
    /// When the engine fails, or says something that is not finite.
    pub async fn difference(&self, running: &Running, part: Part, step: &Step) -> anyhow::Result<f32> {
        let together = self.numbers(running, part, step, Order::Shared).await?;
        let alone = self.numbers(running, part, step, Order::Alone).await?;
        farthest(&together, &alone).with_context(|| format!("{part}, in a batch and alone"))
    }

    /// What is said of `step`, a row for each text.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn numbers(
        &self,
        running: &Running,
        part: Part,
        step: &Step,
        order: Order,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut numbers = Vec::new();
        for ask in part.asks(step, order) {
            numbers.extend(ask.numbers(&*running.engine).await?);
        }
        Ok(numbers)
    }

    /// Measures a whole step as the validator scores it: every reward and filter of `parts` at once.
    ///
    /// # Errors
    /// When the step is not scored.
    pub async fn whole(&self, parts: &[Part], step: &Step) -> anyhow::Result<Line> {
        let running = self.start(parts).await?;
        let mut best: Option<Line> = None;
        // The first is the warm-up.
        for step in [&step.first(COMPARED)].into_iter().chain(std::iter::repeat_n(step, self.repeats.max(1))) {
            let asked = score::in_front_of(running.engine.clone(), &self.config)?;
            let mut stream = score::Stream::new(&rewards_of(&self.config.rewards, parts), asked)?;
            let line = score::Line {
                name: StepName::Augment,
                prompt: step.prompt.to_string(),
                base_prompt: None,
                completions: step.completions.iter().map(|text| Some(text.to_string())).collect(),
            };
            let tokens = || parts.iter().map(|part| running.tokens(*part)).sum::<f64>();
            let before = tokens();
            let watch = Stopwatch::start(&*self.clock);
            let (record, _) = stream.step(line).await;
            let mut spent = watch.stop();
            if let Scoring::Unscored { reason } = record.scoring {
                bail!("the step was not scored: {reason}");
            }
            if is_gpu(&self.config) {
                spent.peak_mib = gpu_mib();
            }
            let loads = |part| self.loads(part, step, Order::Shared);
            let operations = parts.iter().map(|part| self.operations(*part, &loads(*part))).sum();
            let (what, how) = ("whole stack".to_owned(), "shared: ours".to_owned());
            let line = Line { what, how, spent, tokens: tokens() - before, operations };
            let faster = best.as_ref().is_none_or(|best| {
                best.operations < line.operations || line.spent.wall_seconds < best.spent.wall_seconds
            });
            best = if faster { Some(line) } else { best };
        }
        best.context("nothing was measured")
    }

    /// What each network of a part computes, in the order of its roles.
    #[must_use]
    pub fn loads(&self, part: Part, step: &Step, order: Order) -> Vec<Load> {
        let limits: Vec<usize> = part.roles().iter().map(|role| self.limit(role)).collect();
        part.loads(step, order, &limits)
    }

    /// The operations of what the networks of a part compute.
    #[must_use]
    pub fn operations(&self, part: Part, loads: &[Load]) -> f64 {
        part.roles().iter().zip(loads).map(|(role, load)| self.network(role).operations(*load)).sum()
    }

    fn network(&self, role: &str) -> Network {
        self.networks.get(role).map_or_else(|| Network::of(&serde_json::Value::Null), |made| Network::of(&made.config))
    }

    /// Where a role's texts are cut.
    fn limit(&self, role: &str) -> usize {
        let most = self.config.inference.max_sequence_tokens;
        let stated = self.networks.get(role).and_then(Synthetic::max_tokens);
        stated.map_or(most, |stated| stated.min(most))
    }
}

// === impl Running ===

impl Running {
    /// Tokens computed so far for a part.
    fn tokens(&self, part: Part) -> f64 {
        part.roles().iter().map(|role| self.metrics.tokens.with_label_values(&[role]).get() as f64).sum()
    }
}

/// How far two tables of numbers are at most from each other.
///
/// # Errors
/// When they are of different shapes, or hold something that is not finite.
pub fn farthest(one: &[Vec<f32>], other: &[Vec<f32>]) -> anyhow::Result<f32> {
    let shape = |rows: &[Vec<f32>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
    ensure!(shape(one) == shape(other), "rows of {:?} and of {:?} numbers", shape(one), shape(other));
    let pairs = || one.iter().flatten().zip(other.iter().flatten());
    ensure!(pairs().all(|(a, b)| a.is_finite() && b.is_finite()), "a number is not finite");
    Ok(pairs().map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max))
}

/// The settings of rewards under which the models of `parts` are asked, and no others.
fn rewards_of(config: &rewards::Config, parts: &[Part]) -> rewards::Config {
    let mut config = config.clone();
    let asked = |part| parts.contains(&part);
    let columns = [
        (Part::Dpo, rewards::dpo::NAME),
        (Part::Rlhf, rewards::rlhf::NAME),
        (Part::Reciprocate, rewards::reciprocate::NAME),
    ];
    config.shadows.clear();
    config.weights =
        columns.into_iter().filter(|(part, _)| asked(*part)).map(|(_, name)| (name.to_owned(), 1.0)).collect();
    config.dpo.model = ModelName::new("dpo");
    config.rlhf.model = ModelName::new("rlhf");
    config.reciprocate.model = ModelName::new("reciprocate");
    config.nsfw.model = ModelName::new("nsfw");
    config.diversity.model = ModelName::new("relevance_mpnet");
    config.relevance.enabled = asked(Part::Relevance);
    config.diversity.enabled = asked(Part::Relevance);
    config.nsfw.enabled = asked(Part::Nsfw);
    config
}

fn is_gpu(config: &Config) -> bool {
    matches!(config.inference.device, DeviceName::Cuda(_))
}

fn bytes_of(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 4.0,
        Dtype::F16 | Dtype::Bf16 => 2.0,
    }
}

/// How far a row in a batch may be from the same alone: what rounding does in these numbers.
fn tolerated(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => 1e-4,
        Dtype::F16 => 2e-2,
        Dtype::Bf16 => 1e-1,
    }
}

#[cfg(test)]
mod tests;
