//! Who answers requests: this machine's devices, or, with the same trait, a server elsewhere.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use async_trait::async_trait;
use openvalidators_messages::inference::{
    Classify, Composed, Embed, Generate, Generated, InferenceError, Input, LoadedModel, LogProb, LogProbability,
    Logits, ModelName, Overflow, Part, Pooling, Row, RowFailed,
};
use openvalidators_runtime::SharedClock;
use rayon::prelude::*;
use tokio::sync::oneshot;

use crate::{
    budget::Budget,
    catalogue::{self, LoadError, ModelSource},
    classification::ClassifyWork,
    config::Config,
    device::{Asked, Device, DeviceThread, Job},
    embedding::EmbedWork,
    generation::GenerateWork,
    metrics::Metrics,
    models::Network,
    placement::{self, DeviceName, Dtype},
    scoring::{LogProbWork, ScoredRow},
    tokenizer::TextTokenizer,
};

/// Answers the requests of [`openvalidators_messages::inference`]. Dropping the future of a request cancels it.
///
/// Every request fails with [`InferenceError::WrongModel`] when the model is not there or of another kind, with
/// [`InferenceError::Device`] when all of its rows fail, and with [`InferenceError::Closed`] when the engine closes.
#[async_trait]
pub trait Engine: Send + Sync {
    /// One row for each text; for encoders.
    ///
    /// # Errors
    /// As every request.
    async fn embed(&self, request: Embed) -> Result<Vec<Row<Arc<[f32]>>>, InferenceError>;

    /// One log-probability for each completion; for causal models.
    ///
    /// # Errors
    /// As every request; and [`InferenceError::PromptTooLong`] when no completion fits behind the prompt.
    async fn log_prob(&self, request: LogProb) -> Result<Vec<Row<LogProbability>>, InferenceError>;

    /// The logits of each input; for classifiers.
    ///
    /// # Errors
    /// As every request.
    async fn classify(&self, request: Classify) -> Result<Vec<Row<Logits>>, InferenceError>;

    /// How the model goes on after each prompt; for causal models.
    ///
    /// # Errors
    /// As every request.
    async fn generate(&self, request: Generate) -> Result<Vec<Row<Generated>>, InferenceError>;

    /// The models it answers for.
    async fn models(&self) -> Vec<LoadedModel>;

    /// What a model can be asked; none when it does not answer for it.
    async fn kind(&self, model: &ModelName) -> Option<Kind>;
}

/// What a model can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Embed`.
    Encoder,
    /// `LogProb` and `Generate`.
    CausalLm,
    /// `Classify`.
    Classifier,
}

/// The devices of this machine, each with its queue, its networks and its threads: a request goes to the one that its model is
/// on, and all work at the same time. Texts are tokenised on tokio's blocking threads while they do.
///
/// Dropping it closes it: each batch in hand is finished, everyone who waits is told, the threads are joined.
pub struct LocalEngine {
    models: BTreeMap<ModelName, Arc<Served>>,
    devices: BTreeMap<DeviceName, DeviceThread>,
    metrics: Metrics,
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A model did not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A placement of nothing.
    #[error(
        "inference.placement names `{model}`, which is not loaded; loaded: {loaded}. Correct the name or remove the entry"
    )]
    PlacedButNotLoaded {
        /// What it names.
        model: ModelName,
        /// What it could name.
        loaded: String,
    },
    /// A GPU in a program for processors.
    #[error(
        "a model is placed on `{0}`, and this program was built for processors only; build it with `--features cuda` \
         (docs/gpu.md), or set inference.device and inference.placement to `cpu`"
    )]
    NotBuiltFor(DeviceName),
    /// A GPU that the driver does not give.
    #[error(
        "cannot use `{device}`: {reason}; `nvidia-smi -L` lists the GPUs there are, docs/gpu.md says which driver they need"
    )]
    NoGpu {
        /// Which.
        device: DeviceName,
        /// What the driver said.
        reason: String,
    },
    /// Two models of one name.
    #[error("two models are called `{0}`; name each once")]
    TwoOfOneName(ModelName),
    /// The threads did not start.
    #[error("cannot start the threads of a device: {0}")]
    Threads(String),
}

/// A model as seen from outside of what computes it.
pub(crate) struct Served {
    name: ModelName,
    kind: Kind,
    device: DeviceName,
    pub(crate) tokenizer: TextTokenizer,
    /// A text it writes ends with any of these tokens.
    ends: Vec<u32>,
    digests: Vec<(String, String)>,
}

// === impl LocalEngine ===

impl LocalEngine {
    /// Loads each model onto its device and starts the devices' threads. Blocks for seconds: call it where that is allowed.
    ///
    /// # Errors
    /// When a model does not load, its device is not there, or threads do not start.
    pub fn start(
        config: &Config,
        sources: &[ModelSource],
        metrics: Metrics,
        clock: SharedClock,
    ) -> Result<Self, StartError> {
        let places = placement::places(config, sources.iter().map(|source| &source.name))?;
        let mut opened = BTreeMap::new();
        for (device, _) in &places {
            opened.insert(*device, (device.open()?, BTreeMap::new()));
        }
        let mut models = BTreeMap::new();
        for (source, (device, dtype)) in sources.iter().zip(places) {
            let started = clock.now();
            if let (DeviceName::Cpu(_), true) = (device, dtype != Dtype::F32) {
                tracing::warn!(
                    model = %source.name,
                    "{dtype} on a processor is for trying it out: it takes many times as long as f32, and is less exact"
                );
            }
            let Some((candle, networks)) = opened.get_mut(&device) else { return Err(StartError::NotBuiltFor(device)) };
            let loaded = catalogue::load(source, config, dtype.candle(), candle)?;
            let kind = Kind::of(&loaded.network);
            tracing::info!(
                model = %source.name,
                %device,
                %dtype,
                max_tokens = loaded.tokenizer.max_tokens(),
                seconds = (clock.now() - started).as_secs_f64(),
                "loaded"
            );
            let name = source.name.clone();
            let catalogue::Loaded { network, tokenizer, ends, digests } = loaded;
            metrics.start_at_zero(device, &name);
            let served = Served { name: name.clone(), kind, device, tokenizer, ends, digests };
            if models.insert(name.clone(), Arc::new(served)).is_some() {
                return Err(StartError::TwoOfOneName(name));
            }
            networks.insert(name, network);
        }
        let cores = match config.threads {
            0 => std::thread::available_parallelism().map_err(|error| StartError::Threads(error.to_string()))?.get(),
            threads => threads,
        };
        let threads = placement::threads(&opened.keys().copied().collect::<Vec<_>>(), cores);
        let start = |(name, (_, networks))| {
            let threads = rayon::ThreadPoolBuilder::new()
                .num_threads(threads.get(&name).copied().unwrap_or(1))
                .thread_name(move |i| format!("{name}-{i}"))
                .build()
                .map_err(|error| StartError::Threads(error.to_string()))?;
            let device = DeviceThread::spawn(Device {
                name,
                networks,
                budget: Budget::new(config.batch_tokens),
                queue_capacity: config.queue_capacity,
                threads,
                metrics: metrics.clone(),
                clock: clock.clone(),
            });
            Ok((name, device.map_err(|error| StartError::Threads(error.to_string()))?))
        };
        let devices = opened.into_iter().map(start).collect::<Result<_, StartError>>()?;
        Ok(Self { models, devices, metrics })
    }

    /// Takes no more requests, finishes the batches in hand, answers [`InferenceError::Closed`] to all who wait and joins
    /// the threads. Blocks for the longest of those batches at most.
    pub fn close(&self) {
        self.devices.values().for_each(DeviceThread::stop);
        self.devices.values().for_each(DeviceThread::close);
    }

    fn served(&self, name: &ModelName, kind: Kind, asked: &'static str) -> Result<Arc<Served>, InferenceError> {
        let reason = match self.models.get(name) {
            Some(model) if model.kind == kind => return Ok(model.clone()),
            Some(model) => format!("it is {}", model.kind),
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

    fn note_not_finite<T>(&self, model: &ModelName, rows: &[Row<T>], is_finite: impl Fn(&T) -> bool) {
        let count = rows.iter().flatten().filter(|row| !is_finite(row)).count();
        self.metrics.not_finite.with_label_values(&[&*model.0]).inc_by(count as u64);
    }

    /// Asks the model's device for the rows that could be tokenised, and puts its answers between those that could not.
    async fn ask<R, W, T>(
        &self,
        served: &Served,
        rows: Vec<Row<R>>,
        work: impl FnOnce(Vec<R>) -> W,
        job: impl FnOnce(Asked<W, T>) -> Job,
    ) -> Result<Vec<Row<T>>, InferenceError> {
        let (mut good, mut answers) = (Vec::new(), Vec::with_capacity(rows.len()));
        for row in rows {
            match row {
                Ok(row) => {
                    good.push(row);
                    answers.push(None);
                }
                Err(failed) => answers.push(Some(Err(failed))),
            }
        }
        let mut computed = Vec::new();
        if !good.is_empty() {
            let (reply, answer) = oneshot::channel();
            let job = job(Asked { model: served.name.clone(), work: work(good), reply });
            if let Some(device) = self.devices.get(&served.device) {
                device.submit(job).await;
            }
            // A job that is dropped unanswered found the thread closed.
            computed = answer.await.unwrap_or(Err(InferenceError::Closed))?;
        } else if let Some(Some(Err(failed))) = answers.first() {
            let RowFailed { reason } = failed;
            return Err(InferenceError::Device { model: served.name.clone(), reason: reason.to_string() });
        }
        let mut computed = computed.into_iter();
        Ok(answers.into_iter().filter_map(|failed| failed.or_else(|| computed.next())).collect())
    }
}

#[async_trait]
impl Engine for LocalEngine {
    async fn embed(&self, request: Embed) -> Result<Vec<Row<Arc<[f32]>>>, InferenceError> {
        let Embed { model, texts, pooling } = request;
        let kind = if pooling == Pooling::LastToken { Kind::CausalLm } else { Kind::Encoder };
        let served = self.served(&model, kind, "embeddings")?;
        let rows = served
            .tokenise(move |served| Ok(texts.par_iter().map(|text| served.embedded_rows(text, pooling)).collect()))
            .await?;
        let rows = self.ask(&served, rows, |texts| EmbedWork { texts, pooling }, Job::Embed).await?;
        self.note_not_finite(&served.name, &rows, |states| states.iter().all(|value| value.is_finite()));
        Ok(rows)
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
        let rows = self.ask(&served, rows, |rows| LogProbWork { rows, penalty }, Job::LogProb).await?;
        // The mean of nothing is none too, and nobody's fault.
        self.note_not_finite(&served.name, &rows, |scored| scored.tokens == 0 || scored.mean.is_some());
        Ok(rows)
    }

    async fn classify(&self, request: Classify) -> Result<Vec<Row<Logits>>, InferenceError> {
        let Classify { model, inputs, overflow } = request;
        let served = self.served(&model, Kind::Classifier, "classification")?;
        let windows = move |served: &Served, input: &Input| served.row(|tokenizer| tokenizer.windows(input, overflow));
        let rows =
            served.tokenise(move |served| Ok(inputs.par_iter().map(|input| windows(served, input)).collect())).await?;
        let rows = self.ask(&served, rows, |inputs| ClassifyWork { inputs }, Job::Classify).await?;
        self.note_not_finite(&served.name, &rows, |logits| {
            logits.iter().flat_map(|row| row.iter()).all(|value| value.is_finite())
        });
        Ok(rows)
    }

    async fn generate(&self, request: Generate) -> Result<Vec<Row<Generated>>, InferenceError> {
        let Generate { model, prompts, max_new_tokens } = request;
        let served = self.served(&model, Kind::CausalLm, "generation")?;
        let rows: Vec<Row<Vec<u32>>> = served
            .tokenise(move |served| {
                Ok(prompts.par_iter().map(|prompt| served.continued_row(prompt, max_new_tokens)).collect())
            })
            .await?;
        let asked = rows.clone();
        let work = |prompts| GenerateWork { prompts, max_new_tokens, ends: served.ends.clone() };
        let new = self.ask(&served, rows, work, Job::Generate).await?;
        served
            .tokenise(move |served| {
                let told = |(prompt, new): (Row<Vec<u32>>, Row<Vec<u32>>)| served.generated(prompt?, new?);
                Ok(asked.into_iter().zip(new).map(told).collect())
            })
            .await
    }

    async fn models(&self) -> Vec<LoadedModel> {
        self.models
            .values()
            .map(|served| LoadedModel { model: served.name.clone(), digests: served.digests.clone() })
            .collect()
    }

    async fn kind(&self, model: &ModelName) -> Option<Kind> {
        self.models.get(model).map(|served| served.kind)
    }
}

// === impl Served ===

impl Served {
    /// A model that a server elsewhere computes: no device here has it.
    pub(crate) fn elsewhere(name: ModelName, kind: Kind, tokenizer: TextTokenizer) -> Self {
        Self { name, kind, device: DeviceName::Cpu(0), tokenizer, ends: Vec::new(), digests: Vec::new() }
    }

    /// Runs `work` on a thread that may block. It takes its texts apart on all cores: a GPU computes 50 rows of a prompt and
    /// a completion in the time in which one core tokenises them.
    pub(crate) async fn tokenise<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, InferenceError> + Send + 'static,
    ) -> Result<T, InferenceError> {
        let served = self.clone();
        tokio::task::spawn_blocking(move || work(&served)).await.unwrap_or_else(|error| {
            let reason = format!("its tokenizer failed: {error}");
            Err(InferenceError::Device { model: self.name.clone(), reason })
        })
    }

    /// What the tokenizer says of one row: a text that is too much for it costs no other row its answer.
    pub(crate) fn row<T>(&self, work: impl FnOnce(&TextTokenizer) -> Result<T, String>) -> Row<T> {
        let said = catch_unwind(AssertUnwindSafe(|| work(&self.tokenizer)));
        let said = said.unwrap_or_else(|_| Err("it panicked".into()));
        said.map_err(|reason| RowFailed { reason: format!("its tokenizer failed: {reason}").into() })
    }

    /// The rows of ids that make the embedding of `text`.
    pub(crate) fn embedded_rows(&self, text: &Arc<str>, pooling: Pooling) -> Row<Vec<Arc<[u32]>>> {
        let text = Composed::from(text.clone());
        self.row(|tokenizer| match pooling {
            Pooling::Mean | Pooling::MeanNormalised => {
                Ok(vec![tokenizer.encode(&text, tokenizer.max_tokens())?.into()])
            }
            Pooling::LastToken => match tokenizer.encode(&text, tokenizer.max_tokens())? {
                ids if ids.is_empty() => Err("the text has no token, so no last one".to_owned()),
                ids => Ok(vec![ids.into()]),
            },
            Pooling::MeanOfWindows => {
                let windows = tokenizer.windows(&Input::Text(text), Overflow::Windows)?;
                Ok(windows.into_iter().map(|window| window.ids.into()).collect())
            }
        })
    }

    /// One row for each completion. A prompt that alone fills the model is an error: an empty row would blame the
    /// completion for it.
    pub(crate) fn scored_rows(
        &self,
        prompt: &Arc<str>,
        completions: &[Arc<str>],
    ) -> Result<Vec<Row<ScoredRow>>, InferenceError> {
        let limit = self.tokenizer.max_tokens();
        let alone = Composed::from(prompt.clone());
        let prompt_tokens = self
            .row(|tokenizer| Ok(tokenizer.encode(&alone, limit)?.len()))
            .map_err(|failed| InferenceError::Device { model: self.name.clone(), reason: failed.reason.to_string() })?;
        if prompt_tokens >= limit {
            return Err(InferenceError::PromptTooLong { model: self.name.clone(), tokens: prompt_tokens, limit });
        }
        let row = |completion: &Arc<str>| {
            let text = Composed(vec![Part::Theirs(prompt.clone()), Part::Theirs(completion.clone())]);
            self.row(|tokenizer| Ok(ScoredRow { ids: tokenizer.encode(&text, limit)?, prompt_tokens }))
        };
        Ok(completions.par_iter().map(row).collect())
    }

    /// The ids of a prompt behind which `new` tokens have room.
    pub(crate) fn continued_row(&self, prompt: &Composed, new: usize) -> Row<Vec<u32>> {
        let limit = self.tokenizer.ceiling_tokens();
        self.row(|tokenizer| {
            let ids = tokenizer.encode(prompt, limit)?;
            if ids.is_empty() {
                return Err("it has no token to continue".into());
            }
            if ids.len().saturating_add(new) > limit {
                return Err(format!("{} or more tokens leave no room for {new} in a model of {limit}", ids.len()));
            }
            Ok(ids)
        })
    }

    pub(crate) fn generated(&self, mut prompt: Vec<u32>, new: Vec<u32>) -> Row<Generated> {
        prompt.extend(&new);
        let whole = self.row(|tokenizer| tokenizer.decode(&prompt))?;
        Ok(Generated { ids: new, whole: whole.into() })
    }
}

// === impl Kind ===

impl Kind {
    fn of(network: &Network) -> Self {
        match network {
            Network::Encoder(_) => Self::Encoder,
            Network::CausalLm(_) => Self::CausalLm,
            Network::Classifier(_) | Network::CausalClassifier(_) => Self::Classifier,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoder => "an encoder: it embeds texts",
            Self::CausalLm => "a causal model: it scores completions and continues texts",
            Self::Classifier => "a classifier: it judges texts",
        })
    }
}

#[cfg(test)]
mod tests;
