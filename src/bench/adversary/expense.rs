//! What the defences cost: processor time, beside that of scoring a step.

use openvalidators_messages::{ForwardId, Sequence, StepId, StepRecord, rewards::Score};
use openvalidators_rewards::{
    Defences, Inference,
    fold::{Rules, State},
    score::Scorer,
    step::Step,
};
use openvalidators_runtime::SharedClock;
use serde::Serialize;

use super::pool::KINDS;
use crate::{bench::spent::Stopwatch, config::Config};

/// How often each step is scored from memory: the system counts processor time in hundredths of a second.
const REPETITIONS: usize = 20;
/// The aim: extra cost of a step.
const AIM: f64 = 0.1;

/// Processor seconds of one step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Expense {
    /// Completions of a step.
    pub asked: usize,
    /// Scoring it with the models, on this machine.
    pub scoring_seconds: f64,
    /// What the defences add to scoring it.
    pub extra_scoring_seconds: f64,
    /// What they add to folding it.
    pub extra_folding_seconds: f64,
}

/// Measures: `records` of one game without attackers are scored by `models`, and by `remembered`, which has every answer at hand,
/// and folded.
///
/// # Errors
/// When a model does not answer.
pub async fn measure(
    ours: &Config,
    records: &[StepRecord],
    models: &Inference,
    remembered: &Inference,
    clock: &SharedClock,
) -> anyhow::Result<Expense> {
    let mut bare = ours.clone();
    bare.rewards.defences = Defences::NONE;
    // A step of each kind stands for all.
    let kinds = &records[..KINDS.min(records.len())];
    let scoring_seconds = scoring(ours, kinds, models, clock, 1).await?;
    // Once before, so that everything is remembered.
    scoring(ours, kinds, remembered, clock, 1).await?;
    let with = scoring(ours, kinds, remembered, clock, REPETITIONS).await?;
    let without = scoring(&bare, kinds, remembered, clock, REPETITIONS).await?;
    Ok(Expense {
        asked: records.first().map_or(0, |record| record.completions.len()),
        scoring_seconds,
        extra_scoring_seconds: with - without,
        extra_folding_seconds: folding(ours, records, clock) - folding(&bare, records, clock),
    })
}

/// Processor seconds of scoring one of these steps.
async fn scoring(
    config: &Config,
    records: &[StepRecord],
    inference: &Inference,
    clock: &SharedClock,
    times: usize,
) -> anyhow::Result<f64> {
    let scorer = Scorer::new(&config.rewards, inference.clone(), clock.clone())?;
    let watch = Stopwatch::start(&**clock);
    for _ in 0..times {
        for record in records {
            let (admission, inference) = scorer.admission();
            let score = Score {
                step: StepId { forward: ForwardId(0), index: 0 },
                name: record.name,
                prompt: record.prompt.as_str().into(),
                base_text: record.base_text.as_str().into(),
                used: [].into(),
                completions: record.completions.as_slice().into(),
            };
            scorer.score(&Step::new(&score, admission, inference)).await?;
        }
    }
    Ok(watch.stop().processor_seconds / (times * records.len()).max(1) as f64)
}

/// Processor seconds of folding one of these steps.
fn folding(config: &Config, records: &[StepRecord], clock: &SharedClock) -> f64 {
    let (rules, mut state) = (Rules::new(&config.rewards), State::default());
    let watch = Stopwatch::start(&**clock);
    for (sequence, record) in (1..).zip(records) {
        state.fold(&rules, Sequence(sequence), record);
    }
    watch.stop().processor_seconds / records.len().max(1) as f64
}

// === impl Expense ===

impl Expense {
    /// What a step costs more, as a share of what scoring it costs.
    #[must_use]
    pub fn share(&self) -> f64 {
        (self.extra_scoring_seconds + self.extra_folding_seconds) / self.scoring_seconds
    }
}

/// As text.
#[must_use]
pub fn text(expense: &Expense) -> String {
    let Expense { asked, scoring_seconds, extra_scoring_seconds, extra_folding_seconds } = *expense;
    let milliseconds = |seconds: f64| format!("{:.1} ms", 1_000.0 * seconds);
    format!(
        "Measured in this run, on processors: a step of {asked} completions takes {scoring_seconds:.2} s to score by the models; all \
         of `rewards.defences` add {} to scoring it and {} to folding it, {:.2} % together. The aim is at most {:.0} %.\n",
        milliseconds(extra_scoring_seconds),
        milliseconds(extra_folding_seconds),
        100.0 * expense.share(),
        100.0 * AIM
    )
}

/// Whether it is more than the aim.
#[must_use]
pub fn missed(expense: &Expense) -> Option<String> {
    let share = expense.share();
    (share > AIM).then(|| format!("the defences add {:.1} % to the cost of a step; the aim is 10 %", 100.0 * share))
}
