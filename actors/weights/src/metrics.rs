//! What the weights tell Prometheus.

use openvalidators_messages::{
    Hotkey, Metagraph, Neuron,
    ledger::{Settlement, WeightIntent},
};
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::duty::{Attempt, Wait};

/// How a submission can end: the label `result`.
pub(crate) const RESULTS: [&str; 4] = ["committed", "confirmed", "failed", "superseded"];

/// The metrics of scores and weight setting. They outlive the actor.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Epochs in a row without weights of ours, the running one not counted: alert on it.
    pub epochs_missed: IntGauge,
    /// Blocks since the chain last took weights (or a commit) of ours.
    pub blocks_since_update: IntGauge,
    /// Wall clock when this process last saw its weights set or committed, seconds since 1970; 0 before.
    pub last_set: Gauge,
    /// Intents by `result`.
    pub intents: IntCounterVec,
    /// Commits whose reveal did not show: alert on any.
    pub lost_commits: IntCounter,
    /// Intents the ledger could not record before they were submitted.
    pub unrecorded: IntCounter,
    /// 1 for the `reason` why no weights are set at this block, 0 for the others.
    pub waiting: IntGaugeVec,
    /// Steps folded into the scores by this process.
    pub folds: IntCounter,
    /// Steps the scores go on without, for their outcome was never stored: alert on any.
    pub left_out: IntCounter,
    /// The latest step in the scores.
    pub sequence: IntGauge,
    /// Hotkeys with a standing.
    pub hotkeys: IntGauge,
    /// Commits that wait for their reveal.
    commits_unrevealed: IntGauge,
    /// Epochs that the oldest of them should have been revealed ago.
    reveal_overdue: IntGauge,
    /// The share each uid has of the weights last sent; empty where it is switched off.
    uid_weight: GaugeVec,
    per_uid: bool,
    standing: Standing,
}

/// How the chain sees our own neuron. All are 0 while our hotkey holds no uid.
#[derive(Clone, Debug)]
struct Standing {
    tempo: IntGauge,
    neurons: IntGauge,
    registered: IntGauge,
    permit: IntGauge,
    active: IntGauge,
    stake: Gauge,
    stake_threshold: Gauge,
    trust: Gauge,
    dividends: Gauge,
    emission: Gauge,
    pruning_rank: IntGauge,
}

/// Rao in a TAO.
const RAO_PER_TAO: f64 = 1e9;

// === impl Metrics ===

impl Metrics {
    /// Registers every metric, each label at zero.
    ///
    /// # Errors
    /// When the registry has one of them already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            epochs_missed: IntGauge::new(
                "openvalidators_weights_epochs_missed",
                "Epochs in a row that passed without weights of ours",
            )?,
            blocks_since_update: IntGauge::new(
                "openvalidators_weights_blocks_since_update",
                "Blocks since the chain last took weights or a commit of ours",
            )?,
            last_set: Gauge::new(
                "openvalidators_weights_last_set_timestamp_seconds",
                "When this process last saw its weights set or committed; 0 before",
            )?,
            intents: IntCounterVec::new(
                Opts::new("openvalidators_weights_intents_total", "Weight intents by how they went on"),
                &["result"],
            )?,
            lost_commits: IntCounter::new(
                "openvalidators_weights_lost_commits_total",
                "Commits that the chain took and whose weights it does not hold after the reveal",
            )?,
            unrecorded: IntCounter::new(
                "openvalidators_weights_unrecorded_intents_total",
                "Weight intents that the ledger could not record before they were submitted",
            )?,
            waiting: IntGaugeVec::new(
                Opts::new("openvalidators_weights_waiting", "1 for the reason why no weights are set at this block"),
                &["reason"],
            )?,
            folds: IntCounter::new("openvalidators_weights_folds_total", "Steps folded into the scores")?,
            left_out: IntCounter::new(
                "openvalidators_weights_left_out_total",
                "Steps the scores go on without, for their outcome was never stored",
            )?,
            sequence: IntGauge::new("openvalidators_weights_sequence", "Latest step in the scores")?,
            hotkeys: IntGauge::new("openvalidators_weights_hotkeys", "Hotkeys with a moving-average score")?,
            commits_unrevealed: IntGauge::new(
                "openvalidators_weights_commits_unrevealed",
                "Commits of ours that the chain has not revealed yet",
            )?,
            reveal_overdue: IntGauge::new(
                "openvalidators_weights_reveal_overdue_epochs",
                "Epochs since the oldest unrevealed commit was to be revealed",
            )?,
            uid_weight: GaugeVec::new(
                Opts::new("openvalidators_uid_weight", "Share of our weights last sent to the chain"),
                &["uid"],
            )?,
            per_uid: true,
            standing: Standing::new(registry)?,
        };
        for result in RESULTS {
            metrics.intents.with_label_values(&[result]);
        }
        for reason in Wait::ALL {
            metrics.waiting.with_label_values(&[reason.label()]);
        }
        registry.register(Box::new(metrics.epochs_missed.clone()))?;
        registry.register(Box::new(metrics.blocks_since_update.clone()))?;
        registry.register(Box::new(metrics.last_set.clone()))?;
        registry.register(Box::new(metrics.intents.clone()))?;
        registry.register(Box::new(metrics.lost_commits.clone()))?;
        registry.register(Box::new(metrics.unrecorded.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.folds.clone()))?;
        registry.register(Box::new(metrics.left_out.clone()))?;
        registry.register(Box::new(metrics.sequence.clone()))?;
        registry.register(Box::new(metrics.hotkeys.clone()))?;
        registry.register(Box::new(metrics.commits_unrevealed.clone()))?;
        registry.register(Box::new(metrics.reveal_overdue.clone()))?;
        registry.register(Box::new(metrics.uid_weight.clone()))?;
        Ok(metrics)
    }

    /// Why no weights were set at the latest block that was looked at; nothing before the first.
    #[must_use]
    pub fn waiting(&self) -> Option<Wait> {
        Wait::ALL.into_iter().find(|reason| self.waiting.with_label_values(&[reason.label()]).get() == 1)
    }

    /// With a gauge for each uid or without.
    #[must_use]
    pub fn per_uid(self, per_uid: bool) -> Self {
        Self { per_uid, ..self }
    }

    /// Shows how the chain sees us, and the commits it has not revealed.
    pub(crate) fn show_standing(&self, metagraph: &Metagraph, own: &Hotkey, attempts: &[Attempt]) {
        self.standing.show(metagraph, own);
        let reveals = attempts.iter().filter_map(|attempt| match attempt.settlement {
            Settlement::Committed { reveal_epoch, .. } => Some(reveal_epoch),
            _ => None,
        });
        self.commits_unrevealed.set(integer(reveals.clone().count() as u64));
        let oldest = reveals.min().unwrap_or(metagraph.epoch_index);
        self.reveal_overdue.set(integer(metagraph.epoch_index.saturating_sub(oldest)));
    }

    /// Shows the weights that went to the chain.
    pub(crate) fn show_sent(&self, intent: &WeightIntent) {
        self.uid_weight.reset();
        let total: f64 = intent.weights.iter().copied().map(f64::from).sum();
        if self.per_uid && total > 0.0 {
            for (uid, weight) in intent.uids.iter().zip(&intent.weights) {
                self.uid_weight.with_label_values(&[&uid.to_string()]).set(f64::from(*weight) / total);
            }
        }
    }

    pub(crate) fn show_waiting(&self, now: Wait) {
        for reason in Wait::ALL {
            self.waiting.with_label_values(&[reason.label()]).set(i64::from(reason == now));
        }
    }
}

// === impl Standing ===

impl Standing {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let count = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("openvalidators_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let number = |name: &str, help: &str| {
            let gauge = Gauge::new(format!("openvalidators_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            tempo: count("chain_tempo_blocks", "Blocks from one epoch of the subnet to the next")?,
            neurons: count("chain_neurons", "Hotkeys registered on the subnet")?,
            registered: count("validator_registered", "1 while our hotkey holds a uid")?,
            permit: count("validator_permit", "1 while we hold a validator permit")?,
            active: count("validator_active", "1 while the chain counts us as active: our weights are young enough")?,
            stake: number("validator_stake_tao", "Stake behind our hotkey, in TAO")?,
            stake_threshold: number(
                "validator_stake_threshold_tao",
                "Stake below which the subnet refuses weights, in TAO",
            )?,
            trust: number("validator_trust_ratio", "How much of our weights the consensus accepted (vtrust)")?,
            dividends: number("validator_dividends_ratio", "Our share of what validators earn")?,
            emission: number("validator_emission_tao", "What we earned in the latest epoch, in the subnet's currency")?,
            pruning_rank: count(
                "validator_pruning_rank",
                "Hotkeys that a full subnet gives up before ours: those that earn less, or as little and are older. \
                 Immunity is not looked at",
            )?,
        })
    }

    fn show(&self, metagraph: &Metagraph, own: &Hotkey) {
        let us = metagraph.uid_of(own).and_then(|uid| metagraph.neuron(uid));
        let share = |read: fn(&Neuron) -> f64| us.map_or(0.0, read);
        let flag = |read: fn(&Neuron) -> bool| i64::from(us.is_some_and(read));
        self.tempo.set(integer(metagraph.hyperparameters.tempo));
        self.neurons.set(integer(metagraph.neurons.len() as u64));
        self.registered.set(i64::from(us.is_some()));
        self.permit.set(flag(|neuron| neuron.validator_permit));
        self.active.set(flag(|neuron| neuron.active));
        self.stake.set(share(|neuron| neuron.stake));
        self.stake_threshold.set(metagraph.hyperparameters.stake_threshold);
        self.trust.set(share(|neuron| neuron.validator_trust));
        self.dividends.set(share(|neuron| neuron.dividends));
        self.emission.set(share(|neuron| neuron.emission as f64 / RAO_PER_TAO));
        // The chain takes the place of who earned least in the latest epoch, of equals that of the oldest.
        let rank = |neuron: &Neuron| (neuron.emission, neuron.registered_at, neuron.uid);
        let before = us.map_or(0, |us| metagraph.neurons.iter().filter(|other| rank(other) < rank(us)).count());
        self.pruning_rank.set(integer(before as u64));
    }
}

fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use openvalidators_messages::{Block, IntentId, Uid};

    use super::*;
    use crate::fixtures::{EPOCH_INDEX, EPOCH_START, OWN, key, metagraph};

    fn attempt(settlement: Settlement) -> Attempt {
        let intent = WeightIntent {
            block: Block(EPOCH_START),
            epoch_index: EPOCH_INDEX,
            after_step: openvalidators_messages::Sequence(1),
            uids: vec![Uid(1), Uid(2)],
            hotkeys: vec![key(1), key(2)],
            weights: vec![65_535, 21_845],
            version_key: 0,
            salt: None,
            basis: None,
        };
        Attempt { id: Some(IntentId(1)), intent, settlement, saved: true, revealed_at: None }
    }

    #[test]
    fn our_standing_is_that_of_our_neuron_and_nothing_without_one() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let mut seen = metagraph(4, EPOCH_START);
        seen.neurons[0].emission = 1_500_000_000;
        seen.neurons[0].validator_trust = 0.75;
        seen.neurons[2].emission = 2_000_000_000;
        metrics.show_standing(&seen, &OWN, &[]);
        let standing = &metrics.standing;
        assert_eq!((standing.registered.get(), standing.permit.get(), standing.neurons.get()), (1, 1, 4));
        assert_eq!((standing.trust.get(), standing.emission.get(), standing.stake.get()), (0.75, 1.5, 10_000.0));
        assert_eq!(standing.pruning_rank.get(), 2, "two earn nothing, one earns more");
        seen.neurons[0].hotkey = key(99);
        metrics.show_standing(&seen, &OWN, &[]);
        assert_eq!((standing.registered.get(), standing.permit.get(), standing.trust.get()), (0, 0, 0.0));
    }

    #[test]
    fn of_equals_the_oldest_goes_first() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let mut seen = metagraph(3, EPOCH_START);
        seen.neurons[1].registered_at = Block(4);
        metrics.show_standing(&seen, &OWN, &[]);
        assert_eq!(metrics.standing.pruning_rank.get(), 1);
    }

    #[test]
    fn a_commit_is_overdue_from_its_epoch_on_until_it_is_settled() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let seen = metagraph(3, EPOCH_START);
        let committed = |reveal_epoch| attempt(Settlement::Committed { block: Block(5), reveal_epoch });
        let told = |attempts: &[Attempt]| {
            metrics.show_standing(&seen, &OWN, attempts);
            (metrics.commits_unrevealed.get(), metrics.reveal_overdue.get())
        };
        assert_eq!(told(&[committed(EPOCH_INDEX + 1)]), (1, 0));
        assert_eq!(told(&[committed(EPOCH_INDEX + 1), committed(EPOCH_INDEX - 2)]), (2, 2));
        assert_eq!(told(&[attempt(Settlement::Superseded)]), (0, 0));
    }

    #[test]
    fn weights_are_shown_as_shares_and_only_where_wanted() {
        let intent = attempt(Settlement::Open).intent;
        let families = |per_uid| {
            let registry = Registry::new();
            let metrics = Metrics::new(&registry).unwrap().per_uid(per_uid);
            metrics.show_sent(&intent);
            let family = registry.gather().into_iter().find(|family| family.name() == "openvalidators_uid_weight");
            family.map(|family| {
                family.get_metric().iter().map(|metric| metric.get_gauge().get_value()).collect::<Vec<_>>()
            })
        };
        assert_eq!(families(true), Some(vec![0.75, 0.25]));
        assert_eq!(families(false), None);
    }
}
