//! How far f16 and bf16 lie from f32: every network of the reference's tiny checkpoints, asked through the engine about the texts
//! that the goldens are of. On a processor these numbers are computed by the portable form of every operation, so this is also
//! where the code that a GPU runs is run.
//!
//! `cargo test -p openvalidators-inference --lib precision -- --nocapture` prints the table of `docs/gpu.md`.

use std::sync::Arc;

use openvalidators_messages::inference::{Classify, Composed, Embed, Input, LogProb, ModelName, Overflow, Pooling};
use openvalidators_runtime::SystemClock;
use prometheus::Registry;

use crate::{
    Config, Dtype, Engine, Kind, LocalEngine, Metrics, ModelSource,
    models::parity::{fixtures, texts},
};

/// Each checkpoint, and the most that may lie between f32 and f16, and between f32 and bf16: twice what was measured.
/// Differences are relative for numbers beyond 1.
const BOUNDS: [(&str, f32, f32); 11] = [
    ("bert", 3.0e-4, 3.8e-3),
    ("btlm", 1.6e-4, 1.4e-3),
    ("deberta_rm", 4.6e-3, 3.2e-2),
    ("distilroberta", 1.1e-3, 1.1e-2),
    ("gpt2", 1.3e-3, 1.5e-2),
    ("gptj_base", 8.2e-3, 4.8e-2),
    ("gptj_rm", 7.2e-3, 2.2e-2),
    ("gptneo", 1.1e-3, 2.0e-2),
    ("llama", 1.9e-3, 1.6e-2),
    ("mpnet", 2.2e-3, 1.5e-2),
    ("roberta_nsfw", 7.2e-3, 3.2e-2),
];

/// What one checkpoint says.
struct Answer {
    kind: Kind,
    numbers: Vec<f32>,
}

/// What each checkpoint says in numbers of `dtype`.
async fn answers(dtype: Dtype) -> Vec<Answer> {
    let source = |(name, ..): &(&str, f32, f32)| ModelSource {
        name: ModelName::new(name),
        directory: fixtures().join("parity/models").join(name),
    };
    let sources: Vec<ModelSource> = BOUNDS.iter().map(source).collect();
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let config = Config { dtype, ..Config::default() };
    let engine = LocalEngine::start(&config, &sources, metrics, SystemClock::shared()).unwrap();
    let mut answers = Vec::new();
    for ModelSource { name, .. } in &sources {
        let kind = engine.kind(name).await.unwrap();
        answers.push(Answer { kind, numbers: numbers(&engine, name, kind).await });
    }
    answers
}

async fn numbers(engine: &LocalEngine, model: &ModelName, kind: Kind) -> Vec<f32> {
    let (prompts, completions) = (texts("prompts"), texts("completions"));
    let completions: Vec<Arc<str>> = completions.iter().map(|text| Arc::from(text.as_str())).collect();
    let mut numbers = Vec::new();
    match kind {
        Kind::Encoder => {
            let request = Embed { model: model.clone(), texts: completions, pooling: Pooling::MeanNormalised };
            for row in engine.embed(request).await.unwrap() {
                numbers.extend_from_slice(&row.unwrap());
            }
        }
        Kind::CausalLm => {
            for prompt in &prompts[..2] {
                let request = LogProb {
                    model: model.clone(),
                    // The shortest of these networks takes 128 tokens.
                    prompt: prompt.chars().take(120).collect::<String>().into(),
                    completions: completions.clone(),
                    // A penalty divides a logit just above zero and multiplies one just below, by thousands where a miner
                    // repeats himself: no error of the network.
                    repetition_penalty: 1.0,
                };
                for row in engine.log_prob(request).await.unwrap() {
                    numbers.extend(row.unwrap().mean);
                }
            }
        }
        Kind::Classifier => {
            let input = |text: &Arc<str>| Input::Text(Composed::from(Arc::from(format!("{} {text}", prompts[1]))));
            let inputs = completions.iter().map(input).collect();
            let request = Classify { model: model.clone(), inputs, overflow: Overflow::Windows };
            for row in engine.classify(request).await.unwrap() {
                numbers.extend(row.unwrap().iter().flat_map(|window| window.to_vec()));
            }
        }
    }
    numbers
}

#[tokio::test]
async fn half_the_bits_cost_no_more_than_the_table_says() {
    let exact = answers(Dtype::F32).await;
    let farthest = |ours: &[Answer]| -> Vec<f32> {
        let of_one = |(ours, exact): (&Answer, &Answer)| {
            let (ours, exact) = (&ours.numbers, &exact.numbers);
            assert!(ours.len() == exact.len() && exact.len() >= 20 && ours.iter().all(|number| number.is_finite()));
            let difference = |(ours, exact): (&f32, &f32)| (ours - exact).abs() / exact.abs().max(1.0);
            ours.iter().zip(exact).map(difference).fold(0.0, f32::max)
        };
        ours.iter().zip(&exact).map(of_one).collect()
    };
    let (f16, bf16) = (farthest(&answers(Dtype::F16).await), farthest(&answers(Dtype::Bf16).await));
    let mut table = String::from("| checkpoint | what it says | f16 | bf16 |\n|---|---|---|---|\n");
    for (((name, ..), Answer { kind, .. }), (f16, bf16)) in BOUNDS.iter().zip(&exact).zip(f16.iter().zip(&bf16)) {
        let says = match kind {
            Kind::Encoder => "embeddings of length 1",
            Kind::CausalLm => "mean log-probabilities",
            Kind::Classifier => "logits",
        };
        table += &format!("| {name} | {says} | {f16:.1e} | {bf16:.1e} |\n");
    }
    // Shown where a test fails, and with --nocapture.
    #[allow(clippy::print_stdout)]
    {
        println!("{table}");
    }
    for ((name, f16_bound, bf16_bound), (f16, bf16)) in BOUNDS.iter().zip(f16.iter().zip(&bf16)) {
        assert!(
            0.0 < *f16 && f16 <= f16_bound,
            "{name} in f16 is {f16} away, more than {f16_bound}, or not in f16 at all"
        );
        assert!(0.0 < *bf16 && bf16 <= bf16_bound, "{name} in bf16 is {bf16} away, more than {bf16_bound}");
    }
}
