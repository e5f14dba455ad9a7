//! What a step of 50 completions costs on a processor, ours beside the reference's own classes on the same random weights.
//!
//! ```sh
//! cargo bench --bench scoring -- --python PYTHON --reference CHECKOUT
//! ```
//!
//! `PYTHON` has torch, torchmetrics, safetensors and transformers 4.28, and onnxruntime with onnx for its rows; `CHECKOUT`
//! is one of openvalidators 1.2.0. Without them our rows stand alone. The networks have twelve layers of 768 (`--tiny`: two
//! of 64, to see whether it works); their weights are written once, into a temporary folder (3 GB), for both sides to read,
//! and where the two sides' numbers differ the program fails. Some fifteen minutes on two quiet cores.
//!
//! `openvalidators bench scoring` measures the orders of work of this program alone, at any size and on any device.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a program for people")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Parser;
use openvalidators::{
    bench::{
        Bench, farthest,
        spent::Spent,
        table::{Line, markdown},
        work::{Order, Part, Step},
    },
    cli::Settings,
    config::{Config, DEFAULT_TOML, SCORE_TOML},
};
use openvalidators_inference::{
    ModelSource,
    synthetic::{self, Size, Synthetic},
};
use openvalidators_messages::inference::ModelName;
use openvalidators_runtime::SystemClock;
use serde::Deserialize;
use serde_json::json;

/// Completions whose numbers are compared between the two sides.
const COMPARED: usize = 3;

/// How far the two sides may be apart, relative to numbers above 1. On tiny networks they agree to 2e-5; twelve layers of
/// f32 sums in another order take more.
const TOLERATED: f32 = 5e-4;

/// Measures a step's scoring on this processor.
#[derive(Debug, Parser)]
struct Options {
    /// A Python with torch and transformers 4.28.
    #[arg(long, value_name = "PATH", requires = "reference")]
    python: Option<PathBuf>,
    /// A checkout of openvalidators 1.2.0.
    #[arg(long, value_name = "FOLDER", env = "REF")]
    reference: Option<PathBuf>,
    /// Completions of the step.
    #[arg(long, value_name = "N", default_value_t = 50)]
    completions: usize,
    /// Tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 400)]
    prompt_tokens: usize,
    /// Tokens of each completion.
    #[arg(long, value_name = "N", default_value_t = 120)]
    completion_tokens: usize,
    /// Threads on both sides; 0 is one for each core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Only these.
    #[arg(long, value_enum, value_name = "PART,…", value_delimiter = ',')]
    only: Vec<Part>,
    /// Two layers of 64: whether it works, not how fast it is.
    #[arg(long)]
    tiny: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the other side says.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Measured {
        part: Part,
        how: String,
        #[serde(flatten)]
        spent: Spent,
        numbers: Option<Vec<Vec<f32>>>,
    },
    Note {
        #[serde(default)]
        part: String,
        note: String,
    },
}

fn main() {
    let options = Options::parse();
    actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the system gives threads")
    })
    .block_on(run(&options));
}

async fn run(options: &Options) {
    let parts = if options.only.is_empty() { Part::ALL.to_vec() } else { options.only.clone() };
    let mut networks = synthetic::stack(if options.tiny { Size::Tiny } else { Size::Base }).unwrap();
    if options.tiny {
        // BTLM is code that transformers does not have; and the reference cuts at 512 whatever a model's limit is.
        networks.insert("dpo".into(), gpt2_of_the_others(&networks));
    }
    let words = networks.values().map(Synthetic::words).min().unwrap();
    let step = Step::random(words, options.prompt_tokens, options.completions, options.completion_tokens);
    let folder = tempfile::tempdir().unwrap();
    for role in parts.iter().flat_map(|part| part.roles()) {
        let directory = folder.path().join(role);
        networks[*role].write(&directory, 7).unwrap();
        synthetic::write_weights(&ModelSource { name: ModelName::new(role), directory }).unwrap();
    }
    let settings = Settings { set: vec![format!("inference.threads={}", options.threads)], ..Settings::default() };
    let config = Config::load_over(&[DEFAULT_TOML, SCORE_TOML], &settings, &clap::ArgMatches::default(), None).unwrap();
    let clock = SystemClock::shared();
    let bench = Bench { config, folder: folder.path(), networks, clock, repeats: 1 };
    let peak = bench.peak().unwrap();

    // Ours first: transformers marks the weights as its own.
    let (mut ours, mut numbers) = (Vec::new(), BTreeMap::new());
    for &part in &parts {
        let running = bench.start(&[part]).await.unwrap();
        bench.warm_up(&running, part, &step).await.unwrap();
        ours.push(bench.measure(&running, part, &step, Order::Shared, "ours").await.unwrap());
        let compared = bench.numbers(&running, part, &step.first(COMPARED), Order::Shared).await.unwrap();
        numbers.insert(part.to_string(), compared);
    }
    let mut whole = bench.whole(&parts, &step).await.unwrap();
    whole.how = "ours".into();

    let mut lines = Vec::new();
    let mut apart = Vec::new();
    match (&options.python, &options.reference) {
        (Some(python), Some(reference)) => {
            let threads = match options.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            };
            let work = json!({
                "models": folder.path(), "reference": reference, "prompt": &*step.prompt, "threads": threads,
                "completions": step.completions.iter().map(|text| &**text).collect::<Vec<_>>(),
                "compared": COMPARED.min(step.completions.len()), "parts": parts,
            });
            let path = folder.path().join("work.json");
            std::fs::write(&path, work.to_string()).unwrap();
            for said in others(python, &path) {
                match said {
                    Said::Note { part, note } => println!("{part}: {note}"),
                    Said::Measured { part, how, spent, numbers: theirs } => {
                        if let Some(theirs) = theirs {
                            let far = farthest(&numbers[&part.to_string()], &theirs).unwrap();
                            apart.push((part, far));
                        }
                        lines.push(line(&bench, part, &step, how, spent));
                    }
                }
            }
            assert_eq!(apart.len(), parts.len(), "the other side did not say its numbers for every part");
        }
        _ => println!("Without --python and --reference there is nobody to compare with.\n"),
    }
    for how in ["openvalidators 1.2.0", "torch, batched"] {
        let theirs: Vec<&Line> = lines.iter().filter(|line| line.how == how).collect();
        if theirs.len() == parts.len() {
            lines.push(Line::sum(&whole.what, how, theirs.into_iter()));
        }
    }
    lines.extend(ours);
    lines.push(whole);
    // The lines of one part together, in the order of parts; ours last.
    let order: Vec<String> = parts.iter().map(Part::to_string).collect();
    lines.sort_by_key(|line| order.iter().position(|part| *part == line.what).unwrap_or(order.len()));

    println!(
        "{} completions of {} tokens, prompt {} tokens, f32; peak of bare matrix products {:.0} GFLOP/s.\n",
        options.completions,
        options.completion_tokens,
        options.prompt_tokens,
        peak / 1e9
    );
    println!("{}", markdown(&lines, peak));
    for (part, far) in &apart {
        println!("{part}: our numbers and the reference's differ by {far:.1e} at most");
    }
    let far = apart.iter().map(|(_, far)| *far).fold(0.0, f32::max);
    assert!(far <= TOLERATED, "the two sides do not compute the same: {far:e} is more than {TOLERATED:e}");
}

/// A line of the other side's.
fn line(bench: &Bench<'_>, part: Part, step: &Step, how: String, spent: Spent) -> Line {
    let is_reference = how.starts_with("openvalidators");
    // In batches each text is embedded once there too.
    let order = if part == Part::Relevance && !is_reference { Order::Shared } else { Order::OneByOne };
    let mut loads = bench.loads(part, step, order);
    if part == Part::Dpo && !is_reference {
        // And the head reads what comes before the tokens of completions.
        loads[0].judged = bench.loads(part, step, Order::Shared)[0].judged;
    }
    let tokens = loads.iter().map(|load| load.tokens).sum();
    Line { what: part.to_string(), how, spent, tokens, operations: bench.operations(part, &loads) }
}

/// Runs the other side to its end.
fn others(python: &Path, work: &Path) -> Vec<Said> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/reference.py");
    let mut child = Command::new(python).arg(script).arg(work).stdout(Stdio::piped()).spawn().expect("Python starts");
    let said = BufReader::new(child.stdout.take().unwrap());
    let said = said.lines().map_while(Result::ok).filter_map(|line| {
        let said = serde_json::from_str(&line);
        said.inspect_err(|error| println!("Python says what is not understood ({error}): {line}")).ok()
    });
    let said = said.collect();
    assert!(child.wait().unwrap().success(), "Python failed");
    said
}

/// A tiny GPT-2, in the place of BTLM.
fn gpt2_of_the_others(networks: &BTreeMap<String, Synthetic>) -> Synthetic {
    let mut network = networks["dpo"].clone();
    network.config["model_type"] = "gpt2".into();
    network.config["architectures"] = json!(["GPT2LMHeadModel"]);
    network.config["activation_function"] = "gelu_new".into();
    network.config["n_inner"] = 256.into();
    network
}
