//! An engine that asks another one for each thing once, and keeps what the judge said in a file if it is given one: the
//! texts of the benchmark come from finite pools, so a table is played many times and computed once.

use std::{collections::BTreeMap, collections::HashMap, path::Path, sync::Arc};

use anyhow::Context;
use async_trait::async_trait;
use openvalidators_inference::{Engine, Kind};
use openvalidators_messages::inference::{
    Classify, Embed, Generate, Generated, InferenceError, LoadedModel, LogProb, LogProbability, Logits, ModelName,
    Pooling, Row,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a text was asked of, and the text.
type Place = (ModelName, Pooling, Arc<str>);

/// See the module.
pub struct Remembered {
    engine: Arc<dyn Engine>,
    /// sha256 of the files of each model, so that another model's words are never taken for its own.
    models: HashMap<ModelName, String>,
    rows: Mutex<HashMap<Place, Arc<[f32]>>>,
    judged: Mutex<BTreeMap<String, Judged>>,
}

/// What a causal model said of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Judged(Option<f32>, usize);

// === impl Remembered ===

impl Remembered {
    /// In front of `engine`, with what `file` holds.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub async fn new(engine: Arc<dyn Engine>, file: Option<&Path>) -> anyhow::Result<Self> {
        let judged = match file.filter(|file| file.exists()) {
            Some(file) => {
                let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
                serde_json::from_slice(&bytes).with_context(|| {
                    format!("reading {}: it holds no log-probabilities; move it away to make it anew", file.display())
                })?
            }
            None => BTreeMap::new(),
        };
        let files = |model: LoadedModel| {
            let digests: Vec<String> =
                model.digests.into_iter().map(|(file, digest)| format!("{file} {digest}")).collect();
            (model.model, digests.join("\n"))
        };
        let models = engine.models().await.into_iter().map(files).collect();
        Ok(Self { engine, models, rows: Mutex::default(), judged: Mutex::new(judged) })
    }

    /// Writes what the judge said so far.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string(&*self.judged.lock())?.replace("],", "],\n");
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// The name under which a judgement is kept: a digest of all it depends on, shortened to 16 digits.
    fn key(&self, ask: &LogProb, completion: &str) -> String {
        let mut digest = Sha256::new();
        let model = self.models.get(&ask.model).map_or("", String::as_str);
        for part in [model, &ask.prompt, completion] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.update(ask.repetition_penalty.to_le_bytes());
        digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[async_trait]
impl Engine for Remembered {
    async fn embed(&self, request: Embed) -> Result<Vec<Row<Arc<[f32]>>>, InferenceError> {
        let place = |text: &Arc<str>| (request.model.clone(), request.pooling, Arc::clone(text));
        let missing: Vec<Arc<str>> = {
            let rows = self.rows.lock();
            request.texts.iter().filter(|text| !rows.contains_key(&place(text))).cloned().collect()
        };
        let mut failed = HashMap::new();
        if !missing.is_empty() {
            let asked = Embed { texts: missing.clone(), ..request.clone() };
            for (text, row) in missing.iter().zip(self.engine.embed(asked).await?) {
                match row {
                    Ok(row) => drop(self.rows.lock().insert(place(text), row)),
                    Err(error) => drop(failed.insert(Arc::clone(text), error)),
                }
            }
        }
        let rows = self.rows.lock();
        let found = |text: &Arc<str>| match (rows.get(&place(text)), failed.get(text)) {
            (Some(row), _) => Some(Ok(Arc::clone(row))),
            (None, Some(error)) => Some(Err(error.clone())),
            (None, None) => None,
        };
        Ok(request.texts.iter().filter_map(found).collect())
    }

    async fn log_prob(&self, request: LogProb) -> Result<Vec<Row<LogProbability>>, InferenceError> {
        let keys: Vec<String> = request.completions.iter().map(|text| self.key(&request, text)).collect();
        let missing: Vec<usize> = {
            let judged = self.judged.lock();
            (0..keys.len()).filter(|place| !judged.contains_key(&keys[*place])).collect()
        };
        let mut failed = HashMap::new();
        if !missing.is_empty() {
            let completions = missing.iter().map(|place| Arc::clone(&request.completions[*place])).collect();
            let said = self.engine.log_prob(LogProb { completions, ..request.clone() }).await?;
            for (place, row) in missing.into_iter().zip(said) {
                match row {
                    Ok(LogProbability { mean, tokens }) => {
                        self.judged.lock().insert(keys[place].clone(), Judged(mean, tokens));
                    }
                    Err(error) => drop(failed.insert(place, error)),
                }
            }
        }
        let judged = self.judged.lock();
        let found = |(place, key): (usize, &String)| match (judged.get(key), failed.get(&place)) {
            (Some(Judged(mean, tokens)), _) => Some(Ok(LogProbability { mean: *mean, tokens: *tokens })),
            (None, Some(error)) => Some(Err(error.clone())),
            (None, None) => None,
        };
        Ok(keys.iter().enumerate().filter_map(found).collect())
    }

    async fn classify(&self, request: Classify) -> Result<Vec<Row<Logits>>, InferenceError> {
        self.engine.classify(request).await
    }

    async fn generate(&self, request: Generate) -> Result<Vec<Row<Generated>>, InferenceError> {
        self.engine.generate(request).await
    }

    async fn models(&self) -> Vec<LoadedModel> {
        self.engine.models().await
    }

    async fn kind(&self, model: &ModelName) -> Option<Kind> {
        self.engine.kind(model).await
    }
}
