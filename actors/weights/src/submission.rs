//! One look at the duty: settle what is open from the chain's state, then set weights if their moment has come.
//!
//! The order of things makes a crash anywhere harmless: an intent is in the ledger before its vector leaves, and what became of
//! an open intent is read from the chain before another one is made. A commit that is ours to reveal is revealed from what its
//! intent says, by whichever life is there when its epoch comes.

use std::{future::Future, sync::Arc, time::Duration};

use openvalidators_messages::{
    Hotkey, Metagraph, Uid,
    ledger::{LedgerError, RecordIntent, SettleIntent, Settlement, WeightBasis, WeightIntent},
    subtensor::{ChainError, ReadWeights, RevealWeights, SetWeights, Submission},
    weights::ScoreTable,
};
use openvalidators_runtime::{CallError, Pulse, SharedClock, within};
use rand::{TryRngCore, rngs::OsRng};
use tokio::sync::watch;

use crate::{
    Metrics, Neighbours, WeightsConfig,
    duty::{
        Attempt, Decision, OTHER_CHAIN, Wait, conclude, decide, held, holds, is_current, is_due, is_of_another_chain,
        is_to_be_revealed,
    },
    guard::Guard,
    vector::{self, NoVector, WeightVector},
};

/// Attempts remembered, latest first: more than one epoch can have and than commits can be outstanding.
pub(crate) const ATTEMPTS_KEPT: usize = 32;

/// Words of 16 bits in a salt: 128 bits, beyond guessing.
const SALT_WORDS: usize = 8;

/// How long the ledger is waited for: a disk that hangs must not keep weights from the chain.
const LEDGER_PATIENCE: Duration = Duration::from_secs(30);

/// How often one look makes an intent anew because hotkeys changed under it.
const REMAKE_LIMIT: usize = 3;

/// What a look at the duty needs; shared by all looks of one life.
pub(crate) struct Submitter {
    pub own: Hotkey,
    pub config: WeightsConfig,
    pub neighbours: Neighbours,
    pub metagraph: watch::Receiver<Arc<Metagraph>>,
    pub metrics: Metrics,
    pub clock: SharedClock,
    pub guard: Guard,
    /// Beats before each wait of a look.
    pub pulse: Pulse,
}

/// Why the chain did not say yes.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    /// Nothing changed on the chain.
    #[error("{0}")]
    Refused(String),
    /// It may have changed.
    #[error("{0}")]
    Unknown(String),
}

/// Why nothing more is to be done at a block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Waiting {
    /// The reason.
    pub wait: Wait,
    /// With [`Wait::NoVector`]: what is wrong with the scores.
    pub no_vector: Option<NoVector>,
}

impl Submitter {
    /// Returns the attempts as they are now, and why nothing more is to be done at this block.
    pub async fn attend(
        self: Arc<Self>,
        mut attempts: Vec<Attempt>,
        scores: Arc<ScoreTable>,
    ) -> (Vec<Attempt>, Waiting) {
        self.settle_due(&mut attempts).await;
        let metagraph = self.fresh();
        let decision = decide(&metagraph, &self.own, &attempts, &self.config);
        let guarded = match (decision, self.guard.look(&metagraph, &self.own, &attempts, &self.config)) {
            // What became of our own attempt is not known yet: the update may be of it.
            (Decision::Wait(Wait::NotRegistered | Wait::Unsettled | Wait::Disabled), _) => None,
            (_, Some(Wait::AnotherValidator)) => Some(Wait::AnotherValidator),
            (Decision::Set, watching) => watching,
            (Decision::Wait(_), _) => None,
        };
        let waiting = match (guarded, decision) {
            (Some(reason), _) | (None, Decision::Wait(reason)) => Waiting::from(reason),
            (None, Decision::Set) => self.set(&mut attempts, &scores).await,
        };
        attempts.truncate(ATTEMPTS_KEPT);
        (attempts, waiting)
    }

    pub fn fresh(&self) -> Arc<Metagraph> {
        self.metagraph.borrow().clone()
    }

    // --- setting ---

    async fn set(&self, attempts: &mut Vec<Attempt>, scores: &ScoreTable) -> Waiting {
        let has_set = attempts.iter().any(Attempt::has_succeeded);
        for _ in 0..REMAKE_LIMIT {
            let intent = match self.make(scores, has_set) {
                Ok(intent) => intent,
                Err(reason) => match self.make_of_held(attempts, scores, &reason) {
                    Some(intent) => intent,
                    None => return Waiting { wait: Wait::NoVector, no_vector: Some(reason) },
                },
            };
            let mut attempt = self.record(intent).await;
            // Recording took its time: does everybody still hold the uid we are about to pay?
            let is_current = is_current(&attempt.intent, &self.fresh());
            if is_current {
                self.submit(&mut attempt).await;
            } else {
                self.settle(&mut attempt, Settlement::Superseded).await;
            }
            attempts.insert(0, attempt);
            if is_current {
                return Wait::Submitted.into();
            }
        }
        Wait::Superseded.into()
    }

    /// The weights that the chain holds once more, before it counts us as inactive.
    fn make_of_held(&self, attempts: &[Attempt], scores: &ScoreTable, reason: &NoVector) -> Option<WeightIntent> {
        let metagraph = self.fresh();
        let entries = held(&metagraph, &self.own, attempts, &self.config)?;
        tracing::warn!(%reason, uids = entries.len(), "the weights of before are sent again");
        Some(self.intent(&metagraph, scores, &entries, None))
    }

    fn make(&self, scores: &ScoreTable, has_set: bool) -> Result<WeightIntent, NoVector> {
        let metagraph = self.fresh();
        if !has_set {
            vector::probe(&metagraph, &self.own, scores, &self.config)?;
        }
        let unix_seconds = self.clock.unix().as_secs_f64();
        let WeightVector { entries, basis } = vector::make(&metagraph, &self.own, scores, &self.config, unix_seconds)?;
        Ok(self.intent(&metagraph, scores, &entries, Some(basis)))
    }

    /// `basis` is none where the weights are those of before.
    fn intent(
        &self,
        metagraph: &Metagraph,
        scores: &ScoreTable,
        entries: &[(Uid, Hotkey, u16)],
        basis: Option<WeightBasis>,
    ) -> WeightIntent {
        WeightIntent {
            block: metagraph.block,
            epoch_index: metagraph.epoch_index,
            after_step: scores.sequence,
            uids: entries.iter().map(|entry| entry.0).collect(),
            hotkeys: entries.iter().map(|entry| entry.1).collect(),
            weights: entries.iter().map(|entry| entry.2).collect(),
            version_key: self.config.version_key.max(metagraph.hyperparameters.weights_version_key),
            salt: if metagraph.hyperparameters.commit_by_hash { draw_salt() } else { None },
            basis,
        }
    }

    /// Weights are the validator's first duty: a ledger in trouble does not keep them from the chain.
    async fn record(&self, intent: WeightIntent) -> Attempt {
        let mut attempt = Attempt { id: None, intent, settlement: Settlement::Open, saved: true, revealed_at: None };
        self.record_late(&mut attempt).await;
        if attempt.id.is_none() {
            self.metrics.unrecorded.inc();
        }
        attempt
    }

    async fn record_late(&self, attempt: &mut Attempt) {
        let call = self.neighbours.record_intent.call(RecordIntent { intent: attempt.intent.clone() });
        match self.of_ledger(call).await {
            Ok(id) => attempt.id = Some(id),
            Err(error) => tracing::error!(error, "weights go on without a record"),
        }
    }

    async fn submit(&self, attempt: &mut Attempt) {
        let WeightIntent { uids, weights, version_key, salt, .. } = attempt.intent.clone();
        let message = SetWeights { uids, weights, version_key, salt };
        let answer = self.within_deadline(self.neighbours.set_weights.call(message)).await;
        let settlement = match answer {
            Ok(Submission::Committed { block, reveal_epoch }) => Settlement::Committed { block, reveal_epoch },
            Ok(Submission::Set { block }) => match self.read_row(&self.fresh()).await {
                Some(row) if holds(&row, &attempt.intent, &self.fresh()) => Settlement::Confirmed { block },
                // The chain says yes but does not show it: the next look decides.
                _ => Settlement::Open,
            },
            Err(NoAnswer::Refused(reason)) => Settlement::Failed { reason },
            Err(NoAnswer::Unknown(reason)) => {
                tracing::warn!(reason, "it is not known whether the weights are on the chain; its state will tell");
                Settlement::Open
            }
        };
        self.settle(attempt, settlement).await;
    }

    // --- revealing ---

    /// Says what a commit hid. It stays a commit until the chain holds its weights: while it does not, the reveal is sent again
    /// every few blocks, until its epoch is over.
    async fn reveal(&self, attempt: &mut Attempt) {
        let WeightIntent { uids, weights, version_key, salt: Some(salt), .. } = attempt.intent.clone() else { return };
        attempt.revealed_at = Some(self.fresh().block);
        let message = RevealWeights { uids, weights, version_key, salt };
        match self.within_deadline(self.neighbours.reveal_weights.call(message)).await {
            Ok(block) => match self.read_row(&self.fresh()).await {
                Some(row) if holds(&row, &attempt.intent, &self.fresh()) => {
                    self.settle(attempt, Settlement::Confirmed { block }).await;
                }
                _ => tracing::warn!(%block, "a commit was revealed, and its weights do not show yet"),
            },
            Err(error) => tracing::warn!(%error, "a commit was not revealed; its epoch is not over"),
        }
    }

    // --- settling ---

    async fn settle_due(&self, attempts: &mut [Attempt]) {
        let metagraph = self.fresh();
        disown(attempts, &metagraph);
        if attempts.iter().any(|attempt| is_due(attempt, &metagraph))
            && let Some(row) = self.read_row(&metagraph).await
        {
            // The oldest first: a reveal drops the commits before its own.
            for place in (0..attempts.len()).rev() {
                let (newer, older) = attempts.split_at_mut(place + 1);
                let Some(attempt) = newer.last_mut().filter(|attempt| is_due(attempt, &metagraph)) else { continue };
                if is_to_be_revealed(attempt, older, &row, &metagraph, &self.config) {
                    self.reveal(attempt).await;
                } else {
                    let settlement = conclude(attempt, &row, &metagraph, &self.own, &self.config);
                    self.settle(attempt, settlement).await;
                }
            }
        }
        for attempt in attempts.iter_mut().filter(|attempt| !attempt.saved) {
            self.save(attempt).await;
        }
    }

    /// Our row of weights as the chain has it; empty when we have no uid; `None` when it could not be read.
    async fn read_row(&self, metagraph: &Metagraph) -> Option<Vec<(Uid, u16)>> {
        let Some(uid) = metagraph.uid_of(&self.own) else { return Some(Vec::new()) };
        match self.within_deadline(self.neighbours.read_weights.call(ReadWeights { uid })).await {
            Ok(row) => Some(row),
            Err(error) => {
                tracing::warn!(%error, "the chain's weights could not be read; trying again at the next block");
                None
            }
        }
    }

    async fn settle(&self, attempt: &mut Attempt, settlement: Settlement) {
        if attempt.settlement == settlement {
            return;
        }
        let result = match &settlement {
            Settlement::Open => return,
            Settlement::Committed { block, reveal_epoch } => {
                tracing::info!(%block, reveal_epoch, "weights committed");
                "committed"
            }
            Settlement::Confirmed { block } => {
                tracing::info!(%block, uids = attempt.intent.uids.len(), "weights confirmed on the chain");
                "confirmed"
            }
            Settlement::Failed { reason } => {
                tracing::error!(reason, "weights were not set");
                "failed"
            }
            Settlement::Superseded => {
                tracing::info!("a hotkey changed: the weights are made anew");
                "superseded"
            }
        };
        let was_committed = matches!(attempt.settlement, Settlement::Committed { .. });
        if was_committed && matches!(settlement, Settlement::Failed { .. }) {
            self.metrics.lost_commits.inc();
        }
        if matches!(settlement, Settlement::Committed { .. } | Settlement::Confirmed { .. }) {
            self.metrics.last_set.set(self.clock.unix().as_secs_f64());
            self.metrics.show_sent(&attempt.intent);
        }
        self.metrics.intents.with_label_values(&[result]).inc();
        attempt.settlement = settlement;
        attempt.saved = false;
        self.save(attempt).await;
    }

    /// Tells the ledger how the attempt stands; what it cannot take now is told again at the next look.
    async fn save(&self, attempt: &mut Attempt) {
        if attempt.id.is_none() {
            self.record_late(attempt).await;
        }
        let Some(id) = attempt.id else { return };
        let message = SettleIntent { id, settlement: attempt.settlement.clone() };
        match self.of_ledger(self.neighbours.settle_intent.call(message)).await {
            Ok(()) => attempt.saved = true,
            Err(error) => tracing::error!(error, "the ledger does not know yet how the weights went on"),
        }
    }

    async fn of_ledger<T>(
        &self,
        answer: impl Future<Output = Result<Result<T, LedgerError>, CallError>>,
    ) -> Result<T, String> {
        self.pulse.beat();
        match within(&*self.clock, LEDGER_PATIENCE, answer).await {
            Ok(Ok(answer)) => answer.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(late) => Err(format!("the ledger: {late}")),
        }
    }

    /// Every wait has an end: no answer in time is an answer not known.
    async fn within_deadline<T>(
        &self,
        answer: impl Future<Output = Result<Result<T, ChainError>, CallError>>,
    ) -> Result<T, NoAnswer> {
        let limit = Duration::from_secs(self.config.chain_timeout_seconds);
        self.pulse.beat();
        match within(&*self.clock, limit, answer).await {
            Ok(Ok(answer)) => answer.map_err(NoAnswer::from),
            Ok(Err(error @ CallError::NeverStarted { .. })) => Err(NoAnswer::Refused(error.to_string())),
            Ok(Err(error)) => Err(NoAnswer::Unknown(error.to_string())),
            Err(late) => Err(NoAnswer::Unknown(late.to_string())),
        }
    }
}

/// From the operating system: who could guess it would read the weights before their time.
fn draw_salt() -> Option<Vec<u16>> {
    let mut words = [[0; 2]; SALT_WORDS];
    if let Err(error) = words.iter_mut().try_for_each(|word| OsRng.try_fill_bytes(word)) {
        tracing::error!(%error, "the operating system gave no random number to hide a commit with");
        return None;
    }
    Some(words.map(u16::from_le_bytes).to_vec())
}

/// Ends what was made for another chain, whatever became of it there: it says nothing about this one. Saved with the others.
fn disown(attempts: &mut [Attempt], metagraph: &Metagraph) {
    let mut disowned = 0;
    for attempt in attempts.iter_mut().filter(|attempt| is_of_another_chain(attempt, metagraph)) {
        attempt.settlement = Settlement::Failed { reason: OTHER_CHAIN.to_owned() };
        attempt.saved = false;
        disowned += 1;
    }
    if disowned > 0 {
        tracing::warn!(intents = disowned, head = %metagraph.block, "weights of the ledger were {OTHER_CHAIN}");
    }
}

impl From<Wait> for Waiting {
    fn from(wait: Wait) -> Self {
        Self { wait, no_vector: None }
    }
}

impl From<ChainError> for NoAnswer {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::RefusedByPool { .. } | ChainError::FailedInBlock { .. } => Self::Refused(error.to_string()),
            ChainError::Unreachable { .. } | ChainError::BadAnswer { .. } => Self::Unknown(error.to_string()),
        }
    }
}
