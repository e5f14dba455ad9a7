//! When to set weights, and how an intent ended: pure decisions from one metagraph and our latest attempts.

use std::fmt;

use openvalidators_messages::{
    Block, Hotkey, IntentId, Metagraph, Neuron, Uid,
    ledger::{Settlement, StoredIntent, WeightIntent},
};

use crate::{WeightsConfig, WhenEmpty};

/// An intent as the weights actor remembers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its place in the ledger; `None` when the ledger could not take it and weights had to be set all the same.
    pub id: Option<IntentId>,
    /// What was, or is about to be, submitted.
    pub intent: WeightIntent,
    /// How far it has come.
    pub settlement: Settlement,
    /// Whether the ledger knows this settlement.
    pub saved: bool,
    /// With a commit that is ours to reveal: the head when this life last sent its reveal.
    pub revealed_at: Option<Block>,
}

/// What became of an intent of a chain that is not followed any more, as a local chain that was made anew.
pub(crate) const OTHER_CHAIN: &str = "made for a chain that is no longer there";

/// A node may show a head so many blocks behind that of the node an intent was made from (12 s each: a minute). Were one
/// further behind, the chain's rate limit still refused the second weights of an epoch.
const HEAD_LAG_BLOCKS: u64 = 5;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make an intent and submit it.
    Set,
    /// Nothing, for a reason.
    Wait(Wait),
}

/// Why no weights are set at this block; also the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Our hotkey holds no uid.
    NotRegistered,
    /// The fate of the latest submission is not known yet.
    Unsettled,
    /// Switched off by the operator.
    Disabled,
    /// The subnet's tempo is 0.
    NoEpochs,
    /// We hold no validator permit; it comes with an epoch.
    NoPermit,
    /// Our stake is below the subnet's threshold.
    BelowStake,
    /// This epoch has our weights.
    AlreadySet,
    /// The chain refused often enough for this epoch.
    AttemptsSpent,
    /// The chain refused a moment ago.
    RetryLater,
    /// The subnet's rate limit.
    RateLimited,
    /// The moment of this epoch has not come.
    TooEarly,
    /// The scores are no reason to pay anyone.
    NoVector,
    /// Hotkeys changed faster than an intent could be submitted.
    Superseded,
    /// Submitted just now.
    Submitted,
    /// After a start: is anybody else here with our hotkey?
    Watching,
    /// Somebody is.
    AnotherValidator,
}

// === Deciding ===

/// Whether to set weights at this metagraph's block. `attempts` are our latest, in any order; those that [`is_due`] have been
/// looked up before.
#[must_use]
pub fn decide(metagraph: &Metagraph, own: &Hotkey, attempts: &[Attempt], config: &WeightsConfig) -> Decision {
    let rules = &metagraph.hyperparameters;
    let now = metagraph.block.0;
    let Some(neuron) = own_neuron(metagraph, own) else { return Decision::Wait(Wait::NotRegistered) };
    if attempts.iter().any(|attempt| attempt.settlement == Settlement::Open) {
        return Decision::Wait(Wait::Unsettled);
    }
    if attempts.iter().any(|attempt| attempt.intent.block > metagraph.block && !is_disowned(attempt)) {
        // A node behind the one before: it does not know yet what became of this one.
        return Decision::Wait(Wait::Unsettled);
    }
    if config.disable_set_weights {
        return Decision::Wait(Wait::Disabled);
    }
    if rules.tempo == 0 {
        return Decision::Wait(Wait::NoEpochs);
    }
    let epoch_start = metagraph.last_epoch_block.0;
    let is_owner = metagraph.owner_uid == Some(neuron.uid);
    if !neuron.validator_permit && !is_owner {
        return Decision::Wait(Wait::NoPermit);
    }
    if neuron.stake < rules.stake_threshold && !is_owner {
        return Decision::Wait(Wait::BelowStake);
    }
    if has_set_since(neuron, metagraph.last_epoch_block)
        || attempts.iter().any(|attempt| succeeded_in(attempt, metagraph))
    {
        return Decision::Wait(Wait::AlreadySet);
    }
    let refused: Vec<u64> = attempts.iter().filter_map(|attempt| failed_in(attempt, metagraph)).collect();
    if refused.len() >= config.attempts_per_epoch as usize {
        return Decision::Wait(Wait::AttemptsSpent);
    }
    if let Some(latest) = refused.iter().max()
        && now < latest + config.retry_after_blocks
    {
        return Decision::Wait(Wait::RetryLater);
    }
    // On the chain a last update of 0 passes the rate limit.
    let allowed = neuron.last_update.0 + rules.weights_rate_limit;
    if neuron.last_update.0 > 0 && now < allowed {
        return Decision::Wait(Wait::RateLimited);
    }
    let moment = epoch_start + (config.set_at_fraction * rules.tempo as f64) as u64;
    if now < moment {
        return Decision::Wait(Wait::TooEarly);
    }
    Decision::Set
}

/// Epochs that passed without weights of ours since the last we set (or since our registration), this one not counted.
#[must_use]
pub fn epochs_missed(metagraph: &Metagraph, own: &Hotkey) -> u64 {
    let Some(neuron) = own_neuron(metagraph, own) else { return 0 };
    let since = metagraph.last_epoch_block.0.saturating_sub(neuron.last_update.0);
    since.div_ceil(metagraph.hyperparameters.tempo.max(1)).saturating_sub(1)
}

/// The weights of before, to be sent again where the scores are no reason to pay anyone: weights that are held are as good as
/// none once the chain counts their validator as inactive. Who left the subnet since is left out.
///
/// `None` while there is time, where the operator wants something else than holding, or when nothing of them is left.
#[must_use]
pub fn held(
    metagraph: &Metagraph,
    own: &Hotkey,
    attempts: &[Attempt],
    config: &WeightsConfig,
) -> Option<Vec<(Uid, Hotkey, u16)>> {
    let rules = &metagraph.hyperparameters;
    let waited = metagraph.block.0.saturating_sub(own_neuron(metagraph, own)?.last_update.0);
    let chosen = config.resend_held_after_tempos * rules.tempo as f64;
    // Each epoch has one moment for weights, and one of them may fail before the chain counts us as inactive.
    let latest = rules.activity_cutoff.saturating_sub(2 * rules.tempo) as f64;
    if config.when_empty != WhenEmpty::Hold || chosen <= 0.0 || (waited as f64) < chosen.min(latest) {
        return None;
    }
    let confirmed = |attempt: &&Attempt| matches!(attempt.settlement, Settlement::Confirmed { .. });
    let WeightIntent { uids, hotkeys, weights, .. } = &attempts.iter().find(confirmed)?.intent;
    let entries = uids.iter().zip(hotkeys).zip(weights).map(|((uid, hotkey), weight)| (*uid, *hotkey, *weight));
    let there =
        |(uid, hotkey, _): &(Uid, Hotkey, u16)| metagraph.neuron(*uid).is_some_and(|neuron| neuron.hotkey == *hotkey);
    let mut left: Vec<_> = entries.filter(there).collect();
    // The chain stores a row with its largest weight raised to the whole.
    let largest = left.iter().map(|(.., weight)| u32::from(*weight)).max().filter(|largest| *largest > 0)?;
    for (.., weight) in &mut left {
        *weight = u16::try_from((u32::from(*weight) * u32::from(u16::MAX) + largest / 2) / largest).unwrap_or(u16::MAX);
    }
    let least = usize::from(rules.min_allowed_weights).min(metagraph.neurons.len()).max(1);
    (left.len() >= least).then_some(left)
}

// === Settling ===

/// Whether an attempt was made for another chain than the one followed now: its block lies after the head, further than a node
/// falls behind. Epochs and blocks of two chains must not be compared, so it has to be settled before anything is decided.
#[must_use]
pub fn is_of_another_chain(attempt: &Attempt, metagraph: &Metagraph) -> bool {
    attempt.intent.block.0 > metagraph.block.0 + HEAD_LAG_BLOCKS && !is_disowned(attempt)
}

/// Whether the chain must be asked what became of an attempt: at once for one whose submission is unknown, from its reveal
/// epoch on for a commit.
#[must_use]
pub fn is_due(attempt: &Attempt, metagraph: &Metagraph) -> bool {
    match attempt.settlement {
        Settlement::Open => true,
        Settlement::Committed { reveal_epoch, .. } => metagraph.epoch_index >= reveal_epoch,
        Settlement::Confirmed { .. } | Settlement::Failed { .. } | Settlement::Superseded => false,
    }
}

/// Whether a commit is ours to reveal now: its reveal epoch runs, its last reveal was not a moment ago, and the chain's row does
/// not show that it was revealed. A row that an older attempt of the same vector put there shows nothing.
#[must_use]
pub fn is_to_be_revealed(
    attempt: &Attempt,
    older: &[Attempt],
    row: &[(Uid, u16)],
    metagraph: &Metagraph,
    config: &WeightsConfig,
) -> bool {
    let Settlement::Committed { reveal_epoch, .. } = attempt.settlement else { return false };
    let intent = &attempt.intent;
    if intent.salt.is_none() || metagraph.epoch_index != reveal_epoch {
        return false;
    }
    let is_same = |before: &Attempt| {
        let WeightIntent { uids, weights, .. } = &before.intent;
        matches!(before.settlement, Settlement::Confirmed { .. }) && *uids == intent.uids && *weights == intent.weights
    };
    match attempt.revealed_at {
        None => !holds(row, intent, metagraph) || older.iter().any(is_same),
        Some(sent) => {
            let rests = metagraph.block.0 < sent.0.saturating_add(config.retry_after_blocks);
            !rests && !holds(row, intent, metagraph)
        }
    }
}

/// What became of a due attempt, from the chain's own state: the row of weights it holds for us, and a metagraph not older than
/// the intent. The settlement stays as it is while nothing can be said.
///
/// A commit that failed its reveal leaves no trace but this row: inclusion is not success.
#[must_use]
pub fn conclude(
    attempt: &Attempt,
    row: &[(Uid, u16)],
    metagraph: &Metagraph,
    own: &Hotkey,
    config: &WeightsConfig,
) -> Settlement {
    let Attempt { intent, settlement, .. } = attempt;
    let held = holds(row, intent, metagraph);
    let unchanged = settlement.clone();
    match settlement {
        Settlement::Open => {
            let Some(neuron) = own_neuron(metagraph, own) else {
                return Settlement::Failed { reason: "our hotkey is not registered any more".to_owned() };
            };
            let moved = neuron.last_update > intent.block && neuron.registered_at <= intent.block;
            match (moved, metagraph.hyperparameters.commit_reveal) {
                (true, true) => Settlement::Committed {
                    block: neuron.last_update,
                    reveal_epoch: epoch_of(neuron.last_update, metagraph)
                        + metagraph.hyperparameters.reveal_period_epochs,
                },
                (true, false) if held => Settlement::Confirmed { block: neuron.last_update },
                (true, false) => Settlement::Failed {
                    reason: format!("the chain holds other weights of ours, set at block {}", neuron.last_update),
                },
                (false, _) if metagraph.block.0 > lifetime_end(intent, config) => Settlement::Failed {
                    reason: format!("not on the chain {} blocks later", metagraph.block.0 - intent.block.0),
                },
                (false, _) => unchanged,
            }
        }
        Settlement::Committed { .. } if held => Settlement::Confirmed { block: metagraph.block },
        Settlement::Committed { reveal_epoch, .. } if metagraph.epoch_index > *reveal_epoch => Settlement::Failed {
            reason: format!("the commit was due in epoch {reveal_epoch}, but the chain holds other weights after it"),
        },
        _ => unchanged,
    }
}

/// Whether the chain's row is the intent's vector. Entries of uids that have changed hands since may be gone: the chain clears
/// them.
#[must_use]
pub fn holds(row: &[(Uid, u16)], intent: &WeightIntent, metagraph: &Metagraph) -> bool {
    let is_gone = |uid: Uid| {
        let place = intent.uids.iter().position(|there| *there == uid);
        let hotkey = place.and_then(|place| intent.hotkeys.get(place));
        hotkey.is_none_or(|hotkey| metagraph.neuron(uid).is_none_or(|neuron| neuron.hotkey != *hotkey))
    };
    let wanted = |uid: Uid| intent.uids.iter().position(|there| *there == uid).and_then(|at| intent.weights.get(at));
    let found = |uid: Uid| row.iter().find(|(there, _)| *there == uid).map_or(0, |(_, weight)| *weight);
    row.iter().all(|(uid, weight)| *weight == 0 || wanted(*uid) == Some(weight))
        && intent.uids.iter().all(|uid| Some(&found(*uid)) == wanted(*uid) || (found(*uid) == 0 && is_gone(*uid)))
}

/// Whether everyone the intent pays still holds the uid it pays.
#[must_use]
pub fn is_current(intent: &WeightIntent, metagraph: &Metagraph) -> bool {
    let mut pairs = intent.uids.iter().zip(&intent.hotkeys);
    pairs.all(|(uid, hotkey)| metagraph.neuron(*uid).is_some_and(|neuron| neuron.hotkey == *hotkey))
}

// === Facts ===

fn own_neuron<'a>(metagraph: &'a Metagraph, own: &Hotkey) -> Option<&'a Neuron> {
    metagraph.uid_of(own).and_then(|uid| metagraph.neuron(uid))
}

/// A new uid's last update is its registration, which is no setting of weights.
fn has_set_since(neuron: &Neuron, epoch_start: Block) -> bool {
    neuron.last_update > neuron.registered_at && neuron.last_update >= epoch_start
}

fn succeeded_in(attempt: &Attempt, metagraph: &Metagraph) -> bool {
    attempt.intent.epoch_index == metagraph.epoch_index && attempt.has_succeeded()
}

fn failed_in(attempt: &Attempt, metagraph: &Metagraph) -> Option<u64> {
    let failed = matches!(attempt.settlement, Settlement::Failed { .. }) && !is_disowned(attempt);
    (failed && attempt.intent.epoch_index == metagraph.epoch_index).then_some(attempt.intent.block.0)
}

fn is_disowned(attempt: &Attempt) -> bool {
    matches!(&attempt.settlement, Settlement::Failed { reason } if reason == OTHER_CHAIN)
}

fn lifetime_end(intent: &WeightIntent, config: &WeightsConfig) -> u64 {
    intent.block.0 + config.submission_lifetime_blocks
}

/// The index of the epoch that was running at a block not after the metagraph's.
fn epoch_of(block: Block, metagraph: &Metagraph) -> u64 {
    let before = metagraph.last_epoch_block.0.saturating_sub(block.0);
    metagraph.epoch_index.saturating_sub(before.div_ceil(metagraph.hyperparameters.tempo.max(1)))
}

// === impl Attempt ===

impl Attempt {
    /// Whether the chain took it.
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        matches!(self.settlement, Settlement::Committed { .. } | Settlement::Confirmed { .. })
    }
}

impl From<StoredIntent> for Attempt {
    fn from(stored: StoredIntent) -> Self {
        Self {
            id: Some(stored.id),
            intent: stored.intent,
            settlement: stored.settlement,
            saved: true,
            revealed_at: None,
        }
    }
}

// === impl Wait ===

impl Wait {
    /// Every reason, so that each metric exists from the start.
    pub const ALL: [Self; 16] = [
        Self::NotRegistered,
        Self::Unsettled,
        Self::Disabled,
        Self::NoEpochs,
        Self::NoPermit,
        Self::BelowStake,
        Self::AlreadySet,
        Self::AttemptsSpent,
        Self::RetryLater,
        Self::RateLimited,
        Self::TooEarly,
        Self::NoVector,
        Self::Superseded,
        Self::Submitted,
        Self::Watching,
        Self::AnotherValidator,
    ];

    /// Whether it is our own standing that keeps weights from the chain, and somebody has to act.
    #[must_use]
    pub fn is_of_standing(self) -> bool {
        matches!(self, Self::NotRegistered | Self::NoPermit | Self::BelowStake)
    }

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotRegistered => "not_registered",
            Self::Unsettled => "unsettled",
            Self::Disabled => "disabled",
            Self::NoEpochs => "no_epochs",
            Self::NoPermit => "no_permit",
            Self::BelowStake => "below_stake",
            Self::AlreadySet => "already_set",
            Self::AttemptsSpent => "attempts_spent",
            Self::RetryLater => "retry_later",
            Self::RateLimited => "rate_limited",
            Self::TooEarly => "too_early",
            Self::NoVector => "no_vector",
            Self::Superseded => "superseded",
            Self::Submitted => "submitted",
            Self::Watching => "watching",
            Self::AnotherValidator => "another_validator",
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRegistered => "our hotkey is not registered on the subnet",
            Self::Unsettled => "it is not known yet what became of the latest submission",
            Self::Disabled => "setting weights is switched off",
            Self::NoEpochs => "the subnet's tempo is 0",
            Self::NoPermit => "we hold no validator permit",
            Self::BelowStake => "our stake is below the subnet's threshold",
            Self::AlreadySet => "this epoch has our weights",
            Self::AttemptsSpent => "the chain refused often enough for this epoch",
            Self::RetryLater => "the chain refused a moment ago",
            Self::RateLimited => "the subnet's rate limit for weights",
            Self::TooEarly => "the moment of this epoch has not come",
            Self::NoVector => "the scores are no reason to pay anyone",
            Self::Superseded => "hotkeys changed while the weights were being made",
            Self::Submitted => "weights were submitted",
            Self::Watching => "for a tempo after the start it is watched whether another validator has our hotkey",
            Self::AnotherValidator => {
                "another validator sets weights with our hotkey: stop one of the two, then start this one again"
            }
        })
    }
}

#[cfg(test)]
mod tests;
