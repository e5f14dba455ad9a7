//! The prompts of the benchmark, everything anybody says to them, and what the models make of it: computed once.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context, ensure};
use openvalidators_messages::{Completion, ForwardId, QueryOutcome, RawScores, StepId, StepName, rewards::Score};
use openvalidators_prompts::{Embedded, Script, Source, TemplatePaths};
use openvalidators_rewards::{score::Scorer, step::Step};
use openvalidators_runtime::Seed;

use super::{
    lab::Lab,
    population::identity,
    strategy::{About, Haste, Strategy, View},
};
use crate::localnet::{Tier, answers::Author};

/// The tiers of honest miners, best first.
pub const TIERS: [Tier; 3] = [Tier::Good, Tier::Fair, Tier::Poor];

/// Most authors of each tier: about as many of one tier are asked in one step of fifty.
const AUTHORS: usize = 24;

/// Kinds of prompt in a conversation.
pub const KINDS: usize = 3;

/// Good completions that are for sale.
const OVERHEARD: usize = 6;

/// Room for a quote in a prompt, and for all: the defaults of `[prompts]`.
pub const QUOTE_LIMIT_BYTES: usize = 1_500;
/// See [`QUOTE_LIMIT_BYTES`].
pub const QUOTED_TOTAL_BYTES: usize = 5_000;

/// Sentences asked of a summary.
pub const SENTENCES: u8 = 5;

/// One prompt and what honest miners say to it.
pub struct Prompt {
    /// What was asked for.
    pub name: StepName,
    /// As sent.
    pub prompt: Arc<str>,
    /// What it was made about.
    pub base_text: Arc<str>,
    /// By [`TIERS`], as many of each.
    pub honest: [Vec<Arc<str>>; 3],
}

/// What one strategy says: for each prompt its variants.
pub type Said = Vec<Vec<Option<Arc<str>>>>;

/// What the models make of all texts of one prompt.
pub struct Sheet {
    /// The place of each text in the columns.
    pub places: HashMap<Arc<str>, usize>,
    /// The columns, and the rows of the diversity filter.
    pub raw: RawScores,
    /// For each text, the place of its row among the embeddings.
    pub rows: HashMap<usize, usize>,
}

/// Prompts of `conversations` conversations about passages drawn by `seed`, with as many authors as steps that ask `asked`
/// miners need.
///
/// # Errors
/// When the built-in texts and templates do not fit together.
pub fn prompts(conversations: usize, asked: usize, seed: Seed) -> anyhow::Result<Vec<Prompt>> {
    let script = Script::load(&TemplatePaths::default(), QUOTE_LIMIT_BYTES, QUOTED_TOTAL_BYTES, false)?;
    let source = Embedded::new();
    let author = |name, prompt: &str, base_text: &str| Prompt::new(name, prompt, base_text, asked.min(AUTHORS), seed);
    let mut prompts = Vec::with_capacity(conversations * KINDS);
    for conversation in 0..conversations as u64 {
        let context = source.draw(&mut seed.rng("adversary/passage", &[conversation]))?;
        let opening = script.augment(&context.text, SENTENCES).context("the passage leaves nothing to ask about")?;
        let summaries = author(StepName::Augment, &opening, &opening);
        let summary = script.accept(&summaries.honest[0][0]).context("the summary leaves nothing to ask about")?;
        let told = script.begin(&summary);
        let questions = author("followup0".parse()?, &script.followup(&told, 0), &summary.text);
        let question = script.accept(&questions.honest[0][0]).context("the question leaves nothing to answer")?;
        let answers = author("answer0".parse()?, &script.answer(&told, &question), &question.text);
        prompts.extend([summaries, questions, answers]);
    }
    Ok(prompts)
}

/// What a strategy says to each prompt.
///
/// # Errors
/// When a model of its laboratory does not answer; and when it says another thing the second time it is asked: then it
/// looks at what it was not given, and what it earns would mean nothing.
pub async fn said(strategy: &dyn Strategy, prompts: &[Prompt], lab: &Lab, seed: Seed) -> anyhow::Result<Said> {
    /// Those that are for sale.
    fn sold(prompt: &Prompt) -> &[Arc<str>] {
        &prompt.honest[0][..OVERHEARD.min(prompt.honest[0].len())]
    }
    let mut said = Vec::with_capacity(prompts.len());
    for (place, prompt) in prompts.iter().enumerate() {
        let nothing: &[Arc<str>] = &[];
        let overheard = if strategy.haste() == Haste::AfterOthers { sold(prompt) } else { nothing };
        let before = &prompts[earlier(place, prompts.len())];
        let stored = if strategy.about() == About::EarlierPrompt { sold(before) } else { nothing };
        let mut variants: Vec<Option<Arc<str>>> = Vec::new();
        for variant in 0..strategy.variants() {
            let view = View { prompt: &prompt.prompt, variant, overheard, stored, seed };
            let text = strategy.complete(&view, lab).await?;
            ensure!(
                text == strategy.complete(&view, lab).await?,
                "strategy `{}` says two things to one prompt: it looks at something a miner could not know, or at a clock; \
                 draw from `View::rng` instead",
                strategy.name()
            );
            variants.push(text.map(Arc::from));
        }
        said.push(variants);
    }
    Ok(said)
}

/// The prompt of the same kind before this one, with the last before the first.
#[must_use]
pub fn earlier(place: usize, prompts: usize) -> usize {
    (place + prompts - KINDS) % prompts
}

// === impl Prompt ===

impl Prompt {
    fn new(name: StepName, prompt: &str, base_text: &str, authors: usize, seed: Seed) -> Self {
        let author = |tier, index: usize| Author { seed, index: u16::try_from(index).unwrap_or(u16::MAX), tier };
        let honest = [0, 1, 2].map(|tier: usize| {
            let texts = (0..authors).map(|index| author(TIERS[tier], tier * AUTHORS + index).complete(prompt));
            texts.map(Arc::from).collect()
        });
        Self { honest, ..Self::bare(name, prompt, base_text) }
    }

    /// One that no miner of the pool answers.
    #[must_use]
    pub fn bare(name: StepName, prompt: &str, base_text: &str) -> Self {
        Self { name, prompt: prompt.into(), base_text: base_text.into(), honest: Default::default() }
    }
}

// === impl Sheet ===

impl Sheet {
    /// Everything that is said to a prompt, scored as one step.
    ///
    /// # Errors
    /// When a model does not answer.
    pub async fn new<'a>(
        prompt: &'a Prompt,
        said: impl Iterator<Item = &'a Arc<str>>,
        scorer: &Scorer,
    ) -> anyhow::Result<Self> {
        let mut places: HashMap<Arc<str>, usize> = HashMap::new();
        let mut completions = Vec::new();
        for text in prompt.honest.iter().flatten().chain(said) {
            places.entry(Arc::clone(text)).or_insert_with(|| {
                completions.push(answered(completions.len(), text, 0.0));
                completions.len() - 1
            });
        }
        let (admission, inference) = scorer.admission();
        let score = Score {
            step: StepId { forward: ForwardId(0), index: 0 },
            name: prompt.name,
            prompt: Arc::clone(&prompt.prompt),
            base_text: Arc::clone(&prompt.base_text),
            used: Arc::new([]),
            completions: completions.into(),
        };
        let raw = scorer.score(&Step::new(&score, admission, inference)).await?.raw;
        let embedded = raw.embeddings.as_ref().map_or(&[][..], |embeddings| &embeddings.completions);
        let rows = embedded.iter().enumerate().map(|(row, place)| (*place, row)).collect();
        Ok(Self { places, raw, rows })
    }
}

/// A completion that came.
#[must_use]
pub fn answered(uid: usize, text: &str, elapsed_seconds: f64) -> Completion {
    let (uid, hotkey) = identity(uid);
    let outcome = QueryOutcome::Answered;
    let text = text.to_owned();
    Completion { uid, hotkey, text, outcome, status_code: 200, status_message: String::new(), elapsed_seconds }
}

/// A completion that did not.
#[must_use]
pub fn silent(uid: usize, elapsed_seconds: f64) -> Completion {
    let completion = answered(uid, "", elapsed_seconds);
    Completion { outcome: QueryOutcome::TimedOut, status_code: 408, ..completion }
}
