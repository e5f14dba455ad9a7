//! The state of rewards, and its fold: `(state, step) → outcome`, a pure function. The live validator, a restart and a
//! replay all run it.

use std::{collections::BTreeMap, sync::Arc};

use openvalidators_messages::{
    Column, Completion, Embeddings, Origin, RawScores, Reward, STEP_RECORD_VERSION, Scored, Scoring, Sequence,
    StepOutcome, StepRecord,
};
use openvalidators_runtime::Clock;

use crate::{
    blacklist,
    combination::{Weights, best, combine},
    config::Config,
    diversity::{self, history_factor},
    followers::{Followers, Said},
    history::History,
    kin::Kin,
    network::Past,
    normaliser::{COUNT_LIMIT_SCORES, Normalisation, SingleScore},
    normalisers::Normalisers,
    phrases::Phrases,
    shadow::{self, Renormalised},
};

/// Rows of the history that the reference skips, and remembers in addition: `history_range` of `reward/diversity.py`.
const REFERENCE_SKIPPED_ROWS: usize = 500;

/// A completion that filters leave less of has no part in what others are measured by.
const COUNTS: f32 = 0.5;

/// The settings a fold depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    weights: Weights,
    history_bottom_k: usize,
    history_skip: usize,
    history_rows: usize,
    single_score: SingleScore,
    best_of_nothing: bool,
    normalisation: Normalisation,
    promoted_normaliser: Option<String>,
    shadow_normalisers: Vec<(&'static str, Normalisation)>,
    bounded_by: Option<String>,
    overused_phrases: bool,
    followers: bool,
    kin: bool,
}

/// What rewards remember from step to step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The latest step folded.
    pub sequence: Sequence,
    /// Its outcome; `None` before the first.
    pub latest: Option<Arc<StepOutcome>>,
    /// What the normaliser in force remembers of each reward column.
    pub normalisers: Normalisers,
    /// What each candidate for its place does.
    pub shadow_normalisers: BTreeMap<String, Normalisers>,
    /// The embeddings of the diversity filter.
    pub history: History,
    /// The encoder that made them.
    pub history_model: String,
    /// Phrases, and how often they were said.
    pub phrases: Phrases,
    /// Who says what others said before.
    pub followers: Followers,
    /// Miners that judged.
    pub judges: Past,
    /// Who cannot be told apart from its kin.
    pub kin: Kin,
    /// sha256 of the files behind each column, under `COLUMN/MODEL/FILE`.
    pub digests: BTreeMap<String, String>,
}

// === impl Rules ===

impl Rules {
    /// As configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let skip = if config.compat.diversity_reference { REFERENCE_SKIPPED_ROWS } else { 0 };
        let normalisation = config.normaliser.as_deref().and_then(shadow::normaliser).unwrap_or(
            match config.defences.robust_normaliser {
                true => Normalisation::Robust,
                false => Normalisation::Running { count_limit: COUNT_LIMIT_SCORES },
            },
        );
        let is_shadow = |name: &str, other: Normalisation| config.shadows.contains(name) && other != normalisation;
        Self {
            weights: config.weights.clone(),
            history_bottom_k: config.diversity.history_bottom_k,
            history_skip: skip,
            history_rows: config.diversity.history_rows.saturating_add(skip),
            single_score: match config.compat.normaliser_unscaled_by_one {
                true => SingleScore::EndsScaling,
                false => SingleScore::VariesNot,
            },
            best_of_nothing: config.compat.best_of_nothing,
            normalisation,
            promoted_normaliser: config.normaliser.clone(),
            shadow_normalisers: shadow::NORMALISERS
                .into_iter()
                .filter(|(name, other)| is_shadow(name, *other))
                .collect(),
            bounded_by: config.bounded_by.clone(),
            overused_phrases: config.defences.overused_phrases,
            followers: config.defences.followers,
            kin: config.defences.kin,
        }
    }

    /// With another normalisation than the validator's.
    #[must_use]
    pub fn normalised_by(self, normalisation: Normalisation) -> Self {
        Self { normalisation, ..self }
    }

    /// For records whose filters have been applied: what the past says of them is in them.
    #[must_use]
    pub fn without_memory(self) -> Self {
        Self { overused_phrases: false, followers: false, kin: false, ..self }
    }

    /// Whether both compare completions with the past in the same way: then what one made of it is what the other makes of it.
    #[must_use]
    pub fn remembers_as(&self, other: &Self) -> bool {
        let history = |rules: &Self| {
            let Self { history_bottom_k, history_skip, history_rows, overused_phrases, followers, kin, .. } = *rules;
            (history_bottom_k, history_skip, history_rows, overused_phrases, followers, kin)
        };
        history(self) == history(other)
    }

    /// Where a second reward function saw a completion, the lesser of both counts.
    fn bound(&self, rewards: &mut [Reward], succeeded: &[bool], normalised: &[Column], filters: &[Column]) {
        let second = self.bounded_by.as_ref().and_then(|name| normalised.iter().find(|column| column.name == *name));
        let Some(Column { name, values }) = second else { return };
        let alone = combine(succeeded, &Weights::from([(name.clone(), 1.0)]), normalised, filters);
        for ((reward, second), said) in rewards.iter_mut().zip(alone).zip(values) {
            if said.is_some() && second < *reward {
                *reward = second;
            }
        }
    }

    /// Whether folding reads the texts of records: outcomes of those that retention took the texts of cannot be made again.
    #[must_use]
    pub fn read_texts(&self) -> bool {
        self.overused_phrases || self.followers || self.kin
    }

    /// How many rows the history may hold.
    #[must_use]
    pub fn history_rows(&self) -> usize {
        self.history_rows
    }
}

// === impl State ===

impl State {
    /// Folds the step at `sequence` and remembers its outcome.
    pub fn fold(&mut self, rules: &Rules, sequence: Sequence, record: &StepRecord) -> Arc<StepOutcome> {
        self.fold_timed(rules, sequence, record, None)
    }

    /// As [`Self::fold`], and measures what candidates for the normaliser cost. Nothing that counts depends on the clock.
    pub fn fold_timed(
        &mut self,
        rules: &Rules,
        sequence: Sequence,
        record: &StepRecord,
        clock: Option<&dyn Clock>,
    ) -> Arc<StepOutcome> {
        let outcome = match self.settle(rules, record, clock) {
            Ok(scored) => StepOutcome::Scored(scored),
            Err(reason) => StepOutcome::Unscored { reason },
        };
        let outcome = Arc::new(outcome);
        self.sequence = sequence;
        self.latest = Some(Arc::clone(&outcome));
        outcome
    }

    /// What counts: without what candidates remember, and what was said of them.
    #[must_use]
    pub fn without_candidates(&self) -> Self {
        let mut counting = Self { shadow_normalisers: BTreeMap::new(), ..self.clone() };
        if let Some(StepOutcome::Scored(scored)) = counting.latest.as_mut().map(Arc::make_mut) {
            scored.shadows.clear();
        }
        counting
    }

    /// The numbers of a step, or why it has none; in that case nothing changes.
    fn settle(&mut self, rules: &Rules, record: &StepRecord, clock: Option<&dyn Clock>) -> Result<Scored, String> {
        let raw = match &record.scoring {
            Scoring::Scored(raw) => raw,
            Scoring::Unscored { reason } => return Err(reason.clone()),
        };
        check(rules, record, raw)?;
        self.forget_other_models(record, raw);
        self.judges.note(record.block, &raw.judgements);
        let mut filters = raw.filters.clone();
        if let Some(embeddings) = &raw.embeddings {
            self.compare_with_history(rules, embeddings, &mut filters);
            self.history.remember(embeddings.width, &embeddings.rows, rules.history_rows);
        }
        self.compare_with_others(rules, record, &mut filters);
        let counts = counts(&filters, record.completions.len());
        if let Some(memory) = rules.promoted_normaliser.as_ref().and_then(|name| self.shadow_normalisers.remove(name)) {
            self.normalisers.adopt(memory);
        }
        let normalise = |column| self.normalisers.normalise(rules.normalisation, column, &counts, rules.single_score);
        let normalised = raw.rewards.iter().map(normalise).collect::<Vec<_>>();
        let succeeded: Vec<bool> = record.completions.iter().map(|completion| completion.is_success()).collect();
        let mut rewards = combine(&succeeded, &rules.weights, &normalised, &filters);
        rules.bound(&mut rewards, &succeeded, &normalised, &filters);
        let first = (rules.best_of_nothing && !rewards.is_empty()).then_some(0);
        let best = best(&rewards).or(first);
        let renormalised = self.renormalise(rules, &raw.rewards, &counts, clock);
        let shadows = shadow::standings(raw, &rules.weights, &normalised, &filters, &renormalised);
        Ok(Scored { normalised, filters, rewards, best, gating_loss: None, shadows })
    }

    /// What candidates for the normaliser make of the columns. One that is no candidate any more is forgotten.
    fn renormalise(
        &mut self,
        rules: &Rules,
        columns: &[Column],
        counts: &[bool],
        clock: Option<&dyn Clock>,
    ) -> Vec<Renormalised> {
        self.shadow_normalisers.retain(|name, _| rules.shadow_normalisers.iter().any(|(known, _)| known == name));
        let again = |(name, normalisation): &(&'static str, Normalisation)| {
            let since = clock.map(Clock::now);
            let memory = self.shadow_normalisers.entry((*name).to_owned()).or_default();
            let normalise = |column| memory.normalise(*normalisation, column, counts, rules.single_score);
            let columns = columns.iter().map(normalise).collect();
            let took = clock.zip(since).map(|(clock, since)| clock.now().saturating_sub(since));
            Renormalised { name, columns, seconds: took.map(|took| took.as_secs_f64()) }
        };
        rules.shadow_normalisers.iter().map(again).collect()
    }

    fn compare_with_history(&self, rules: &Rules, embeddings: &Embeddings, filters: &mut [Column]) {
        if self.history.width() != embeddings.width {
            return;
        }
        let distances = self.history.distances(&embeddings.rows, rules.history_bottom_k, rules.history_skip);
        let column = filters.iter_mut().find(|column| column.name == diversity::NAME);
        let (Some(distances), Some(column)) = (distances, column) else { return };
        for (&completion, distance) in embeddings.completions.iter().zip(distances) {
            if let Some(factor) = &mut column.values[completion] {
                *factor *= history_factor(distance);
            }
        }
    }

    /// Blocks what is made of overused phrases, and what follows others by habit, and lessens what clones earn. A record whose
    /// texts retention has dropped teaches nothing.
    fn compare_with_others(&mut self, rules: &Rules, record: &StepRecord, filters: &mut [Column]) {
        if record.completions.iter().all(|completion| completion.text.is_empty()) {
            return;
        }
        let answered: Vec<usize> =
            (0..record.completions.len()).filter(|place| record.completions[*place].is_success()).collect();
        let said = |place: &usize| {
            let Completion { hotkey, text, elapsed_seconds, .. } = &record.completions[*place];
            Said { hotkey: *hotkey, text, arrived: *elapsed_seconds }
        };
        if rules.overused_phrases {
            let texts: Vec<&str> = answered.iter().map(|place| record.completions[*place].text.as_str()).collect();
            let passes = self.phrases.judge(&record.prompt, &texts);
            lessen(filters, blacklist::NAME, &answered, passes.into_iter().map(all_or_nothing));
        }
        let said: Vec<Said<'_>> = answered.iter().map(said).collect();
        if rules.followers {
            let passes = self.followers.judge(&said);
            lessen(filters, diversity::NAME, &answered, passes.into_iter().map(all_or_nothing));
        }
        if rules.kin {
            let origin = |place: &usize| record.asked.get(*place).map(|asked| asked.origin).unwrap_or_default();
            let origins: Vec<Origin> = answered.iter().map(origin).collect();
            lessen(filters, diversity::NAME, &answered, self.kin.judge(&said, &origins));
        }
    }

    /// Numbers of different models do not mix: a column whose files changed starts anew.
    fn forget_other_models(&mut self, record: &StepRecord, raw: &RawScores) {
        let stale = |name: &str| {
            let (old, new) = (files_of(&self.digests, name), files_of(&record.digests, name));
            !old.is_empty() && !new.is_empty() && old != new
        };
        let stale_rewards: Vec<&str> =
            raw.rewards.iter().map(|column| column.name.as_str()).filter(|name| stale(name)).collect();
        let renamed = |embeddings: &Embeddings| !self.history.is_empty() && embeddings.model != self.history_model;
        let stale_history = raw.embeddings.as_ref().is_some_and(|found| renamed(found) || stale(diversity::NAME));
        for name in stale_rewards {
            tracing::warn!(column = name, "the model of this column changed; its normaliser starts anew");
            self.normalisers.forget(name);
            self.shadow_normalisers.values_mut().for_each(|memory| memory.forget(name));
        }
        if stale_history {
            tracing::warn!(
                rows = self.history.len(),
                "the model of the diversity filter changed; its history is empty"
            );
            self.history = History::default();
        }
        if let Some(embeddings) = &raw.embeddings {
            self.history_model.clone_from(&embeddings.model);
        }
        let columns = raw.rewards.iter().chain(&raw.filters).map(|column| column.name.as_str());
        for name in columns.filter(|name| !files_of(&record.digests, name).is_empty()).collect::<Vec<_>>() {
            self.digests.retain(|file, _| !belongs(file, name));
        }
        self.digests.extend(record.digests.clone());
    }
}

/// Whether the record can be folded at all. What the ledger holds was checked when it was made; this is for records of
/// another version, or made under other settings.
fn check(rules: &Rules, record: &StepRecord, raw: &RawScores) -> Result<(), String> {
    if record.version > STEP_RECORD_VERSION {
        return Err(format!(
            "the record has version {}; this program reads up to {STEP_RECORD_VERSION}",
            record.version
        ));
    }
    let completions = record.completions.len();
    for Column { name, values } in raw.rewards.iter().chain(&raw.filters) {
        if values.len() != completions {
            return Err(format!("column `{name}` has {} values for {completions} completions", values.len()));
        }
    }
    let lacks = |name: &&String| !raw.rewards.iter().any(|column| column.name == **name);
    if let Some(name) = rules.weights.iter().filter(|&(_, &weight)| weight > 0.0).map(|(name, _)| name).find(lacks) {
        return Err(format!("the record has no column `{name}`, which has a weight"));
    }
    let Some(Embeddings { width, completions: places, rows, .. }) = &raw.embeddings else { return Ok(()) };
    let fits = places.len().checked_mul(*width) == Some(rows.len()) && places.iter().all(|&place| place < completions);
    if !fits || rows.iter().any(|value| !value.is_finite()) {
        return Err(format!("the record's {} embeddings of width {width} are damaged", places.len()));
    }
    Ok(())
}

/// Leaves so much of each factor of a filter; a record without the column has nothing to lessen.
fn lessen(filters: &mut [Column], name: &str, places: &[usize], left: impl IntoIterator<Item = f32>) {
    let Some(column) = filters.iter_mut().find(|column| column.name == name) else { return };
    for (place, left) in places.iter().zip(left) {
        if let Some(factor) = &mut column.values[*place] {
            *factor *= left;
        }
    }
}

fn all_or_nothing(passes: bool) -> f32 {
    f32::from(u8::from(passes))
}

/// Which completions say what others are worth: those that filters leave [`COUNTS`] of or more.
fn counts(filters: &[Column], completions: usize) -> Vec<bool> {
    let left = |place: usize| filters.iter().map(|column| column.values[place].unwrap_or(0.0)).product::<f32>();
    (0..completions).map(|place| left(place) >= COUNTS).collect()
}

fn belongs(file: &str, column: &str) -> bool {
    file.strip_prefix(column).is_some_and(|rest| rest.starts_with('/'))
}

fn files_of<'a>(digests: &'a BTreeMap<String, String>, column: &str) -> Vec<(&'a String, &'a String)> {
    digests.iter().filter(|(file, _)| belongs(file, column)).collect()
}

#[cfg(test)]
mod tests;
