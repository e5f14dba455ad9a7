//! The thread of a device: the only place where its networks run.
//!
//! Jobs reach it through one bounded channel. Between two batches it looks at what waits: requests for embeddings by one
//! model, or for what one classifier says, are computed as one, whoever asked; embeddings by an encoder, which take a moment,
//! come between the batches of what takes longer; a job whose caller has gone is dropped; a batch that fails, by an error or a
//! panic, is split until the row that fails stands alone. Where it was memory that did not suffice, the batches after it are
//! smaller for a while ([`Budget`]). Networks hold nothing but weights, so a panic leaves nothing half done.
//!
//! What a job does is beside what it computes: [`crate::embedding`], [`crate::scoring`], [`crate::classification`],
//! [`crate::generation`].

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use openvalidators_messages::inference::{InferenceError, LogProbability, Logits, ModelName, Row, RowFailed};
use openvalidators_runtime::{FAIL_AT, SharedClock, fault_point, is_failure_asked, panic_text};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::{
    budget::{Budget, is_out_of_memory},
    classification::ClassifyWork,
    embedding::{EmbedWork, last_states, means},
    generation::GenerateWork,
    metrics::Metrics,
    models::{self, Network, Packed},
    placement::DeviceName,
    scoring::LogProbWork,
};

/// Most tokens that a processor scores at once: seconds, for which an embedding waits. More is hardly faster there.
const SCORED_AT_ONCE_BY_A_PROCESSOR: usize = 512;

/// A request in tokens.
pub(crate) enum Job {
    Embed(Asked<EmbedWork, Arc<[f32]>>),
    LogProb(Asked<LogProbWork, LogProbability>),
    Classify(Asked<ClassifyWork, Logits>),
    Generate(Asked<GenerateWork, Vec<u32>>),
}

/// What is asked of a model, and where the answer goes: one `T` for each row. Dropping the receiver cancels it.
pub(crate) struct Asked<W, T> {
    pub(crate) model: ModelName,
    pub(crate) work: W,
    pub(crate) reply: oneshot::Sender<Result<Vec<Row<T>>, InferenceError>>,
}

/// The running thread, from outside.
pub(crate) struct DeviceThread {
    name: DeviceName,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    closing: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    metrics: Metrics,
}

/// What the thread works with.
pub(crate) struct Device {
    pub(crate) name: DeviceName,
    pub(crate) networks: BTreeMap<ModelName, Network>,
    pub(crate) budget: Budget,
    pub(crate) queue_capacity: usize,
    pub(crate) threads: rayon::ThreadPool,
    pub(crate) metrics: Metrics,
    pub(crate) clock: SharedClock,
}

// === impl DeviceThread ===

impl DeviceThread {
    /// Moves the networks to a thread of their own.
    pub(crate) fn spawn(device: Device) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(device.queue_capacity.max(1));
        let closing = Arc::new(AtomicBool::new(false));
        let (name, metrics, stop) = (device.name, device.metrics.clone(), closing.clone());
        let thread = std::thread::Builder::new().name(name.to_string()).spawn(move || device.stay(waiting, &stop))?;
        Ok(Self { name, jobs: Mutex::new(Some(jobs)), closing, thread: Mutex::new(Some(thread)), metrics })
    }

    /// Waits for a place in the queue. The job is dropped, and its caller told by that, when the thread has ended.
    pub(crate) async fn submit(&self, job: Job) {
        let jobs = self.jobs.lock().clone();
        if let Some(jobs) = jobs
            && let Ok(place) = jobs.reserve().await
        {
            self.metrics.queue_depth(self.name).inc();
            place.send(job);
        }
    }

    /// Takes no more jobs, and after the batch in hand tells all who wait.
    pub(crate) fn stop(&self) {
        self.closing.store(true, Ordering::Release);
        self.jobs.lock().take();
    }

    /// [`DeviceThread::stop`], and joins the thread. Blocks for one batch.
    pub(crate) fn close(&self) {
        self.stop();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(device = %self.name, "the device's thread had ended by a panic");
        }
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.close();
    }
}

// === impl Asked ===

impl<W, T> Asked<W, T> {
    /// Whether nobody waits for the answer.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    pub(crate) fn refuse(self, error: InferenceError) {
        // A caller that has gone needs no answer.
        drop(self.reply.send(Err(error)));
    }
}

// === impl Job ===

impl Job {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Embed(asked) => asked.is_abandoned(),
            Self::LogProb(asked) => asked.is_abandoned(),
            Self::Classify(asked) => asked.is_abandoned(),
            Self::Generate(asked) => asked.is_abandoned(),
        }
    }

    fn model(&self) -> &ModelName {
        match self {
            Self::Embed(asked) => &asked.model,
            Self::LogProb(asked) => &asked.model,
            Self::Classify(asked) => &asked.model,
            Self::Generate(asked) => &asked.model,
        }
    }

    fn refuse(self, error: InferenceError) {
        match self {
            Self::Embed(asked) => asked.refuse(error),
            Self::LogProb(asked) => asked.refuse(error),
            Self::Classify(asked) => asked.refuse(error),
            Self::Generate(asked) => asked.refuse(error),
        }
    }
}

// === impl Device ===

impl Device {
    /// Runs until it is closed. A panic beside the computing, whose own are values, costs the jobs in hand, whose callers are told by
    /// that, and no more: without its thread the engine would live on and compute nothing.
    fn stay(self, mut jobs: mpsc::Receiver<Job>, closing: &AtomicBool) {
        let mut waiting = VecDeque::new();
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run(&mut jobs, &mut waiting, closing))) {
            tracing::error!(device = %self.name, panic = panic_text(&*panic), "a turn of the device failed; it goes on");
        }
    }

    fn run(&self, jobs: &mut mpsc::Receiver<Job>, waiting: &mut VecDeque<Job>, closing: &AtomicBool) {
        loop {
            if waiting.is_empty() {
                match jobs.blocking_recv() {
                    Some(job) => waiting.push_back(job),
                    None => return,
                }
            }
            self.take_in(jobs, waiting);
            if closing.load(Ordering::Acquire) {
                self.metrics.queue_depth(self.name).sub(waiting.len() as i64);
                waiting.drain(..).for_each(|job| job.refuse(InferenceError::Closed));
                continue;
            }
            // The job that has waited longest.
            let Some(first) = waiting.pop_front() else { continue };
            let turn = self.turn_of(first, waiting);
            fault_point("device", "turn");
            self.serve(turn, closing, &mut || self.embed_meanwhile(jobs, waiting, closing));
        }
    }

    /// What waits is looked at whole, so that equal work is done together; still no more than a queue of it.
    fn take_in(&self, jobs: &mut mpsc::Receiver<Job>, waiting: &mut VecDeque<Job>) {
        while waiting.len() < self.queue_capacity.max(1)
            && let Ok(job) = jobs.try_recv()
        {
            waiting.push_back(job);
        }
    }

    /// Between two batches of a longer job: a forward waits for the embedding of its prompt before it asks anybody, and not for
    /// long.
    fn embed_meanwhile(&self, jobs: &mut mpsc::Receiver<Job>, waiting: &mut VecDeque<Job>, closing: &AtomicBool) {
        self.take_in(jobs, waiting);
        let is_short =
            |job: &Job| matches!((job, self.networks.get(job.model())), (Job::Embed(_), Some(Network::Encoder(_))));
        while let Some(first) = waiting.iter().position(is_short).and_then(|place| waiting.remove(place)) {
            let turn = self.turn_of(first, waiting);
            self.serve(turn, closing, &mut || {});
        }
    }

    /// A job, and of what waits all that can be computed together with it.
    fn turn_of(&self, first: Job, waiting: &mut VecDeque<Job>) -> Vec<Job> {
        let mut turn = vec![first];
        let joins = |other: &Job| match (&turn[0], other) {
            (Job::Embed(first), Job::Embed(other)) => first.model == other.model,
            (Job::Classify(first), Job::Classify(other)) => {
                first.model == other.model && matches!(self.networks.get(&first.model), Some(Network::Classifier(_)))
            }
            _ => false,
        };
        let (together, later) = std::mem::take(waiting).into_iter().partition::<VecDeque<Job>, _>(joins);
        turn.extend(together);
        *waiting = later;
        self.metrics.queue_depth(self.name).sub(turn.len() as i64);
        turn
    }

    /// Computes a turn, and what `meanwhile` does between its batches.
    fn serve(&self, turn: Vec<Job>, closing: &AtomicBool, meanwhile: &mut dyn FnMut()) {
        let Some(model) = turn.first().map(|job| job.model().clone()) else { return };
        let started = self.clock.now();
        let mut lent = Duration::ZERO;
        let mut meanwhile = || {
            let since = self.clock.now();
            meanwhile();
            lent += self.clock.now().saturating_sub(since);
        };
        let (mut embeds, mut classifies) = (Vec::new(), Vec::new());
        for job in turn {
            if job.is_abandoned() {
                self.count(&self.metrics.abandoned, &model, 1);
                continue;
            }
            match (job, self.networks.get(&model)) {
                (Job::Embed(asked), Some(Network::Encoder(_) | Network::CausalLm(_))) => embeds.push(asked),
                (Job::Classify(asked), Some(Network::Classifier(_))) => classifies.push(asked),
                (Job::Classify(asked), Some(Network::CausalClassifier(network))) => {
                    self.classify_causal(network, asked, closing, &mut meanwhile);
                }
                (Job::LogProb(asked), Some(Network::CausalLm(network))) => {
                    self.log_probabilities(network, asked, closing, &mut meanwhile);
                }
                (Job::Generate(asked), Some(Network::CausalLm(network))) => {
                    self.generate(network, asked, closing, &mut meanwhile);
                }
                (job, _) => job.refuse(InferenceError::Device {
                    model: model.clone(),
                    reason: "it is not on the device, or of another kind".into(),
                }),
            }
        }
        match self.networks.get(&model) {
            Some(Network::Encoder(network)) if !embeds.is_empty() => {
                self.embed(&|rows: &Packed| means(&**network, rows), &model, embeds, closing);
            }
            Some(Network::CausalLm(network)) if !embeds.is_empty() => {
                self.embed(&|rows: &Packed| last_states(network, rows), &model, embeds, closing);
            }
            Some(Network::Classifier(network)) if !classifies.is_empty() => {
                self.classify(&**network, &model, classifies, closing, &mut meanwhile);
            }
            _ => {}
        }
        let busy = self.clock.now().saturating_sub(started).saturating_sub(lent);
        self.metrics.busy_seconds(self.name, &model).inc_by(busy.as_secs_f64());
    }

    /// Tokens of a batch that is scored.
    pub(crate) fn scored_at_once(&self) -> usize {
        match self.name {
            DeviceName::Cpu(_) => self.budget.tokens().min(SCORED_AT_ONCE_BY_A_PROCESSOR),
            DeviceName::Cuda(_) => self.budget.tokens(),
        }
    }

    /// Runs `work` on so many rows, of so many tokens altogether, on the device's threads; an error or a panic becomes a value.
    pub(crate) fn compute<T: Send>(
        &self,
        model: &ModelName,
        (rows, tokens): (usize, usize),
        work: impl FnOnce() -> candle_core::Result<T> + Send,
    ) -> Row<T> {
        let outcome = if rows > 1 && is_failure_asked("device", "batch") {
            Ok(Err(candle_core::Error::Msg(format!("out of memory, asked for by {FAIL_AT}"))))
        } else {
            catch_unwind(AssertUnwindSafe(|| self.threads.install(work)))
        };
        let reason = match outcome {
            Ok(Ok(value)) => {
                self.count(&self.metrics.batches, model, 1);
                self.count(&self.metrics.tokens, model, tokens);
                self.budget.held();
                self.metrics.budget(self.name).set(self.budget.tokens() as i64);
                return Ok(value);
            }
            Ok(Err(error)) => models::reason(&error),
            Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
        };
        self.count(&self.metrics.failures, model, 1);
        if is_out_of_memory(&reason) {
            self.metrics.out_of_memory(self.name).inc();
            self.budget.ran_out(tokens);
            self.metrics.budget(self.name).set(self.budget.tokens() as i64);
        }
        tracing::warn!(%model, device = %self.name, tokens, reason, "a batch failed on the device");
        Err(RowFailed { reason: reason.into() })
    }

    /// Ends work on `asked` unfinished: nobody waits for it any more, or the engine closes.
    pub(crate) fn leave<W, T>(&self, asked: Asked<W, T>) {
        if asked.is_abandoned() {
            self.count(&self.metrics.abandoned, &asked.model, 1);
        }
        asked.refuse(InferenceError::Closed);
    }

    /// Answers `asked`. A row that failed beside others that did not is the caller's to see; where all failed, it is the
    /// device that did.
    pub(crate) fn answer<W, T>(&self, asked: Asked<W, T>, rows: Vec<Row<T>>) {
        let Asked { model, reply, .. } = asked;
        let answer = match rows.iter().find_map(|row| row.as_ref().err()) {
            Some(failed) if rows.iter().all(Result::is_err) => {
                Err(InferenceError::Device { model: model.clone(), reason: failed.reason.to_string() })
            }
            _ => Ok(rows),
        };
        if reply.send(answer).is_err() {
            self.count(&self.metrics.abandoned, &model, 1);
        }
    }

    pub(crate) fn count(&self, counter: &prometheus::IntCounterVec, model: &ModelName, by: usize) {
        counter.with_label_values(&[&*model.0]).inc_by(by as u64);
    }
}

#[cfg(test)]
mod tests;
