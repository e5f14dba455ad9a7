//! Who answers requests: this machine's device, or, with the same trait, a server elsewhere.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use candle_core::Device as CandleDevice;
use openvalidators_messages::inference::{Embed, InferenceError, LoadedModel, LogProb, LogProbability, ModelName, Row};
use openvalidators_runtime::SharedClock;
use tokio::sync::oneshot;

use crate::{
    catalogue::{self, LoadError, ModelSource},
    config::Config,
    device::{Asked, Device, DeviceThread, Job},
    embedding::EmbedWork,
    metrics::Metrics,
    models::Network,
    scoring::{LogProbWork, ScoredRow},
    tokenizer::TextTokenizer,
};

/// Answers the requests of [`openvalidators_messages::inference`]. Dropping the future of a request cancels it.
#[async_trait]
pub trait Engine: Send + Sync {
    /// One row for each text.
    ///
    /// # Errors
    /// [`InferenceError::WrongModel`] when the model is not there or no encoder; else what the device said.
    async fn embed(&self, request: Embed) -> Result<Vec<Row<Arc<[f32]>>>, InferenceError>;

    /// One log-probability for each completion.
    ///
    /// # Errors
    /// [`InferenceError::WrongModel`] when the model is not there or not causal, [`InferenceError::PromptTooLong`] when
    /// no completion fits behind the prompt; else what the device said.
    async fn log_prob(&self, request: LogProb) -> Result<Vec<Row<LogProbability>>, InferenceError>;

    /// The models it answers for.
    async fn models(&self) -> Vec<LoadedModel>;
}

/// The device of this machine. Texts are tokenised on tokio's blocking threads while the device works.
///
/// Dropping it closes it: the batch in hand is finished, everyone who waits is told, the thread is joined.
pub struct LocalEngine {
    models: BTreeMap<ModelName, Arc<Served>>,
    device: DeviceThread,
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A model did not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Two models of one name.
    #[error("two models are called `{0}`; name each once")]
    TwoOfOneName(ModelName),
    /// The threads did not start.
    #[error("cannot start the device's threads: {0}")]
    Threads(String),
}

/// A loaded model, as seen from outside the device.
struct Served {
    name: ModelName,
    kind: Kind,
    tokenizer: TextTokenizer,
    digests: Vec<(String, String)>,
}

/// What a model can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Encoder,
    CausalLm,
    Classifier,
}

// === impl LocalEngine ===

impl LocalEngine {
    /// Loads the models and starts the device thread. Blocks for seconds: call it where that is allowed.
    ///
    /// # Errors
    /// When a model does not load or threads do not start.
    pub fn start(
        config: &Config,
        sources: &[ModelSource],
        metrics: Metrics,
        clock: SharedClock,
    ) -> Result<Self, StartError> {
        let (mut models, mut networks) = (BTreeMap::new(), BTreeMap::new());
        for source in sources {
            let started = clock.now();
            let loaded = catalogue::load(source, config.max_sequence_tokens, &CandleDevice::Cpu)?;
            let kind = match &loaded.network {
                Network::Encoder(_) => Kind::Encoder,
                Network::CausalLm(_) => Kind::CausalLm,
                Network::Classifier(_) | Network::CausalClassifier(_) => Kind::Classifier,
            };
            tracing::info!(
                model = %source.name,
                max_tokens = loaded.tokenizer.max_tokens(),
                seconds = (clock.now() - started).as_secs_f64(),
                "loaded"
            );
            let name = source.name.clone();
            let served = Served { name: name.clone(), kind, tokenizer: loaded.tokenizer, digests: loaded.digests };
            if models.insert(name.clone(), Arc::new(served)).is_some() {
                return Err(StartError::TwoOfOneName(name));
            }
            networks.insert(name, loaded.network);
        }
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .thread_name(|i| format!("device-{i}"))
            .build()
            .map_err(|error| StartError::Threads(error.to_string()))?;
        let device = DeviceThread::spawn(Device {
            networks,
            batch_tokens: config.batch_tokens,
            queue_capacity: config.queue_capacity,
            threads,
            metrics,
            clock,
        })
        .map_err(|error| StartError::Threads(error.to_string()))?;
        Ok(Self { models, device })
    }

    /// Takes no more requests, finishes the batch in hand, answers [`InferenceError::Closed`] to all who wait and joins
    /// the thread. Blocks for one batch at most.
    pub fn close(&self) {
        self.device.close();
    }

    fn served(&self, name: &ModelName, kind: Kind, asked: &'static str) -> Result<Arc<Served>, InferenceError> {
        let reason = match self.models.get(name) {
            Some(model) if model.kind == kind => return Ok(model.clone()),
            Some(model) => format!("it is {}", model.kind.words()),
            None => {
                let loaded: Vec<String> = self.models.keys().map(|name| format!("`{name}`")).collect();
                format!(
                    "it is not loaded; loaded: {}",
                    if loaded.is_empty() { "none".into() } else { loaded.join(", ") }
                )
            }
        };
        Err(InferenceError::WrongModel { model: name.clone(), asked, reason })
    }

    /// Hands `work` to the device and waits for its answer.
    async fn ask<W, T>(
        &self,
        model: ModelName,
        work: W,
        job: impl FnOnce(Asked<W, T>) -> Job,
    ) -> Result<Vec<Row<T>>, InferenceError> {
        let (reply, answer) = oneshot::channel();
        self.device.submit(job(Asked { model, work, reply })).await;
        // A job that is dropped unanswered found the thread closed.
        answer.await.unwrap_or(Err(InferenceError::Closed))
    }
}

#[async_trait]
impl Engine for LocalEngine {
    async fn embed(&self, request: Embed) -> Result<Vec<Row<Arc<[f32]>>>, InferenceError> {
        let Embed { model, texts, pooling } = request;
        let served = self.served(&model, Kind::Encoder, "embeddings")?;
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let rows =
            served.tokenise(move |served| texts.iter().map(|text| Ok(served.encode(text)?.into())).collect()).await?;
        self.ask(model, EmbedWork { rows, pooling }, Job::Embed).await
    }

    async fn log_prob(&self, request: LogProb) -> Result<Vec<Row<LogProbability>>, InferenceError> {
        let LogProb { model, prompt, completions, repetition_penalty: penalty } = request;
        let served = self.served(&model, Kind::CausalLm, "log-probabilities")?;
        if !(penalty.is_finite() && penalty > 0.0) {
            let reason = format!("a repetition penalty must be a positive number, found {penalty}");
            return Err(InferenceError::WrongModel { model, asked: "log-probabilities", reason });
        }
        if completions.is_empty() {
            return Ok(Vec::new());
        }
        let rows = served.tokenise(move |served| served.scored_rows(&prompt, &completions)).await?;
        self.ask(model, LogProbWork { rows, penalty }, Job::LogProb).await
    }

    async fn models(&self) -> Vec<LoadedModel> {
        self.models
            .values()
            .map(|served| LoadedModel { model: served.name.clone(), digests: served.digests.clone() })
            .collect()
    }
}

// === impl Served ===

impl Served {
    /// Runs `work` on a thread that may block.
    async fn tokenise<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, InferenceError> + Send + 'static,
    ) -> Result<T, InferenceError> {
        let served = self.clone();
        let failed = |reason: String| InferenceError::Device { model: self.name.clone(), reason };
        tokio::task::spawn_blocking(move || work(&served))
            .await
            .unwrap_or_else(|error| Err(failed(format!("its tokenizer failed: {error}"))))
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, InferenceError> {
        self.tokenizer.encode(text).map_err(|reason| InferenceError::Device {
            model: self.name.clone(),
            reason: format!("its tokenizer failed: {reason}"),
        })
    }

    /// One row for each completion. A prompt that alone fills the model is an error: an empty row would blame the
    /// completion for it.
    fn scored_rows(&self, prompt: &str, completions: &[Arc<str>]) -> Result<Vec<ScoredRow>, InferenceError> {
        let prompt_tokens = self.encode(prompt)?.len();
        let limit = self.tokenizer.max_tokens();
        if prompt_tokens >= limit {
            return Err(InferenceError::PromptTooLong { model: self.name.clone(), tokens: prompt_tokens, limit });
        }
        let row = |completion: &Arc<str>| {
            Ok(ScoredRow { ids: self.encode(&format!("{prompt}{completion}"))?, prompt_tokens })
        };
        completions.iter().map(row).collect()
    }
}

// === impl Kind ===

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Encoder => "an encoder: it embeds texts",
            Self::CausalLm => "a causal model: it scores completions",
            Self::Classifier => "a classifier: it judges texts",
        }
    }
}

#[cfg(test)]
mod tests;
