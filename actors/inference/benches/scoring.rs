//! What prefix sharing is worth, in one run: 50 completions of one prompt scored together; one by one, as a caller who
//! does not batch gets them; and one by one with logits at every position, which is the reference's order of work (only
//! the network's part of it: no logarithms, no penalty).
//!
//! `cargo bench -p openvalidators-inference --bench scoring`, with the models of `openvalidators models fetch` in
//! `OPENVALIDATORS_MODELS` (by default `~/.cache/openvalidators/models`). `-- 10` scores 10 completions, `-- 50 4096` also
//! sets the budget of a batch.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a program for people")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use candle_core::{
    Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor},
};
use candle_nn::Linear;
use openvalidators_inference::{Config, Engine, LocalEngine, Metrics, ModelSource, models::Network};
use openvalidators_messages::inference::{Embed, InferenceError, LogProb, LogProbability, ModelName, Pooling, Row};
use openvalidators_runtime::{Clock, SystemClock};
use prometheus::Registry;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const MINILM: &str = "all-MiniLM-L6-v2";
const SMOLLM: &str = "SmolLM2-135M-Instruct";
const WORDS: [&str; 40] = [
    "the", "river", "of", "climate", "change", "and", "history", "town", "people", "remember", "because", "water",
    "moves", "slowly", "under", "an", "old", "bridge", "while", "children", "learn", "about", "energy", "from", "sun",
    "which", "warms", "ocean", "current", "in", "winter", "there", "are", "many", "reasons", "to", "walk", "home",
    "early", "today",
];

fn scored(answer: Result<Vec<Row<LogProbability>>, InferenceError>) -> Vec<LogProbability> {
    answer.unwrap().into_iter().collect::<Result<_, _>>().unwrap()
}

/// Sentences of `words` words, near as many tokens.
fn text(rng: &mut ChaCha8Rng, words: usize) -> String {
    let mut text = String::new();
    for i in 0..words {
        text.push_str(if i > 0 && i % 12 == 0 { ". " } else { " " });
        text.push_str(WORDS[rng.random_range(0..WORDS.len())]);
    }
    text
}

#[tokio::main]
async fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let completions = numbers.first().copied().unwrap_or(50);
    let config =
        Config { batch_tokens: numbers.get(1).copied().unwrap_or(Config::default().batch_tokens), ..Config::default() };
    let folder = match std::env::var_os("OPENVALIDATORS_MODELS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/openvalidators/models"),
    };
    let sources = [MINILM, SMOLLM].map(|name| ModelSource { name: ModelName::new(name), directory: folder.join(name) });
    let clock = SystemClock::shared();
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let started = clock.now();
    let engine = match LocalEngine::start(&config, &sources, metrics.clone(), clock.clone()) {
        Ok(engine) => engine,
        Err(error) => {
            println!("nothing measured: {error}");
            return;
        }
    };
    println!("loaded in {:.1} s; resident {} MiB", (clock.now() - started).as_secs_f64(), resident_mib());

    report_products(&*clock);

    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let prompt = text(&mut rng, 400);
    let texts: Vec<Arc<str>> = (0..completions).map(|_| text(&mut rng, 120).into()).collect();
    let request = |completions: &[Arc<str>]| LogProb {
        model: ModelName::new(SMOLLM),
        prompt: prompt.as_str().into(),
        completions: completions.to_vec(),
        repetition_penalty: 1.2,
    };
    // The first pass touches every weight for the first time.
    engine.log_prob(request(&texts[..1])).await.unwrap();

    let tokens = || metrics.tokens.with_label_values(&[SMOLLM]).get();
    let (started, before) = (Spent::so_far(&*clock), tokens());
    let together = scored(engine.log_prob(request(&texts)).await);
    let (shared, shared_tokens) = (Spent::so_far(&*clock).since(&started), tokens() - before);

    let (started, before) = (Spent::so_far(&*clock), tokens());
    let mut farthest = 0.0_f32;
    for (text, together) in texts.iter().zip(&together) {
        let alone = scored(engine.log_prob(request(std::slice::from_ref(text))).await)[0];
        farthest = farthest.max((alone.mean.unwrap() - together.mean.unwrap()).abs());
    }
    let (single, single_tokens) = (Spent::so_far(&*clock).since(&started), tokens() - before);

    let Network::CausalLm(network) = sources[1].network().unwrap() else { panic!("{SMOLLM} is causal") };
    let ids: Vec<u32> = (0..single_tokens as usize / completions).map(|_| rng.random_range(20..40_000)).collect();
    let started = Spent::so_far(&*clock);
    for _ in 0..completions {
        let (states, _) = network.body.prefill(&ids).unwrap();
        network.logits(&states).unwrap();
    }
    let reference = Spent::so_far(&*clock).since(&started);
    drop(network);

    let judged: usize = together.iter().map(|score| score.tokens).sum();
    println!("{completions} completions, {judged} tokens judged, budget {} tokens a batch", config.batch_tokens);
    shared.report("together, shared prefix", shared_tokens);
    single.report("one by one", single_tokens);
    reference.report("one by one, logits everywhere", (ids.len() * completions) as u64);
    for (what, slower) in [("one by one", &single), ("one by one, logits everywhere", &reference)] {
        let wall = slower.wall.as_secs_f64() / shared.wall.as_secs_f64();
        let processor = slower.processor.as_secs_f64() / shared.processor.as_secs_f64();
        println!("ratio of {what} to together: wall {wall:.2}, processor {processor:.2}");
    }
    println!("tokens {:.2} to 1; scores at most {farthest:.1e} apart", single_tokens as f64 / shared_tokens as f64);

    let tokens = || metrics.tokens.with_label_values(&[MINILM]).get();
    let texts: Vec<Arc<str>> = (0..200).map(|_| text(&mut rng, 120).into()).collect();
    let embed = |texts: &[Arc<str>]| Embed {
        model: ModelName::new(MINILM),
        texts: texts.to_vec(),
        pooling: Pooling::MeanNormalised,
    };
    engine.embed(embed(&texts[..1])).await.unwrap();
    let (started, before) = (Spent::so_far(&*clock), tokens());
    engine.embed(embed(&texts)).await.unwrap();
    Spent::so_far(&*clock).since(&started).report("embedding 200 texts", tokens() - before);
    println!("resident {} MiB, at most {} MiB", resident_mib(), status_mib("VmHWM:"));
}

/// Why weights are dequantised when they are loaded: one product of SmolLM2's feed-forward with 512 tokens, both ways.
fn report_products(clock: &dyn Clock) {
    let device = Device::Cpu;
    let weights = Tensor::randn(0_f32, 0.02, (1536, 576), &device).unwrap();
    let states = Tensor::randn(0_f32, 1.0, (512, 576), &device).unwrap();
    let quantised = Arc::new(QTensor::quantize(&weights, GgmlDType::Q4_1).unwrap());
    let products: [(&str, &dyn Module); 2] =
        [("f32", &Linear::new(weights, None)), ("Q4_1", &QMatMul::from_arc(quantised).unwrap())];
    for (what, product) in products {
        product.forward(&states).unwrap();
        let started = Spent::so_far(clock);
        for _ in 0..20 {
            product.forward(&states).unwrap();
        }
        Spent::so_far(clock).since(&started).report(&format!("20 products of 512 x 576 x 1536 in {what}"), 20 * 512);
    }
}

/// Time on the wall, and time of all threads on the processors: the second is the one to trust on a busy machine.
struct Spent {
    wall: Duration,
    processor: Duration,
}

impl Spent {
    fn so_far(clock: &dyn Clock) -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Self { wall: clock.now(), processor: Duration::from_millis((ticks(11) + ticks(12)) * 10) }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self { wall: self.wall - earlier.wall, processor: self.processor - earlier.processor }
    }

    fn report(&self, what: &str, tokens: u64) {
        let (wall, processor) = (self.wall.as_secs_f64(), self.processor.as_secs_f64());
        let rate = tokens as f64 / wall;
        println!("{what}: {wall:.2} s wall, {processor:.2} s processor, {tokens} tokens, {rate:.0} tokens/s");
    }
}

fn resident_mib() -> u64 {
    status_mib("VmRSS:")
}

fn status_mib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
