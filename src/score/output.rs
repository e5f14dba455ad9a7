//! Lines of output. Numbers that do not exist are `null`: JSON has neither NaN nor infinity.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Write, stdout},
    path::Path,
};

use anyhow::{Context, ensure};
use openvalidators_messages::{Column, Scored, Scoring, StepOutcome, StepRecord};
use serde::{Serialize, Serializer};

/// A file of lines, or standard output.
pub struct Output {
    lines: Box<dyn Write>,
    name: String,
}

#[derive(Serialize)]
struct Line<'a> {
    rewards: Vec<Option<f32>>,
    best: Option<usize>,
    models: Columns<'a>,
    filters: Columns<'a>,
    /// Why there are no scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    unscored: Option<&'a str>,
}

/// Columns by name, in order.
#[derive(Default)]
struct Columns<'a>(Vec<(&'a str, Numbers<'a>)>);

#[derive(Serialize)]
struct Numbers<'a> {
    raw: &'a [Option<f32>],
    /// 0 where the call failed, as in the reference.
    normalized: Vec<f32>,
}

// === impl Output ===

impl Output {
    /// Makes the file anew, or for `-` takes standard output.
    ///
    /// # Errors
    /// When it cannot be made, or is the input.
    pub fn create(path: &Path, input: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self { lines: Box::new(stdout().lock()), name: "standard output".to_owned() });
        }
        let name = path.display().to_string();
        let same = matches!((path.canonicalize(), input.canonicalize()), (Ok(output), Ok(input)) if output == input);
        ensure!(!same, "--output {name} is the input; choose another file");
        let file = File::create(path).with_context(|| format!("making the output {name}"))?;
        Ok(Self { lines: Box::new(file), name })
    }

    /// Writes a scored step, whole and at once, so that whoever follows the file sees it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(
        &mut self,
        record: &StepRecord,
        outcome: &StepOutcome,
        columns: &BTreeSet<&str>,
    ) -> anyhow::Result<()> {
        let line = match outcome {
            StepOutcome::Scored(scored) => scored_line(record, scored, columns),
            StepOutcome::Unscored { reason } => Line {
                rewards: vec![None; record.completions.len()],
                best: None,
                models: Columns::default(),
                filters: Columns::default(),
                unscored: Some(reason),
            },
        };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        let written = self.lines.write_all(&bytes).and_then(|()| self.lines.flush());
        written.with_context(|| format!("writing to {}", self.name))
    }
}

fn scored_line<'a>(record: &'a StepRecord, scored: &'a Scored, columns: &BTreeSet<&str>) -> Line<'a> {
    let raw: &[Column] = match &record.scoring {
        Scoring::Scored(raw) => &raw.rewards,
        Scoring::Unscored { .. } => &[],
    };
    let kept = |column: &&Column| columns.contains(column.name.as_str());
    let models = raw.iter().filter(kept).zip(scored.normalised.iter().filter(kept));
    let models = models.map(|(raw, normalised)| (raw.name.as_str(), numbers(raw, normalised)));
    // A filter is not normalised; what counts is what was applied, the history of the stream included.
    let filters = scored.filters.iter().filter(kept).map(|column| (column.name.as_str(), numbers(column, column)));
    Line {
        rewards: scored.rewards.iter().map(|reward| Some(reward.get())).collect(),
        best: scored.best,
        models: Columns(models.collect()),
        filters: Columns(filters.collect()),
        unscored: None,
    }
}

fn numbers<'a>(raw: &'a Column, normalised: &Column) -> Numbers<'a> {
    Numbers { raw: &raw.values, normalized: normalised.values.iter().map(|value| value.unwrap_or(0.0)).collect() }
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, numbers)| (name, numbers)))
    }
}
