//! The steps of a ledger, read while a validator may be writing to it.

use std::path::Path;

use openvalidators_ledger::{READ_LIMIT_STEPS, Reader};
use openvalidators_messages::{Scored, Scoring, Sequence, StepOutcome, ledger::StoredStep, prompts};
use openvalidators_tables::{
    COLUMN_NAMES, Column, Item, MICROS_PER_SECOND, Shadow, Skip, Source, SourceError, StepRow,
};

/// The ledger of a state directory.
pub struct LedgerSteps {
    name: String,
    run: String,
    reader: Reader,
    after: Sequence,
    /// Read but not handed on, latest first.
    steps: Vec<StoredStep>,
}

// === impl LedgerSteps ===

impl LedgerSteps {
    /// Opens it for reading.
    ///
    /// # Errors
    /// When there is no ledger of this version.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let reader = Reader::open(directory)?;
        let run = reader.identity().hotkey.to_string();
        Ok(Self { name: directory.display().to_string(), run, reader, after: Sequence(0), steps: Vec::new() })
    }
}

impl Source for LedgerSteps {
    fn name(&self) -> &str {
        &self.name
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if self.steps.is_empty() {
            let read = self.reader.read_steps(self.after, READ_LIMIT_STEPS);
            self.steps = read.map_err(|error| SourceError::new(&self.name, error))?;
            self.steps.reverse();
        }
        let Some(step) = self.steps.pop() else { return Ok(None) };
        self.after = step.sequence;
        let unknown = Skip { reason: "a time before 1970 or after 2200", place: format!("step {}", step.sequence) };
        let plausible = (0.0..7.3e9).contains(&step.record.started_at);
        Ok(Some(if plausible { Item::Row(Box::new(row_of(&step, &self.run))) } else { Item::Skipped(unknown) }))
    }
}

/// A step of a ledger as a row.
#[must_use]
pub fn row_of(step: &StoredStep, run: &str) -> StepRow {
    let record = &*step.record;
    let scored = step.outcome.as_deref().and_then(StepOutcome::scored);
    let best = scored.and_then(|scored| record.completions.get(scored.best?));
    let unscored = match (&record.scoring, step.outcome.as_deref()) {
        (Scoring::Unscored { reason }, _) | (_, Some(StepOutcome::Unscored { reason })) => Some(reason.clone()),
        (Scoring::Scored(_), None) => Some("the fold left no outcome".to_owned()),
        _ => None,
    };
    StepRow {
        run: run.to_owned(),
        forward: i64::try_from(record.step.forward.0).ok(),
        context: String::new(),
        topic: prompts::topic(&record.source).map(str::to_owned),
        name: record.name.to_string(),
        timestamp: ((record.started_at + record.length_seconds) * MICROS_PER_SECOND).round() as i64,
        block: i64::try_from(record.block.0).ok(),
        step_length: Some(record.length_seconds),
        prompt: record.prompt.clone(),
        uids: record.completions.iter().map(|completion| completion.uid.0.into()).collect(),
        hotkeys: record.completions.iter().map(|completion| completion.hotkey.to_string()).collect(),
        completions: record.completions.iter().map(|completion| completion.text.clone()).collect(),
        completion_times: record.completions.iter().map(|completion| Some(completion.elapsed_seconds)).collect(),
        status_codes: record.completions.iter().map(|completion| completion.status_code.into()).collect(),
        propensities: record.asked.iter().map(|asked| Some(asked.propensity)).collect(),
        rewards: scored
            .map(|scored| widened(scored.rewards.iter().map(|reward| Some(reward.get()))))
            .unwrap_or_default(),
        best: best.map(|completion| completion.text.trim().to_owned()),
        unscored,
        columns: columns(&record.scoring, scored),
        shadows: shadows(&record.scoring, scored),
    }
}

/// What candidates said, and how they stand. A normaliser is a matter of the fold alone.
#[must_use]
pub fn shadows(scoring: &Scoring, scored: Option<&Scored>) -> Vec<Shadow> {
    let Scoring::Scored(raw) = scoring else { return Vec::new() };
    let standings = scored.map_or(&[][..], |scored| &scored.shadows);
    let standing = |name: &str| standings.iter().find(|standing| standing.name == name);
    let asked = raw.shadows.iter().map(|shadow| Shadow {
        name: shadow.name.clone(),
        correlation: standing(&shadow.name).and_then(|standing| standing.correlation).map(f64::from),
        blocked: standing(&shadow.name).and_then(|standing| standing.blocked).map(f64::from),
        seconds: Some(shadow.seconds),
        failed: shadow.failure.is_some(),
    });
    let of_fold = standings.iter().filter(|standing| raw.shadows.iter().all(|shadow| shadow.name != standing.name));
    asked
        .chain(of_fold.map(|standing| Shadow {
            name: standing.name.clone(),
            correlation: standing.correlation.map(f64::from),
            seconds: standing.seconds,
            ..Shadow::default()
        }))
        .collect()
}

fn columns(scoring: &Scoring, scored: Option<&Scored>) -> Vec<Column> {
    let Scoring::Scored(raw) = scoring else { return Vec::new() };
    let find = |columns: &[openvalidators_messages::Column], name: &str| -> Option<Vec<Option<f64>>> {
        let column = columns.iter().find(|column| column.name == name)?;
        Some(widened(column.values.iter().copied()))
    };
    let column = |name: &'static str| {
        let shadowed = || {
            let shadow = raw.shadows.iter().find(|shadow| shadow.name == name && !shadow.factors.is_empty())?;
            Some(widened(shadow.factors.iter().copied()))
        };
        let raw = find(&raw.rewards, name).or_else(|| find(&raw.filters, name)).or_else(shadowed)?;
        let normalized =
            scored.and_then(|scored| find(&scored.normalised, name).or_else(|| find(&scored.filters, name)));
        Some(Column { name, raw, normalized: normalized.unwrap_or_default() })
    };
    COLUMN_NAMES.into_iter().filter_map(column).collect()
}

fn widened(values: impl Iterator<Item = Option<f32>>) -> Vec<Option<f64>> {
    values.map(|value| value.map(f64::from)).collect()
}

#[cfg(test)]
mod tests {
    use openvalidators_rewards::registry;

    use super::*;

    /// A reward or filter that is added to the registry needs its column, or its scores would be left out of every table.
    #[test]
    fn every_reward_and_filter_has_a_column() {
        let names: Vec<_> = registry::reward_names().chain(registry::filter_names()).collect();
        assert_eq!(names, COLUMN_NAMES);
    }
}
