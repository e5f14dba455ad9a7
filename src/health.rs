//! What `/health` and `/ready` say: whether the program makes progress, and whether the validator does its duty.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openvalidators_messages::{Hotkey, Metagraph};
use openvalidators_reporting::{Health, ReportingMetrics};
use openvalidators_runtime::SharedClock;
use openvalidators_weights::{self as weights, duty::epochs_missed};
use tokio::sync::watch;

use crate::topology::{Doors, Pulses};

/// An inbox that holds messages and finishes none for so long is unwell, and so is a loop that makes no turn. Longer than the
/// longest honest work: a step's raw scores on a slow device.
const UNWELL_AFTER: Duration = Duration::from_secs(600);
/// A chain that has shown no block for so long is out of reach (mainnet: 12 s a block).
const CHAIN_SILENT_AFTER: Duration = Duration::from_secs(60);

/// The table of checks. `/health` asks whether a restart would help; `/ready` also whether the validator does its duty.
/// `sets_weights` is false where the operator has switched that off.
#[allow(clippy::too_many_arguments, reason = "a table of checks looks at every part")]
pub fn table(
    doors: &Doors,
    pulses: &Pulses,
    reporting: ReportingMetrics,
    weights: weights::Metrics,
    ours: Hotkey,
    metagraph: watch::Receiver<Arc<Metagraph>>,
    sets_weights: bool,
    clock: &SharedClock,
) -> Health {
    let (of_weights, of_stake) = (metagraph.clone(), metagraph.clone());
    let latest_block = note_blocks(metagraph.clone(), clock.clone());
    let clock = clock.clone();
    let health = doors.inboxes().into_iter().cloned().fold(Health::new(), |health, inbox| {
        health.live(inbox.name(), move || {
            let now = inbox.health();
            if now.silent_for < UNWELL_AFTER {
                return Ok(());
            }
            Err(format!("{} messages inside and none finished for {} s", now.depth, now.silent_for.as_secs()))
        })
    });
    let health = pulses.named().into_iter().fold(health, |health, (part, what, pulse)| {
        let pulse = pulse.clone();
        health.live(part, move || {
            let silent = pulse.silent_for();
            if silent < UNWELL_AFTER {
                Ok(())
            } else {
                Err(format!("{what} has stood still for {} s", silent.as_secs()))
            }
        })
    });
    health
        .ready("reporting", move || reporting.check())
        .ready("chain", move || {
            let silent = clock.now().saturating_sub(Duration::from_millis(latest_block.load(Ordering::Relaxed)));
            if silent < CHAIN_SILENT_AFTER { Ok(()) } else { Err(format!("no new block for {} s", silent.as_secs())) }
        })
        .ready("weights", move || {
            let missed = if sets_weights { epochs_missed(&of_weights.borrow(), &ours) } else { 0 };
            if missed == 0 {
                return Ok(());
            }
            let why = weights.waiting().map_or_else(String::new, |wait| format!(": {wait}"));
            Err(format!("{missed} epochs have passed without weights of ours{why}"))
        })
        .ready("stake", move || {
            let now = of_stake.borrow();
            let (uid, threshold) = (now.uid_of(&ours), now.hyperparameters.stake_threshold);
            match uid.and_then(|uid| now.neuron(uid)) {
                // The chain exempts the owner.
                Some(neuron) if neuron.stake < threshold && now.owner_uid != uid => {
                    Err(format!("our stake of {:.3} TAO is below the {threshold} that weights need", neuron.stake))
                }
                _ => Ok(()),
            }
        })
        .ready("permit", move || {
            let now = metagraph.borrow();
            match now.uid_of(&ours).and_then(|uid| now.neuron(uid)) {
                None => Err("our hotkey is not registered".to_owned()),
                Some(neuron) if !neuron.validator_permit => Err("we hold no validator permit (yet)".to_owned()),
                Some(_) => Ok(()),
            }
        })
}

/// Notes when the metagraph last moved, in milliseconds of the clock.
fn note_blocks(mut metagraph: watch::Receiver<Arc<Metagraph>>, clock: SharedClock) -> Arc<AtomicU64> {
    let millis = |clock: &SharedClock| u64::try_from(clock.now().as_millis()).unwrap_or(u64::MAX);
    let latest = Arc::new(AtomicU64::new(millis(&clock)));
    let noted = latest.clone();
    tokio::spawn(async move {
        while metagraph.changed().await.is_ok() {
            noted.store(millis(&clock), Ordering::Relaxed);
        }
    });
    latest
}

#[cfg(test)]
pub(crate) mod tests {
    use openvalidators_messages::{Block, Hyperparameters, Netuid, Neuron, Uid};
    use openvalidators_reporting::BuildInfo;
    use openvalidators_runtime::{DrivenClock, SystemClock};
    use prometheus::Registry;

    use super::*;
    use crate::config::Config;

    pub(crate) const OURS: Hotkey = Hotkey([7; 32]);

    /// Ours is the only neuron; its last weights are of block 100, epochs have 20 blocks.
    pub(crate) fn metagraph(last_epoch_block: u64) -> Arc<Metagraph> {
        let neuron = Neuron {
            stake: 1.0,
            validator_permit: true,
            last_update: Block(100),
            ..Neuron::newcomer(Uid(0), OURS, None)
        };
        let hyperparameters = Hyperparameters {
            tempo: 20,
            min_allowed_weights: 1,
            max_weight_limit: 1.0,
            weights_rate_limit: 0,
            weights_version_key: 0,
            commit_reveal: false,
            commit_by_hash: false,
            reveal_period_epochs: 1,
            activity_cutoff: 5_000,
            stake_threshold: 0.0,
        };
        Arc::new(Metagraph {
            netuid: Netuid(1),
            block: Block(last_epoch_block + 1),
            last_epoch_block: Block(last_epoch_block),
            epoch_index: 0,
            hyperparameters,
            owner_uid: None,
            neurons: vec![neuron],
        })
    }

    #[tokio::test]
    async fn ready_tells_of_missed_epochs_unless_no_weights_are_wanted() {
        let registry = Registry::new();
        let doors = Doors::new(&Config::default(), &registry).unwrap();
        let unknown = || "unknown".to_owned();
        let build = BuildInfo { version: unknown(), spec_version: unknown(), revision: unknown(), rustc: unknown() };
        let reporting = ReportingMetrics::new(&registry, &build).unwrap();
        let (show, seen) = watch::channel(metagraph(100));
        let (clock, pulses) = (SystemClock::shared(), Pulses::new(&SystemClock::shared()));
        let weights = weights::Metrics::new(&registry).unwrap();
        let table = |sets_weights| {
            let (reporting, weights) = (reporting.clone(), weights.clone());
            table(&doors, &pulses, reporting, weights, OURS, seen.clone(), sets_weights, &clock)
        };
        let (wanted, unwanted) = (table(true), table(false));
        assert_eq!(wanted.is_ready().parts["weights"], "ok");
        show.send_replace(metagraph(160));
        let report = wanted.is_ready();
        assert_eq!(report.parts["weights"], "2 epochs have passed without weights of ours");
        assert!(!report.ok && wanted.is_live().ok, "a restart would not help");
        assert_eq!(unwanted.is_ready().parts["weights"], "ok");
        weights.waiting.with_label_values(&["no_permit"]).set(1);
        let told = wanted.is_ready().parts["weights"].clone();
        assert_eq!(told, "2 epochs have passed without weights of ours: we hold no validator permit");
        let mut poor = Metagraph::clone(&metagraph(160));
        poor.hyperparameters.stake_threshold = 1_000.0;
        show.send_replace(Arc::new(poor));
        assert_eq!(wanted.is_ready().parts["stake"], "our stake of 1.000 TAO is below the 1000 that weights need");
    }

    /// A loop that hung was seen by nobody: no message waits for it.
    #[tokio::test]
    async fn a_loop_that_stands_still_is_unwell_and_one_at_rest_is_not() {
        let driven = DrivenClock::new(Duration::ZERO);
        let clock: SharedClock = Arc::new(driven.clone());
        let (registry, pulses) = (Registry::new(), Pulses::new(&clock));
        let doors = Doors::new(&Config::default(), &registry).unwrap();
        let build = || "unknown".to_owned();
        let build = BuildInfo { version: build(), spec_version: build(), revision: build(), rustc: build() };
        let reporting = ReportingMetrics::new(&registry, &build).unwrap();
        let weights = weights::Metrics::new(&registry).unwrap();
        let (_show, seen) = watch::channel(metagraph(100));
        let health = table(&doors, &pulses, reporting, weights, OURS, seen, true, &clock);
        pulses.duty.rest();
        driven.advance(UNWELL_AFTER);
        pulses.reporting.beat();
        let report = health.is_live();
        assert!(!report.ok);
        assert_eq!(report.parts["subtensor"], "following the chain has stood still for 600 s");
        assert_eq!((&*report.parts["weights"], &*report.parts["reporting"]), ("ok", "ok"));
        pulses.following.beat();
        assert!(health.is_live().ok);
    }
}
