use openvalidators_runtime::SystemClock;
use prometheus::Registry;
use tokio::sync::oneshot;

use super::*;
use crate::{
    budget::Budget,
    device::{DeviceThread, Job},
    metrics::Metrics,
    models::{CausalBody, Network, Packed, Past, llama_gguf::tests::tiny},
    placement::DeviceName,
};

const MODEL: &str = "writer";
/// The id that a [`Refusing`] body refuses.
const REFUSE: u32 = 13;

/// Fails on rows with a certain token.
struct Refusing(Box<dyn CausalBody>);

impl CausalBody for Refusing {
    fn context_tokens(&self) -> usize {
        self.0.context_tokens()
    }
    fn no_past(&self) -> Result<Past> {
        self.0.no_past()
    }
    fn forward(&self, batch: &Packed, past: &Past) -> Result<Tensor> {
        self.0.forward(batch, past)
    }
    fn extend(&self, row: &Packed, past: &Past) -> Result<(Tensor, Past)> {
        if row.ids().contains(&REFUSE) {
            candle_core::bail!("not this one");
        }
        self.0.extend(row, past)
    }
    fn normalised(&self, states: &Tensor) -> Result<Tensor> {
        self.0.normalised(states)
    }
}

fn spawn(network: CausalLm) -> (DeviceThread, Metrics) {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let device = Device {
        name: DeviceName::Cpu(0),
        networks: [(ModelName::new(MODEL), Network::CausalLm(network))].into(),
        budget: Budget::new(100),
        queue_capacity: 8,
        threads: rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap(),
        metrics: metrics.clone(),
        clock: SystemClock::shared(),
    };
    (DeviceThread::spawn(device).unwrap(), metrics)
}

async fn ask(
    device: &DeviceThread,
    prompts: &[Vec<u32>],
    max_new_tokens: usize,
    ends: &[u32],
) -> std::result::Result<Vec<Row<Vec<u32>>>, InferenceError> {
    let (reply, answer) = oneshot::channel();
    let work = GenerateWork { prompts: prompts.to_vec(), max_new_tokens, ends: ends.to_vec() };
    device.submit(Job::Generate(Asked { model: ModelName::new(MODEL), work, reply })).await;
    answer.await.unwrap()
}

/// The whole row again for every token, without a past.
fn by_the_book(network: &CausalLm, prompt: &[u32], new: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..new {
        let (states, _) = network.body.prefill(&ids).unwrap();
        let last = states.narrow(0, ids.len() - 1, 1).unwrap();
        ids.push(most_probable(&network.logits(&last).unwrap()).unwrap());
    }
    ids.split_off(prompt.len())
}

#[tokio::test]
async fn a_past_that_grows_token_by_token_says_what_the_whole_row_says() {
    let network = tiny();
    // The second is where the others begin; the last shares nothing.
    let prompts = [vec![20, 21, 22, 23], vec![20, 21], vec![20, 21, 99], vec![20, 21], vec![5]];
    let book: Vec<Vec<u32>> = prompts.iter().map(|prompt| by_the_book(&network, prompt, 6)).collect();
    let (device, metrics) = spawn(network);
    let all: Vec<Vec<u32>> = ask(&device, &prompts, 6, &[]).await.unwrap().into_iter().map(|r| r.unwrap()).collect();
    assert_eq!(all, book);
    assert_eq!(metrics.deduplicated.with_label_values(&[MODEL]).get(), 1);
    let sharing: Vec<_> = ask(&device, &prompts[..4], 6, &[]).await.unwrap().into_iter().map(|r| r.unwrap()).collect();
    assert_eq!(sharing, book[..4]);

    // A text ends with its end, which is told.
    let end = book[0][2];
    let until = book[0].iter().position(|&token| token == end).unwrap() + 1;
    assert_eq!(ask(&device, &prompts[..1], 6, &[end]).await.unwrap(), [Ok(book[0][..until].to_vec())]);
    assert_eq!(ask(&device, &prompts[..1], 0, &[]).await.unwrap(), [Ok(vec![])]);
    assert!(ask(&device, &[], 6, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_prompt_on_which_the_device_fails_fails_alone() {
    let CausalLm { body, head } = tiny();
    let (device, _) = spawn(CausalLm::new(Refusing(body), head));
    let answer = ask(&device, &[vec![20, 21], vec![20, REFUSE], vec![20, 22]], 2, &[]).await.unwrap();
    assert_eq!(answer[1].as_ref().unwrap_err().to_string(), "not this one");
    assert!(answer[0].is_ok() && answer[2].is_ok());
    let error = ask(&device, &[vec![REFUSE, 1], vec![REFUSE, 2]], 2, &[]).await.unwrap_err().to_string();
    assert_eq!(error, "model `writer` failed on the device: not this one");
}

#[test]
fn the_most_probable_token_is_the_first_of_equals_and_a_number() {
    let of = |logits: &[f32]| most_probable(&Tensor::new(logits, &candle_core::Device::Cpu).unwrap());
    assert_eq!(of(&[0.0, 2.0, -1.0, 2.0]).unwrap(), 1);
    assert_eq!(of(&[f32::NAN, -7.0, f32::NAN, f32::NEG_INFINITY]).unwrap(), 1);
    assert!(of(&[f32::NAN, f32::NAN]).is_err());
}
