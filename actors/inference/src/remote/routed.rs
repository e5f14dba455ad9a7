//! One engine over models here and models elsewhere.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use openvalidators_messages::inference::{
    Classify, Embed, Generate, Generated, InferenceError, LoadedModel, LogProb, LogProbability, Logits, ModelName, Row,
};
use openvalidators_runtime::SharedClock;

use super::{compared::compare, metrics::RemoteMetrics, model::RemoteModel, protocol::Demand};
use crate::{
    config::Config,
    engine::{Engine, Kind},
};

/// Hands each request to the servers of its model, or to the engine on this machine.
pub struct RoutedEngine {
    local: Arc<dyn Engine>,
    remote: BTreeMap<ModelName, RemoteModel>,
    metrics: RemoteMetrics,
}

/// A remote model that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("inference.remote.{model}: {reason}")]
pub struct RemoteError {
    /// Which.
    pub model: ModelName,
    /// Why not.
    pub reason: String,
}

// === impl RoutedEngine ===

impl RoutedEngine {
    /// Asks every server of `config.remote` what it is, and whether it serves the `demands` on its model. A model that
    /// nobody demands is left aside. `folder` says where the files of a model are on this machine.
    ///
    /// # Errors
    /// When a model's configuration makes no sense, a server would give other numbers than this program computes, or no
    /// server of a model answers that does not fall back to this machine.
    pub async fn start(
        local: Arc<dyn Engine>,
        config: &Config,
        demands: &[(ModelName, Demand)],
        folder: impl Fn(&ModelName) -> Option<PathBuf>,
        metrics: RemoteMetrics,
        clock: SharedClock,
    ) -> Result<Self, RemoteError> {
        let mut remote = BTreeMap::new();
        for (name, settings) in &config.remote {
            let wrong = |reason: String| RemoteError { model: name.clone(), reason };
            let mut asked: Vec<Demand> = Vec::new();
            for (_, demand) in demands.iter().filter(|(model, _)| model == name) {
                if !asked.contains(demand) {
                    asked.push(*demand);
                }
            }
            if asked.is_empty() {
                tracing::warn!(model = %name, "no reward and no filter asks for this remote model");
                continue;
            }
            if settings.fall_back_to_local && local.kind(name).await.is_none() {
                return Err(wrong("`fall_back_to_local` is set and the model is not on this machine".into()));
            }
            let files = settings.folder.clone().or_else(|| folder(name));
            let files = files.ok_or_else(|| wrong("where is its tokenizer? Set `folder`".into()))?;
            let parts = (config, metrics.clone(), clock.clone());
            let model = RemoteModel::start(name, settings, asked.clone(), &files, parts).await.map_err(wrong)?;
            if settings.fall_back_to_local {
                for demand in asked {
                    compare(name, demand, &*local, &model).await.map_err(wrong)?;
                }
            }
            remote.insert(name.clone(), model);
        }
        Ok(Self { local, remote, metrics })
    }

    /// Whether the model on this machine is to answer, because no server did.
    fn falls_back<T>(&self, model: &ModelName, answer: &Result<T, InferenceError>) -> bool {
        let Err(InferenceError::Device { reason, .. }) = answer else { return false };
        let falls_back = self.remote.get(model).is_some_and(|remote| remote.falls_back);
        if falls_back {
            tracing::warn!(%model, reason, "no server answers: computed on this machine");
            self.metrics.fallbacks.with_label_values(&[&*model.0]).inc();
        }
        falls_back
    }
}

#[async_trait]
impl Engine for RoutedEngine {
    async fn embed(&self, request: Embed) -> Result<Vec<Row<Arc<[f32]>>>, InferenceError> {
        let Some(remote) = self.remote.get(&request.model) else { return self.local.embed(request).await };
        let answer = remote.embed(request.clone()).await;
        if self.falls_back(&request.model, &answer) { self.local.embed(request).await } else { answer }
    }

    async fn log_prob(&self, request: LogProb) -> Result<Vec<Row<LogProbability>>, InferenceError> {
        let Some(remote) = self.remote.get(&request.model) else { return self.local.log_prob(request).await };
        let answer = remote.log_prob(request.clone()).await;
        if self.falls_back(&request.model, &answer) { self.local.log_prob(request).await } else { answer }
    }

    async fn classify(&self, request: Classify) -> Result<Vec<Row<Logits>>, InferenceError> {
        let Some(remote) = self.remote.get(&request.model) else { return self.local.classify(request).await };
        let answer = remote.classify(request.clone()).await;
        if self.falls_back(&request.model, &answer) { self.local.classify(request).await } else { answer }
    }

    async fn generate(&self, request: Generate) -> Result<Vec<Row<Generated>>, InferenceError> {
        let Some(remote) = self.remote.get(&request.model) else { return self.local.generate(request).await };
        let answer = remote.generate(request.clone()).await;
        if self.falls_back(&request.model, &answer) { self.local.generate(request).await } else { answer }
    }

    /// A remote model's digests are what its servers say of themselves, and those of the model here where it may answer.
    async fn models(&self) -> Vec<LoadedModel> {
        let mut models: BTreeMap<ModelName, Vec<(String, String)>> =
            self.local.models().await.into_iter().map(|loaded| (loaded.model, loaded.digests)).collect();
        for (name, remote) in &self.remote {
            let local = models.remove(name).unwrap_or_default();
            let local = local.into_iter().map(|(file, digest)| (format!("falls back to {file}"), digest));
            models.insert(name.clone(), remote.facts().into_iter().chain(local).collect());
        }
        models.into_iter().map(|(model, digests)| LoadedModel { model, digests }).collect()
    }

    async fn kind(&self, model: &ModelName) -> Option<Kind> {
        match self.remote.get(model) {
            Some(remote) => Some(remote.kind()),
            None => self.local.kind(model).await,
        }
    }
}
