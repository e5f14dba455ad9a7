//! Real prose in the place of completions: what the filters take of it.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use anyhow::Context;
use openvalidators_messages::{Completion, ForwardId, Sequence, StepId, StepName, rewards::Score};
use openvalidators_prompts::{Embedded, Script, TemplatePaths};
use openvalidators_rewards::{
    Inference, constant,
    fold::{Rules, State},
    score::Scorer,
    step::Step,
};
use openvalidators_runtime::{Seed, SharedClock};
use rand::seq::index;
use serde::Serialize;

use super::{
    honest::{of_completions, taken_by},
    pool::{Prompt, QUOTE_LIMIT_BYTES, QUOTED_TOTAL_BYTES, SENTENCES, answered},
};
use crate::{
    config::Config,
    localnet::{Tier, answers::Author, text},
};

/// Sentences of a summary.
const SUMMARY: usize = SENTENCES as usize;
/// Sentences of an answer.
const ANSWER: usize = 3;
/// Most completions that may be zeroed.
const AIM: f64 = 0.01;

/// What happened to one kind of prose.
#[derive(Clone, Debug, Serialize)]
pub struct Prose {
    /// What it is.
    pub form: &'static str,
    /// How many texts of it were judged.
    pub completions: usize,
    /// How many each filter zeroed.
    pub zeroed: BTreeMap<String, usize>,
}

/// Sends the essays of the built-in corpus through the filters, as summaries of themselves and as answers to questions about
/// them; every essay is a step of each. Which model rewards them does not matter to filters: none is asked.
///
/// # Errors
/// When the built-in texts and templates do not fit together, or a model does not answer.
pub async fn measure(
    ours: &Config,
    seed: Seed,
    inference: &Inference,
    clock: &SharedClock,
) -> anyhow::Result<Vec<Prose>> {
    let mut config = ours.rewards.clone();
    config.weights = [(constant::NAME.to_owned(), 1.0)].into();
    let scorer = Scorer::new(&config, inference.clone(), clock.clone())?;
    let (rules, mut state) = (Rules::new(&config), State::default());
    let mut found: BTreeMap<&'static str, Prose> = BTreeMap::new();
    for (number, essay) in Embedded::new().passages().iter().enumerate() {
        for (prompt, texts) in steps(essay.text, seed, number)? {
            let step = state.sequence.0 as usize;
            let said = texts.iter().enumerate();
            let completions: Vec<Completion> =
                said.map(|(place, (_, text))| answered(place, text, 1.0 + place as f64)).collect();
            let (admission, inference) = scorer.admission();
            let score = Score {
                step: StepId { forward: ForwardId(step as u64), index: 0 },
                name: prompt.name,
                prompt: Arc::clone(&prompt.prompt),
                base_text: Arc::clone(&prompt.base_text),
                used: Arc::new([]),
                completions: Arc::from(completions.clone()),
            };
            let raw = scorer.score(&Step::new(&score, admission, inference)).await.context("scoring real prose")?.raw;
            let record = of_completions(step, &prompt, completions, raw);
            let outcome = state.fold(&rules, Sequence(step as u64 + 1), &record);
            for (place, (form, _)) in texts.iter().enumerate() {
                let prose = found.entry(form);
                let prose = prose.or_insert_with(|| Prose { form, completions: 0, zeroed: BTreeMap::new() });
                prose.completions += 1;
                if let Some(filter) = taken_by(&outcome, place) {
                    *prose.zeroed.entry(filter).or_default() += 1;
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Texts by what they are.
type Texts = Vec<(&'static str, String)>;

/// A summary of the essay asked for, and an answer to a question about it, each with what real prose says to it.
fn steps(essay: &str, seed: Seed, number: usize) -> anyhow::Result<[(Prompt, Texts); 2]> {
    let script = Script::load(&TemplatePaths::default(), QUOTE_LIMIT_BYTES, QUOTED_TOTAL_BYTES, false)?;
    let sentences = text::sentences(essay);
    let opening = script.augment(essay, SENTENCES).context("the essay leaves nothing to ask about")?;
    let mut drawn = index::sample(
        &mut seed.rng("adversary/prose", &[number as u64]),
        sentences.len(),
        SUMMARY.min(sentences.len()),
    )
    .into_vec();
    drawn.sort_unstable();
    let drawn: Vec<&str> = drawn.into_iter().map(|place| sentences[place]).collect();
    let lead = sentences[..SUMMARY.min(sentences.len())].join(" ");
    let summaries = vec![
        ("its first five sentences as its summary", lead),
        ("five of its sentences, drawn, as its summary", drawn.join(" ")),
    ];

    let summary = script.accept(&drawn.join(" ")).context("the summary leaves nothing to ask about")?;
    let told = script.begin(&summary);
    let asker = Author { seed, index: 0, tier: Tier::Good };
    let question = asker.complete(&script.followup(&told, 0));
    let question = script.accept(&question).context("the question leaves nothing to answer")?;
    let asked = text::stem_set(&question.text);
    let shared = |place: &usize| text::stem_set(sentences[*place]).intersection(&asked).count();
    let best = (0..sentences.len()).max_by_key(shared).unwrap_or(0);
    let passage = sentences[best..(best + ANSWER).min(sentences.len())].join(" ");
    let answers = vec![
        ("the sentence that a question is about, as the answer", sentences[best].to_owned()),
        ("that sentence and what follows it, as the answer", passage),
    ];
    let answer = script.answer(&told, &question);
    Ok([
        (Prompt::bare(StepName::Augment, &opening, &opening), summaries),
        (Prompt::bare("answer0".parse()?, &answer, &question.text), answers),
    ])
}

/// As text.
#[must_use]
pub fn text(prose: &[Prose]) -> String {
    let mut page = String::from("| real prose | completions | zeroed | by |\n|---|---|---|---|\n");
    for Prose { form, completions, zeroed } in prose {
        let by: Vec<String> = zeroed.iter().map(|(filter, count)| format!("`{filter}` {count}")).collect();
        let share = 100.0 * zeroed.values().sum::<usize>() as f64 / (*completions).max(1) as f64;
        let by = if by.is_empty() { "–".to_owned() } else { by.join(", ") };
        let _ = writeln!(page, "| {form} | {completions} | {share:.1} % | {by} |");
    }
    page
}

/// What is beyond the aim.
#[must_use]
pub fn missed(prose: &[Prose]) -> Vec<String> {
    let share = |prose: &Prose| prose.zeroed.values().sum::<usize>() as f64 / prose.completions.max(1) as f64;
    let missed = prose.iter().filter(|prose| share(prose) > AIM);
    missed.map(|prose| format!("of {}, {:.1} % is zeroed; the aim is 1 %", prose.form, 100.0 * share(prose))).collect()
}
