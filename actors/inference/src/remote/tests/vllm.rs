//! vLLM: what it really answers for tiny models is what this program computes from the same tensors.

use openvalidators_messages::inference::{
    Classify, Composed, Generate, Input, LogProb, LogProbability, Logits, Overflow, Part,
};

use super::{recorded::Recorded, *};

/// Both compute in f32, in another order.
const TOLERANCE: f32 = 2e-5;

const PROMPT: &str = "Question: What is the capital of Texas?\nAnswer:";

const COMPLETIONS: [&str; 6] = [
    " The capital of Texas is Austin.",
    "",
    " I do not know </s> what you mean <unk>",
    " The capital of Texas is Austin.",
    " Austin Austin Austin Austin Austin Austin Austin Austin Austin Austin",
    " 日本語 🙂",
];

async fn served(name: &str, folder: &std::path::Path, url: &str, demands: Vec<Demand>) -> Started {
    let setup = Setup {
        kind: RemoteKind::Openai,
        folder: folder.to_owned(),
        local: true,
        max_sequence_tokens: 400,
        demands,
        ..Setup::tei(&[url])
    };
    let started = setup.start().await.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(started.local.kind(&ModelName::new(MODEL)).await.is_some());
    started
}

fn close(found: &[f32], expected: &[f32]) -> bool {
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= TOLERANCE * (1.0 + b.abs()))
}

fn log_prob() -> LogProb {
    LogProb {
        model: ModelName::new(MODEL),
        prompt: PROMPT.into(),
        completions: COMPLETIONS.iter().map(|&text| text.into()).collect(),
        repetition_penalty: 1.0,
    }
}

#[tokio::test]
async fn log_probabilities_and_continuations_are_those_of_this_machine() {
    let recorded = Recorded::open("vllm_llama", "OPENVALIDATORS_TEST_VLLM_LLAMA").await;
    let folder = with_one_head("llama");
    let demands = vec![Demand::LogProb { repetition_penalty: 1.0 }, Demand::Generate];
    let started = served("llama", folder.path(), &recorded.server.url, demands).await;

    let found = started.engine.log_prob(log_prob()).await.unwrap();
    let expected = started.local.log_prob(log_prob()).await.unwrap();
    assert_eq!(found.len(), COMPLETIONS.len());
    for ((found, expected), text) in found.iter().zip(&expected).zip(COMPLETIONS) {
        let (LogProbability { mean, tokens }, expected) = (found.as_ref().unwrap(), expected.as_ref().unwrap());
        assert_eq!(*tokens, expected.tokens, "{text:?}");
        assert!(close(mean.as_slice(), expected.mean.as_slice()), "{text:?}: {mean:?} {expected:?}");
    }
    assert_eq!(found[1].as_ref().unwrap(), &LogProbability { mean: None, tokens: 0 }, "no token, no number");

    let prompts = ["Once upon a time", "</s> The", "日本"];
    let generate = || Generate {
        model: ModelName::new(MODEL),
        prompts: prompts.map(|text| Composed(vec![Part::Ours("<s>".into()), Part::Theirs(text.into())])).to_vec(),
        max_new_tokens: 8,
    };
    let found = started.engine.generate(generate()).await.unwrap();
    assert_eq!(found, started.local.generate(generate()).await.unwrap());

    // Every row is one that was asked for, and each is sent once.
    let rows: usize =
        recorded.server.asked("/v1/completions").iter().map(|body| body["prompt"].as_array().unwrap().len()).sum();
    let before_it_is_believed = 2;
    assert_eq!(rows, before_it_is_believed + COMPLETIONS.len() - 2 + prompts.len());
    let facts = &started.engine.models().await[0].digests;
    assert_eq!(facts[0], ("server".to_owned(), recorded.server.url.clone()));
    assert!(facts.contains(&("engine".to_owned(), "vllm".to_owned())), "{facts:?}");
    recorded.keep().await;
}

#[tokio::test]
async fn embeddings_are_those_of_this_machine_windows_and_all() {
    let recorded = Recorded::open("vllm_distilroberta", "OPENVALIDATORS_TEST_VLLM_DISTILROBERTA").await;
    let folder = with_one_head("distilroberta");
    let poolings = [Pooling::Mean, Pooling::MeanNormalised, Pooling::MeanOfWindows];
    let demands = poolings.map(Demand::Embed).to_vec();
    let started = served("distilroberta", folder.path(), &recorded.server.url, demands).await;
    let long = "one two three four five six seven eight nine ten ".repeat(12);
    let texts = ["The capital of Texas is Austin.", "", "I </s> do not <mask> know.", &long];
    for pooling in poolings {
        let found = started.engine.embed(Embed { pooling, ..embed(&texts) }).await.unwrap();
        let expected = started.local.embed(Embed { pooling, ..embed(&texts) }).await.unwrap();
        for ((found, expected), text) in found.iter().zip(&expected).zip(texts) {
            let (found, expected) = (found.as_ref().unwrap(), expected.as_ref().unwrap());
            assert!(close(found, expected), "{pooling:?} {text:?}: {found:?} {expected:?}");
        }
    }
    recorded.keep().await;
}

#[tokio::test]
async fn logits_are_those_of_this_machine_before_any_softmax() {
    let recorded = Recorded::open("vllm_roberta", "OPENVALIDATORS_TEST_VLLM_ROBERTA").await;
    let folder = with_one_head("roberta_nsfw");
    let overflows = [Overflow::Cut, Overflow::Whole, Overflow::Windows, Overflow::BareWindows];
    let demands = overflows.map(|overflow| Demand::Classify { overflow, pairs: false }).to_vec();
    let started = served("roberta", folder.path(), &recorded.server.url, demands).await;
    let long = "one two three four five six seven eight nine ten ".repeat(12);
    let input = |text: &str| Input::Text(Composed::from(Arc::<str>::from(text)));
    for overflow in overflows {
        let ask = || Classify {
            model: ModelName::new(MODEL),
            inputs: ["A text.", "A </s> text.", &long].map(input).to_vec(),
            overflow,
        };
        let (found, expected) =
            (started.engine.classify(ask()).await.unwrap(), started.local.classify(ask()).await.unwrap());
        let windows = |rows: &[Row<Logits>]| rows.iter().map(|row| row.as_ref().unwrap().len()).collect::<Vec<_>>();
        assert_eq!(windows(&found), windows(&expected), "{overflow:?}");
        for (found, expected) in found.iter().flatten().flatten().zip(expected.iter().flatten().flatten()) {
            assert!(close(found, expected), "{overflow:?}: {found:?} {expected:?}");
        }
    }
    recorded.keep().await;
}
