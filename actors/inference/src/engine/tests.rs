use std::path::{Path, PathBuf};

use openvalidators_messages::inference::Pooling;
use openvalidators_runtime::SystemClock;
use prometheus::Registry;

use super::*;
use crate::{models::llama_gguf::tests::write_tiny, placement::Placement};

const BERT: &str = "tiny-bert";
const LLAMA: &str = "tiny-llama";

struct Tiny {
    engine: LocalEngine,
    metrics: Metrics,
    sources: [ModelSource; 2],
    _folder: tempfile::TempDir,
}

/// Both tiny models behind a running device thread.
fn tiny(config: &Config) -> Tiny {
    let folder = tempfile::tempdir().unwrap();
    write_tiny(&folder.path().join("tiny.gguf"));
    let bert = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/inference/bert");
    let sources = [source(BERT, bert), source(LLAMA, folder.path().to_owned())];
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let engine = LocalEngine::start(config, &sources, metrics.clone(), SystemClock::shared()).unwrap();
    Tiny { engine, metrics, sources, _folder: folder }
}

fn source(name: &str, directory: PathBuf) -> ModelSource {
    ModelSource { name: ModelName::new(name), directory }
}

fn embed(model: &str, texts: &[&str]) -> Embed {
    Embed {
        model: ModelName::new(model),
        texts: texts.iter().map(|&text| text.into()).collect(),
        pooling: Pooling::MeanNormalised,
    }
}

fn log_prob(model: &str, prompt: &str, completions: &[&str]) -> LogProb {
    LogProb {
        model: ModelName::new(model),
        prompt: prompt.into(),
        completions: completions.iter().map(|&text| text.into()).collect(),
        repetition_penalty: 1.2,
    }
}

/// The answers, no row of which may have failed.
fn all<T>(answer: Result<Vec<Row<T>>, InferenceError>) -> Vec<T> {
    answer.unwrap().into_iter().collect::<Result<_, _>>().unwrap()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[tokio::test]
async fn an_embedding_does_not_depend_on_its_neighbours_and_equal_texts_are_computed_once() {
    let tiny = tiny(&Config { batch_tokens: 40, ..Config::default() });
    let long = "questions about the climate ".repeat(60);
    let texts = ["one question", "", &long, "one question", "another question about the climate", " \n"];
    let together = all(tiny.engine.embed(embed(BERT, &texts)).await);
    assert_eq!(together.len(), texts.len());
    assert_eq!(tiny.metrics.deduplicated.with_label_values(&[BERT]).get(), 2, "the blank text equals the empty one");
    assert!(tiny.metrics.batches.with_label_values(&[BERT]).get() >= 2, "the budget cuts");
    for (text, row) in texts.iter().zip(&together) {
        let alone = all(tiny.engine.embed(embed(BERT, &[text])).await);
        assert!(farthest(row, &alone[0]) < 1e-5, "{text}");
        assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    assert!(farthest(&together[0], &together[4]) > 1e-2);
}

#[tokio::test]
async fn a_completion_does_not_depend_on_its_neighbours() {
    let tiny = tiny(&Config { batch_tokens: 60, ..Config::default() });
    let completions =
        [" the weather", " the weather", "the the the the the", "", " a much longer completion than that", "s"];
    let together = all(tiny.engine.log_prob(log_prob(LLAMA, "Tell me of the sea", &completions)).await);
    assert_eq!(together[0], together[1]);
    assert_eq!((together[3].mean, together[3].tokens), (None, 0));
    for (completion, together) in completions.iter().zip(&together) {
        let alone = all(tiny.engine.log_prob(log_prob(LLAMA, "Tell me of the sea", &[completion])).await)[0];
        assert_eq!(together.tokens, alone.tokens);
        if let (Some(a), Some(b)) = (together.mean, alone.mean) {
            assert!((a - b).abs() < 1e-4, "{completion}: {a} {b}");
        }
    }
}

#[tokio::test]
async fn a_prompt_that_fills_the_model_is_an_error_and_a_long_completion_is_cut() {
    let tiny = tiny(&Config { max_sequence_tokens: 100, ..Config::default() });
    let full = tiny.engine.log_prob(log_prob(LLAMA, &"x".repeat(5_000), &[" word"])).await.unwrap_err();
    let InferenceError::PromptTooLong { tokens, limit, .. } = full else { panic!("{full}") };
    assert!(limit == 100 && tokens >= limit, "{tokens} of {limit}");
    assert!(tiny.engine.log_prob(log_prob(LLAMA, &"x".repeat(100), &[" word"])).await.is_err(), "full to the brim");
    let cut = all(tiny.engine.log_prob(log_prob(LLAMA, &"x".repeat(90), &[&"y".repeat(500)])).await)[0];
    assert_eq!(cut.tokens, 10);
    assert!(cut.mean.is_some());
}

#[tokio::test]
async fn asking_the_wrong_model_says_what_is_there() {
    let tiny = tiny(&Config::default());
    let error = tiny.engine.embed(embed(LLAMA, &["x"])).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "model `tiny-llama` cannot serve embeddings: it is a causal model: it scores completions and continues texts"
    );
    let error = tiny.engine.log_prob(log_prob(BERT, "x", &["y"])).await.unwrap_err().to_string();
    assert!(error.contains("it is an encoder"), "{error}");
    let error = tiny.engine.embed(embed("gpt-5", &["x"])).await.unwrap_err().to_string();
    assert!(error.contains("not loaded; loaded: `tiny-bert`, `tiny-llama`"), "{error}");
    let penalty = LogProb { repetition_penalty: f32::NAN, ..log_prob(LLAMA, "x", &["y"]) };
    assert!(tiny.engine.log_prob(penalty).await.unwrap_err().to_string().contains("positive number"));
}

fn generate(prompts: &[&str], max_new_tokens: usize) -> Generate {
    let prompts = prompts.iter().map(|&text| Composed::from(Arc::from(text))).collect();
    Generate { model: ModelName::new(LLAMA), prompts, max_new_tokens }
}

#[tokio::test]
async fn a_text_goes_on_as_its_ids_say_and_one_without_room_fails_alone() {
    let tiny = tiny(&Config { max_sequence_tokens: 40, ..Config::default() });
    let answers = tiny.engine.generate(generate(&["the sea", &"x".repeat(39), "the sea"], 2)).await.unwrap();
    let first = answers[0].as_ref().unwrap();
    assert_eq!(answers[2].as_ref().unwrap(), first);
    assert_eq!(first.ids.len(), 2);
    assert!(first.whole.starts_with("the sea"), "{}", first.whole);
    let failed = answers[1].as_ref().unwrap_err().to_string();
    assert!(failed.contains("39 or more tokens leave no room for 2 in a model of 40"), "{failed}");
    let error = tiny.engine.generate(generate(&[""], 2)).await.unwrap_err().to_string();
    assert!(error.contains("no token to continue"), "{error}");
    assert!(tiny.engine.generate(generate(&[], 2)).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_model_can_be_asked_is_known_before_it_is() {
    let tiny = tiny(&Config::default());
    assert_eq!(tiny.engine.kind(&ModelName::new(BERT)).await, Some(Kind::Encoder));
    assert_eq!(tiny.engine.kind(&ModelName::new(LLAMA)).await, Some(Kind::CausalLm));
    assert_eq!(tiny.engine.kind(&ModelName::new("gpt-5")).await, None);
    let inputs = vec![Input::Text(Composed::from(Arc::from("x")))];
    let ask = Classify { model: ModelName::new(LLAMA), inputs, overflow: Overflow::Cut };
    let error = tiny.engine.classify(ask).await.unwrap_err().to_string();
    assert!(error.contains("cannot serve classification: it is a causal model"), "{error}");
}

/// Texts in, the reference's logits out: tokenizer, windows, prefix and head together.
#[tokio::test]
async fn what_classifiers_say_of_texts_equals_the_references() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity");
    let golden = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(fixtures.join(format!("golden/{name}.json"))).unwrap()).unwrap()
    };
    let sources =
        ["deberta_rm", "gptj_rm", "roberta_nsfw"].map(|name| source(name, fixtures.join("models").join(name)));
    let config = Config { interpret_special_tokens: true, batch_tokens: 700, ..Config::default() };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let engine = LocalEngine::start(&config, &sources, metrics, SystemClock::shared()).unwrap();
    let inputs = golden("inputs");
    let strings = |of: &serde_json::Value| -> Vec<Arc<str>> { serde_json::from_value(of.clone()).unwrap() };
    let (prompts, completions) = (strings(&inputs["prompts"]), strings(&inputs["completions"]));
    let close = |ours: f32, expected: &serde_json::Value, what: &str| {
        let expected = expected.as_f64().unwrap() as f32;
        assert!((ours - expected).abs() <= 2e-5 + 1e-5 * expected.abs(), "{what}: {ours} is not {expected}");
    };
    let (ours, theirs) = (|text: &str| Part::Ours(text.into()), |text: &Arc<str>| Part::Theirs(text.clone()));

    type Compose<'a> = &'a dyn Fn(&Arc<str>, &Arc<str>) -> Input;
    let pair: Compose<'_> =
        &|prompt, completion| Input::Pair(Composed::from(prompt.clone()), Composed::from(completion.clone()));
    let template: Compose<'_> = &|prompt, completion| {
        Input::Text(Composed(vec![
            ours("<|prompter|>"),
            theirs(prompt),
            ours("</s><|assistant|>"),
            theirs(completion),
            ours("</s><|endoftext|>"),
        ]))
    };
    for (model, recorded, compose, overflow) in [
        ("deberta_rm", "rlhf_deberta", pair, Overflow::Whole),
        ("gptj_rm", "reciprocate_gptj", template, Overflow::Cut),
    ] {
        for row in golden(recorded)["matrix"].as_array().unwrap() {
            let prompt = &prompts[row["prompt"].as_u64().unwrap() as usize];
            let inputs = completions.iter().map(|completion| compose(prompt, completion)).collect();
            let request = Classify { model: ModelName::new(model), inputs, overflow };
            for (place, logits) in all(engine.classify(request).await).iter().enumerate() {
                close(logits[0][0], &row["rewards"][place]["ok"], &format!("{model}: {prompt:?} {place}"));
            }
        }
    }

    let nsfw = golden("nsfw_roberta");
    let rows = nsfw["rows"].as_array().unwrap();
    let texts = completions.iter().cloned().chain([nsfw["extra_completion"].as_str().unwrap().into()]);
    let inputs = texts.map(|text| Input::Text(Composed::from(text))).collect();
    let request = Classify { model: ModelName::new("roberta_nsfw"), inputs, overflow: Overflow::BareWindows };
    let answers = all(engine.classify(request).await);
    assert_eq!(answers.len(), rows.len());
    for (answer, row) in answers.iter().zip(rows) {
        let windows = row["chunk_logits"].as_array().unwrap();
        assert_eq!(answer.len(), windows.len());
        for (ours, expected) in answer.iter().zip(windows) {
            close(ours[0], &expected[0], "not hateful");
            close(ours[1], &expected[1], "hateful");
        }
    }
}

#[tokio::test]
async fn nothing_asked_is_nothing_answered() {
    let tiny = tiny(&Config::default());
    assert!(all(tiny.engine.embed(embed(BERT, &[])).await).is_empty());
    assert!(all(tiny.engine.log_prob(log_prob(LLAMA, "x", &[])).await).is_empty());
    let models = tiny.engine.models().await;
    let names: Vec<&str> = models.iter().map(|model| &*model.model.0).collect();
    assert_eq!(names, [BERT, LLAMA]);
    assert_eq!(models[1].digests[0].0, "tiny.gguf");
}

#[tokio::test]
async fn a_closed_engine_says_so() {
    let tiny = tiny(&Config::default());
    tiny.engine.close();
    assert_eq!(tiny.engine.embed(embed(BERT, &["x"])).await.unwrap_err(), InferenceError::Closed);
}

#[test]
fn two_models_of_one_name_do_not_start() {
    let bert = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/inference/bert");
    let sources = [source(BERT, bert.clone()), source(BERT, bert)];
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let error = LocalEngine::start(&Config::default(), &sources, metrics, SystemClock::shared()).err().unwrap();
    assert!(error.to_string().contains("two models are called `tiny-bert`"));
}

#[tokio::test]
async fn a_model_computes_on_the_device_it_is_placed_on() {
    let here = tiny(&Config::default());
    let placement = [(ModelName::new(LLAMA), Placement { device: Some(DeviceName::Cpu(1)), dtype: None })].into();
    let config = Config { placement, threads: 2, ..Config::default() };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let apart = LocalEngine::start(&config, &here.sources, metrics.clone(), SystemClock::shared()).unwrap();

    let (scored, embedded) = (log_prob(LLAMA, "Tell me of the sea", &[" the weather"]), embed(BERT, &["one question"]));
    let expected = all(here.engine.log_prob(scored.clone()).await);
    assert_eq!(all(apart.log_prob(scored.clone()).await), expected);
    assert_eq!(all(apart.embed(embedded.clone()).await), all(here.engine.embed(embedded.clone()).await));
    // Each device has a thread of its own: that of one ends, and the other goes on.
    apart.devices[&DeviceName::Cpu(0)].close();
    assert_eq!(apart.embed(embedded).await.unwrap_err(), InferenceError::Closed);
    assert_eq!(all(apart.log_prob(scored).await), expected);
    apart.close();
    let busy = |device: &str, model: &str| metrics.busy_seconds.with_label_values(&[device, model]).get();
    assert!(busy("cpu", BERT) > 0.0 && busy("cpu:1", LLAMA) > 0.0);
    assert!(busy("cpu", LLAMA) == 0.0 && busy("cpu:1", BERT) == 0.0);
}

#[test]
fn a_device_that_is_not_there_and_a_model_that_is_not_loaded_are_errors_with_a_remedy() {
    let bert = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/inference/bert");
    let error = |config: &Config| {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let sources = [source(BERT, bert.clone())];
        LocalEngine::start(config, &sources, metrics, SystemClock::shared()).err().unwrap().to_string()
    };
    let placed = |model: &str, device| {
        let placement = [(ModelName::new(model), Placement { device: Some(device), dtype: None })].into();
        Config { placement, ..Config::default() }
    };
    let unknown = error(&placed("tiny-brt", DeviceName::Cpu(1)));
    assert!(unknown.contains("inference.placement names `tiny-brt`") && unknown.contains("`tiny-bert`"), "{unknown}");
    // A GPU beyond any machine's, so that this holds wherever the tests run.
    for config in [placed(BERT, DeviceName::Cuda(99)), Config { device: DeviceName::Cuda(99), ..Config::default() }] {
        let error = error(&config);
        assert!(error.contains("`cuda:99`") && error.contains("docs/gpu.md"), "{error}");
    }
}
