use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use openvalidators_messages::inference::{
    Generated, InferenceError, LoadedModel, LogProbability, Logits, ModelName, Pooling, Row,
};

use super::*;
use crate::engine::Kind;

/// Never answers embeddings, and counts how many such requests are being worked at.
#[derive(Default)]
struct Endless {
    working: Arc<AtomicUsize>,
}

struct Working(Arc<AtomicUsize>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Engine for Endless {
    async fn embed(&self, _: Embed) -> Result<Vec<Row<Arc<[f32]>>>, InferenceError> {
        self.working.fetch_add(1, Ordering::SeqCst);
        let _working = Working(self.working.clone());
        std::future::pending().await
    }
    async fn log_prob(&self, request: LogProb) -> Result<Vec<Row<LogProbability>>, InferenceError> {
        Ok(request.completions.iter().map(|text| Ok(LogProbability { mean: Some(-1.0), tokens: text.len() })).collect())
    }
    async fn classify(&self, _: Classify) -> Result<Vec<Row<Logits>>, InferenceError> {
        Err(InferenceError::Closed)
    }
    async fn generate(&self, _: Generate) -> Result<Vec<Row<Generated>>, InferenceError> {
        Err(InferenceError::Closed)
    }
    async fn models(&self) -> Vec<LoadedModel> {
        Vec::new()
    }
    async fn kind(&self, _: &ModelName) -> Option<Kind> {
        None
    }
}

fn embed() -> Embed {
    Embed { model: ModelName::new("any"), texts: vec!["x".into()], pooling: Pooling::Mean }
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it did not come to pass");
}

#[actix::test]
async fn a_request_nobody_awaits_is_dropped_and_frees_its_place() {
    let engine = Endless::default();
    let working = engine.working.clone();
    let mailboxes = Mailboxes::new(2, &Registry::new()).unwrap();
    mailboxes.attach(&InferenceActor::new(Arc::new(engine)).start());

    let calls: Vec<_> = (0..2)
        .map(|_| {
            let embed_box = mailboxes.embed.clone();
            actix::spawn(async move { embed_box.call(embed()).await })
        })
        .collect();
    until(|| working.load(Ordering::SeqCst) == 2).await;
    let request = LogProb {
        model: ModelName::new("any"),
        prompt: "".into(),
        completions: vec!["four".into()],
        repetition_penalty: 1.0,
    };
    assert_eq!(mailboxes.inbox.health().depth, 2, "both places are taken");

    calls.iter().for_each(|call| call.abort());
    until(|| working.load(Ordering::SeqCst) == 0).await;
    let scores = mailboxes.log_prob.call(request).await.unwrap().unwrap();
    assert_eq!(scores, [Ok(LogProbability { mean: Some(-1.0), tokens: 4 })]);
    assert!(mailboxes.models.call(Models).await.unwrap().is_empty());
}
