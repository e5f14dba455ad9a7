//! What the relevance filter's threshold should be for the encoder it uses: cosines of completion and base text, for
//! honest completions and for such as are about something else; and how far apart honest completions of one prompt are,
//! which is what the diversity filter goes by. `cargo bench --bench relevance_threshold -- [PASSAGES]`.
//!
//! Honest are the local network's miners, one of each tier at least. Off-topic are their completions to the same kind of
//! step about another passage, and stock sentences. The passages are the embedded ones, drawn by another seed than any test.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::{collections::BTreeMap, sync::Arc};

use openvalidators::localnet::{Tier, answers::Author};
use openvalidators_hub::Hub;
use openvalidators_inference::{Config, Engine, LocalEngine, Metrics, ModelSource};
use openvalidators_messages::inference::{Embed, ModelName, Pooling};
use openvalidators_prompts::{Embedded, Script, Source, TemplatePaths};
use openvalidators_runtime::{Seed, SystemClock};
use prometheus::Registry;

const MODEL: &str = "all-MiniLM-L6-v2";
/// Forwards measured, each about one passage.
const PASSAGES: u64 = 40;
/// Not a seed of the tests.
const SEED: Seed = Seed(0x7265_6c65_7661_6e63);
/// Two good authors first: the conversation is built upon the first one's texts.
const TIERS: [Tier; 6] = [Tier::Good, Tier::Good, Tier::Fair, Tier::Fair, Tier::Poor, Tier::Poor];
const STEPS: [&str; 3] = ["augment", "followup", "answer"];
const STOCK: [&str; 4] = [
    "That is a very interesting topic.",
    "There are many ways to look at it, and all of them have their merits.",
    "I am not able to help with that.",
    "Thank you, what else would you like to know?",
];
/// Room for quotes in a prompt: the defaults of `[prompts]`.
const QUOTE_LIMIT_BYTES: usize = 1_500;
const QUOTED_TOTAL_BYTES: usize = 5_000;

type Disguise = fn(&str) -> String;
/// Ways to copy.
const DISGUISES: [(&str, Disguise); 3] = [
    ("a verbatim copy", str::to_owned),
    ("a copy in capitals, with other punctuation", |text| text.to_uppercase().replace(['.', ','], " !")),
    ("a copy without every tenth word", |text| {
        let kept = text.split(' ').enumerate().filter(|(place, _)| place % 10 != 9);
        kept.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    }),
];

/// One step of one conversation, as vectors.
struct Step {
    base: Arc<[f32]>,
    /// In the order of [`TIERS`].
    completions: Vec<Arc<[f32]>>,
    /// The first completion, copied in each of [`DISGUISES`].
    copies: Vec<Arc<[f32]>>,
}

#[tokio::main]
async fn main() {
    let passages = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(PASSAGES);
    let engine = engine().await;
    let stock = embed(&engine, STOCK.map(str::to_owned).to_vec()).await;
    let mut steps: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for passage in 0..passages {
        for (name, (base, completions)) in STEPS.into_iter().zip(conversation(passage)) {
            let copies = DISGUISES.map(|(_, disguise)| disguise(&completions[0])).to_vec();
            let mut completions = embed(&engine, [vec![base], completions, copies].concat()).await;
            let base = completions.remove(0);
            let copies = completions.split_off(TIERS.len());
            steps.entry(name).or_default().push(Step { base, completions, copies });
        }
    }
    println!("{MODEL}, {passages} passages: quantiles of the cosine of completion and base text\n");
    println!(
        "| step | completions | n | 1 % | 5 % | 25 % | 50 % | 75 % | 95 % | 99 % |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let (mut honest, mut off) = (Vec::new(), Vec::new());
    for name in STEPS {
        let steps = &steps[name];
        for (tier, label) in [(Tier::Good, "good"), (Tier::Fair, "fair"), (Tier::Poor, "poor")] {
            let found = cosines(steps, |place, _| {
                TIERS
                    .iter()
                    .enumerate()
                    .filter(|(_, t)| **t == tier)
                    .map(|(i, _)| steps[place].completions[i].clone())
                    .collect()
            });
            row(name, label, &found);
            if tier != Tier::Poor {
                honest.extend(found.iter().map(|cosine| (name, *cosine)));
            }
        }
        let elsewhere = cosines(steps, |place, count| steps[(place + 1) % count].completions[..4].to_vec());
        row(name, "about another passage", &elsewhere);
        let lazy = cosines(steps, |_, _| stock.clone());
        row(name, "stock sentences", &lazy);
        off.extend(elsewhere.iter().chain(&lazy).map(|cosine| (name, *cosine)));
    }
    println!("\nShare of good and fair completions blocked, and of off-topic ones passed, by threshold\n");
    println!(
        "| threshold | augment | followup | answer | all: blocked | all: passed | sum |\n|---|---|---|---|---|---|---|"
    );
    for threshold in (1..=10).map(|step| 0.05 * step as f32) {
        let share = |of: &[(&str, f32)], step: &str, holds: &dyn Fn(f32) -> bool| {
            let of: Vec<f32> =
                of.iter().filter(|(name, _)| step.is_empty() || *name == step).map(|(_, c)| *c).collect();
            100.0 * of.iter().filter(|cosine| holds(**cosine)).count() as f64 / of.len() as f64
        };
        let blocked = |step: &str| share(&honest, step, &|cosine| cosine < threshold);
        let passed = |step: &str| share(&off, step, &|cosine| cosine >= threshold);
        let each = STEPS.map(|step| format!("{:.1} % / {:.1} %", blocked(step), passed(step)));
        let (b, p) = (blocked(""), passed(""));
        println!("| {threshold:.2} | {} | {b:.1} % | {p:.1} % | {:.1} % |", each.join(" | "), b + p);
    }
    println!(
        "\nDistance, 1 − cosine, of a good completion to the nearest other honest one of its step, and of its copies to it\n"
    );
    println!("| step | to | n | 5 % | 25 % | 50 % | 75 % | 95 % |\n|---|---|---|---|---|---|---|---|");
    for name in STEPS {
        let steps = &steps[name];
        let honest = |step: &Step| step.completions[1..].iter().map(|other| distance(step, other)).fold(1.0, f32::min);
        distances(name, "the nearest honest one", steps.iter().map(honest).collect());
        for (place, (label, _)) in DISGUISES.iter().enumerate() {
            distances(name, label, steps.iter().map(|step| distance(step, &step.copies[place])).collect());
        }
    }
}

/// From the first completion of a step.
fn distance(step: &Step, other: &[f32]) -> f32 {
    1.0 - cosine(&step.completions[0], other)
}

fn distances(step: &str, label: &str, mut found: Vec<f32>) {
    found.sort_by(f32::total_cmp);
    let at = |share| format!("{:.3}", quantile(&found, share).max(0.0));
    println!("| {step} | {label} | {} | {} |", found.len(), [0.05, 0.25, 0.5, 0.75, 0.95].map(at).join(" | "));
}

/// Base text and honest completions of an augment, a followup and an answer step about one passage.
fn conversation(passage: u64) -> [(String, Vec<String>); 3] {
    let script = Script::load(&TemplatePaths::default(), QUOTE_LIMIT_BYTES, QUOTED_TOTAL_BYTES, false).unwrap();
    let text = Embedded::new().draw(&mut SEED.rng("passage", &[passage])).unwrap().text;
    let complete = |prompt: &str| -> Vec<String> {
        let authors = (0..).zip(TIERS).map(|(index, tier)| Author { seed: SEED, index, tier });
        authors.map(|author| author.complete(prompt)).collect()
    };
    let prompt = script.augment(&text, 5).unwrap();
    let summaries = complete(&prompt);
    let summary = script.accept(&summaries[0]).unwrap();
    let conversation = script.begin(&summary);
    let questions = complete(&script.followup(&conversation, 0));
    let question = script.accept(&questions[0]).unwrap();
    let answers = complete(&script.answer(&conversation, &question));
    [(prompt, summaries), (summary.text, questions), (question.text, answers)]
}

async fn engine() -> LocalEngine {
    let hub = Hub::new(&Default::default(), SystemClock::shared()).unwrap();
    let found = hub.ensure(MODEL, openvalidators_hub::progress_for_people().as_ref()).await.unwrap();
    let source = ModelSource { name: ModelName::new(MODEL), directory: found.path };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    LocalEngine::start(&Config::default(), &[source], metrics, SystemClock::shared()).unwrap()
}

async fn embed(engine: &LocalEngine, texts: Vec<String>) -> Vec<Arc<[f32]>> {
    let texts = texts.into_iter().map(Arc::from).collect();
    let request = Embed { model: ModelName::new(MODEL), texts, pooling: Pooling::MeanNormalised };
    engine.embed(request).await.unwrap().into_iter().collect::<Result<_, _>>().unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Sorted cosines of each step's base text and the chosen completions; `chosen` gets a step's place and their number.
fn cosines(steps: &[Step], chosen: impl Fn(usize, usize) -> Vec<Arc<[f32]>>) -> Vec<f32> {
    let mut found: Vec<f32> = (0..steps.len())
        .flat_map(|place| chosen(place, steps.len()).into_iter().map(move |row| cosine(&steps[place].base, &row)))
        .collect();
    found.sort_by(f32::total_cmp);
    found
}

fn quantile(sorted: &[f32], share: f64) -> f32 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn row(step: &str, label: &str, sorted: &[f32]) {
    let at = |share| format!("{:.2}", quantile(sorted, share));
    let quantiles = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99].map(at).join(" | ");
    println!("| {step} | {label} | {} | {quantiles} |", sorted.len());
}
