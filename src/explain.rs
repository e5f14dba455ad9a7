//! `openvalidators explain`: one weight, followed back to the completions it was made of.

use std::{collections::BTreeMap, process::ExitCode};

use comfy_table::{ContentArrangement, LineStyle, Table, presets};
use openvalidators_keys::ss58;
use openvalidators_ledger::Reader;
use openvalidators_messages::{
    Asked, Column, Hotkey, Scoring, Sequence, StepOutcome, Uid,
    ledger::{Paid, Settlement, StoredIntent, StoredStep, WeightBasis},
};
use openvalidators_weights::{
    self as weights,
    scores::{FoldRules, Scores},
    vector,
};
use serde::Serialize;

use crate::{
    cli::Explain,
    config::Config,
    console::{print_json, print_text},
    replay::intent_difference,
    shutdown,
};

/// Steps read at a time.
const PAGE_STEPS: usize = 64;

/// The averages are followed from a kept state at least so many steps back, where there is one.
const FOLLOWED_STEPS: u64 = 1_000;

/// How a miner came to its weight.
#[derive(Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Its place.
    pub uid: Uid,
    /// Who held it.
    pub hotkey: Hotkey,
    /// The weights that are explained.
    pub intent: Submitted,
    /// Where the averages are followed from, and the miner's then.
    pub from: (Sequence, f64),
    /// The steps since in which it was asked, oldest first.
    pub steps: Vec<AskedStep>,
    /// Its moving average when the weights were made.
    pub score: f64,
    /// That, divided by the sum of all; `None` in intents that did not record it.
    pub share: Option<f32>,
    /// After the subnet's rules.
    pub processed: Option<f64>,
    /// What was submitted for it, of 65535.
    pub weight: u16,
    /// Where it does not add up.
    pub difference: Option<String>,
}

/// A submission and what became of it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Submitted {
    /// Its place in the ledger.
    pub id: u64,
    /// The epoch that was running.
    pub epoch: u64,
    /// The metagraph it was made from.
    pub block: u64,
    /// The latest step in it.
    pub after_step: Sequence,
    /// How it went on: commit, reveal, confirmation, with their blocks.
    pub settlements: Vec<Settlement>,
}

/// One step in which the miner was asked.
#[derive(Debug, PartialEq, Serialize)]
pub struct AskedStep {
    /// Its place.
    pub sequence: Sequence,
    /// `augment`, `followupK` or `answerK`.
    pub name: String,
    /// What came of the query.
    pub outcome: &'static str,
    /// By reward function, as the models gave it.
    pub raw: BTreeMap<String, Option<f32>>,
    /// By reward function, after the running normaliser.
    pub normalised: BTreeMap<String, Option<f32>>,
    /// By filter, as applied.
    pub masks: BTreeMap<String, Option<f32>>,
    /// Weighted sum × masks; `None` in a step that counted for nobody.
    pub reward: Option<f32>,
    /// The share of the reward in the new average.
    pub alpha: f64,
    /// The average after it.
    pub average: f64,
}

/// Runs the subcommand.
///
/// # Errors
/// When there is no ledger, it cannot be read, or it knows of no such weights.
pub fn run(command: &Explain, config: &Config) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(&config.state_dir)?;
    let explained = explain(&reader, &FoldRules::from(&config.weights), command.uid, command.epoch)?;
    match command.place.json {
        true => print_json(&explained),
        false => print_text(&text(&explained, command.last)),
    }
    Ok(if explained.difference.is_none() { ExitCode::SUCCESS } else { ExitCode::from(shutdown::EXIT_FAULT) })
}

/// Explains the weight of a uid in the latest weights of an epoch.
///
/// # Errors
/// When the ledger cannot be read, has no weights of that epoch, or no step in which that uid was asked.
pub fn explain(reader: &Reader, rules: &FoldRules, uid: Uid, epoch: Option<u64>) -> anyhow::Result<Explanation> {
    let stored = find_intent(reader, epoch)?;
    let intent = &stored.intent;
    let until = intent.after_step;
    let oldest = reader.oldest()?;
    let mut scores = beginning(reader, until)?;
    let begins = scores.sequence();
    let mut steps: Vec<StoredStep> = Vec::new();
    let mut after = begins;
    let mut holder = hotkey_at(&stored, uid);
    // Who held the place is known from the vector, or else from the latest step that asked it.
    while after < until {
        let page = reader.read_steps(after, PAGE_STEPS)?;
        let Some(last) = page.last() else { break };
        after = last.sequence;
        for step in page.into_iter().filter(|step| step.sequence <= until) {
            if hotkey_at(&stored, uid).is_none() {
                let asked = step.record.asked.iter().find(|asked| asked.uid == uid);
                holder = asked.map(|asked| asked.hotkey).or(holder);
            }
            steps.push(step);
        }
    }
    let hotkey = holder.ok_or_else(|| {
        anyhow::anyhow!(
            "uid {uid} has no weight in epoch {}, and no step from {oldest} to {until} asked it",
            intent.epoch_index
        )
    })?;
    let from = (begins, average(&scores, &hotkey));
    let mut asked_steps = Vec::new();
    for step in &steps {
        let fallback = StepOutcome::Unscored { reason: String::new() };
        scores.fold(step.sequence, &step.record, step.outcome.as_deref().unwrap_or(&fallback), *rules);
        if let Some(index) = step.record.completions.iter().position(|completion| completion.hotkey == hotkey) {
            asked_steps.push(AskedStep::new(step, index, rules, average(&scores, &hotkey)));
        }
    }
    let share = intent.basis.as_ref().map(|basis| vector::raw(basis).get(usize::from(uid.0)).copied().unwrap_or(0.0));
    let processed = intent.basis.as_ref().map(|basis| share_of(basis, uid)).transpose()?;
    let weight = intent.uids.iter().position(|there| *there == uid).and_then(|at| intent.weights.get(at).copied());
    Ok(Explanation {
        uid,
        hotkey,
        from,
        steps: asked_steps,
        score: average(&scores, &hotkey),
        share,
        processed,
        weight: weight.unwrap_or(0),
        difference: intent_difference(&stored, &scores),
        intent: Submitted {
            id: stored.id.0,
            epoch: intent.epoch_index,
            block: intent.block.0,
            after_step: until,
            settlements: reader.read_settlements(stored.id)?,
        },
    })
}

/// The latest weights of an epoch that were not taken back before submission.
fn find_intent(reader: &Reader, epoch: Option<u64>) -> anyhow::Result<StoredIntent> {
    let is_set = |stored: &StoredIntent| {
        matches!(stored.settlement, Settlement::Confirmed { .. } | Settlement::Committed { .. })
    };
    let (mut found, mut epochs): (Option<StoredIntent>, Option<(u64, u64)>) = (None, None);
    for stored in reader.intents() {
        let stored = stored?;
        if stored.settlement == Settlement::Superseded {
            continue;
        }
        let of = stored.intent.epoch_index;
        epochs = Some((epochs.map_or(of, |(first, _)| first), of));
        // A later one counts, but not before one that was set.
        if epoch.is_none_or(|epoch| epoch == of) && (is_set(&stored) || !found.as_ref().is_some_and(is_set)) {
            found = Some(stored);
        }
    }
    found.ok_or_else(|| match (epoch, epochs) {
        (Some(epoch), Some((first, last))) => {
            anyhow::anyhow!("the ledger has no weights of epoch {epoch}; it has some from epoch {first} to {last}")
        }
        _ => anyhow::anyhow!("the ledger has no weights yet: none were submitted"),
    })
}

/// The averages at a kept place some way back, or at the very beginning.
fn beginning(reader: &Reader, until: Sequence) -> anyhow::Result<Scores> {
    let oldest = reader.oldest()?;
    let states: Vec<Sequence> =
        reader.states(weights::OWNER)?.into_iter().filter(|place| place.next() >= oldest && *place <= until).collect();
    let far_enough = states.iter().rev().find(|place| place.0 + FOLLOWED_STEPS <= until.0);
    let place = match (far_enough, states.first(), oldest) {
        (Some(place), ..) => *place,
        (None, _, Sequence(0 | 1)) => return Ok(Scores::default()),
        (None, Some(place), _) => *place,
        (None, None, _) => {
            anyhow::bail!("the steps behind these weights are beyond retention: the ledger begins with step {oldest}")
        }
    };
    match reader.load_state_until(weights::OWNER, place)? {
        Some(snapshot) => Ok(Scores::restore(&snapshot)?),
        None => Ok(Scores::default()),
    }
}

fn hotkey_at(stored: &StoredIntent, uid: Uid) -> Option<Hotkey> {
    let in_vector = stored.intent.uids.iter().position(|there| *there == uid);
    let in_vector = in_vector.and_then(|at| stored.intent.hotkeys.get(at).copied());
    in_vector.or_else(|| match &stored.intent.basis.as_ref()?.paid {
        Paid::Scores { scores } => scores.iter().find(|(there, ..)| *there == uid).map(|(_, hotkey, _)| *hotkey),
        Paid::Uniform | Paid::Owner { .. } => None,
    })
}

fn share_of(basis: &WeightBasis, uid: Uid) -> anyhow::Result<f64> {
    let shares = vector::processed(basis)?;
    Ok(shares.iter().find(|(there, _)| *there == uid).map_or(0.0, |(_, share)| *share))
}

fn average(scores: &Scores, hotkey: &Hotkey) -> f64 {
    scores.table().rows.iter().find(|row| row.hotkey == *hotkey).map_or(0.0, |row| row.score)
}

// === impl AskedStep ===

impl AskedStep {
    fn new(step: &StoredStep, index: usize, rules: &FoldRules, average: f64) -> Self {
        let of = |columns: &[Column]| -> BTreeMap<String, Option<f32>> {
            let value = |column: &Column| (column.name.clone(), column.values.get(index).copied().flatten());
            columns.iter().map(value).collect()
        };
        let raw = match &step.record.scoring {
            Scoring::Scored(raw) => of(&raw.rewards),
            Scoring::Unscored { .. } => BTreeMap::new(),
        };
        let scored = step.outcome.as_deref().and_then(StepOutcome::scored);
        Self {
            sequence: step.sequence,
            name: step.record.name.to_string(),
            outcome: step.record.completions[index].outcome.label(),
            raw,
            normalised: scored.map(|scored| of(&scored.normalised)).unwrap_or_default(),
            masks: scored.map(|scored| of(&scored.filters)).unwrap_or_default(),
            reward: scored.and_then(|scored| scored.rewards.get(index)).map(|reward| reward.get()),
            alpha: rules.share(step.record.asked.get(index).map_or(1.0, Asked::importance)),
            average,
        }
    }
}

// === Text ===

fn text(explained: &Explanation, last: usize) -> String {
    let Explanation { uid, hotkey, intent, from, steps, score, share, processed, weight, difference } = explained;
    let shown = &steps[steps.len().saturating_sub(last)..];
    let left_out = match steps.len() - shown.len() {
        0 => String::new(),
        more => format!(" ({more} before these are not shown: --last, --json)"),
    };
    let (share, processed) = (share.map(f64::from), *processed);
    let or_unknown =
        |value: Option<f64>| value.map_or_else(|| "not recorded".to_owned(), |value| format!("{value:.6}"));
    let mut lines = vec![
        format!("uid {uid}, hotkey {}", ss58::encode(hotkey)),
        format!(
            "weights of epoch {}: intent {} made at block {} after step {}",
            intent.epoch, intent.id, intent.block, intent.after_step
        ),
    ];
    lines.extend(intent.settlements.iter().map(|settlement| format!("  {}", settled(settlement))));
    if intent.settlements.is_empty() {
        lines.push("  nothing is known of its submission yet".to_owned());
    }
    lines.push(format!(
        "\nasked in {} steps since step {}, when its average was {:.6}{left_out}",
        steps.len(),
        from.0,
        from.1
    ));
    lines.push(table(shown).to_string());
    lines.push(format!(
        "\nmoving average     {score:.6}\n÷ sum of all       {}\nsubnet's rules     {}\nof the largest     {weight} of 65535",
        or_unknown(share),
        or_unknown(processed),
    ));
    lines.push(match difference {
        None if explained.share.is_some() => "It adds up, to the last bit.".to_owned(),
        None => "The intent does not record what it was made from: an earlier release made it.".to_owned(),
        Some(found) => format!("It does NOT add up: {found}"),
    });
    lines.join("\n")
}

fn settled(settlement: &Settlement) -> String {
    match settlement {
        Settlement::Open => "submitted, and not known to be on the chain".to_owned(),
        Settlement::Committed { block, reveal_epoch } => {
            format!("committed at block {block}, to be revealed as epoch {reveal_epoch} begins")
        }
        Settlement::Confirmed { block } => format!("on the chain, seen at block {block}"),
        Settlement::Failed { reason } => format!("failed: {reason}"),
        Settlement::Superseded => "superseded before submission".to_owned(),
    }
}

fn table(steps: &[AskedStep]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["step", "", "query", "raw", "normalised", "masks", "reward", "alpha", "average"]);
    let columns = |values: &BTreeMap<String, Option<f32>>| {
        let value = |(name, value): (&String, &Option<f32>)| match value {
            Some(value) => format!("{} {value:.3}", short(name)),
            None => format!("{} –", short(name)),
        };
        values.iter().map(value).collect::<Vec<_>>().join(", ")
    };
    for step in steps {
        table.add_row([
            step.sequence.to_string(),
            step.name.clone(),
            step.outcome.to_owned(),
            columns(&step.raw),
            columns(&step.normalised),
            columns(&step.masks),
            step.reward.map_or_else(|| "unscored".to_owned(), |reward| format!("{reward:.4}")),
            format!("{:.4}", step.alpha),
            format!("{:.6}", step.average),
        ]);
    }
    table
}

/// `dpo_reward_model` is `dpo` to a reader.
fn short(name: &str) -> &str {
    let name = name.strip_suffix("_reward_model").unwrap_or(name);
    name.strip_suffix("_filter").unwrap_or(name)
}
