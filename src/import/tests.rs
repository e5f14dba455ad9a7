use openvalidators_messages::inference::ModelName;
use openvalidators_runtime::Seed;
use rand::Rng;

use super::*;

/// Written by the code of 1.2.0 itself: `make.py` beside it.
fn fixture() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/migration")
}

fn expected<T: serde::de::DeserializeOwned>(key: &str) -> T {
    let text = std::fs::read(fixture().join("expected.json")).unwrap();
    let all: serde_json::Value = serde_json::from_slice(&text).unwrap();
    serde_json::from_value(all[key].clone()).unwrap()
}

/// With the encoders of 1.2.0.
fn config(state_dir: &Path) -> Config {
    let mut config = Config { state_dir: state_dir.to_owned(), ..Config::default() };
    config.gating.model = ModelName::new("gpt-neo-125m");
    config.gating.pooling = Pooling::LastToken;
    config.rewards.diversity.model = ModelName::new("all-mpnet-base-v2");
    config
}

fn import(from: &Path, config: &Config) -> anyhow::Result<ExitCode> {
    let command = Import { settings: Default::default(), from: from.to_owned(), json: true };
    run(&command, config, &*crate::network::local_signer()?)
}

fn beginning(config: &Config) -> Beginning {
    let hub = Hub::new(&config.models, SystemClock::shared()).unwrap();
    Beginning::of(&State::read(&fixture()).unwrap(), config, &hub).unwrap()
}

#[test]
fn what_1_2_0_had_learned_is_what_scores_routing_and_rewards_begin_with() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    import(&fixture(), &config).unwrap();
    let ledger = openvalidators_ledger::Reader::open(folder.path()).unwrap();
    let snapshot = |owner: &str| ledger.load_snapshot(owner).unwrap().unwrap();
    let hotkeys: Vec<Hotkey> = expected("hotkeys");

    let scores = Scores::restore(&snapshot("weights")).unwrap().table();
    let averages: Vec<f64> = expected("scores");
    for (hotkey, average) in hotkeys.iter().zip(averages) {
        let row = scores.rows.iter().find(|row| row.hotkey == *hotkey).unwrap();
        assert_eq!((row.score, row.asked), (average, 0));
    }
    assert_eq!(scores.rows.len(), 12);

    let routing = gating::snapshot::decode(&snapshot("gating"), &config.gating.rules()).unwrap();
    let (weights, biases): (Vec<Vec<f32>>, Vec<f32>) = (expected("weight"), expected("bias"));
    assert_eq!((routing.head().len(), routing.head().width()), (12, 32), "four rows of sixteen are nobody's");
    let mut rng = Seed(3).rng("test", &[]);
    let prompt: Vec<f32> = (0..32).map(|_| rng.random_range(-1.0..1.0)).collect();
    for (uid, hotkey) in hotkeys.iter().enumerate() {
        let sum: f32 = weights[uid].iter().zip(&prompt).map(|(weight, value)| weight * value).sum();
        let score = routing.head().score(hotkey, &prompt).unwrap();
        assert!((score - sum - biases[uid]).abs() < 1e-5, "uid {uid}");
    }

    let rules = rewards::fold::Rules::new(&config.rewards);
    let rewards = rewards::snapshot::decode(&snapshot(rewards::OWNER), &rules).unwrap();
    let history: Vec<Vec<f32>> = expected("history");
    assert_eq!((rewards.history.runs().concat(), rewards.history.width()), (history.concat(), 24));
    assert_eq!(rewards.history_model, "all-mpnet-base-v2");
}

#[test]
fn a_head_or_history_of_another_encoder_is_left_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    let says = |config: &Config, part: &str| {
        let findings = beginning(config).findings;
        let found = findings.into_iter().find(|finding| finding.part == part).unwrap();
        assert!(!found.taken, "{}", found.says);
        found.says
    };
    config.gating.pooling = Pooling::MeanNormalised;
    assert!(says(&config, "gating head").contains("gating.pooling"));
    config.gating.model = ModelName::new("all-MiniLM-L6-v2");
    assert!(says(&config, "gating head").contains("EleutherAI_gpt-neo-125m reads"));
    config.rewards.diversity.model = ModelName::new("all-MiniLM-L6-v2");
    assert!(says(&config, "diversity history").contains("do not mix"));
    assert!(beginning(&config).findings[0].taken, "the averages are taken whatever reads");
}

#[test]
fn a_ledger_with_steps_is_left_as_it_is_and_one_without_may_be_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    import(&fixture(), &config).unwrap();
    let other = Config { gating: gating::Config::default(), ..config.clone() };
    import(&fixture(), &other).unwrap();
    let ledger = openvalidators_ledger::Reader::open(folder.path()).unwrap();
    let routing = ledger.load_snapshot(gating::OWNER).unwrap().unwrap();
    let routing = gating::snapshot::decode(&routing, &other.gating.rules()).unwrap();
    assert!(routing.head().is_empty(), "the later import replaces the one before");
    let identity = ledger.identity().clone();
    Store::open(folder.path(), &identity, 0).unwrap().append(&crate::topology::tests::unscored()).unwrap();
    let refused = import(&fixture(), &config).unwrap_err().to_string();
    assert!(refused.contains("its ledger has 1 steps") && refused.contains("--state-dir"), "{refused}");
}

#[test]
fn a_directory_without_such_state_is_refused_and_nothing_is_written() {
    let (from, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state_dir = folder.path().join("state");
    let config = config(&state_dir);
    let refused = || format!("{:#}", import(from.path(), &config).unwrap_err());
    assert!(refused().contains("there is no model.torch in"));
    let copy = |name: &str, to: &str| std::fs::copy(fixture().join(name), from.path().join(to)).unwrap();
    copy("diversity_model.pth", "model.torch");
    assert!(refused().contains("no lists `neuron_hotkeys` and `neuron_weights`"));
    copy("model.torch", "model.torch");
    copy("diversity_model.pth", "some_model_gating_linear_layer.pth");
    assert!(refused().contains("no `weight` and `bias`"));
    copy("EleutherAI_gpt-neo-125m_gating_linear_layer.pth", "some_model_gating_linear_layer.pth");
    copy("model.torch", "diversity_model.pth");
    assert!(refused().contains("no `historic_embeddings`"));
    std::fs::write(from.path().join("diversity_model.pth"), b"torn").unwrap();
    assert!(refused().contains("diversity_model.pth"));
    assert!(!state_dir.exists());
}
