use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use candle_core::{Device as CandleDevice, Tensor};
use openvalidators_runtime::{SystemClock, within};
use prometheus::Registry;

use super::*;
use openvalidators_messages::inference::Pooling;

use crate::{
    models::{CausalBody, CausalLm, Encoder, Packed, Past, llama_gguf::tests::tiny},
    scoring::ScoredRow,
};

const MODEL: &str = "double";

/// The real device runs out of memory or panics when it pleases; this one when told. A token's state is its id.
struct Moody {
    /// More rows at once are out of memory.
    most_rows: usize,
    /// Each forward pass says that it begins and waits to be let go on, where a test wants to.
    gate: Option<Mutex<(SyncSender<usize>, Receiver<()>)>>,
}

/// The id at which it panics, and the one it refuses.
const PANIC: u32 = 666;
const REFUSE: u32 = 13;

/// As candle hands on what CUDA's driver says.
fn out_of_memory() -> candle_core::Error {
    candle_core::Error::Cuda("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into())
}

impl Encoder for Moody {
    fn max_tokens(&self) -> usize {
        100
    }

    fn forward(&self, batch: &Packed) -> candle_core::Result<Tensor> {
        if let Some(gate) = &self.gate {
            let gate = gate.lock();
            gate.0.send(batch.lengths().len()).unwrap();
            gate.1.recv().unwrap();
        }
        assert!(!batch.ids().contains(&PANIC), "an evil token");
        if batch.lengths().len() > self.most_rows {
            return Err(out_of_memory());
        }
        if batch.ids().contains(&REFUSE) {
            candle_core::bail!("not this one");
        }
        let states: Vec<f32> = batch.ids().iter().map(|&id| id as f32).collect();
        Tensor::from_vec(states, (batch.ids().len(), 1), &CandleDevice::Cpu)
    }
}

struct Gate {
    began: Receiver<usize>,
    go_on: SyncSender<()>,
}

fn gated() -> (Moody, Gate) {
    let (begin, began) = sync_channel(8);
    let (go_on, wait) = sync_channel(8);
    (Moody { most_rows: 100, gate: Some(Mutex::new((begin, wait))) }, Gate { began, go_on })
}

fn spawn(network: Network, batch_tokens: usize) -> (DeviceThread, Metrics) {
    spawn_all([(ModelName::new(MODEL), network)], batch_tokens)
}

fn spawn_all<const N: usize>(networks: [(ModelName, Network); N], batch_tokens: usize) -> (DeviceThread, Metrics) {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let device = Device {
        name: DeviceName::Cpu(0),
        networks: networks.into(),
        budget: Budget::new(batch_tokens),
        queue_capacity: 8,
        threads: rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap(),
        metrics: metrics.clone(),
        clock: SystemClock::shared(),
    };
    (DeviceThread::spawn(device).unwrap(), metrics)
}

type Answer<T> = oneshot::Receiver<Result<Vec<Row<T>>, InferenceError>>;

async fn ask(device: &DeviceThread, ids: &[u32]) -> Answer<Arc<[f32]>> {
    ask_model(device, MODEL, ids).await
}

async fn ask_model(device: &DeviceThread, model: &str, ids: &[u32]) -> Answer<Arc<[f32]>> {
    let (reply, answer) = oneshot::channel();
    let rows = ids.iter().map(|&id| vec![Arc::from([id])]).collect();
    let work = EmbedWork { texts: rows, pooling: Pooling::Mean };
    device.submit(Job::Embed(Asked { model: ModelName::new(model), work, reply })).await;
    answer
}

/// The first number of each row, none of which may have failed.
async fn values(answer: Answer<Arc<[f32]>>) -> Result<Vec<f32>, InferenceError> {
    answer.await.unwrap().map(|rows| rows.iter().map(|row| row.as_ref().unwrap()[0]).collect())
}

fn count(counter: &prometheus::IntCounterVec) -> u64 {
    counter.with_label_values(&[MODEL]).get()
}

#[tokio::test]
async fn a_batch_too_large_is_split_and_the_answer_is_the_same() {
    let network = Moody { most_rows: 2, gate: None };
    let (device, metrics) = spawn(Network::Encoder(Box::new(network)), 1_000);
    assert_eq!(values(ask(&device, &[5, 6, 7, 8, 9, 5]).await).await.unwrap(), [5.0, 6.0, 7.0, 8.0, 9.0, 5.0]);
    assert_eq!((count(&metrics.failures), count(&metrics.batches)), (2, 3));
    assert_eq!((count(&metrics.deduplicated), count(&metrics.tokens)), (1, 5));
}

/// Nobody's second request pays for what the first one taught, and the device tries more again later.
#[tokio::test]
async fn after_running_out_of_memory_batches_are_smaller_for_a_while() {
    let network = Moody { most_rows: 100, gate: None };
    let (device, metrics) = spawn(Network::Encoder(Box::new(network)), 128);
    let ids: Vec<u32> = (1_000..1_512).collect();
    let expected: Vec<f32> = ids.iter().map(|&id| id as f32).collect();
    let (failures, budget) = (|| count(&metrics.failures), || metrics.budget(DeviceName::Cpu(0)).get());
    // 128 rows fail and are split; then batches of 64 hold.
    assert_eq!(values(ask(&device, &ids).await).await.unwrap(), expected);
    assert_eq!((failures(), metrics.out_of_memory(DeviceName::Cpu(0)).get(), budget()), (1, 1, 64));
    for _ in 0..3 {
        assert_eq!(values(ask(&device, &ids).await).await.unwrap(), expected);
    }
    assert_eq!((failures(), budget()), (1, 128), "32 batches held");
    assert_eq!(values(ask(&device, &ids).await).await.unwrap(), expected);
    assert_eq!((failures(), budget()), (2, 64));
}

#[tokio::test]
async fn only_a_failing_row_has_no_answer_and_a_panic_is_no_end() {
    let (network, gate) = gated();
    let (device, metrics) = spawn(Network::Encoder(Box::new(network)), 1_000);
    let first = ask(&device, &[1]).await;
    assert_eq!(gate.began.recv().unwrap(), 1);
    let good = ask(&device, &[2, 3]).await;
    let evil = ask(&device, &[4, PANIC]).await;
    let refused = ask(&device, &[REFUSE]).await;
    gate.go_on.send(()).unwrap();
    // All five rows, then halves of what fails: 2 and 3 pass; 4, 666 and 13 do not; 4 passes; the others fail alone.
    for rows in [5, 2, 3, 1, 2, 1, 1] {
        assert_eq!(gate.began.recv().unwrap(), rows);
        gate.go_on.send(()).unwrap();
    }
    assert_eq!(values(first).await.unwrap(), [1.0]);
    assert_eq!(values(good).await.unwrap(), [2.0, 3.0]);
    let evil = evil.await.unwrap().unwrap();
    assert_eq!(evil[0].as_ref().unwrap()[0], 4.0, "the good row of a request with an evil one");
    assert_eq!(evil[1].as_ref().unwrap_err().to_string(), "it panicked: an evil token");
    let told = values(refused).await.unwrap_err().to_string();
    assert_eq!(told, "model `double` failed on the device: not this one");
    assert_eq!((count(&metrics.failures), count(&metrics.batches)), (5, 3));
}

#[tokio::test]
async fn what_waits_together_is_computed_together_and_nobody_pays_for_who_has_gone() {
    let (network, gate) = gated();
    let (device, metrics) = spawn(Network::Encoder(Box::new(network)), 1_000);
    let first = ask(&device, &[1]).await;
    assert_eq!(gate.began.recv().unwrap(), 1);
    let (a, gone, b) = (ask(&device, &[2, 3]).await, ask(&device, &[50, 51, 52]).await, ask(&device, &[3, 4]).await);
    drop(gone);
    gate.go_on.send(()).unwrap();
    assert_eq!(gate.began.recv().unwrap(), 3, "rows 2, 3 and 4 in one batch");
    gate.go_on.send(()).unwrap();
    assert_eq!(values(first).await.unwrap(), [1.0]);
    assert_eq!(values(a).await.unwrap(), [2.0, 3.0]);
    assert_eq!(values(b).await.unwrap(), [3.0, 4.0]);
    assert_eq!((count(&metrics.abandoned), count(&metrics.deduplicated), count(&metrics.batches)), (1, 1, 2));
    assert_eq!(metrics.queue_depth(DeviceName::Cpu(0)).get(), 0);
}

#[tokio::test]
async fn closing_ends_the_batch_in_hand_and_tells_the_rest() {
    let (network, gate) = gated();
    let (device, _) = spawn(Network::Encoder(Box::new(network)), 1_000);
    let device = Arc::new(device);
    let first = ask(&device, &[1]).await;
    assert_eq!(gate.began.recv().unwrap(), 1);
    let waiting = ask(&device, &[2]).await;
    let closing = {
        std::thread::spawn({
            let device = device.clone();
            move || device.close()
        })
    };
    while !device.closing.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    gate.go_on.send(()).unwrap();
    closing.join().unwrap();
    assert_eq!(values(first).await.unwrap(), [1.0]);
    assert_eq!(values(waiting).await.unwrap_err(), InferenceError::Closed);
    assert!(ask(&device, &[3]).await.await.is_err(), "a job after the end is dropped");
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait() {
    let (network, gate) = gated();
    let (device, _) = spawn(Network::Encoder(Box::new(network)), 1_000);
    let device = Arc::new(device);
    let mut answers = vec![ask(&device, &[1]).await];
    gate.began.recv().unwrap();
    for id in 0..8 {
        answers.push(ask(&device, &[id]).await);
    }
    let queued = Arc::new(AtomicBool::new(false));
    let ninth = tokio::spawn({
        let (device, queued) = (device.clone(), queued.clone());
        async move {
            let answer = ask(&device, &[9]).await;
            queued.store(true, Ordering::Release);
            values(answer).await
        }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!queued.load(Ordering::Acquire), "the queue holds eight");
    // One turn for the first, one for the eight, and one for the ninth where it came too late for theirs.
    for _ in 0..3 {
        gate.go_on.send(()).unwrap();
    }
    for answer in answers {
        values(answer).await.unwrap();
    }
    assert_eq!(ninth.await.unwrap().unwrap(), [9.0]);
}

/// A causal network whose batches say that they begin and wait to be let go on.
struct Gated {
    network: Box<dyn CausalBody>,
    began: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl CausalBody for Gated {
    fn context_tokens(&self) -> usize {
        self.network.context_tokens()
    }
    fn no_past(&self) -> candle_core::Result<Past> {
        self.network.no_past()
    }
    fn forward(&self, batch: &Packed, past: &Past) -> candle_core::Result<Tensor> {
        self.began.send(()).unwrap();
        self.go_on.lock().recv().unwrap();
        self.network.forward(batch, past)
    }
    fn extend(&self, row: &Packed, past: &Past) -> candle_core::Result<(Tensor, Past)> {
        self.network.extend(row, past)
    }
    fn normalised(&self, states: &Tensor) -> candle_core::Result<Tensor> {
        self.network.normalised(states)
    }
}

/// A causal network that runs out of memory with any batch of several rows.
struct Cramped(Box<dyn CausalBody>);

impl CausalBody for Cramped {
    fn context_tokens(&self) -> usize {
        self.0.context_tokens()
    }
    fn no_past(&self) -> candle_core::Result<Past> {
        self.0.no_past()
    }
    fn forward(&self, batch: &Packed, past: &Past) -> candle_core::Result<Tensor> {
        if batch.lengths().len() > 1 { Err(out_of_memory()) } else { self.0.forward(batch, past) }
    }
    fn extend(&self, row: &Packed, past: &Past) -> candle_core::Result<(Tensor, Past)> {
        self.0.extend(row, past)
    }
    fn normalised(&self, states: &Tensor) -> candle_core::Result<Tensor> {
        self.0.normalised(states)
    }
}

#[tokio::test]
async fn running_out_of_memory_at_every_batch_changes_no_score() {
    let rows: Vec<ScoredRow> = (0..9)
        .map(|i| ScoredRow { ids: (0..6 + i).map(|place| (place * 7 + i * place) % 90).collect(), prompt_tokens: 2 })
        .collect();
    let CausalLm { body, head } = tiny();
    let (device, metrics) = spawn(Network::CausalLm(CausalLm::new(Cramped(body), head)), 1_000);
    let score = async |rows: &[ScoredRow]| {
        let (reply, answer) = oneshot::channel();
        let work = LogProbWork { rows: rows.to_vec(), penalty: 1.2 };
        device.submit(Job::LogProb(Asked { model: ModelName::new(MODEL), work, reply })).await;
        answer.await.unwrap().unwrap().into_iter().map(Result::unwrap).collect::<Vec<LogProbability>>()
    };
    let mut alone = Vec::new();
    for row in rows.chunks(1) {
        alone.extend(score(row).await);
    }
    assert_eq!(metrics.out_of_memory(DeviceName::Cpu(0)).get(), 0);
    for (ours, alone) in score(&rows).await.iter().zip(&alone) {
        assert_eq!(ours.tokens, alone.tokens);
        assert!((ours.mean.unwrap() - alone.mean.unwrap()).abs() < 1e-5, "{ours:?} {alone:?}");
    }
    assert_eq!(metrics.out_of_memory(DeviceName::Cpu(0)).get(), 8, "every batch of nine rows but the single ones");
}

#[tokio::test]
async fn scoring_stops_between_batches_when_its_caller_has_gone() {
    let (begin, began) = sync_channel(8);
    let (go_on, wait) = sync_channel(8);
    let CausalLm { body, head } = tiny();
    let network = CausalLm::new(Gated { network: body, began: begin, go_on: Mutex::new(wait) }, head);
    let (device, metrics) = spawn(Network::CausalLm(network), 3);
    let rows = (0..5).map(|i| ScoredRow { ids: vec![1, 2, 10 + i, 20, 30], prompt_tokens: 2 }).collect();
    let (reply, answer) = oneshot::channel();
    let work = LogProbWork { rows, penalty: 1.2 };
    device.submit(Job::LogProb(Asked { model: ModelName::new(MODEL), work, reply })).await;
    began.recv().unwrap();
    drop(answer);
    go_on.send(()).unwrap();
    device.close();
    assert_eq!(count(&metrics.abandoned), 1);
    assert_eq!(count(&metrics.batches), 2, "the prefix and one of five batches");
    assert_eq!(count(&metrics.tokens), 2 + 3);
}

/// It waited for whole jobs: routing gave up after ten seconds, chose miners uniformly and learned nothing.
#[tokio::test]
async fn an_embedding_waits_for_a_batch_of_scoring_and_no_longer() {
    const ENCODER: &str = "encoder";
    let (begin, began) = sync_channel(8);
    let (go_on, wait) = sync_channel(8);
    let CausalLm { body, head } = tiny();
    let scoring = CausalLm::new(Gated { network: body, began: begin, go_on: Mutex::new(wait) }, head);
    let encoder = Moody { most_rows: 100, gate: None };
    let networks = [
        (ModelName::new(MODEL), Network::CausalLm(scoring)),
        (ModelName::new(ENCODER), Network::Encoder(Box::new(encoder))),
    ];
    let (device, metrics) = spawn_all(networks, 3);
    let rows = (0..5).map(|i| ScoredRow { ids: vec![1, 2, 10 + i, 20, 30], prompt_tokens: 2 }).collect();
    let (reply, mut scored) = oneshot::channel();
    let work = LogProbWork { rows, penalty: 1.2 };
    device.submit(Job::LogProb(Asked { model: ModelName::new(MODEL), work, reply })).await;
    began.recv().unwrap();

    let (one, two) = (ask_model(&device, ENCODER, &[7]).await, ask_model(&device, ENCODER, &[8]).await);
    go_on.send(()).unwrap();
    let limit = std::time::Duration::from_secs(60);
    let embedded = within(&SystemClock::new(), limit, async { (values(one).await, values(two).await) }).await.unwrap();
    assert_eq!((embedded.0.unwrap(), embedded.1.unwrap()), (vec![7.0], vec![8.0]));
    assert!(scored.try_recv().is_err(), "four batches are still to come");
    (0..4).for_each(|_| go_on.send(()).unwrap());
    assert!(scored.await.unwrap().unwrap().iter().all(Result::is_ok));
    assert_eq!(metrics.batches.with_label_values(&[ENCODER]).get(), 1, "together");
    assert_eq!(metrics.queue_depth(DeviceName::Cpu(0)).get(), 0);
}
