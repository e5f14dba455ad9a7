//! What would give other numbers than this machine is refused when the program starts, in words.

use openvalidators_messages::inference::Overflow;

use super::{
    double::{Double, Reply, Seen},
    *,
};

/// A server that introduces itself by `path`, and answers what every server is asked before it is believed.
async fn saying(path: &'static str, said: serde_json::Value) -> Double {
    let answer = move |seen: &Seen| match seen.path.as_str() {
        asked if asked == path => Reply::Json(said.clone()),
        "/embed" => Reply::Json(json!([[1.0, 2.0]])),
        "/v1/completions" => {
            let ids = seen.body["prompt"][0].as_array().unwrap();
            let of = |id: &serde_json::Value| json!({id.to_string(): {"logprob": -1.0}});
            let said: Vec<_> = [json!(null)].into_iter().chain(ids[1..].iter().map(of)).collect();
            Reply::Json(json!({"choices": [{"index": 0, "prompt_logprobs": said}]}))
        }
        "/classify" => Reply::Json(json!({"data": [{"index": 0, "probs": [0.5]}]})),
        path => Reply::Status(404, "", format!("no {path}")),
    };
    Double::serve(answer).await
}

async fn tei(change: impl FnOnce(&mut serde_json::Value)) -> Double {
    let mut info = bert_info();
    change(&mut info);
    saying("/info", info).await
}

async fn vllm(max_model_len: serde_json::Value) -> Double {
    saying("/v1/models", json!({"data": [{"id": "m", "owned_by": "vllm", "max_model_len": max_model_len}]})).await
}

fn has(error: &str, words: &[&str]) {
    assert!(error.starts_with("inference.remote.remote: "), "{error}");
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}

#[tokio::test]
async fn tei_must_pool_cut_and_classify_as_this_program_does() {
    let server = tei(|info| info["model_type"] = json!({"embedding": {"pooling": "cls"}})).await;
    has(&Setup::tei(&[&server.url]).error().await, &["pooling cls", "--pooling mean", &server.url]);
    let server = tei(|info| info["max_input_length"] = json!(512)).await;
    has(&Setup::tei(&[&server.url]).error().await, &["rows of 512 tokens, wanted 128"]);

    let server = tei(|_| {}).await;
    let asked = |demand| Setup { demands: vec![demand], ..Setup::tei(&[&server.url]) };
    has(&asked(Demand::Embed(Pooling::MeanOfWindows)).error().await, &["no windows"]);
    has(&asked(Demand::Generate).error().await, &["encoders and classifiers"]);
    let classify = |overflow| Demand::Classify { overflow, pairs: false };
    has(&asked(classify(Overflow::Cut)).error().await, &["wanted a classifier"]);
    let mixed =
        Setup { demands: vec![Demand::Embed(Pooling::Mean), classify(Overflow::Cut)], ..Setup::tei(&[&server.url]) };
    has(&mixed.error().await, &["both"]);
}

#[tokio::test]
async fn vllm_must_take_the_longest_row_and_cannot_penalise() {
    let server = vllm(json!(2048)).await;
    let asked = |folder: PathBuf, demand| Setup {
        kind: RemoteKind::Openai,
        folder,
        demands: vec![demand],
        ..Setup::tei(&[&server.url])
    };
    let parity = |name: &str| fixture("parity/models").join(name);
    let penalised = Demand::LogProb { repetition_penalty: 1.2 };
    has(
        &asked(parity("llama"), penalised).error().await,
        &["repetition penalty of 1.2", "leave the model on this machine"],
    );
    let plain = Demand::LogProb { repetition_penalty: 1.0 };
    has(&asked(parity("llama"), plain).error().await, &["rows of 2048 tokens, wanted 2049", "max_sequence_tokens"]);
    let shorter = Setup { max_sequence_tokens: 2047, ..asked(parity("llama"), plain) };
    let started = shorter.start().await.unwrap();
    let mut ask = openvalidators_messages::inference::LogProb {
        model: ModelName::new(MODEL),
        prompt: "a".into(),
        completions: vec!["b".into()],
        repetition_penalty: 1.2,
    };
    let error = started.engine.log_prob(ask.clone()).await.unwrap_err().to_string();
    assert!(error.contains("repetition penalty of 1.2"), "also when it was not demanded: {error}");
    ask.completions.clear();
    ask.repetition_penalty = 1.0;
    assert_eq!(started.engine.log_prob(ask).await, Ok(Vec::new()));

    let whole = |pairs| Demand::Classify { overflow: Overflow::Whole, pairs };
    has(&asked(parity("gptj_rm"), whole(false)).error().await, &["another token here than on a server"]);
    has(&asked(fixture("inference/bert"), whole(true)).error().await, &["without types"]);
    // Its positions are relative: nothing is cut here before 2048 tokens.
    let short = vllm(json!(512)).await;
    let deberta = Setup { urls: vec![short.url.clone()], ..asked(parity("deberta_rm"), whole(false)) };
    has(&deberta.error().await, &["rows of 512 tokens, wanted 2048"]);
}

/// vLLM before `use_activation` would answer probabilities, and one that generates has no `/v1/embeddings`.
#[tokio::test]
async fn what_a_server_does_not_have_is_found_at_the_start() {
    let server = vllm(json!(2048)).await;
    let asked = |folder: &str, demand| Setup {
        kind: RemoteKind::Openai,
        folder: fixture(folder),
        demands: vec![demand],
        ..Setup::tei(&[&server.url])
    };
    let judged = Demand::Classify { overflow: Overflow::Cut, pairs: false };
    has(&asked("parity/models/roberta_nsfw", judged).error().await, &["only probabilities", "use_activation"]);
    let embedded = Demand::Embed(Pooling::Mean);
    has(&asked("inference/bert", embedded).error().await, &["/v1/embeddings", "404", &server.url]);
    has(&asked("parity/models/gpt2", Demand::Generate).error().await, &["token_ids", "0.10.2"]);
}

#[tokio::test]
async fn an_unclear_server_is_refused() {
    let open = |server: &Double| Setup { kind: RemoteKind::Openai, ..Setup::tei(&[&server.url]) };
    has(&open(&vllm(json!(null)).await).error().await, &["max_model_len"]);
    let two = saying("/v1/models", json!({"data": [{"id": "a", "max_model_len": 1}, {"id": "b"}]})).await;
    has(&open(&two).error().await, &["`a`, `b`", "served_name"]);
    let html = Double::serve(|_: &Seen| Reply::Status(200, "content-type: text/html\r\n", "<html>log in".into())).await;
    has(&open(&html).error().await, &["no server answers", "<html>log in"]);
    let (one, other) = (tei(|_| {}).await, tei(|info| info["model_sha"] = json!("other")).await);
    has(&Setup::tei(&[&one.url, &other.url]).error().await, &["while the first is", "abc123", "other"]);
}

#[tokio::test]
async fn a_configuration_without_a_sense_is_refused() {
    let server = tei(|_| {}).await;
    has(&Setup { urls: Vec::new(), ..Setup::tei(&[]) }.error().await, &["names no server"]);
    has(
        &Setup { folder: "/no/where".into(), ..Setup::tei(&[&server.url]) }.error().await,
        &["/no/where/config.json", "`folder`"],
    );
    has(&Setup { fall_back: true, ..Setup::tei(&[&server.url]) }.error().await, &["not on this machine"]);
    // Nobody asks for it: the table may stay.
    let idle = Setup { demands: Vec::new(), ..Setup::tei(&["http://127.0.0.1:1"]) }.start().await.unwrap();
    assert_eq!(idle.engine.kind(&ModelName::new(MODEL)).await, None);
}
