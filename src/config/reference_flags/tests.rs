use openvalidators_messages::inference::Pooling;

use super::*;

/// No flag is dead: each key of the table exists in the configuration.
#[test]
fn every_key_of_the_table_exists() {
    let mut config = Config::default();
    // Keys that nobody set are not written.
    config.wallet.name = Some("mine".to_owned());
    config.wallet.hotkey = Some("1".to_owned());
    config.axon.external_ip = Some([198, 51, 100, 7].into());
    config.axon.external_port = Some(8_091);
    config.prompts.only = Some("embedded".to_owned());
    let config = toml::Value::try_from(config).unwrap();
    for row in rows() {
        for key in row.keys {
            let found = key.split('.').try_fold(&config, |table, part| table.get(part));
            assert!(found.is_some(), "{:?} sets {key}, which does not exist", row.spellings);
        }
    }
}

#[test]
fn flags_reach_the_configuration() {
    let command = clap::Command::new("run").args(arguments());
    let given = "run --neuron.answer_timeout 7.5 --neuron.disable_set_weights --neuron.blacklist_off \
        --neuron.use_custom_gating_model --gating.model_name sentence-transformers/all-distilroberta-v1";
    let matches = command.try_get_matches_from(given.split_whitespace()).unwrap();
    let mut layers = Layers::default();
    layers.add_defaults(crate::config::DEFAULT_TOML).unwrap();
    apply(&matches, &mut layers).unwrap();
    let config: Config = layers.read().unwrap();
    assert!((config.prompts.answer_timeout_seconds - 7.5).abs() < f64::EPSILON);
    assert!(config.weights.disable_set_weights);
    assert!(!config.rewards.blacklist.enabled);
    assert_eq!(&*config.gating.model.0, "sentence-transformers/all-distilroberta-v1");
    assert_eq!(config.gating.pooling, Pooling::MeanOfWindows, "as the reference pools sentence models");
}

/// As operators of 1.2.0 name it, it used to be unknown, and was to be a sentence model.
#[test]
fn the_encoder_of_the_reference_is_known_by_its_name_on_the_hub() {
    let command = clap::Command::new("run").args(arguments());
    let matches = command.try_get_matches_from(["run", "--gating.model_name", "EleutherAI/gpt-neo-125m"]).unwrap();
    let config = Config::load(&Default::default(), &matches, None).unwrap();
    assert_eq!((&*config.gating.model.0, config.gating.pooling), ("gpt-neo-125m", Pooling::LastToken));
}

/// `--wallet.hotkey 1` used to be a number where a name is asked for.
#[test]
fn a_wallet_may_have_a_number_for_a_name() {
    let command = clap::Command::new("run").args(arguments_of(&["wallet."]));
    let given = ["run", "--wallet.name", "true", "--wallet.hotkey", "1", "--wallet.path", "/srv/wallets"];
    let mut layers = Layers::default();
    layers.add_defaults(crate::config::DEFAULT_TOML).unwrap();
    apply(&command.try_get_matches_from(given).unwrap(), &mut layers).unwrap();
    let wallet = layers.read::<Config>().unwrap().wallet;
    assert_eq!((wallet.name.as_deref(), wallet.hotkey.as_deref()), (Some("true"), Some("1")));
    assert_eq!(wallet.path, std::path::Path::new("/srv/wallets"));
}

#[test]
fn the_axon_is_set_by_the_flags_of_the_reference() {
    let command = clap::Command::new("run").args(arguments());
    let given = "run --neuron.axon_off --axon.ip 127.0.0.1 --axon.port 9000 --axon.external_ip 198.51.100.7 \
        --axon.external_port 9001";
    let matches = command.try_get_matches_from(given.split_whitespace()).unwrap();
    let mut layers = Layers::default();
    layers.add_defaults(crate::config::DEFAULT_TOML).unwrap();
    apply(&matches, &mut layers).unwrap();
    let axon = layers.read::<Config>().unwrap().axon;
    assert!(axon.off && axon.ip.is_loopback() && axon.port == 9_000);
    assert_eq!((axon.external_ip, axon.external_port), (Some([198, 51, 100, 7].into()), Some(9_001)));
}

#[test]
fn the_flags_of_wandb_are_those_of_the_reference() {
    let command = clap::Command::new("run").args(arguments());
    let given =
        "run --wandb.offline --wandb.project_name 1 --wandb.entity mine --wandb.run_step_length 7 --wandb.notes true";
    let mut layers = Layers::default();
    layers.add_defaults(crate::config::DEFAULT_TOML).unwrap();
    apply(&command.try_get_matches_from(given.split_whitespace()).unwrap(), &mut layers).unwrap();
    let wandb = layers.read::<Config>().unwrap().reporting.wandb;
    wandb.check().unwrap();
    assert_eq!(wandb.mode, openvalidators_reporting::wandb::Mode::Offline);
    assert_eq!((&*wandb.project_name, &*wandb.entity, &*wandb.notes), ("1", "mine", "true"));
    assert_eq!(wandb.run_step_length, 7);
}

#[test]
fn the_rewards_flags_set_shares_and_switches() {
    let command = clap::Command::new("run").args(arguments());
    let given = "run --reward.dpo_weight 0.3 --reward.rlhf_weight 0.25 --reward.reciprocate_weight 0.2 \
        --reward.dahoas_weight 0.15 --reward.prompt_based_weight 0.1 --neuron.nsfw_off --neuron.relevance_off \
        --neuron.diversity_off --neuron.task_validator_off --neuron.blacklist_off";
    let matches = command.try_get_matches_from(given.split_whitespace()).unwrap();
    let mut layers = Layers::default();
    layers.add_defaults(crate::config::DEFAULT_TOML).unwrap();
    layers.add_defaults("[rewards.nsfw]\nenabled = true").unwrap();
    apply(&matches, &mut layers).unwrap();
    let rewards = layers.read::<Config>().unwrap().rewards;
    rewards.check().unwrap();
    let share = |name: &str| rewards.weights[&format!("{name}_reward_model")];
    let shares = ["dpo", "rlhf", "reciprocate", "dahoas", "prompt"].map(share);
    assert_eq!(shares, [0.3, 0.25, 0.2, 0.15, 0.1]);
    let on = [
        rewards.nsfw.enabled,
        rewards.relevance.enabled,
        rewards.diversity.enabled,
        rewards.task_validator.enabled,
        rewards.blacklist.enabled,
    ];
    assert_eq!(on, [false; 5]);
}

#[test]
fn a_flag_without_an_effect_says_why() {
    let command = clap::Command::new("run").args(arguments());
    let matches = command.try_get_matches_from(["run", "--wandb.weights_step_length", "5"]).unwrap();
    let error = apply(&matches, &mut Layers::default()).unwrap_err().to_string();
    assert!(error.contains("--wandb.weights_step_length") && error.contains("never read it"), "{error}");
}

fn given(flags: &str) -> Result<Config, crate::config::ConfigError> {
    let command = clap::Command::new("run").args(arguments());
    let matches = command.try_get_matches_from(format!("run {flags}").split_whitespace()).unwrap();
    Config::load(&Default::default(), &matches, None)
}

/// The SDK's own table of `--subtensor.register.*` has short forms without a dot.
#[test]
fn every_spelling_is_answered() {
    for row in rows() {
        for spelling in &row.spellings {
            let value = if row.takes_value { "1" } else { "" };
            let told = given(&format!("{spelling} {value}"));
            let Some(reason) = row.does.strip_prefix("refused: ") else { continue };
            let told = told.unwrap_err().to_string();
            assert!(told.contains(&row.spellings[0]) && told.contains(reason), "{spelling}: {told}");
        }
    }
}

#[test]
fn mock_is_the_local_network_whatever_the_file_says() {
    let config = given("--mock --netuid 3").unwrap();
    assert!(!config.chain.endpoint.is_remote() && !config.wallet.is_named());
    let mut layers = Layers::default();
    layers.add_defaults(crate::config::DEFAULT_TOML).unwrap();
    layers.add_defaults("[chain]\nendpoint = [\"wss://a:1\"]\n[wallet]\nname = \"mine\"\nhotkey = \"1\"").unwrap();
    let command = clap::Command::new("run").args(arguments());
    apply(&command.try_get_matches_from(["run", "--mock"]).unwrap(), &mut layers).unwrap();
    let config = layers.read::<Config>().unwrap();
    assert!(!config.chain.endpoint.is_remote() && !config.wallet.is_named(), "{:?}", config.chain.endpoint);
}

/// Each takes its own part out and leaves the others as they are.
#[test]
fn each_mock_swaps_its_part_alone() {
    let default = Config::default();
    let rewards = given("--neuron.mock_reward_models").unwrap();
    assert!(rewards.models_used().is_empty());
    assert_eq!(Config { rewards: default.rewards.clone(), ..rewards }, default);

    let dendrite = given("--neuron.mock_dendrite_pool").unwrap();
    assert_eq!(dendrite.dendrite.transport, openvalidators_dendrite::Choice::Mock);
    assert_eq!(Config { dendrite: default.dendrite.clone(), ..dendrite }, default);

    let gating = given("--neuron.mock_gating_model").unwrap();
    assert!(gating.models_of_run().iter().all(|(key, ..)| *key != "gating.model"));
    assert_eq!(Config { gating: default.gating.clone(), ..gating }, default);

    let prompts = given("--neuron.mock_dataset").unwrap();
    assert_eq!(prompts.prompts.only.as_deref(), Some("embedded"));
    assert_eq!(Config { prompts: default.prompts.clone(), ..prompts }, default);
}

/// Completions that nobody made must not pay anybody.
#[test]
fn a_real_network_gets_no_weights_from_mocked_completions() {
    let real = "--subtensor.network test --netuid 5 --neuron.mock_dendrite_pool";
    let told = given(real).unwrap_err().to_string();
    assert!(told.contains("dendrite.transport") && told.contains("--neuron.disable_set_weights"), "{told}");
    given(&format!("{real} --neuron.disable_set_weights")).unwrap();
}

#[test]
fn a_name_is_a_folder_below_the_state_directory() {
    let at = |flags: &str| given(flags).unwrap().state_dir;
    assert_eq!(at("--neuron.name mine"), std::path::Path::new("state/mine"));
    assert_eq!(at("--neuron.name mine --logging.logging_dir /srv"), std::path::Path::new("/srv/mine"));
    // `--state-dir` used to take the name away.
    let command = clap::Command::new("run").args(arguments());
    let matches = command.try_get_matches_from(["run", "--neuron.name", "mine"]).unwrap();
    let settings = crate::cli::Settings { state_dir: Some("/here".into()), ..Default::default() };
    assert_eq!(Config::load(&settings, &matches, None).unwrap().state_dir, std::path::Path::new("/here/mine"));
}
