//! `openvalidators replay`: the folds again, from the records alone, compared bit for bit with what was stored.
//!
//! No second implementation: `rewards::fold` and `weights::scores` are what the validator itself runs. The state before
//! the first step asked for is the nearest one kept, or nothing where the ledger still has its first step.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use openvalidators_ledger::Reader;
use openvalidators_messages::{
    Column, Hotkey, Sequence, StepOutcome, StepRecord,
    ledger::{Paid, Snapshot, StoredIntent},
};
use openvalidators_rewards as rewards;
use openvalidators_weights::{
    self as weights,
    scores::{FoldRules, Scores},
    vector,
};
use serde_json::json;

use crate::{
    archive,
    cli::{Replay, Steps},
    config::Config,
    console::{print_json, print_text},
    shutdown,
};

mod rescore;

pub use rescore::Rescored;

/// Steps read at a time.
const PAGE_STEPS: usize = 64;

/// Both folds, at one place.
pub struct Folds {
    rewards: rewards::fold::State,
    scores: Scores,
    rules: rewards::fold::Rules,
    fold_rules: FoldRules,
}

/// What was compared, and the first thing that differs.
#[derive(Debug, Default, PartialEq)]
pub struct Replayed {
    /// Steps whose outcome was made again.
    pub steps: u64,
    /// States that owners had kept, met on the way.
    pub states: u64,
    /// Weight intents made again, from their scores to the last u16.
    pub intents: u64,
    /// The first difference.
    pub difference: Option<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// When there is no ledger, it cannot be read, or the steps are beyond retention.
pub async fn run(command: &Replay, config: &Config) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(&config.state_dir)?;
    let steps = match command.step {
        Some(steps) => steps,
        None => Steps { first: first_replayable(&reader, config)?, last: reader.latest()? },
    };
    let replayed = replay(&reader, config, steps).map_err(|error| with_archive(error, config, steps))?;
    let Steps { first, last } = steps;
    let rescored = match command.rescore {
        true if replayed.difference.is_none() => Some(rescore::rescore(&reader, config, Steps { first, last }).await?),
        _ => None,
    };
    let Replayed { steps, states, intents, difference } = &replayed;
    let difference = difference.as_ref().or(rescored.as_ref().and_then(|rescored| rescored.difference.as_ref()));
    if command.place.json {
        let mut line = json!({
            "event": "replay", "first": first, "last": last, "steps": steps, "states": states, "intents": intents,
            "same": difference.is_none(), "difference": difference,
        });
        if let Some(Rescored { steps, passed_over, values, same_bits, farthest, .. }) = &rescored {
            line["rescored"] = json!({
                "steps": steps, "passed_over": passed_over, "values": values, "same_bits": same_bits, "farthest": farthest,
            });
        }
        print_json(&line);
    } else {
        print_text(&format!(
            "steps {first} to {last}: {steps} outcomes, {states} kept states and {intents} weight vectors made again"
        ));
        if let Some(Rescored { steps, passed_over, values, same_bits, farthest, .. }) = &rescored {
            print_text(&format!(
                "{steps} steps scored again ({passed_over} without scores or texts passed over): {values} numbers, {same_bits} the \
                 same to the last bit, none farther than {farthest:e}"
            ));
        }
        print_text(&match difference {
            None if rescored.is_some() => "All is the same.".to_owned(),
            None => "Every bit is the same.".to_owned(),
            Some(found) => format!(
                "DIFFERENT  {found}\nEither the settings are others than when it was made (--config), or a record was changed, or \
                 another release folded otherwise."
            ),
        });
    }
    Ok(if difference.is_none() { ExitCode::SUCCESS } else { ExitCode::from(shutdown::EXIT_FAULT) })
}

/// Makes `steps` again, and what was made from them.
///
/// # Errors
/// When the ledger cannot be read, or the steps are beyond retention.
pub fn replay(reader: &Reader, config: &Config, steps: Steps) -> anyhow::Result<Replayed> {
    let mut folds = Folds::before(reader, config, steps.first)?;
    let latest = reader.latest()?;
    anyhow::ensure!(steps.last <= latest, "step {} has not happened: the latest is {latest}", steps.last);
    let intents = intents_by_step(reader, steps)?;
    let mut replayed = Replayed::default();
    folds.run(reader, steps.last, |folds, sequence, record, told, made| {
        if !steps.places().contains(&sequence) || replayed.difference.is_some() {
            return Ok(());
        }
        replayed.steps += 1;
        let found = match told {
            None => None,
            Some(told) => outcome_difference(record, told, made),
        };
        replayed.difference = found.map(|found| format!("step {sequence} ({}): {found}", record.name));
        if replayed.difference.is_none() {
            folds.compare_states(reader, sequence, &mut replayed)?;
        }
        for intent in intents.get(&sequence).into_iter().flatten() {
            if replayed.difference.is_none() {
                replayed.intents += u64::from(intent.intent.basis.is_some());
                replayed.difference = intent_difference(intent, &folds.scores).map(|found| {
                    format!("weight intent {} of epoch {}: {found}", intent.id, intent.intent.epoch_index)
                });
            }
        }
        Ok(())
    })?;
    Ok(replayed)
}

/// Says where the numbers of a step are that the ledger has given up.
fn with_archive(error: anyhow::Error, config: &Config, steps: Steps) -> anyhow::Error {
    let files = archive::files(&config.state_dir).unwrap_or_default();
    let holds = |file: &&archive::ArchiveFile| (file.first..=file.last).contains(&steps.first.0);
    match files.iter().find(holds) {
        Some(file) => error.context(format!(
            "step {} cannot be made again; its numbers are in {} (`openvalidators analyze` and `dataset` read them)",
            steps.first,
            file.path.display()
        )),
        None => error,
    }
}

/// The first step that is there with all that the folds read.
fn first_whole(reader: &Reader, rules: &rewards::fold::Rules) -> anyhow::Result<Sequence> {
    let oldest = reader.oldest()?;
    Ok(if rules.read_texts() { oldest.max(reader.textless_until()?.next()) } else { oldest })
}

/// The first step whose state before it is known.
fn first_replayable(reader: &Reader, config: &Config) -> anyhow::Result<Sequence> {
    anyhow::ensure!(reader.oldest()?.0 > 0, "the ledger has no steps yet");
    let oldest = first_whole(reader, &rewards::fold::Rules::new(&config.rewards))?;
    if oldest == Sequence(1) {
        return Ok(oldest);
    }
    let from = |owner: &str| -> anyhow::Result<Option<Sequence>> {
        Ok(reader.states(owner)?.into_iter().find(|place| place.next() >= oldest))
    };
    match (from(rewards::OWNER)?, from(weights::OWNER)?) {
        (Some(rewards), Some(weights)) => Ok(rewards.max(weights).next()),
        _ => anyhow::bail!("step {oldest} is the first that is whole, and no state from there on was kept"),
    }
}

/// Those made after one of these steps.
fn intents_by_step(reader: &Reader, steps: Steps) -> anyhow::Result<BTreeMap<Sequence, Vec<StoredIntent>>> {
    let mut by_step: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for stored in reader.intents() {
        let stored = stored?;
        let after = stored.intent.after_step;
        if (steps.first..=steps.last).contains(&after) {
            by_step.entry(after).or_default().push(stored);
        }
    }
    Ok(by_step)
}

// === impl Folds ===

impl Folds {
    /// The folds at the nearest place before a step from which every step is there.
    ///
    /// # Errors
    /// When the step is beyond retention, or a kept state cannot be read.
    pub fn before(reader: &Reader, config: &Config, first: Sequence) -> anyhow::Result<Self> {
        let oldest = reader.oldest()?;
        anyhow::ensure!(
            first >= oldest && oldest.0 > 0,
            "step {first} is beyond retention: the ledger begins with step {oldest} (ledger.retention_steps)"
        );
        let rules = rewards::fold::Rules::new(&config.rewards);
        let oldest = first_whole(reader, &rules)?;
        anyhow::ensure!(
            first >= oldest,
            "step {first} has no texts any more (ledger.keep_texts_days), and rewards.defences.overused_phrases, \
             followers and kin go by texts: {oldest} is the first that can be made again"
        );
        let fold_rules = FoldRules::from(&config.weights);
        let before = |owner: &str| -> anyhow::Result<Option<Snapshot>> {
            let found = reader.load_state_until(owner, Sequence(first.0 - 1))?;
            // A state whose following steps are gone is of no use.
            let found = found.filter(|snapshot| snapshot.sequence.next() >= oldest);
            if found.is_none() && oldest > Sequence(1) {
                let earliest = first_replayable(reader, config)?;
                anyhow::bail!(
                    "step {first} is beyond retention: no state of `{owner}` before it was kept; {earliest} is the first that can \
                     be replayed"
                );
            }
            Ok(found)
        };
        let mut folds = Self {
            rewards: before(rewards::OWNER)?
                .map(|snapshot| rewards::snapshot::decode(&snapshot, &rules))
                .transpose()?
                .unwrap_or_default(),
            scores: before(weights::OWNER)?.map(|snapshot| Scores::restore(&snapshot)).transpose()?.unwrap_or_default(),
            rules,
            fold_rules,
        };
        // Of the same place, so that one pass does for both.
        folds.level(reader)?;
        Ok(folds)
    }

    /// Brings the scores to where the rewards are, by stored outcomes; the other way by folding.
    fn level(&mut self, reader: &Reader) -> anyhow::Result<()> {
        let until = self.rewards.sequence.max(self.scores.sequence());
        self.run(reader, until, |_, _, _, _, _| Ok(()))
    }

    /// The moving averages.
    #[must_use]
    pub fn scores(&self) -> &Scores {
        &self.scores
    }

    /// How the averages are made.
    #[must_use]
    pub fn fold_rules(&self) -> FoldRules {
        self.fold_rules
    }

    /// Folds every step up to `last`, and shows each with the outcome that was told and the one made now. Averages are made
    /// of what was told, as the validator made them.
    ///
    /// # Errors
    /// When the ledger cannot be read, lacks a step, or `see` has one.
    pub fn run(
        &mut self,
        reader: &Reader,
        last: Sequence,
        mut see: impl FnMut(&Self, Sequence, &StepRecord, Option<&StepOutcome>, &StepOutcome) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut after = self.rewards.sequence.min(self.scores.sequence());
        while after < last {
            let left = usize::try_from(last.0 - after.0).unwrap_or(usize::MAX);
            let page = reader.read_steps(after, PAGE_STEPS.min(left))?;
            anyhow::ensure!(!page.is_empty(), "step {} is not in the ledger", after.next());
            for step in page {
                let (sequence, record) = (step.sequence, &*step.record);
                anyhow::ensure!(sequence == after.next(), "step {} is not in the ledger", after.next());
                after = sequence;
                let made = if sequence > self.rewards.sequence {
                    self.rewards.fold(&self.rules, sequence, record)
                } else {
                    // Already in the state that was kept.
                    step.outcome.clone().unwrap_or_else(|| Arc::new(StepOutcome::Unscored { reason: String::new() }))
                };
                let told = step.outcome.as_deref();
                self.scores.fold(sequence, record, told.unwrap_or(&made), self.fold_rules);
                see(self, sequence, record, told, &made)?;
            }
        }
        Ok(())
    }

    /// States that owners kept at this place, byte for byte.
    fn compare_states(&self, reader: &Reader, sequence: Sequence, replayed: &mut Replayed) -> anyhow::Result<()> {
        for owner in [rewards::OWNER, weights::OWNER] {
            let Some(kept) = reader.load_state_until(owner, sequence)?.filter(|kept| kept.sequence == sequence) else {
                continue;
            };
            // Releases that keep other things about rewards can be compared by outcomes alone.
            if owner == rewards::OWNER && kept.version != rewards::snapshot::SNAPSHOT_VERSION {
                continue;
            }
            replayed.states += 1;
            let is_same =
                if owner == rewards::OWNER { self.is_as_kept(&kept)? } else { kept == self.scores.snapshot()? };
            if !is_same && replayed.difference.is_none() {
                replayed.difference =
                    Some(format!("the state that `{owner}` kept after step {sequence} is not the one made again"));
            }
        }
        Ok(())
    }

    /// Whether rewards kept this state, but for what candidates remember: there may have been others then.
    fn is_as_kept(&self, kept: &Snapshot) -> anyhow::Result<bool> {
        let kept = rewards::snapshot::decode(kept, &self.rules)?;
        Ok(kept.without_candidates() == self.rewards.without_candidates())
    }
}

// === Differences ===

/// The first number of an outcome that is not, to the bit, the one that was told.
fn outcome_difference(record: &StepRecord, told: &StepOutcome, made: &StepOutcome) -> Option<String> {
    let (told, made) = match (told, made) {
        (StepOutcome::Scored(told), StepOutcome::Scored(made)) => (told, made),
        _ if told.agrees_with(made) => return None,
        _ => return Some(format!("told was {}, made again {}", words(told), words(made))),
    };
    let uid =
        |index: usize| record.completions.get(index).map_or_else(String::new, |found| format!("uid {}", found.uid));
    let columns = |what: &str, told: &[Column], made: &[Column]| -> Option<String> {
        if told.iter().map(|column| &column.name).ne(made.iter().map(|column| &column.name)) {
            return Some(format!("other columns of {what}s than told"));
        }
        told.iter().zip(made).find_map(|(told, made)| {
            let bits = |value: &Option<f32>| value.map(f32::to_bits);
            let mut pairs = told.values.iter().zip(&made.values).enumerate();
            let (index, (told_value, made_value)) = pairs.find(|(_, (told, made))| bits(told) != bits(made))?;
            Some(format!(
                "{what} `{}` of {}: told {}, made again {}",
                told.name,
                uid(index),
                number(*told_value),
                number(*made_value)
            ))
        })
    };
    columns("normalised reward", &told.normalised, &made.normalised)
        .or_else(|| columns("mask", &told.filters, &made.filters))
        .or_else(|| {
            let mut pairs = told.rewards.iter().zip(&made.rewards).enumerate();
            let different = |told: f32, made: f32| told.to_bits() != made.to_bits();
            let (index, (told, made)) = pairs.find(|(_, (told, made))| different(told.get(), made.get()))?;
            Some(format!("final reward of {}: told {}, made again {}", uid(index), told.get(), made.get()))
        })
        .or_else(|| (told.best != made.best).then(|| format!("best: told {:?}, made again {:?}", told.best, made.best)))
}

/// Where an intent is not what the scores and its own basis come to; none for intents without a basis.
pub fn intent_difference(intent: &StoredIntent, scores: &Scores) -> Option<String> {
    let intent = &intent.intent;
    let basis = intent.basis.as_ref()?;
    if let Paid::Scores { scores: paid } = &basis.paid {
        let table: BTreeMap<Hotkey, f64> = scores.table().rows.iter().map(|row| (row.hotkey, row.score)).collect();
        for (uid, hotkey, score) in paid {
            let made = table.get(hotkey).copied().unwrap_or_default();
            if made.to_bits() != score.to_bits() {
                return Some(format!("moving average of uid {uid}: told {score}, made again {made}"));
            }
        }
    }
    match vector::emitted(basis) {
        Err(error) => Some(error.to_string()),
        Ok(made) => {
            let told: Vec<_> = intent.uids.iter().copied().zip(intent.weights.iter().copied()).collect();
            let different = told.iter().zip(&made).find(|(told, made)| told != made);
            match different {
                Some(((uid, told), (_, made))) => Some(format!("weight of uid {uid}: told {told}, made again {made}")),
                None if told.len() != made.len() => {
                    Some(format!("{} weights were told, {} made again", told.len(), made.len()))
                }
                None => None,
            }
        }
    }
}

fn words(outcome: &StepOutcome) -> String {
    match outcome {
        StepOutcome::Scored(_) => "scored".to_owned(),
        StepOutcome::Unscored { reason } => format!("unscored ({reason})"),
    }
}

fn number(value: Option<f32>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests;
