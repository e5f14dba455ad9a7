use openvalidators_hub::{Catalogue, HubConfig};
use openvalidators_inference::Kind;

use super::*;

/// A hub that has nothing.
fn nothing_here() -> (tempfile::TempDir, Hub) {
    let folder = tempfile::tempdir().unwrap();
    let config = HubConfig { folder: Some(folder.path().to_owned()), ..HubConfig::default() };
    let hub = Hub::with(&config, Catalogue::standard().unwrap(), SystemClock::shared(), &|_| None).unwrap();
    (folder, hub)
}

fn stack_of(config: &Config) -> Stack {
    Stack::of(config, &nothing_here().1, &used(config)).unwrap()
}

fn profile(profile: Profile) -> (Config, Stack) {
    let config = Config::of_profile(profile).unwrap();
    let stack = stack_of(&config);
    (config, stack)
}

#[test]
fn every_profile_is_whole_and_says_what_it_takes() {
    for name in Profile::ALL {
        let (config, stack) = profile(name);
        let shares: f64 = config.rewards.weights.values().sum();
        assert!((shares - 1.0).abs() < 1e-6, "{name}");
        assert!(stack.models.iter().all(|model| model.parameters.is_some() && model.file_bytes.is_some()), "{name}");
        let placed = config.inference.placement.keys();
        assert!(
            placed.clone().all(|model| used(&config).contains(model)),
            "{name} places a model that it does not use"
        );
        let head = format!("# Sizes: {}.\n", stack.summary());
        assert!(name.toml().contains(&head), "configs/{name}.toml should say\n{head}");
    }
}

/// What is asked of each model is what it can do; that of the two that are fetched by default is checked by the engine too.
#[test]
fn every_profile_asks_models_for_what_they_are() {
    let kind = |model: &ModelName| match &*model.0 {
        "SmolLM2-135M-Instruct" | "btlm-3b-8k-base" => Kind::CausalLm,
        "all-MiniLM-L6-v2" | "bert-base-uncased" | "all-mpnet-base-v2" => Kind::Encoder,
        "reward-model-deberta-v3-large-v2" | "gpt-j_rm_format-oa" | "roberta-hate-speech-dynabench-r4-target" => {
            Kind::Classifier
        }
        other => panic!("what is {other}?"),
    };
    for name in Profile::ALL {
        for (key, model, wanted) in profile(name).0.models_used() {
            assert_eq!(kind(model), wanted, "{name}: {key} is {model}");
        }
    }
}

/// `reward/config.py` of openvalidators 1.2.0, and the bounds of its filters.
#[test]
fn the_full_profile_is_the_stack_of_the_reference() {
    let rewards = profile(Profile::Full).0.rewards;
    let share = |name: &str| rewards.weights[&format!("{name}_reward_model")];
    assert_eq!(["dpo", "rlhf", "reciprocate", "dahoas", "prompt"].map(share), [0.3, 0.4, 0.3, 0.0, 0.0]);
    let stages: Vec<_> = rewards.relevance.stages.iter().map(|stage| (&*stage.model.0, stage.threshold)).collect();
    assert_eq!(stages, [("bert-base-uncased", -0.0246), ("all-mpnet-base-v2", 0.3)]);
    assert!(rewards.nsfw.enabled && rewards.diversity.enabled && rewards.blacklist.enabled);
    assert!((rewards.diversity.batch_midpoint - 0.1).abs() < 1e-6);
}

#[test]
fn what_does_not_fit_is_refused_with_the_profile_that_does() {
    const GB: u64 = 1_000_000_000;
    let (config, stack) = profile(Profile::Medium);
    let free = |host: u64, gpu: Option<u64>| {
        move |memory| match memory {
            Memory::Host => Some(host),
            Memory::Gpu(_) => gpu,
        }
    };
    stack.check_fits(&config, &free(30 * GB, None)).unwrap();
    stack.check_fits(&config, &|_| None).unwrap();
    let error = stack.check_fits(&config, &free(15 * GB, None)).unwrap_err().to_string();
    for words in ["15.0 GB are free", "btlm-3b-8k-base 10.6 GB (f32)", "`--profile cpu` fits", "models.check_memory"] {
        assert!(error.contains(words), "{error}");
    }
    let error = stack.check_fits(&config, &free(GB / 2, None)).unwrap_err().to_string();
    assert!(error.contains("no profile fits") && error.contains("`cpu`"), "{error}");
    let mut anyway = config;
    anyway.models.check_memory = false;
    stack.check_fits(&anyway, &free(GB, None)).unwrap();

    // Each device by itself; what is not known of a GPU is no reason to name a profile on it.
    let (config, stack) = profile(Profile::Full);
    stack.check_fits(&config, &free(15 * GB, Some(24 * GB))).unwrap();
    let error = stack.check_fits(&config, &free(15 * GB, Some(16 * GB))).unwrap_err().to_string();
    assert!(error.contains("the memory of cuda:0") && error.contains("`--profile cpu`"), "{error}");
    let error = stack.check_fits(&config, &free(3 * GB, None)).unwrap_err().to_string();
    assert!(error.contains("this machine's memory") && error.contains("`--profile cpu`"), "{error}");
}

#[test]
fn models_are_counted_where_they_go_and_as_what() {
    let mut config = Config::default();
    let [encoder, causal] = ["all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"].map(ModelName::new);
    config.inference = toml::from_str(
        "device = 'cuda:1'\ndtype = 'bf16'\nbatch_tokens = 1\nmax_sequence_tokens = 1\n\
         placement = { all-MiniLM-L6-v2 = { device = 'cpu:1', dtype = 'f32' } }",
    )
    .unwrap();
    let stack = Stack::of(&config, &nothing_here().1, &[encoder, causal]).unwrap();
    let needs = stack.needs();
    assert_eq!(needs[&Memory::Gpu(1)].weights, 134_515_008 * 2);
    assert_eq!(needs[&Memory::Gpu(1)].working, (256 << 10) + 134_515_008 * 2 / 10);
    assert_eq!(needs[&Memory::Host].weights, 22_565_376 * 4);
    assert_eq!(needs[&Memory::Host].loading, 98_362_432, "files pass through here wherever they go");
    assert_eq!(stack.file_bytes(), Amount::Exactly(189_698_182));
}

/// The table of sizes against the real files, where they are here.
#[test]
fn known_sizes_are_those_of_the_files() {
    let hub = Hub::new(&HubConfig::default(), SystemClock::shared()).unwrap();
    for name in ["all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"] {
        let source = ModelSource { name: ModelName::new(name), directory: hub.folder(name) };
        if !source.directory.is_dir() {
            eprintln!("SKIPPED: {} is absent: fetch it with `openvalidators models fetch`", source.directory.display());
            continue;
        }
        assert_eq!(hub.entry(name).unwrap().parameters, Some(source.weigh().unwrap().parameters), "{name}");
    }
}
