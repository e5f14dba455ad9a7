//! `replay --rescore`: the raw scores again too, by the networks themselves.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use openvalidators_ledger::Reader;
use openvalidators_messages::{
    Column, ForwardId, RawScores, Scoring, Sequence, StepKind, StepOutcome, StepRecord,
    ledger::StoredStep,
    rewards::{Score, ScoreSheet},
};
use openvalidators_prompts::MAX_CONCURRENT_FORWARDS;
use openvalidators_rewards::{network, score::Scorer, step::Step};
use openvalidators_runtime::SystemClock;
use prometheus::Registry;

use crate::{cli::Steps, config::Config, run::load_engine, score::in_front_of};

/// How far numbers made again may be from those recorded, absolutely and of their size: what a row may differ with the rows
/// beside it on the device, and no more.
pub const TOLERANCE: f32 = 1e-4;

/// Steps read at a time.
const PAGE_STEPS: usize = 64;

/// What was compared, and the first thing that differs.
#[derive(Debug, Default, PartialEq)]
pub struct Rescored {
    /// Steps that the networks scored again.
    pub steps: u64,
    /// Steps that nothing can be made of again: unscored ones, and those without texts.
    pub passed_over: u64,
    /// Numbers compared.
    pub values: u64,
    /// Of them, those that are the same to the last bit.
    pub same_bits: u64,
    /// The largest difference found.
    pub farthest: f32,
    /// The first that is too large, or of another kind.
    pub difference: Option<String>,
}

/// Loads the networks of the configuration and scores `steps` again.
///
/// # Errors
/// When the ledger cannot be read, a model does not load, or is another one than the step was scored with.
pub async fn rescore(reader: &Reader, config: &Config, steps: Steps) -> anyhow::Result<Rescored> {
    let textless = reader.textless_until()?;
    ensure!(
        steps.last > textless,
        "steps up to {textless} have no texts any more (ledger.keep_texts_days): without them nothing can be scored again"
    );
    let clock = SystemClock::shared();
    let inference = in_front_of(load_engine(config, &Registry::new(), &clock).await?, config)?;
    let scorer = Scorer::new(&config.rewards, inference, SystemClock::shared())?;
    let digests = scorer.digests().await.map_err(|unscored| anyhow::anyhow!(unscored.reason))?;

    let (mut rescored, mut used) = (Rescored::default(), Used::default());
    // A forward under way when the range begins has its earlier steps before it, those of its neighbours between them.
    let steps_of_a_forward = 1 + 2 * u64::from(config.prompts.num_followup_steps);
    let before = steps_of_a_forward * config.prompts.concurrent_forwards as u64;
    let mut after = Sequence(steps.first.0.saturating_sub(before + 1));
    while after < steps.last && rescored.difference.is_none() {
        let page = reader.read_steps(after, PAGE_STEPS)?;
        let Some(last) = page.last() else { break };
        after = last.sequence;
        for step in page.iter().filter(|step| step.sequence <= steps.last) {
            if step.sequence >= steps.first && rescored.difference.is_none() {
                let at = || format!("step {} ({})", step.sequence, step.record.name);
                match &step.record.scoring {
                    Scoring::Scored(raw) if step.sequence > textless => {
                        refuse_other_models(&step.record, &digests).with_context(at)?;
                        let sheet = score_again(&scorer, &step.record, used.of(&step.record)).await;
                        let made = sheet.map_err(|reason| anyhow::anyhow!("{}: {reason}", at()))?.raw;
                        rescored.steps += 1;
                        rescored.compare(&step.record, raw, &made);
                        rescored.difference = rescored.difference.take().map(|found| format!("{}: {found}", at()));
                    }
                    _ => rescored.passed_over += 1,
                }
            }
            used.note(step);
        }
    }
    Ok(rescored)
}

async fn score_again(scorer: &Scorer, record: &StepRecord, used: Vec<String>) -> Result<ScoreSheet, String> {
    let score = Score {
        step: record.step,
        name: record.name,
        prompt: record.prompt.as_str().into(),
        base_text: record.base_text.as_str().into(),
        used: used.into(),
        completions: record.completions.clone().into(),
    };
    let (admission, inference) = scorer.admission();
    scorer.score(&Step::new(&score, admission, inference)).await.map_err(|unscored| unscored.reason)
}

/// Other weights give other numbers: that says nothing about the record.
fn refuse_other_models(record: &StepRecord, here: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (file, was) in &record.digests {
        match here.get(file) {
            Some(is) if is == was => {}
            Some(is) => bail!("scored with {file} of sha256 {was}, here it is {is}: fetch the model of then"),
            None => {
                bail!("scored with {file}, which this configuration does not use: give the settings of then (--config)")
            }
        }
    }
    Ok(())
}

// === impl Rescored ===

impl Rescored {
    fn compare(&mut self, record: &StepRecord, told: &RawScores, made: &RawScores) {
        // Shadows count for nothing and may have failed then or now; miners that judged cannot be asked again.
        let counted = |rewards: &[Column]| -> Vec<Column> {
            let is_shadow = |name: &str| told.shadows.iter().any(|shadow| shadow.name == name) || name == network::NAME;
            rewards.iter().filter(|column| !is_shadow(&column.name)).cloned().collect()
        };
        self.columns("raw score", record, &counted(&told.rewards), &counted(&made.rewards));
        self.columns("raw mask", record, &told.filters, &made.filters);
        let rows = |raw: &RawScores| raw.embeddings.as_ref().map(|kept| (kept.width, kept.completions.clone()));
        if rows(told) != rows(made) {
            self.find(|| "other completions have embeddings than told".to_owned());
        } else if let (Some(told), Some(made)) = (&told.embeddings, &made.embeddings) {
            for (told, made) in told.rows.iter().zip(&made.rows) {
                self.number(*told, *made, || "an embedding".to_owned());
            }
        }
    }

    fn columns(&mut self, what: &str, record: &StepRecord, told: &[Column], made: &[Column]) {
        if told.iter().map(|column| &column.name).ne(made.iter().map(|column| &column.name)) {
            return self.find(|| format!("other columns of {what}s than told: the settings are others (--config)"));
        }
        for (told, made) in told.iter().zip(made) {
            for (place, (was, is)) in told.values.iter().zip(&made.values).enumerate() {
                let whose = || {
                    let uid = record.completions.get(place).map_or(u16::MAX, |completion| completion.uid.0);
                    format!("{what} `{}` of uid {uid}", told.name)
                };
                match (was, is) {
                    (Some(was), Some(is)) => self.number(*was, *is, whose),
                    (None, None) => {}
                    _ => self.find(|| format!("{}: told {was:?}, made again {is:?}", whose())),
                }
            }
        }
    }

    fn number(&mut self, told: f32, made: f32, whose: impl Fn() -> String) {
        let apart = (told - made).abs();
        self.values += 1;
        self.same_bits += u64::from(told.to_bits() == made.to_bits());
        self.farthest = self.farthest.max(apart);
        if apart > TOLERANCE + TOLERANCE * told.abs() {
            self.find(|| format!("{}: told {told}, made again {made}", whose()));
        }
    }

    fn find(&mut self, what: impl Fn() -> String) {
        self.difference.get_or_insert_with(what);
    }
}

// === What a forward had said ===

/// The questions and answers each forward had used, as its later steps were scored with them.
#[derive(Default)]
struct Used {
    by_forward: BTreeMap<ForwardId, Said>,
}

#[derive(Default)]
struct Said {
    used: Vec<String>,
    /// The question of the round, until its answer is there too.
    question: Option<String>,
}

impl Used {
    fn of(&self, record: &StepRecord) -> Vec<String> {
        self.by_forward.get(&record.step.forward).map(|said| said.used.clone()).unwrap_or_default()
    }

    fn note(&mut self, step: &StoredStep) {
        let record = &*step.record;
        let best = step.outcome.as_deref().and_then(StepOutcome::scored).and_then(|scored| scored.best);
        let Some(best) = best.and_then(|best| record.completions.get(best)) else { return };
        let (written, said) = (best.text.trim().to_owned(), self.by_forward.entry(record.step.forward).or_default());
        match record.name.kind() {
            StepKind::Followup => said.question = Some(written),
            StepKind::Answer => said.used.extend(said.question.take().into_iter().chain([written])),
            _ => {}
        }
        // A forward has ended long ago when so many newer ones have begun.
        while self.by_forward.len() > 2 * MAX_CONCURRENT_FORWARDS {
            self.by_forward.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_counted_and_named_and_noise_of_the_device_is_not() {
        let raw = |value: f32| RawScores {
            rewards: vec![Column { name: "dpo".into(), values: vec![Some(value), None] }],
            ..RawScores::default()
        };
        let record = crate::topology::tests::unscored();
        let compared = |made: RawScores| {
            let mut rescored = Rescored::default();
            rescored.compare(&record, &raw(-2.0), &made);
            rescored
        };
        let same = compared(raw(-2.0));
        assert_eq!((same.values, same.same_bits, same.difference), (1, 1, None));
        let close = compared(raw(-2.000_1));
        assert_eq!((close.same_bits, close.difference), (0, None));
        assert!(close.farthest > 0.0);
        let found = compared(raw(-2.01)).difference.unwrap();
        assert!(found.contains("raw score `dpo`") && found.contains("told -2, made again -2.01"), "{found}");
        let none = RawScores { rewards: vec![], ..RawScores::default() };
        assert!(compared(none).difference.unwrap().contains("other columns"));
    }

    #[test]
    fn a_step_scored_with_other_weights_is_refused() {
        let mut record = crate::topology::tests::unscored();
        record.digests = [("dpo/m/model.safetensors".to_owned(), "aa".to_owned())].into();
        let here = |digest: &str| [("dpo/m/model.safetensors".to_owned(), digest.to_owned())].into();
        assert!(refuse_other_models(&record, &here("aa")).is_ok());
        let error = refuse_other_models(&record, &here("bb")).unwrap_err().to_string();
        assert_eq!(error, "scored with dpo/m/model.safetensors of sha256 aa, here it is bb: fetch the model of then");
        let error = refuse_other_models(&record, &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("does not use"), "{error}");
    }
}
