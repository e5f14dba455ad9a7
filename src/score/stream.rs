//! The steps of one stream, scored in order: what the validator does with a step, without the validator.

use std::sync::Arc;

use openvalidators_messages::{
    Block, Completion, ForwardId, Hotkey, QueryOutcome, STEP_RECORD_VERSION, Scoring, StepId, StepKind, StepName,
    StepOutcome, StepRecord, Uid,
    rewards::{Score, ScoreSheet},
};
use openvalidators_rewards::{
    Config, ConfigError, Inference,
    admission::trimmed,
    fold::{Rules, State},
    score::Scorer,
    step::Step,
};
use openvalidators_runtime::SystemClock;

use super::input::Line;

/// The scorer, and what is carried from step to step.
pub struct Stream {
    scorer: Scorer,
    rules: Rules,
    state: State,
    /// The best questions and answers since the last `augment`.
    used: Vec<String>,
}

// === impl Stream ===

impl Stream {
    /// At the beginning.
    ///
    /// # Errors
    /// When a reward function cannot be made as configured.
    pub fn new(config: &Config, inference: Inference) -> Result<Self, ConfigError> {
        let (scorer, rules) = (Scorer::new(config, inference, SystemClock::shared())?, Rules::new(config));
        Ok(Self { scorer, rules, state: State::default(), used: Vec::new() })
    }

    /// Scores the next step and folds it.
    pub async fn step(&mut self, line: Line) -> (StepRecord, Arc<StepOutcome>) {
        if line.name == StepName::Augment {
            self.used.clear();
        }
        let Line { name, prompt, base_prompt, completions } = line;
        let completions: Vec<Completion> = completions.into_iter().enumerate().map(completion).collect();
        let score = Score {
            step: StepId { forward: ForwardId(0), index: 0 },
            name,
            base_text: base_prompt.as_deref().unwrap_or(&prompt).into(),
            prompt: prompt.into(),
            used: self.used.clone().into(),
            completions: completions.into(),
        };
        let (admission, inference) = self.scorer.admission();
        let (scoring, digests) = match self.scorer.score(&Step::new(&score, admission, inference)).await {
            // Here a column without a share was asked for by name: without it there is no answer.
            Ok(ScoreSheet { raw, .. }) if raw.shadows.iter().any(|shadow| shadow.failure.is_some()) => {
                let failed = raw.shadows.iter().find_map(|shadow| Some((&shadow.name, shadow.failure.as_ref()?)));
                let reason = failed.map(|(name, failure)| format!("{name}: {failure}")).unwrap_or_default();
                (Scoring::Unscored { reason }, Default::default())
            }
            Ok(sheet) => (Scoring::Scored(sheet.raw), sheet.digests),
            Err(unscored) => (Scoring::Unscored { reason: unscored.reason }, Default::default()),
        };
        let record = record(score, scoring, digests);
        let outcome = self.state.fold(&self.rules, self.state.sequence.next(), &record);
        let best = outcome.scored().and_then(|scored| scored.best);
        if let Some(best) = best.filter(|_| name.kind() != StepKind::Augment) {
            self.used.push(trimmed(&record.completions[best].text).to_owned());
        }
        (record, outcome)
    }
}

/// When it came is not known: all count as having come at once.
fn completion((place, text): (usize, Option<String>)) -> Completion {
    let outcome = if text.is_some() { QueryOutcome::Answered } else { QueryOutcome::TimedOut };
    Completion {
        uid: Uid(u16::try_from(place).unwrap_or(u16::MAX)),
        hotkey: Hotkey([0; 32]),
        text: text.unwrap_or_default(),
        outcome,
        status_code: if outcome == QueryOutcome::Answered { 200 } else { 408 },
        status_message: String::new(),
        elapsed_seconds: 0.0,
    }
}

/// The record that the fold reads; what it does not look at is empty.
fn record(score: Score, scoring: Scoring, digests: std::collections::BTreeMap<String, String>) -> StepRecord {
    StepRecord {
        version: STEP_RECORD_VERSION,
        step: score.step,
        name: score.name,
        block: Block(0),
        started_at: 0.0,
        length_seconds: 0.0,
        seed: 0,
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: String::new(),
        prompt: score.prompt.to_string(),
        embedding: None,
        base_text: score.base_text.to_string(),
        asked: Vec::new(),
        completions: score.completions.to_vec(),
        scoring,
        digests,
    }
}
