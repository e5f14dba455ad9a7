//! The actor: one loop that follows the ledger, one that keeps the gauges of the uids, and a last drain.

use std::{path::PathBuf, sync::Arc, time::Duration};

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture};
use openvalidators_messages::{
    Metagraph, Sequence,
    gating::ReadHead,
    ledger::{LedgerError, ReadSteps, StoredStep},
    weights::ReadScores,
};
use openvalidators_runtime::{BoxError, Inbox, Mailbox, Pulse, SharedClock, Stop};
use prometheus::Registry;
use time::UtcOffset;
use tokio::sync::watch;

use crate::{
    Follower, LedgerReader, ReportingConfig, ReportingMetrics, Tail, TailError,
    event::Origin,
    event_log::{EventLog, is_about},
    wandb::{self, WandbParts},
};

/// The name under which the ledger keeps the cursor.
const READER: &str = "reporting";

/// The door of this actor. It takes no message but the last one.
#[derive(Clone)]
pub struct Mailboxes {
    /// For the supervisor.
    pub inbox: Inbox,
}

/// What the actor is made of. Cloned for each of its lives.
#[derive(Clone)]
pub struct ReportingParts {
    /// The operator's settings.
    pub config: ReportingConfig,
    /// The folder of the event log.
    pub folder: PathBuf,
    /// Where steps come from.
    pub ledger: LedgerReader,
    /// Where the scores of the uids come from.
    pub scores: Mailbox<ReadScores>,
    /// Where the gating head comes from, for wandb.
    pub head: Mailbox<ReadHead>,
    /// Who holds which uid.
    pub metagraph: watch::Receiver<Arc<Metagraph>>,
    /// What is counted.
    pub metrics: ReportingMetrics,
    /// Time.
    pub clock: SharedClock,
    /// Beats with each turn of the loop that follows the ledger.
    pub pulse: Pulse,
    /// Wall clock when the program began, since 1970.
    pub started_at: Duration,
    /// The local time zone, for names of renamed files and times people read. A process with more than one thread cannot
    /// ask for it, so `main` does.
    pub offset: UtcOffset,
    /// wandb, where it is on.
    pub wandb: Option<WandbParts>,
}

/// Reports what happened, at its own pace.
pub struct ReportingActor {
    parts: ReportingParts,
    stop: watch::Sender<bool>,
    /// True once the loop has drained.
    drained: watch::Sender<bool>,
}

/// Writes what it follows into the event log, then counts it.
struct Reporter {
    log: Option<EventLog>,
    metrics: ReportingMetrics,
}

// === impl Mailboxes ===

impl Mailboxes {
    /// # Errors
    /// When the registry has an inbox of this name already.
    pub fn new(capacity: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self { inbox: Inbox::new(READER, capacity, registry)? })
    }

    /// There is nothing to attach.
    pub fn attach(&self, _: &Addr<ReportingActor>) {}
}

// === impl ReportingActor ===

impl ReportingActor {
    /// Touches neither disk nor ledger yet; that begins with the actor, and is tried again until it works.
    #[must_use]
    pub fn new(parts: ReportingParts) -> Self {
        Self { parts, stop: watch::Sender::new(false), drained: watch::Sender::new(false) }
    }

    fn tail(&self, reader: &'static str, pulse: Pulse) -> Tail {
        let ReportingParts { config, ledger, clock, .. } = &self.parts;
        Tail {
            reader,
            ledger: ledger.clone(),
            clock: clock.clone(),
            pulse,
            poll: Duration::from_millis(config.poll_milliseconds.max(1)),
            batch_steps: config.batch_steps,
            drain: Duration::from_secs(config.drain_seconds),
        }
    }

    fn reporter(&self) -> Reporter {
        let ReportingParts { config, folder, metrics, started_at, offset, .. } = &self.parts;
        let origin = Origin { started_at: *started_at, offset: *offset, process_id: std::process::id() };
        let log = (!config.dont_save_events)
            .then(|| EventLog::new(folder.clone(), config.events_retention_size, !config.disable_log_rewards, origin));
        Reporter { log, metrics: metrics.clone() }
    }

    /// Reports to wandb until `stop`, where it is on. By a cursor of its own: trouble of one log is none of the other.
    fn report_to_wandb(&self, stop: watch::Receiver<bool>) -> impl Future<Output = ()> + 'static {
        let ReportingParts { config, scores, head, metagraph, clock, offset, wandb, .. } = &self.parts;
        let around = wandb::Around {
            scores: scores.clone(),
            head: head.clone(),
            metagraph: metagraph.clone(),
            clock: clock.clone(),
            offset: *offset,
            log_rewards: !config.disable_log_rewards,
            drain: Duration::from_secs(config.drain_seconds),
        };
        let (tail, wandb) = (self.tail(wandb::READER, Pulse::new(clock)), wandb.clone());
        async move {
            if let Some(parts) = wandb {
                wandb::report(parts, around, tail, stop).await;
            }
        }
    }
}

impl Actor for ReportingActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let (tail, mut reporter, stop) =
            (self.tail(READER, self.parts.pulse.clone()), self.reporter(), self.stop.subscribe());
        let wandb = self.report_to_wandb(stop.clone());
        let following = async move { futures::join!(tail.follow(&mut reporter, stop), wandb) };
        context.spawn(following.into_actor(self).map(|((), ()), actor, context| {
            let asked = *actor.stop.borrow();
            actor.drained.send_replace(true);
            if !asked {
                // Cannot be; but an actor that follows no more must not look alive.
                context.stop();
            }
        }));
        if self.parts.config.metrics.per_uid && !self.parts.config.metrics.off {
            context.spawn(keep_uids(self.parts.clone(), self.stop.subscribe()).into_actor(self));
        }
    }
}

impl Handler<Stop> for ReportingActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, _: &mut Context<Self>) -> Self::Result {
        self.stop.send_replace(true);
        let mut drained = self.drained.subscribe();
        Box::pin(async move {
            let _ = drained.wait_for(|drained| *drained).await;
        })
    }
}

/// Brings the gauges of the uids up to date, now and then.
async fn keep_uids(parts: ReportingParts, stop: watch::Receiver<bool>) {
    let every = Duration::from_secs(parts.config.metrics.per_uid_seconds.max(1));
    while !*stop.borrow() {
        match parts.scores.call(ReadScores).await {
            Ok(scores) => {
                let metagraph = parts.metagraph.borrow().clone();
                parts.metrics.show_uids(&metagraph, &scores);
            }
            Err(error) => tracing::debug!(%error, "no scores for the gauges of the uids"),
        }
        parts.clock.sleep(every).await;
    }
}

// === impl Reporter ===

impl Follower for Reporter {
    async fn resume(&mut self, cursor: Sequence, ledger: &LedgerReader) -> Result<Sequence, BoxError> {
        let after = self.resume_log(cursor, ledger).await?;
        self.metrics.start_after(after);
        Ok(after)
    }

    async fn take(&mut self, steps: &[StoredStep]) -> Result<(), BoxError> {
        let appended = steps.to_vec();
        let tally = self
            .blocking(move |log| {
                let result = log.append(&appended);
                let tally = log.take_tally();
                result.map(|()| tally)
            })
            .await?;
        if let Some(tally) = tally {
            self.metrics.observe_log(tally.bytes, tally.rotations);
        }
        self.metrics.observe(steps);
        Ok(())
    }

    fn troubled(&mut self, error: Option<&TailError>) {
        self.metrics.observe_trouble(error.map(ToString::to_string));
    }
}

impl Reporter {
    /// The cursor, or the last line of the log where that is further: it was written before a crash, and its cursor was
    /// not. A line further than the cursor counts only if the ledger has that very step: the log may be older than the
    /// ledger.
    async fn resume_log(&mut self, cursor: Sequence, ledger: &LedgerReader) -> Result<Sequence, BoxError> {
        let mark = self.blocking(EventLog::recover).await?.flatten();
        let mut after = cursor;
        if let Some(mark) = mark.filter(|mark| mark.sequence > cursor.0) {
            let asked = ReadSteps { after: Sequence(mark.sequence - 1), limit: 1 };
            let steps = ledger.read_steps.call(asked).await?.map_err(|error: LedgerError| error)?;
            if steps.first().is_some_and(|step| step.sequence.0 == mark.sequence && is_about(&mark, step)) {
                after = Sequence(mark.sequence);
            } else {
                tracing::warn!(last_line = mark.sequence, %cursor, "the event log ends with a step of another ledger");
            }
        }
        if let Some(log) = &mut self.log {
            log.assume_written(after);
        }
        Ok(after)
    }

    /// Does work on the event log, if there is one, on a thread that may block.
    async fn blocking<T: Send + 'static, E: std::error::Error + Send + Sync + 'static>(
        &mut self,
        work: impl FnOnce(&mut EventLog) -> Result<T, E> + Send + 'static,
    ) -> Result<Option<T>, BoxError> {
        let Some(mut log) = self.log.take() else { return Ok(None) };
        let worked = tokio::task::spawn_blocking(move || {
            let result = work(&mut log);
            (log, result)
        });
        match worked.await {
            Ok((log, result)) => {
                self.log = Some(log);
                Ok(Some(result?))
            }
            // Without its log the reporter would count steps and write none: this life ends here.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(error.into()),
            },
        }
    }
}

#[cfg(test)]
mod tests;
