//! The prompts of forwards about every embedded passage, with their embeddings.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::Arc,
};

use openvalidators::localnet::{Tier, answers::Author};
use openvalidators_hub::Hub;
use openvalidators_inference::{Config, Engine, LocalEngine, Metrics, ModelSource};
use openvalidators_messages::inference::{Embed, ModelName, Pooling};
use openvalidators_prompts::{Embedded, Passage, Script, TemplatePaths};
use openvalidators_runtime::{Seed, SystemClock};
use prometheus::Registry;

const MODEL: &str = "all-MiniLM-L6-v2";
const SEED: Seed = Seed(0x726f_7574_696e_6700);
/// Room for quotes in a prompt: the defaults of `[prompts]`.
const QUOTE_LIMIT_BYTES: usize = 1_500;
const QUOTED_TOTAL_BYTES: usize = 5_000;
/// Of each field's fifteen passages, those nobody is routed about until the end.
const SEEN: usize = 10;

/// One prompt.
pub struct Prompt {
    /// Its field, from 0.
    pub topic: usize,
    /// Whether it is of a passage that routing learns from.
    pub seen: bool,
    pub embedding: Arc<[f32]>,
}

/// The prompts of an augment, a followup and an answer step about each passage.
pub fn load() -> Vec<Prompt> {
    let source = Embedded::new();
    let mut topics: Vec<&str> = source.passages().iter().map(|passage| passage.topic).collect();
    topics.dedup();
    let texts: Vec<Arc<str>> = source.passages().iter().flat_map(conversation).map(Arc::from).collect();
    let rows = embeddings(&texts);
    let passages = source.passages().iter().flat_map(|passage| [passage; 3]);
    let prompt = |(passage, embedding): (&Passage, Arc<[f32]>)| Prompt {
        topic: topics.iter().position(|topic| *topic == passage.topic).unwrap(),
        seen: passage.place < SEEN,
        embedding,
    };
    passages.zip(rows).map(prompt).collect()
}

fn conversation(passage: &Passage) -> [String; 3] {
    let script = Script::load(&TemplatePaths::default(), QUOTE_LIMIT_BYTES, QUOTED_TOTAL_BYTES, false).unwrap();
    let complete = |prompt: &str| Author { seed: SEED, index: 0, tier: Tier::Good }.complete(prompt);
    let augment = script.augment(passage.text, 5).unwrap();
    let conversation = script.begin(&script.accept(&complete(&augment)).unwrap());
    let followup = script.followup(&conversation, 0);
    let question = script.accept(&complete(&followup)).unwrap();
    let answer = script.answer(&conversation, &question);
    [augment, followup, answer]
}

/// Computed once for these texts, and kept in the build folder.
fn embeddings(texts: &[Arc<str>]) -> Vec<Arc<[f32]>> {
    let mut hash = DefaultHasher::new();
    texts.hash(&mut hash);
    let name = format!("routing-{MODEL}-{:016x}.f32", hash.finish());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if let Ok(bytes) = fs::read(&path) {
        let (values, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        return values.chunks(values.len() / texts.len()).map(Arc::from).collect();
    }
    let rows = tokio::runtime::Runtime::new().unwrap().block_on(embed(texts));
    let bytes: Vec<u8> = rows.iter().flat_map(|row| row.iter()).flat_map(|value| value.to_le_bytes()).collect();
    fs::write(&path, bytes).unwrap();
    rows
}

async fn embed(texts: &[Arc<str>]) -> Vec<Arc<[f32]>> {
    let hub = Hub::new(&Default::default(), SystemClock::shared()).unwrap();
    let found = hub.ensure(MODEL, openvalidators_hub::progress_for_people().as_ref()).await.unwrap();
    let source = ModelSource { name: ModelName::new(MODEL), directory: found.path };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let engine = LocalEngine::start(&Config::default(), &[source], metrics, SystemClock::shared()).unwrap();
    let embed = Embed { model: ModelName::new(MODEL), texts: texts.to_vec(), pooling: Pooling::MeanNormalised };
    engine.embed(embed).await.unwrap().into_iter().collect::<Result<_, _>>().unwrap()
}
