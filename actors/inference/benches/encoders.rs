//! How near the bidirectional networks come to the machine's matrix products: base-size networks with random weights, 50
//! rows one by one and together, in GFLOP per processor second, and as a share of what a bare product of the
//! feed-forward's size reaches in the same run.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p openvalidators-inference --bench encoders`: on one thread processor time is that of
//! the work alone, though a busy machine is slower in it too. `-- mpnet 8` measures 8 rows of MPNet.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a program for people")]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use candle_core::{Device, Tensor, safetensors};
use openvalidators_inference::{
    ModelSource,
    models::{Network, Packed},
};
use openvalidators_messages::inference::ModelName;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const LAYERS: usize = 12;
const HIDDEN: usize = 768;
const HEADS: usize = 12;
const WIDE: usize = 3072;

/// A network to measure: the names of its tensors are those of a tiny checkpoint.
struct Measured {
    fixture: &'static str,
    /// What differs in its config from the tiny one, beside the sizes.
    config: &'static [(&'static str, usize)],
    /// Tokens of a row, as the reward functions send them.
    tokens: usize,
    /// Products of a query with each key, and of a key with each query, in units of the plain one.
    scores: f64,
}

const MEASURED: [Measured; 4] = [
    Measured {
        fixture: "deberta_rm",
        config: &[("position_buckets", 256), ("max_position_embeddings", 512)],
        tokens: 520,
        scores: 3.0,
    },
    Measured { fixture: "mpnet", config: &[("max_position_embeddings", 514)], tokens: 122, scores: 1.0 },
    Measured { fixture: "bert", config: &[("max_position_embeddings", 512)], tokens: 122, scores: 1.0 },
    Measured { fixture: "roberta_nsfw", config: &[("max_position_embeddings", 514)], tokens: 122, scores: 1.0 },
];

fn main() {
    let rows: usize = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(50);
    let named: Vec<String> = std::env::args().skip(1).collect();
    let any = !MEASURED.iter().any(|measured| named.iter().any(|name| name == measured.fixture));
    for measured in MEASURED.iter().filter(|measured| any || named.iter().any(|name| name == measured.fixture)) {
        let folder = tempfile::tempdir().unwrap();
        measured.write(folder.path());
        let source = ModelSource { name: ModelName::new(measured.fixture), directory: folder.path().to_owned() };
        let network = source.network().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let rows: Vec<Vec<u32>> =
            (0..rows).map(|_| (0..measured.tokens).map(|_| rng.random_range(5..200)).collect()).collect();
        run(&network, &rows[..1]);
        // Next to each network: a busy machine is now faster and now slower.
        let peak = peak();
        println!("a product of 512 x {HIDDEN} x {WIDE}: {peak:.1} GFLOP/s");
        for (how, at_once) in [("one by one", 1), ("together", rows.len())] {
            let started = processor_time();
            rows.chunks(at_once).for_each(|batch| run(&network, batch));
            let spent = (processor_time() - started).as_secs_f64();
            let rate = measured.gflop() * rows.len() as f64 / spent;
            println!(
                "{}: {} rows of {} tokens {how}: {spent:.2} s, {rate:.1} GFLOP/s, {:.0} % of the product",
                measured.fixture,
                rows.len(),
                measured.tokens,
                100.0 * rate / peak
            );
        }
    }
}

fn run(network: &Network, rows: &[Vec<u32>]) {
    let batch = Packed::new(rows.iter().map(Vec::as_slice));
    match network {
        Network::Encoder(network) => network.forward(&batch).unwrap(),
        Network::Classifier(network) => network.logits(&batch).unwrap(),
        Network::CausalLm(_) | Network::CausalClassifier(_) => panic!("only bidirectional networks are measured"),
    };
}

impl Measured {
    /// What a row costs, by the dimensions of its products; norms and activations count nothing.
    fn gflop(&self) -> f64 {
        let (tokens, hidden, wide) = (self.tokens as f64, HIDDEN as f64, WIDE as f64);
        let linear = 2.0 * tokens * (4.0 * hidden * hidden + 2.0 * hidden * wide);
        let attention = 2.0 * tokens * tokens * hidden * (self.scores + 1.0);
        LAYERS as f64 * (linear + attention) / 1e9
    }

    fn write(&self, folder: &Path) {
        let tiny = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/parity/models"))
            .join(self.fixture);
        let mut config: Value = serde_json::from_slice(&fs::read(tiny.join("config.json")).unwrap()).unwrap();
        let size = |config: &Value, key: &str| config[key].as_u64().unwrap() as usize;
        let (hidden, wide) = (size(&config, "hidden_size"), size(&config, "intermediate_size"));
        let (positions, heads) = (size(&config, "max_position_embeddings"), size(&config, "num_attention_heads"));
        for (key, value) in [
            ("hidden_size", HIDDEN),
            ("intermediate_size", WIDE),
            ("num_hidden_layers", LAYERS),
            ("num_attention_heads", HEADS),
        ] {
            config[key] = json!(value);
        }
        for (key, value) in self.config {
            config[*key] = json!(value);
        }

        let mut tensors = HashMap::new();
        for (name, tensor) in safetensors::load(tiny.join("model.safetensors"), &Device::Cpu).unwrap() {
            if name.contains("layer.1.") || name.contains("layer.2.") {
                continue;
            }
            let mut shape = tensor.dims().to_vec();
            for size in &mut shape {
                *size = match *size {
                    size if size == hidden => HIDDEN,
                    size if size == wide => WIDE,
                    size if size == heads => HEADS,
                    other => other,
                };
            }
            if name.ends_with("position_embeddings.weight") {
                assert_eq!(tensor.dims()[0], positions);
                shape[0] = config["max_position_embeddings"].as_u64().unwrap() as usize;
            }
            if name.ends_with("rel_embeddings.weight") {
                shape[0] = 2 * config["position_buckets"].as_u64().unwrap() as usize;
            }
            let layers = if name.contains("layer.0.") { LAYERS } else { 1 };
            for layer in 0..layers {
                let values = Tensor::randn(0_f32, 0.02, shape.as_slice(), &Device::Cpu).unwrap();
                tensors.insert(name.replace("layer.0.", &format!("layer.{layer}.")), values);
            }
        }
        safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        fs::copy(tiny.join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    }
}

/// GFLOP per processor second of a bare product, the best of several.
fn peak() -> f64 {
    const PRODUCTS: usize = 40;
    let random = |rows| Tensor::randn(0_f32, 1.0, (rows, HIDDEN), &Device::Cpu).unwrap();
    let (left, right) = (random(512), random(WIDE).t().unwrap());
    let once = || {
        let started = processor_time();
        for _ in 0..PRODUCTS {
            left.matmul(&right).unwrap();
        }
        (PRODUCTS * 2 * 512 * HIDDEN * WIDE) as f64 / 1e9 / (processor_time() - started).as_secs_f64()
    };
    (0..5).map(|_| once()).fold(0.0, f64::max)
}

/// Time of all threads on the processors so far.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |i: usize| fields[i].parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}
