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
use tokio::sync::watch;

use crate::topology::Doors;

/// An inbox that holds messages and finishes none for so long is unwell. Longer than the longest honest work: a step's raw
/// scores on a slow device.
const UNWELL_AFTER: Duration = Duration::from_secs(600);
/// A chain that has shown no block for so long is out of reach (mainnet: 12 s a block).
const CHAIN_SILENT_AFTER: Duration = Duration::from_secs(60);

/// The table of checks. `/health` asks whether a restart would help; `/ready` also whether the validator can do its duty.
pub fn table(
    doors: &Doors,
    reporting: ReportingMetrics,
    ours: Hotkey,
    metagraph: watch::Receiver<Arc<Metagraph>>,
    clock: &SharedClock,
) -> Health {
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
    health
        .ready("reporting", move || reporting.check())
        .ready("chain", move || {
            let silent = clock.now().saturating_sub(Duration::from_millis(latest_block.load(Ordering::Relaxed)));
            if silent < CHAIN_SILENT_AFTER { Ok(()) } else { Err(format!("no new block for {} s", silent.as_secs())) }
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
