//! Remote models against servers that do everything wrong that servers do, against text-embeddings-inference as its
//! documentation has it, and against what vLLM really answers.

mod double;
mod faults;
mod recorded;
mod refusals;
mod tei;
mod vllm;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use openvalidators_messages::inference::{Embed, ModelName, Pooling, Row};
use openvalidators_runtime::{DrivenClock, SharedClock, SystemClock};
use prometheus::Registry;
use serde_json::json;

use super::*;
use crate::{Config, Engine, LocalEngine, Metrics, ModelSource};

const MODEL: &str = "remote";

/// A folder of `tests/fixtures`.
fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path)
}

/// A model of the fixtures whose attention has a single head, of 32 numbers: vLLM computes none of 8 on a processor. The
/// tensors are the same.
fn with_one_head(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = fixture("parity/models").join(name);
    for file in ["tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let config = fs::read_to_string(from.join("config.json")).unwrap();
    let four = "\"num_attention_heads\": 4";
    assert!(config.contains(four));
    fs::write(folder.path().join("config.json"), config.replace(four, "\"num_attention_heads\": 1")).unwrap();
    folder
}

/// What a test starts with; change what it is about.
struct Setup {
    kind: RemoteKind,
    urls: Vec<String>,
    folder: PathBuf,
    /// Whether the model is on this machine too.
    local: bool,
    fall_back: bool,
    demands: Vec<Demand>,
    limits: RemoteLimits,
    api_key_file: Option<PathBuf>,
    max_sequence_tokens: usize,
    clock: SharedClock,
}

struct Started {
    engine: RoutedEngine,
    local: Arc<LocalEngine>,
    metrics: RemoteMetrics,
}

impl Setup {
    /// The tiny BERT of the fixtures, served by text-embeddings-inference.
    fn tei(urls: &[&str]) -> Self {
        Self {
            kind: RemoteKind::Tei,
            urls: urls.iter().map(|&url| url.to_owned()).collect(),
            folder: fixture("inference/bert"),
            local: false,
            fall_back: false,
            demands: vec![Demand::Embed(Pooling::MeanNormalised)],
            limits: RemoteLimits::default(),
            api_key_file: None,
            max_sequence_tokens: 2_048,
            clock: SystemClock::shared(),
        }
    }

    async fn start(self) -> Result<Started, String> {
        let Self { kind, urls, folder, local, fall_back, demands, limits, api_key_file, max_sequence_tokens, clock } =
            self;
        let name = ModelName::new(MODEL);
        let remote = RemoteConfig {
            kind,
            urls,
            served_name: None,
            folder: None,
            api_key_env: None,
            api_key_file,
            fall_back_to_local: fall_back,
            limits,
        };
        let remote = BTreeMap::from([(name.clone(), remote)]);
        let config = Config { remote, max_sequence_tokens, ..Config::default() };
        let sources: Vec<_> =
            local.then(|| ModelSource { name: name.clone(), directory: folder.clone() }).into_iter().collect();
        let of_local = Metrics::new(&Registry::new()).unwrap();
        let local = Arc::new(LocalEngine::start(&config, &sources, of_local, SystemClock::shared()).unwrap());
        let metrics = RemoteMetrics::new(&Registry::new()).unwrap();
        let demands: Vec<_> = demands.into_iter().map(|demand| (name.clone(), demand)).collect();
        let files = |_: &ModelName| Some(folder.clone());
        let engine = RoutedEngine::start(local.clone(), &config, &demands, files, metrics.clone(), clock).await;
        Ok(Started { engine: engine.map_err(|error| error.to_string())?, local, metrics })
    }

    /// Why it does not start.
    async fn error(self) -> String {
        self.start().await.err().unwrap()
    }
}

impl Started {
    fn outcomes(&self, server: &str, outcome: &str) -> u64 {
        self.metrics.requests.with_label_values(&[MODEL, server, outcome]).get()
    }

    fn healthy(&self, server: &str) -> bool {
        self.metrics.healthy.with_label_values(&[MODEL, server]).get() == 1
    }

    async fn embed(&self, texts: &[&str]) -> Result<Vec<Row<Arc<[f32]>>>, String> {
        self.engine.embed(embed(texts)).await.map_err(|error| error.to_string())
    }
}

fn embed(texts: &[&str]) -> Embed {
    Embed {
        model: ModelName::new(MODEL),
        texts: texts.iter().map(|&text| text.into()).collect(),
        pooling: Pooling::MeanNormalised,
    }
}

/// What text-embeddings-inference says of the tiny BERT.
fn bert_info() -> serde_json::Value {
    json!({
        "model_id": "tiny/bert", "model_sha": "abc123", "model_dtype": "float32",
        "model_type": {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": 512, "max_input_length": 128, "max_batch_tokens": 16384, "max_batch_requests": null,
        "max_client_batch_size": 32, "auto_truncate": false, "tokenization_workers": 2, "version": "1.8.2", "sha": "def",
        "docker_label": null
    })
}

/// A clock that stands still, and the same as the engine wants it.
fn driven() -> (DrivenClock, SharedClock) {
    let clock = DrivenClock::new(Duration::ZERO);
    (clock.clone(), Arc::new(clock))
}

/// Lets time pass second by second, while whoever sleeps is at rest, until `work` is done.
async fn while_time_flies<T: Send + 'static>(clock: &DrivenClock, work: impl Future<Output = T> + Send + 'static) -> T {
    let work = tokio::spawn(work);
    while !work.is_finished() {
        // Servers on this machine answer in less.
        SystemClock::shared().sleep(Duration::from_millis(2)).await;
        clock.advance(Duration::from_millis(100));
    }
    work.await.unwrap()
}
