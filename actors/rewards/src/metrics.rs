//! What the rewards actor exports.

use std::{collections::BTreeMap, sync::Arc};

use openvalidators_messages::{
    Judgement, ShadowStanding, StepOutcome,
    rewards::{ScoreSheet, Unscored},
};
use parking_lot::Mutex;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::Collector,
};

use crate::{config::Config, fold::State, network::bias::Bench, registry, shadow::benchmark::Benchmark, step::Step};

/// Bucket bounds of scoring a step, in seconds: from cached texts to a large model on a slow machine.
const SCORE_SECONDS_BUCKETS: [f64; 10] = [0.1, 0.3, 1.0, 3.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0];

/// Bucket bounds of folding a step, in seconds.
const FOLD_SECONDS_BUCKETS: [f64; 8] = [0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0];

/// Bucket bounds of how far judges disagree, in grades.
const DISAGREEMENT_BUCKETS: [f64; 7] = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0];

/// Steps whose mean the correlation of a shadow is; older ones fade.
const CORRELATION_MEMORY_STEPS: u32 = 100;

/// Judges whose bias is shown: those furthest from the others.
const BIASES_SHOWN: usize = 20;

/// What stands for a candidate where none is meant.
const IN_FORCE: &str = "in_force";

/// A filter factor below this counts as blocked.
const BLOCKED_BELOW: f32 = 0.5;

/// Metrics of rewards. They outlive the actor: make them once, outside its factory.
#[derive(Clone)]
pub struct Metrics {
    /// Seconds until the raw scores of a step were there.
    pub score_seconds: Histogram,
    /// Seconds of a fold.
    pub fold_seconds: Histogram,
    /// Steps whose raw scores were asked for, by `result`: `scored` or `unscored`.
    scored_total: IntCounterVec,
    /// Steps folded, by `outcome`: `scored` or `unscored`.
    folded_total: IntCounterVec,
    /// Successful completions refused for their length.
    refused_total: IntCounter,
    /// Completions folded whose factor was below one half, by `filter`.
    blocked_total: IntCounterVec,
    /// Running mean of the raw scores, by `reward`.
    mean: GaugeVec,
    /// Running standard deviation of the raw scores, by `reward`.
    deviation: GaugeVec,
    /// Embeddings remembered.
    history_rows: IntGauge,
    /// The latest step folded.
    sequence: IntGauge,
    /// Snapshots, by `result`: `saved` or `failed`.
    snapshots_total: IntCounterVec,
    /// Mean rank correlation of a candidate with what is in force, by `shadow`.
    shadow_correlation: GaugeVec,
    /// Capture ratio on the benchmark with a candidate in force, by `shadow` and `strategy`; of what is in force as
    /// [`IN_FORCE`].
    shadow_capture_ratio: GaugeVec,
    /// Seconds a candidate took for a step, by `shadow`.
    shadow_seconds: HistogramVec,
    /// Steps a candidate said nothing of, by `shadow`.
    shadow_failures_total: IntCounterVec,
    /// Miners asked to judge, by `result`: `grade` or `no_grade`.
    judgements_total: IntCounterVec,
    /// Mean difference of grades from their median, for each completion judged.
    judge_disagreement: Histogram,
    /// Mean difference of a judge's grades from the median, by `hotkey`.
    judge_bias: GaugeVec,
    remembered: Arc<Mutex<Remembered>>,
}

/// What the gauges are means of.
#[derive(Default)]
struct Remembered {
    correlations: BTreeMap<String, (u32, f64)>,
}

impl Metrics {
    /// Registers everything; each counter exists at zero from the start.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("openvalidators_rewards_{name}");
        let histogram = |suffix: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::new(name(suffix), help).buckets(buckets.to_vec());
            registered(registry, Histogram::with_opts(opts)?)
        };
        let counters = |suffix: &str, help: &str, label: &str, values: &[&str]| {
            let counters = registered(registry, IntCounterVec::new(Opts::new(name(suffix), help), &[label])?)?;
            values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
            Ok::<_, prometheus::Error>(counters)
        };
        let gauges =
            |suffix: &str, help: &str| registered(registry, GaugeVec::new(Opts::new(name(suffix), help), &["reward"])?);
        let gauge = |suffix: &str, help: &str| registered(registry, IntGauge::new(name(suffix), help)?);
        let filters: Vec<&str> = registry::filter_names().collect();
        Ok(Self {
            score_seconds: histogram("score_seconds", "Time to the raw scores of a step", &SCORE_SECONDS_BUCKETS)?,
            fold_seconds: histogram("fold_seconds", "Time to fold a step", &FOLD_SECONDS_BUCKETS)?,
            scored_total: counters(
                "scored_total",
                "Steps whose raw scores were asked for",
                "result",
                &["scored", "unscored"],
            )?,
            folded_total: counters("folded_total", "Steps folded", "outcome", &["scored", "unscored"])?,
            refused_total: registered(
                registry,
                IntCounter::new(name("refused_total"), "Successful completions refused for their length")?,
            )?,
            blocked_total: counters("blocked_total", "Completions with a factor below 0.5", "filter", &filters)?,
            mean: gauges("normaliser_mean", "Running mean of the raw scores")?,
            deviation: gauges("normaliser_deviation", "Running standard deviation of the raw scores")?,
            history_rows: gauge("history_rows", "Embeddings the diversity filter remembers")?,
            sequence: gauge("sequence", "The latest step folded")?,
            snapshots_total: counters("snapshots_total", "Snapshots of the state", "result", &["saved", "failed"])?,
            shadow_correlation: registered(
                registry,
                GaugeVec::new(
                    Opts::new(name("shadow_correlation"), "Mean rank correlation of a candidate with what is in force"),
                    &["shadow"],
                )?,
            )?,
            shadow_capture_ratio: registered(
                registry,
                GaugeVec::new(
                    Opts::new(name("shadow_capture_ratio"), "Capture ratio on the benchmark with a candidate in force"),
                    &["shadow", "strategy"],
                )?,
            )?,
            shadow_seconds: registered(
                registry,
                HistogramVec::new(
                    HistogramOpts::new(name("shadow_seconds"), "Time a candidate took for a step")
                        .buckets(SCORE_SECONDS_BUCKETS.to_vec()),
                    &["shadow"],
                )?,
            )?,
            shadow_failures_total: counters(
                "shadow_failures_total",
                "Steps of which a candidate said nothing",
                "shadow",
                &[],
            )?,
            judgements_total: counters(
                "judgements_total",
                "Miners asked to judge another's completion",
                "result",
                &["grade", "no_grade"],
            )?,
            judge_disagreement: histogram(
                "judge_disagreement",
                "Mean difference of the grades of a completion from their median",
                &DISAGREEMENT_BUCKETS,
            )?,
            judge_bias: registered(
                registry,
                GaugeVec::new(
                    Opts::new(name("judge_bias"), "Mean difference of a judge's grades from the median"),
                    &["hotkey"],
                )?,
            )?,
            remembered: Arc::default(),
        })
    }

    /// Shows what attackers earned on the benchmark with what is in force, and with each candidate that runs.
    pub(crate) fn show_benchmark(&self, benchmark: &Benchmark, config: &Config) {
        if benchmark.settings != config.digest() {
            tracing::warn!(
                "rewards.shadow_benchmark was played with other settings in force than today's; play it again with \
                 `openvalidators bench adversary --candidates FILE`"
            );
        }
        let running = benchmark.candidates.iter().filter(|(name, _)| config.shadows.contains(*name));
        let running = running.map(|(name, attacked)| (name.as_str(), attacked));
        for (name, attacked) in running.chain([(IN_FORCE, &benchmark.in_force)]) {
            for (strategy, ratio) in &attacked.capture {
                self.shadow_capture_ratio.with_label_values(&[name, strategy]).set(*ratio);
            }
        }
    }

    /// Counts the texts refused at admission.
    pub(crate) fn note_admission(&self, step: &Step) {
        self.refused_total.inc_by(step.refused.len() as u64);
    }

    /// Counts an answer to `Score`.
    pub(crate) fn note_scored(&self, answer: &Result<ScoreSheet, Unscored>) {
        self.scored_total.with_label_values(&[if answer.is_ok() { "scored" } else { "unscored" }]).inc();
        let Ok(ScoreSheet { raw, .. }) = answer else { return };
        for shadow in &raw.shadows {
            self.shadow_seconds.with_label_values(&[&shadow.name]).observe(shadow.seconds);
            let failures = self.shadow_failures_total.with_label_values(&[&shadow.name]);
            failures.inc_by(u64::from(shadow.failure.is_some()));
        }
        if !raw.judgements.is_empty() {
            self.note_judgements(&raw.judgements);
        }
    }

    fn note_judgements(&self, judgements: &[Judgement]) {
        for Judgement { grade, .. } in judgements {
            self.judgements_total.with_label_values(&[if grade.is_some() { "grade" } else { "no_grade" }]).inc();
        }
        let benches = Bench::of(judgements);
        for verdict in benches.iter().filter_map(Bench::verdict) {
            self.judge_disagreement.observe(verdict.disagreement.into());
        }
    }

    /// Counts a fold that happened just now.
    pub(crate) fn note_folded(&self, outcome: &StepOutcome) {
        let Some(scored) = outcome.scored() else {
            self.folded_total.with_label_values(&["unscored"]).inc();
            return;
        };
        self.folded_total.with_label_values(&["scored"]).inc();
        scored.shadows.iter().for_each(|standing| self.note_standing(standing));
        for column in &scored.filters {
            let blocked = column.values.iter().flatten().filter(|&&factor| factor < BLOCKED_BELOW).count();
            self.blocked_total.with_label_values(&[&column.name]).inc_by(blocked as u64);
        }
    }

    fn note_standing(&self, ShadowStanding { name, correlation, seconds, .. }: &ShadowStanding) {
        if let Some(seconds) = *seconds {
            self.shadow_seconds.with_label_values(&[name]).observe(seconds);
        }
        let Some(correlation) = *correlation else { return };
        let mut remembered = self.remembered.lock();
        let (steps, mean) = remembered.correlations.entry(name.clone()).or_default();
        *steps = (*steps + 1).min(CORRELATION_MEMORY_STEPS);
        *mean += (f64::from(correlation) - *mean) / f64::from(*steps);
        self.shadow_correlation.with_label_values(&[name]).set(*mean);
    }

    /// Shows the state.
    pub(crate) fn show(&self, state: &State) {
        for (name, normaliser) in &state.normalisers.running {
            self.mean.with_label_values(&[name]).set(normaliser.mean);
            self.deviation.with_label_values(&[name]).set(normaliser.variance.sqrt());
        }
        for (name, robust) in &state.normalisers.robust {
            self.mean.with_label_values(&[name]).set(robust.location);
            self.deviation.with_label_values(&[name]).set(robust.scale);
        }
        self.judge_bias.reset();
        for (judge, bias) in state.judges.biases.furthest(BIASES_SHOWN) {
            self.judge_bias.with_label_values(&[&judge.to_string()]).set(bias);
        }
        self.history_rows.set(i64::try_from(state.history.len()).unwrap_or(i64::MAX));
        self.sequence.set(i64::try_from(state.sequence.0).unwrap_or(i64::MAX));
    }

    /// Counts a snapshot.
    pub(crate) fn note_snapshot(&self, saved: bool) {
        self.snapshots_total.with_label_values(&[if saved { "saved" } else { "failed" }]).inc();
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
