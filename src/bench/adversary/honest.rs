//! What the defences take from honest miners: weight from those who resemble others through no fault of theirs, and single
//! completions, of the population and of real prose.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use openvalidators_messages::{Column, Completion, RawScores, StepKind, StepOutcome, StepRecord};
use openvalidators_rewards::{Inference, score::Scorer};
use openvalidators_runtime::{Seed, SharedClock};
use serde::Serialize;

use super::{
    play::{Attack, Board, Recorded, Setting, ZEROED, record},
    pool::{Prompt, Said, TIERS},
    population::{Common, common, is_brief},
    prose::{self, Prose},
    score_all, strategies,
};
use crate::{config::Config, localnet::text};

/// Fewest words of a short answer.
const BRIEF_WORDS: usize = 4;

/// How to read what is told of honest miners.
const LEGEND: &str = "\
*Taken*: the part of their weight that a group of honest miners loses, in a subnet without attackers, by the defences against those \
who say the same (`rewards.defences.followers` and `kin`); and by these and the diversity filter, which 1.2.0 had too. Less than \
nothing is what others lose to them. The aim is at most 2 %.";

/// How to read which filter took what.
const ZEROED_LEGEND: &str = "\
Honest completions of that subnet that a filter leaves less than a tenth of, by tier: fair miners lose words and stray from the \
subject, poor ones lose two thirds of the sentences, a third of the words and half of their order.";

/// How to read what happens to real prose.
const PROSE_LEGEND: &str = "\
The same of real prose: sentences of the 150 essays of the built-in corpus, as they stand there, in the place of summaries and \
answers. The aim is at most 1 %.";

/// A group of honest miners, and whether the one at a place is of it.
type Group = (&'static str, fn(usize) -> bool);

/// What honest miners lose.
#[derive(Clone, Debug, Serialize)]
pub struct Honest {
    /// By group.
    pub taken: Vec<Taken>,
    /// By filter: the share of the completions of each of [`TIERS`] that it zeroes.
    pub zeroed: BTreeMap<String, [f64; TIERS.len()]>,
    /// Real prose.
    pub prose: Vec<Prose>,
}

/// What a group of honest miners loses.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// Who they are.
    pub group: &'static str,
    /// How many.
    pub miners: usize,
    /// The part of their weight that `followers` and `kin` take.
    pub by_ours: f64,
    /// The part that these and the diversity filter take.
    pub by_all: f64,
}

/// The short answer of all brief miners to each question: a sentence of the prompt that good answers quote; `None` where no
/// question is asked.
#[must_use]
pub fn brief(prompts: &[Prompt]) -> Vec<Option<Arc<str>>> {
    let short = |prompt: &Prompt| {
        let quoted = |sentence: &&str| prompt.prompt.contains(sentence) && text::words(sentence).count() >= BRIEF_WORDS;
        let sentences = prompt.honest[0].iter().flat_map(|answer| text::sentences(answer)).filter(quoted);
        sentences.min_by_key(|sentence| text::words(sentence).count()).map(Arc::from)
    };
    prompts.iter().map(|prompt| (prompt.name.kind() == StepKind::Answer).then(|| short(prompt)).flatten()).collect()
}

/// Plays the subnet without attackers, with all defences and without those against who says the same.
///
/// # Errors
/// When a model does not answer.
pub async fn measure(
    ours: &Config,
    prompts: &[Prompt],
    setting: Setting,
    seed: Seed,
    inference: &Inference,
    clock: &SharedClock,
) -> anyhow::Result<Honest> {
    let brief = brief(prompts);
    let said: [Said; 1] = [brief.iter().map(|text| vec![text.clone()]).collect()];
    let mut without = ours.clone();
    (without.rewards.defences.followers, without.rewards.defences.kin) = (false, false);
    let mut neither = without.clone();
    neither.rewards.diversity.enabled = false;
    let mut played = Vec::new();
    for config in [ours, &without, &neither] {
        let scorer = Scorer::new(&config.rewards, inference.clone(), clock.clone())?;
        let sheets = score_all(prompts, &said, &scorer).await?;
        let board = Board { prompts, sheets: &sheets, config, judging: None, brief: &brief };
        let nobody = Attack { strategy: strategies::ALL[0], said: &said[0], share: 0.0 };
        played.push(Recorded::play(&board, nobody, setting, seed));
    }
    let groups: [Group; 3] = [
        ("share a coldkey", |place| common(place) == Common::Coldkey),
        ("share a /24", |place| common(place) == Common::Network),
        ("give the same short answer", is_brief),
    ];
    let taken = groups.map(|(group, is_of)| {
        let places = || (0..setting.uids).filter(|place| is_of(*place));
        let weight = |recorded: &Recorded| places().map(|place| recorded.weights[place]).sum::<f64>();
        let lost = |before: &Recorded| 1.0 - weight(&played[0]) / weight(before);
        Taken { group, miners: places().count(), by_ours: lost(&played[1]), by_all: lost(&played[2]) }
    });
    Ok(Honest {
        taken: taken.to_vec(),
        zeroed: zeroed(&played[0]),
        prose: prose::measure(ours, seed, inference, clock).await?,
    })
}

/// The share of each tier's completions that each filter zeroes.
fn zeroed(recorded: &Recorded) -> BTreeMap<String, [f64; TIERS.len()]> {
    let mut completions = [0.0_f64; TIERS.len()];
    let mut zeroed: BTreeMap<String, [f64; TIERS.len()]> = BTreeMap::new();
    for (record, outcome) in &recorded.steps {
        for (place, completion) in record.completions.iter().enumerate() {
            let tier = usize::from(completion.uid.0) % TIERS.len();
            completions[tier] += 1.0;
            if let Some(filter) = taken_by(outcome, place) {
                zeroed.entry(filter).or_default()[tier] += 1.0;
            }
        }
    }
    for shares in zeroed.values_mut() {
        shares.iter_mut().zip(completions).for_each(|(share, all)| *share /= all.max(1.0));
    }
    zeroed
}

/// The filter that leaves least of a completion, where filters leave less than [`ZEROED`].
#[must_use]
pub fn taken_by(outcome: &StepOutcome, place: usize) -> Option<String> {
    let filters = &outcome.scored()?.filters;
    let factor = |filter: &Column| filter.values[place].unwrap_or(0.0);
    if filters.iter().map(factor).product::<f32>() >= ZEROED {
        return None;
    }
    filters.iter().min_by(|one, other| factor(one).total_cmp(&factor(other))).map(|filter| filter.name.clone())
}

/// As text.
#[must_use]
pub fn text(honest: &Honest) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut page =
        String::from("| honest miners who … | miners | taken by ours | by these and diversity |\n|---|---|---|---|\n");
    for Taken { group, miners, by_ours, by_all } in &honest.taken {
        let _ = writeln!(page, "| {group} | {miners} | {} | {} |", percent(*by_ours), percent(*by_all));
    }
    let _ = writeln!(page, "\n{LEGEND}\n\n| filter | good | fair | poor |\n|---|---|---|---|");
    for (filter, [good, fair, poor]) in &honest.zeroed {
        let _ = writeln!(page, "| `{filter}` | {} | {} | {} |", percent(*good), percent(*fair), percent(*poor));
    }
    let _ = writeln!(page, "\n{ZEROED_LEGEND}\n\n{}\n{PROSE_LEGEND}", prose::text(&honest.prose));
    page
}

/// What is taken beyond the aims.
#[must_use]
pub fn missed(honest: &Honest) -> Vec<String> {
    const AIM_TAKEN: f64 = 0.02;
    let lost = |group: &str, part: f64, by: &str| {
        let percent = 100.0 * part;
        (part > AIM_TAKEN)
            .then(|| format!("honest miners who {group} lose {percent:.1} % of their weight by {by}; the aim is 2 %"))
    };
    let taken = honest.taken.iter().flat_map(|taken| {
        let by_ours = lost(taken.group, taken.by_ours, "the defences");
        by_ours.or_else(|| lost(taken.group, taken.by_all, "the diversity filter, which 1.2.0 had too"))
    });
    taken.chain(prose::missed(&honest.prose)).collect()
}

/// The record of a step of the benchmark, for those who measure something else than a game.
pub(super) fn of_completions(step: usize, prompt: &Prompt, completions: Vec<Completion>, raw: RawScores) -> StepRecord {
    record(step, prompt, completions, raw, |_| false)
}
