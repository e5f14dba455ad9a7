use candle_nn::Linear;
use openvalidators_runtime::SystemClock;
use prometheus::Registry;
use tokio::sync::oneshot;

use super::*;
use crate::{
    budget::Budget,
    device::{DeviceThread, Job},
    metrics::Metrics,
    models::{CausalLm, Network, Reads, RewardHead, llama_gguf::tests::tiny},
    placement::DeviceName,
};

const MODEL: &str = "judge";
/// The id that a [`Summing`] refuses.
const REFUSE: u32 = 13;

/// Says of a row the sum of its ids, and the sum of its token types.
struct Summing;

impl Classifier for Summing {
    fn max_tokens(&self) -> usize {
        100
    }
    fn labels(&self) -> usize {
        2
    }
    fn logits(&self, batch: &Packed) -> Result<Tensor> {
        if batch.ids().contains(&REFUSE) {
            candle_core::bail!("not this one");
        }
        let types = batch.token_types().map_or_else(|| vec![0; batch.ids().len()], <[u32]>::to_vec);
        let (mut sums, mut start) = (Vec::new(), 0);
        for &length in batch.lengths() {
            assert!(length > 0);
            let sum = |of: &[u32]| of[start..start + length].iter().sum::<u32>() as f32;
            sums.extend([sum(batch.ids()), sum(&types)]);
            start += length;
        }
        Tensor::from_vec(sums, (batch.lengths().len(), 2), &candle_core::Device::Cpu)
    }
}

fn spawn(network: Network, batch_tokens: usize) -> (DeviceThread, Metrics) {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let device = Device {
        name: DeviceName::Cpu(0),
        networks: [(ModelName::new(MODEL), network)].into(),
        budget: Budget::new(batch_tokens),
        queue_capacity: 8,
        threads: rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap(),
        metrics: metrics.clone(),
        clock: SystemClock::shared(),
    };
    (DeviceThread::spawn(device).unwrap(), metrics)
}

fn tokens(ids: &[u32]) -> Tokens {
    Tokens { ids: ids.to_vec(), types: Vec::new() }
}

async fn ask(device: &DeviceThread, inputs: Vec<Vec<Tokens>>) -> std::result::Result<Vec<Row<Logits>>, InferenceError> {
    let (reply, answer) = oneshot::channel();
    let work = ClassifyWork { inputs };
    device.submit(Job::Classify(Asked { model: ModelName::new(MODEL), work, reply })).await;
    answer.await.unwrap()
}

fn logits(row: &Row<Logits>) -> Vec<Vec<f32>> {
    row.as_ref().unwrap().iter().map(|window| window.to_vec()).collect()
}

#[tokio::test]
async fn windows_come_back_to_their_input_and_one_failing_input_fails_alone() {
    let (device, metrics) = spawn(Network::Classifier(Box::new(Summing)), 6);
    let pair = Tokens { ids: vec![1, 2, 3], types: vec![0, 1, 1] };
    let inputs = vec![
        vec![tokens(&[1, 2, 3]), tokens(&[4])],
        vec![pair],
        vec![tokens(&[5, 5]), tokens(&[REFUSE])],
        vec![tokens(&[4])],
    ];
    let answer = ask(&device, inputs).await.unwrap();
    assert_eq!(logits(&answer[0]), [[6.0, 0.0], [4.0, 0.0]]);
    assert_eq!(logits(&answer[1]), [[6.0, 2.0]], "the same ids with other types are another row");
    assert_eq!(answer[2].as_ref().unwrap_err().to_string(), "not this one");
    assert_eq!(logits(&answer[3]), [[4.0, 0.0]]);
    assert_eq!(metrics.deduplicated.with_label_values(&[MODEL]).get(), 1);

    let error = ask(&device, vec![vec![tokens(&[REFUSE])]]).await.unwrap_err();
    assert_eq!(error.to_string(), "model `judge` failed on the device: not this one");
    assert!(ask(&device, Vec::new()).await.unwrap().is_empty());
}

/// A causal network with a head of two labels.
fn reward_model(reads: Reads) -> CausalClassifier {
    let CausalLm { body, head } = tiny();
    let weight = head.weight().narrow(0, 40, 2).unwrap();
    CausalClassifier { body, head: RewardHead { linear: Linear::new(weight, None), reads } }
}

/// A row by itself, all of its states computed.
fn by_the_book(network: &CausalClassifier, ids: &[u32]) -> Vec<f32> {
    let (states, _) = network.body.prefill(ids).unwrap();
    let state = states.narrow(0, network.head.reads.place(ids), 1).unwrap();
    network.logits(&state).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[tokio::test]
async fn rows_that_share_a_prefix_are_judged_as_by_themselves() {
    const PAD: u32 = 7;
    let prompt: Vec<u32> = (0..30).map(|i| 20 + i * 5).collect();
    let with = |own: &[u32]| prompt.iter().chain(own).copied().collect::<Vec<u32>>();
    // A padding id in the first row moves the judged place into the prefix; the third is nothing but the prefix.
    let rows =
        [with(&[1, PAD, PAD, 2]), with(&[200, 201, 202, 203, 204]), with(&[]), with(&[1, 9, 9]), with(&[PAD; 5])];
    for reads in [Reads::Last, Reads::CountWithout(PAD), Reads::BeforeFirst(PAD)] {
        let network = reward_model(reads);
        let book: Vec<Vec<f32>> = rows.iter().map(|row| by_the_book(&network, row)).collect();
        let (device, metrics) = spawn(Network::CausalClassifier(network), 7);
        let inputs = rows.iter().chain(&rows[..1]).map(|row| vec![tokens(row)]).collect();
        let together = ask(&device, inputs).await.unwrap();
        assert_eq!(metrics.deduplicated.with_label_values(&[MODEL]).get(), 1);
        let own: usize = rows.iter().map(|row| row.len() - prompt.len()).sum();
        assert_eq!(metrics.tokens.with_label_values(&[MODEL]).get() as usize, prompt.len() + own);
        for (book, answer) in book.iter().zip(&together) {
            for (ours, book) in logits(answer)[0].iter().zip(book) {
                assert!((ours - book).abs() < 1e-5, "{reads:?}: {ours} {book}");
            }
        }
    }
}
