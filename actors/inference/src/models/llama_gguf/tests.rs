use std::{collections::HashMap, fs::File, io::Cursor, path::Path, sync::Arc};

use candle_core::quantized::{GgmlDType, QTensor, gguf_file::Value};

use openvalidators_messages::inference::Composed;

use super::*;
use crate::models::decoder::tests::assert_keeps_its_word;
use crate::tokenizer::{Rules, TextTokenizer};

const LAYERS: usize = 2;
const WIDTH: usize = 64;
const FFN: usize = 96;
const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
const SIZE: usize = WIDTH / HEADS;
const CONTEXT: usize = 160;
const EPSILON: f32 = 1e-5;
const BASE: f32 = 10_000.0;

/// Two merges after the 256 bytes and two special tokens.
const MERGES: [&str; 2] = ["t h", "th e"];

/// A tiny file with random Q4_1 weights and a byte-level tokenizer in it.
pub(crate) fn write_tiny(path: &Path) -> HashMap<String, QTensor> {
    let mut tokens = vec!["<|endoftext|>".to_owned(), "<|im_end|>".to_owned()];
    tokens.extend(tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().map(String::from));
    tokens[2..].sort();
    tokens.extend(MERGES.iter().map(|merge| merge.replace(' ', "")));
    let vocabulary = tokens.len();

    let mut tensors = HashMap::new();
    let mut add = |name: &str, shape: (usize, usize), dtype| {
        let values = Tensor::randn(0_f32, 1.0 / (shape.1 as f32).sqrt(), shape, &Device::Cpu).unwrap();
        tensors.insert(format!("{name}.weight"), QTensor::quantize(&values, dtype).unwrap());
    };
    add("token_embd", (vocabulary, WIDTH), GgmlDType::Q8_0);
    for i in 0..LAYERS {
        add(&format!("blk.{i}.attn_q"), (WIDTH, WIDTH), GgmlDType::Q4_1);
        add(&format!("blk.{i}.attn_k"), (KEY_HEADS * SIZE, WIDTH), GgmlDType::Q4_1);
        add(&format!("blk.{i}.attn_v"), (KEY_HEADS * SIZE, WIDTH), GgmlDType::Q4_1);
        add(&format!("blk.{i}.attn_output"), (WIDTH, WIDTH), GgmlDType::Q4_1);
        add(&format!("blk.{i}.ffn_gate"), (FFN, WIDTH), GgmlDType::Q4_1);
        add(&format!("blk.{i}.ffn_up"), (FFN, WIDTH), GgmlDType::Q4_1);
        add(&format!("blk.{i}.ffn_down"), (WIDTH, FFN), GgmlDType::Q4_1);
    }
    for name in ["output_norm".to_owned()]
        .into_iter()
        .chain((0..LAYERS).flat_map(|i| [format!("blk.{i}.attn_norm"), format!("blk.{i}.ffn_norm")]))
    {
        let values = Tensor::rand(0.5_f32, 1.5, WIDTH, &Device::Cpu).unwrap();
        tensors.insert(format!("{name}.weight"), QTensor::quantize(&values, GgmlDType::F32).unwrap());
    }

    let size = |n: usize| Value::U32(u32::try_from(n).unwrap());
    let strings = |of: Vec<String>| Value::Array(of.into_iter().map(Value::String).collect());
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", size(LAYERS)),
        ("llama.context_length", size(CONTEXT)),
        ("llama.embedding_length", size(WIDTH)),
        ("llama.attention.head_count", size(HEADS)),
        ("llama.attention.head_count_kv", size(KEY_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(EPSILON)),
        ("llama.rope.freq_base", Value::F32(BASE)),
        ("llama.rope.dimension_count", size(SIZE)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.merges", strings(MERGES.map(String::from).into())),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let named: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &named).unwrap();
    tensors
}

/// A tiny network, for tests elsewhere in the crate.
pub(crate) fn tiny() -> CausalLm {
    tiny_and_weights().0
}

fn tiny_and_weights() -> (CausalLm, HashMap<String, Vec<Vec<f64>>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let weights = write_tiny(&path)
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = tensor.dequantize(&Device::Cpu).unwrap();
            let rows = if tensor.rank() == 1 { tensor.unsqueeze(0).unwrap() } else { tensor };
            let rows: Vec<Vec<f32>> = rows.to_vec2().unwrap();
            (name, rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect())
        })
        .collect();
    let mut file = File::open(&path).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    (load(&content, &mut file, DType::F32, &Device::Cpu).unwrap(), weights)
}

/// The network in double precision, one token and one number at a time, straight from the papers: the logits after the
/// last of `ids`.
fn by_hand(weights: &HashMap<String, Vec<Vec<f64>>>, ids: &[u32]) -> Vec<f64> {
    let get = |name: String| &weights[&format!("{name}.weight")];
    let product = |m: &[Vec<f64>], x: &[f64]| -> Vec<f64> {
        m.iter().map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    let norm = |scale: &[Vec<f64>], x: &[f64]| -> Vec<f64> {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        x.iter().zip(&scale[0]).map(|(v, s)| v / (mean + f64::from(EPSILON)).sqrt() * s).collect()
    };
    let rotate = |x: &mut [f64], position: usize| {
        for head in x.chunks_mut(SIZE) {
            for i in 0..SIZE / 2 {
                let angle = position as f64 * f64::from(BASE).powf(-2.0 * i as f64 / SIZE as f64);
                let (even, odd) = (head[2 * i], head[2 * i + 1]);
                head[2 * i] = even * angle.cos() - odd * angle.sin();
                head[2 * i + 1] = even * angle.sin() + odd * angle.cos();
            }
        }
    };
    let mut states: Vec<Vec<f64>> = ids.iter().map(|&id| get("token_embd".into())[id as usize].clone()).collect();
    for layer in 0..LAYERS {
        let get = |name: &str| get(format!("blk.{layer}.{name}"));
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, state) in states.iter_mut().enumerate() {
            let normed = norm(get("attn_norm"), state);
            let (mut q, mut k) = (product(get("attn_q"), &normed), product(get("attn_k"), &normed));
            rotate(&mut q, position);
            rotate(&mut k, position);
            keys.push(k);
            values.push(product(get("attn_v"), &normed));
            let mut attended = vec![0.0; WIDTH];
            for head in 0..HEADS {
                let shared = head / (HEADS / KEY_HEADS) * SIZE;
                let q = &q[head * SIZE..(head + 1) * SIZE];
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|k| q.iter().zip(&k[shared..]).map(|(a, b)| a * b).sum::<f64>() / (SIZE as f64).sqrt())
                    .map(f64::exp)
                    .collect();
                let total: f64 = scores.iter().sum();
                for (score, value) in scores.iter().zip(&values) {
                    for i in 0..SIZE {
                        attended[head * SIZE + i] += score / total * value[shared + i];
                    }
                }
            }
            for (state, out) in state.iter_mut().zip(product(get("attn_output"), &attended)) {
                *state += out;
            }
            let normed = norm(get("ffn_norm"), state);
            let wide: Vec<f64> = product(get("ffn_gate"), &normed)
                .iter()
                .zip(product(get("ffn_up"), &normed))
                .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                .collect();
            for (state, out) in state.iter_mut().zip(product(get("ffn_down"), &wide)) {
                *state += out;
            }
        }
    }
    product(get("token_embd".into()), &norm(get("output_norm".into()), states.last().unwrap()))
}

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 37 + seed * 11 + i * i) % 258) as u32).collect()
}

#[test]
fn logits_equal_the_network_by_hand() {
    let (llama, weights) = tiny_and_weights();
    for length in [1, 2, 50] {
        let ids = ids(length, length);
        let (states, past) = llama.body.prefill(&ids).unwrap();
        assert_eq!(past.tokens(), length);
        let logits = llama.logits(&states.narrow(0, length - 1, 1).unwrap()).unwrap();
        let logits: Vec<f32> = logits.squeeze(0).unwrap().to_vec1().unwrap();
        for (ours, expected) in logits.iter().zip(by_hand(&weights, &ids)) {
            assert!((f64::from(*ours) - expected).abs() < 2e-5 + 1e-5 * expected.abs(), "{ours} {expected}");
        }
    }
}

#[test]
fn rows_are_independent_and_pasts_exact() {
    assert_keeps_its_word(&*tiny().body, 260, CONTEXT);
}

#[test]
fn a_file_without_a_key_says_which() {
    let mut bytes = Vec::new();
    gguf_file::write(&mut Cursor::new(&mut bytes), &[], &[]).unwrap();
    let content = gguf_file::Content::read(&mut Cursor::new(&mut bytes)).unwrap();
    let error = Config::from_metadata(&content).unwrap_err().to_string();
    assert!(error.contains("llama.attention.head_count"), "{error}");
}

/// The real network goes on as it should, word by word; skipped with a message where its file is not on this machine.
#[test]
fn greedy_continuation_of_the_capital_of_france_is_paris() {
    let home = std::env::var("HOME").unwrap_or_default();
    let models = std::env::var("OPENVALIDATORS_MODELS").unwrap_or(format!("{home}/.cache/openvalidators/models"));
    let path = Path::new(&models).join("SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let Ok(mut file) = File::open(&path) else {
        eprintln!("SKIPPED: {} is absent: fetch it with `openvalidators models fetch`", path.display());
        return;
    };
    let content = gguf_file::Content::read(&mut file).unwrap();
    let llama = load(&content, &mut file, DType::F32, &Device::Cpu).unwrap();
    let rules = Rules { ceiling_tokens: llama.body.context_tokens(), interpret_special_tokens: false };
    let tokenizer = TextTokenizer::from_gguf(&content, rules).unwrap();
    let encode = |text: &str| tokenizer.encode(&Composed::from(Arc::from(text)), 1_000).unwrap();
    for text in ["In 2024, naïve 東京 🙂  two  spaces\n\ttabs", "don't I'll 3.14159"] {
        assert_eq!(tokenizer.decode(&encode(text)).unwrap(), text);
    }
    let mut ids = encode("The capital of France is");
    assert_eq!(ids.len(), 5, "one token for each word");
    for _ in 0..3 {
        let (states, _) = llama.body.prefill(&ids).unwrap();
        let logits = llama.logits(&states.narrow(0, ids.len() - 1, 1).unwrap()).unwrap();
        ids.push(logits.squeeze(0).unwrap().argmax(0).unwrap().to_scalar().unwrap());
    }
    let continuation = tokenizer.decode(&ids[5..]).unwrap();
    assert!(continuation.starts_with(" Paris"), "{continuation:?}");
}

/// As of safetensors: what the network has no use for says that it is another.
#[test]
fn a_file_of_more_layers_than_its_metadata_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    write_tiny(&path);
    let mut file = File::open(&path).unwrap();
    let mut content = gguf_file::Content::read(&mut file).unwrap();
    content.metadata.insert("llama.block_count".into(), Value::U32(1));
    let error = load(&content, &mut file, DType::F32, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("the file's metadata") && error.contains("no tensor `blk.1.attn_k.weight`"), "{error}");
    assert!(error.contains("and 4 more"), "{error}");
}
