//! The console's own reader of the ledger: what is printed is what is durable.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt};
use openvalidators_gating::interests::Interests;
use openvalidators_messages::{Hotkey, Metagraph, Sequence, ledger::StoredStep, weights::ScoreTable};
use openvalidators_reporting::{Follower, LedgerReader, Tail};
use openvalidators_runtime::{BoxError, Pulse, SharedClock};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::console::{Style, print_note, print_step};

/// The name of its cursor.
const READER: &str = "console";
/// How long a settled step may wait until it is printed.
const POLL: Duration = Duration::from_millis(200);
/// How long the last lines may take at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// Steps read at a time.
const BATCH_STEPS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);

struct Printer {
    style: Style,
    from: Sequence,
    metagraph: watch::Receiver<Arc<Metagraph>>,
    scores: watch::Receiver<Arc<ScoreTable>>,
    interests: Arc<Mutex<Interests>>,
}

/// Prints every step after `from` until the returned future is awaited, which prints the last ones first. Who was asked about
/// what is counted in `interests`.
pub fn follow(
    style: Style,
    from: Sequence,
    ledger: LedgerReader,
    metagraph: watch::Receiver<Arc<Metagraph>>,
    scores: watch::Receiver<Arc<ScoreTable>>,
    interests: Arc<Mutex<Interests>>,
    clock: SharedClock,
) -> BoxFuture<'static, ()> {
    let (stop, stopping) = watch::channel(false);
    let pulse = Pulse::new(&clock);
    let tail = Tail { reader: READER, ledger, clock, pulse, poll: POLL, batch_steps: BATCH_STEPS, drain: DRAIN };
    let printing = tokio::spawn(async move {
        let mut printer = Printer { style, from, metagraph, scores, interests };
        tail.follow(&mut printer, stopping).await;
    });
    async move {
        let _ = stop.send(true);
        if let Err(error) = printing.await {
            tracing::error!(%error, "the console failed");
        }
    }
    .boxed()
}

/// Prints when the chain shows new weights of ours.
pub async fn announce_weights(style: Style, ours: Hotkey, mut metagraph: watch::Receiver<Arc<Metagraph>>) {
    let mut seen = None;
    loop {
        let now = metagraph.borrow_and_update().clone();
        let neuron = now.uid_of(&ours).and_then(|uid| now.neuron(uid));
        if let Some(neuron) = neuron {
            if seen.is_some_and(|seen| seen != neuron.last_update) {
                let word = if now.hyperparameters.commit_reveal { "committed" } else { "set" };
                print_note(
                    style,
                    &format!("weights {word} on chain at block {} (epoch {})", neuron.last_update, now.epoch_index),
                );
            }
            seen = Some(neuron.last_update);
        }
        if metagraph.changed().await.is_err() {
            return;
        }
    }
}

impl Follower for Printer {
    /// A person wants what happens now, not what happened before.
    async fn resume(&mut self, cursor: Sequence, _: &LedgerReader) -> Result<Sequence, BoxError> {
        Ok(cursor.max(self.from))
    }

    async fn take(&mut self, steps: &[StoredStep]) -> Result<(), BoxError> {
        for step in steps {
            self.interests.lock().count(&step.record);
            print_step(self.style, step, &self.metagraph.borrow(), &self.scores.borrow());
        }
        Ok(())
    }
}
