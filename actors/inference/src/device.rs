//! The device thread: the only place where a network runs.
//!
//! Jobs reach it through one bounded channel. Between two batches it looks at what waits: requests for embeddings by one
//! model are computed as one, whoever asked; a job whose caller has gone is dropped; a batch that fails, by an error or a
//! panic, is split until the row that fails stands alone. Networks hold nothing but weights, so a panic leaves nothing
//! half done.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use openvalidators_messages::inference::{InferenceError, LogProbability, ModelName, Pooling};
use openvalidators_runtime::SharedClock;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::{
    batching::{Distinct, compute_or_split, cut},
    embedding,
    metrics::Metrics,
    models::{self, CausalLm, Encoder, Network, Packed},
    scoring::{ScoredRow, SharedPrefix},
};

/// Tokenised work. Dropping the receiver of `reply` cancels it.
pub(crate) enum Job {
    Embed(EmbedJob),
    LogProb(LogProbJob),
}

/// Embeddings of some rows of ids.
pub(crate) struct EmbedJob {
    pub(crate) model: ModelName,
    pub(crate) rows: Vec<Arc<[u32]>>,
    pub(crate) pooling: Pooling,
    pub(crate) reply: Reply<Arc<[f32]>>,
}

/// Log-probabilities of completions of one prompt.
pub(crate) struct LogProbJob {
    pub(crate) model: ModelName,
    pub(crate) rows: Vec<ScoredRow>,
    pub(crate) penalty: f32,
    pub(crate) reply: Reply<LogProbability>,
}

type Reply<T> = oneshot::Sender<Result<Vec<T>, InferenceError>>;

/// The running thread, from outside.
pub(crate) struct DeviceThread {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    closing: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    metrics: Metrics,
}

/// What the thread works with.
pub(crate) struct Device {
    pub(crate) networks: BTreeMap<ModelName, Network>,
    pub(crate) batch_tokens: usize,
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
        let metrics = device.metrics.clone();
        let stop = closing.clone();
        let thread = std::thread::Builder::new().name("device".into()).spawn(move || device.run(waiting, &stop))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), closing, thread: Mutex::new(Some(thread)), metrics })
    }

    /// Waits for a place in the queue. The job is dropped, and its caller told by that, when the thread has ended.
    pub(crate) async fn submit(&self, job: Job) {
        let jobs = self.jobs.lock().clone();
        if let Some(jobs) = jobs
            && let Ok(place) = jobs.reserve().await
        {
            self.metrics.queue_depth.inc();
            place.send(job);
        }
    }

    /// Takes no more jobs, ends the batch in hand, tells all who wait, and joins the thread. Blocks for one batch.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.jobs.lock().take();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the device thread had ended by a panic");
        }
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.close();
    }
}

// === impl Job ===

impl Job {
    fn abandoned(&self) -> bool {
        match self {
            Self::Embed(job) => job.reply.is_closed(),
            Self::LogProb(job) => job.reply.is_closed(),
        }
    }

    fn model(&self) -> &ModelName {
        match self {
            Self::Embed(job) => &job.model,
            Self::LogProb(job) => &job.model,
        }
    }

    fn refuse(self, error: InferenceError) {
        // A caller that has gone needs no answer.
        match self {
            Self::Embed(job) => drop(job.reply.send(Err(error))),
            Self::LogProb(job) => drop(job.reply.send(Err(error))),
        }
    }
}

// === impl Device ===

impl Device {
    fn run(self, mut jobs: mpsc::Receiver<Job>, closing: &AtomicBool) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match jobs.blocking_recv() {
                    Some(job) => waiting.push_back(job),
                    None => return,
                }
            }
            // What waits is looked at whole, so that equal work is done together; still no more than a queue of it.
            while waiting.len() < self.queue_capacity.max(1)
                && let Ok(job) = jobs.try_recv()
            {
                waiting.push_back(job);
            }
            if closing.load(Ordering::Acquire) {
                self.metrics.queue_depth.sub(waiting.len() as i64);
                waiting.drain(..).for_each(|job| job.refuse(InferenceError::Closed));
                continue;
            }
            let turn = self.next_turn(&mut waiting);
            self.metrics.queue_depth.sub(turn.len() as i64);
            self.serve(turn, closing);
        }
    }

    /// The job that has waited longest; with it, when it wants embeddings, all that want them of the same model.
    fn next_turn(&self, waiting: &mut VecDeque<Job>) -> Vec<Job> {
        let Some(first) = waiting.pop_front() else { return Vec::new() };
        let mut turn = vec![first];
        if let Job::Embed(first) = &turn[0] {
            let model = first.model.clone();
            let (together, later) = std::mem::take(waiting)
                .into_iter()
                .partition::<VecDeque<Job>, _>(|job| matches!(job, Job::Embed(job) if job.model == model));
            turn.extend(together);
            *waiting = later;
        }
        turn
    }

    fn serve(&self, turn: Vec<Job>, closing: &AtomicBool) {
        let Some(model) = turn.first().map(|job| job.model().clone()) else { return };
        let started = self.clock.now();
        let mut embeds = Vec::new();
        for job in turn {
            if job.abandoned() {
                self.count(&self.metrics.abandoned, &model, 1);
                continue;
            }
            match (job, self.networks.get(&model)) {
                (Job::Embed(job), Some(Network::Encoder(_))) => embeds.push(job),
                (Job::LogProb(job), Some(Network::CausalLm(network))) => {
                    self.log_probabilities(network, job, closing);
                }
                (job, _) => job.refuse(InferenceError::Device {
                    model: model.clone(),
                    reason: "it is not on the device, or of another kind".into(),
                }),
            }
        }
        if let Some(Network::Encoder(network)) = self.networks.get(&model)
            && !embeds.is_empty()
        {
            self.embed(network.as_ref(), &model, embeds, closing);
        }
        let busy = self.clock.now().saturating_sub(started);
        self.metrics.busy_seconds.with_label_values(&[&*model.0]).inc_by(busy.as_secs_f64());
    }

    fn embed(&self, network: &dyn Encoder, model: &ModelName, jobs: Vec<EmbedJob>, closing: &AtomicBool) {
        let distinct = Distinct::of(jobs.iter().flat_map(|job| job.rows.iter().cloned()));
        self.count(&self.metrics.deduplicated, model, distinct.repeated());
        let lengths: Vec<usize> = distinct.items.iter().map(|row| row.len()).collect();
        let mut means = vec![Err(InferenceError::Closed); lengths.len()];
        for batch in cut(&lengths, self.batch_tokens) {
            if closing.load(Ordering::Acquire) || jobs.iter().all(|job| job.reply.is_closed()) {
                break;
            }
            compute_or_split(
                &batch,
                &mut |rows: &[usize]| {
                    let packed = Packed::new(rows.iter().map(|&row| &*distinct.items[row]));
                    self.compute(model, packed.ids().len(), || embedding::means(network, &packed))
                },
                &mut |row, mean| means[row] = mean,
            );
        }
        let mut places = distinct.places.as_slice();
        for job in jobs {
            let (own, rest) = places.split_at(job.rows.len());
            places = rest;
            let answer = own
                .iter()
                .map(|&place| {
                    means[place].as_ref().map(|mean| embedding::pooled(mean, job.pooling)).map_err(Clone::clone)
                })
                .collect();
            self.answer(model, job.reply, answer);
        }
    }

    fn log_probabilities(&self, network: &CausalLm, job: LogProbJob, closing: &AtomicBool) {
        let LogProbJob { model, rows, penalty, reply } = job;
        let distinct = Distinct::of(rows);
        self.count(&self.metrics.deduplicated, &model, distinct.repeated());
        let nothing = LogProbability { mean: None, tokens: 0 };
        let (places, judged): (Vec<usize>, Vec<ScoredRow>) =
            distinct.items.iter().cloned().enumerate().filter(|(_, row)| !row.targets().is_empty()).unzip();

        let mut scores = vec![Ok(nothing); distinct.items.len()];
        if !judged.is_empty() {
            let prefix = match self.compute(&model, 0, || SharedPrefix::compute(network, &judged)) {
                Ok(prefix) => prefix,
                Err(error) => return self.answer(&model, reply, Err(error)),
            };
            self.count(&self.metrics.tokens, &model, prefix.tokens());
            let lengths: Vec<usize> = judged.iter().map(|row| row.ids.len() - prefix.tokens()).collect();
            for batch in cut(&lengths, self.batch_tokens) {
                if reply.is_closed() {
                    return self.count(&self.metrics.abandoned, &model, 1);
                }
                if closing.load(Ordering::Acquire) {
                    return self.answer(&model, reply, Err(InferenceError::Closed));
                }
                compute_or_split(
                    &batch,
                    &mut |batch: &[usize]| {
                        let tokens = batch.iter().map(|&row| lengths[row]).sum();
                        let batch: Vec<&ScoredRow> = batch.iter().map(|&row| &judged[row]).collect();
                        self.compute(&model, tokens, || prefix.score(network, &batch, penalty))
                    },
                    &mut |row, score| scores[places[row]] = score,
                );
            }
        }
        let answer = distinct.places.iter().map(|&place| scores[place].clone()).collect();
        self.answer(&model, reply, answer);
    }

    /// Runs `work` on the device's threads; an error or a panic becomes a value.
    fn compute<T: Send>(
        &self,
        model: &ModelName,
        tokens: usize,
        work: impl FnOnce() -> candle_core::Result<T> + Send,
    ) -> Result<T, InferenceError> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.threads.install(work)));
        let reason = match outcome {
            Ok(Ok(value)) => {
                self.count(&self.metrics.batches, model, 1);
                self.count(&self.metrics.tokens, model, tokens);
                return Ok(value);
            }
            Ok(Err(error)) => models::reason(&error),
            Err(panic) => format!("it panicked: {}", words(&*panic)),
        };
        self.count(&self.metrics.failures, model, 1);
        tracing::warn!(%model, tokens, reason, "a batch failed on the device");
        Err(InferenceError::Device { model: model.clone(), reason })
    }

    fn answer<T>(&self, model: &ModelName, reply: Reply<T>, answer: Result<Vec<T>, InferenceError>) {
        if reply.send(answer).is_err() {
            self.count(&self.metrics.abandoned, model, 1);
        }
    }

    fn count(&self, counter: &prometheus::IntCounterVec, model: &ModelName, by: usize) {
        counter.with_label_values(&[&*model.0]).inc_by(by as u64);
    }
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

#[cfg(test)]
mod tests;
