//! What must hold of a simulated run, whatever happened in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    path::Path,
    time::Duration,
};

use openvalidators_ledger::Reader;
use openvalidators_messages::{Hotkey, Sequence, StepId, StepOutcome, ledger::StoredStep};
use openvalidators_weights::WeightsConfig;

use super::{Epoch, Report};
use crate::{cli::Steps, config::Config, replay};

/// Whether weights were set in every epoch that a validator which had set some before lived through.
pub(super) fn judge_epochs(report: &mut Report, epochs: &[Epoch], lives: &[(Duration, Duration)]) {
    let first = epochs.iter().position(|(.., was_set)| *was_set).unwrap_or(epochs.len());
    for (index, began, ended, was_set) in &epochs[first..] {
        report.epochs += 1;
        let lived = lives.iter().any(|(born, died)| born <= began && died >= ended);
        if lived && !was_set {
            report.missed.push(*index);
        }
    }
}

/// Everything in the ledger: dense, once, made again bit for bit; and every score of a hotkey the average of its own rewards.
pub(super) fn judge_ledger(report: &mut Report, directory: &Path, config: &Config) {
    let reader = Reader::open(directory).expect("the ledger");
    let (mut steps, mut after): (Vec<StoredStep>, _) = (Vec::new(), Sequence(0));
    loop {
        let page = reader.read_steps(after, 500).expect("readable");
        let Some(last) = page.last() else { break };
        after = last.sequence;
        steps.extend(page);
    }
    report.steps = steps.len() as u64;
    let ids: BTreeSet<StepId> = steps.iter().map(|step| step.record.step).collect();
    assert_eq!(ids.len(), steps.len(), "no step twice");
    assert!(steps.iter().zip(1..).all(|(step, place)| step.sequence == Sequence(place)), "dense");
    let unfolded = steps.iter().filter(|step| step.outcome.is_none()).count();
    assert!(
        unfolded <= 1 && steps.iter().rev().skip(1).all(|step| step.outcome.is_some()),
        "{unfolded} without outcome"
    );

    let all = Steps { first: Sequence(1), last: after };
    let replayed = replay::replay(&reader, config, all).expect("replayable");
    assert_eq!(replayed.difference, None, "made again");
    assert_eq!(replayed.steps, report.steps);
    report.intents = replayed.intents;

    // What rest takes is a defence of its own; but for it a score is the average of a hotkey's rewards, and with it no more.
    let averages = averages_by_hand(&steps, &config.weights);
    let own = |hotkey: &Hotkey| averages.get(hotkey).copied().unwrap_or_default();
    let table = |config: &Config| {
        let mut folds = replay::Folds::before(&reader, config, Sequence(1)).expect("from the first");
        folds.run(&reader, after, |_, _, _, _, _| Ok(())).expect("folded");
        folds.scores().table().rows
    };
    let mut restless = config.clone();
    restless.weights.rest_half_life_turns = 0.0;
    for row in table(&restless) {
        let own = own(&row.hotkey);
        assert!((row.score - own).abs() < 1e-9, "{}: {} is not its own average {own}", row.hotkey, row.score);
    }
    for row in table(config) {
        let own = own(&row.hotkey);
        assert!(
            (0.0..=own + 1e-9).contains(&row.score),
            "{}: {} is above its own average {own}",
            row.hotkey,
            row.score
        );
    }

    // Its keys are constants: the same in every process.
    let mut whole = std::hash::DefaultHasher::new();
    for step in &steps {
        serde_json::to_vec(&(&step.record, &step.outcome)).expect("JSON").hash(&mut whole);
    }
    for intent in reader.intents() {
        serde_json::to_vec(&intent.expect("readable")).expect("JSON").hash(&mut whole);
    }
    report.digest = whole.finish();
}

/// By nothing but a hotkey's own rewards, each by its importance.
fn averages_by_hand(steps: &[StoredStep], config: &WeightsConfig) -> BTreeMap<Hotkey, f64> {
    let mut averages = BTreeMap::<Hotkey, f64>::new();
    for step in steps {
        let Some(StepOutcome::Scored(scored)) = step.outcome.as_deref() else { continue };
        for (asked, reward) in step.record.asked.iter().zip(&scored.rewards) {
            let share = config.moving_average_alpha * asked.importance().min(config.max_importance);
            let average = averages.entry(asked.hotkey).or_default();
            *average = share * f64::from(reward.get()) + (1.0 - share) * *average;
        }
    }
    averages
}
