//! Every flag of openvalidators 1.2.0, in one table: the key it sets here, or why it sets nothing.
//!
//! Source: `openvalidators/config.py`, and the bittensor 5.3 argument groups it adds.

use clap::{Arg, ArgAction, ArgMatches};
use serde_json::{Map, Value as Json};
use toml::Value;

use super::{
    Config,
    layers::{Layers, Origin, parse_value},
};

/// One flag.
struct Flag {
    name: &'static str,
    means: Means,
}

/// What a flag does here.
#[derive(Clone, Copy)]
enum Means {
    /// Its value goes to these keys.
    Sets(&'static [&'static str]),
    /// Its value goes to this key as text: a hotkey may be called `1`.
    SetsText(&'static str),
    /// A switch that turns these keys on.
    On(&'static [&'static str]),
    /// A switch that turns these keys off.
    Off(&'static [&'static str]),
    /// A switch that gives a key this value.
    Says(&'static str, &'static str),
    /// Its value goes to the first key, and this word to the second; a switch after it may say otherwise.
    SetsAndSays(&'static str, &'static str, &'static str),
    /// It takes a value, and what it sets does not exist here (yet).
    AbsentValue(&'static str),
    /// It is a switch, and what it sets does not exist here (yet).
    AbsentSwitch(&'static str),
}

const NO_MOCKS: &str = "there are no mocks here: `openvalidators run` starts a real network on this machine instead";

const FLAGS: &[Flag] = &[
    flag("netuid", Means::Sets(&["chain.netuid"])),
    flag("neuron.name", Means::AbsentValue("use --state-dir to keep validators apart")),
    flag("neuron.device", Means::Sets(&["inference.device"])),
    flag("neuron.full_path", Means::Sets(&["state_dir"])),
    flag("neuron.disable_log_rewards", Means::On(&["reporting.disable_log_rewards"])),
    flag("neuron.num_concurrent_forwards", Means::Sets(&["prompts.concurrent_forwards"])),
    flag("neuron.disable_set_weights", Means::On(&["weights.disable_set_weights"])),
    flag("neuron.moving_average_alpha", Means::Sets(&["weights.moving_average_alpha"])),
    // The reference asks for the summary with the followup's timeout and sample size.
    flag(
        "neuron.followup_timeout",
        Means::Sets(&["prompts.augment_timeout_seconds", "prompts.followup_timeout_seconds"]),
    ),
    flag("neuron.followup_sample_size", Means::Sets(&["prompts.augment_sample_size", "prompts.followup_sample_size"])),
    flag("neuron.answer_timeout", Means::Sets(&["prompts.answer_timeout_seconds"])),
    flag("neuron.answer_sample_size", Means::Sets(&["prompts.answer_sample_size"])),
    flag("neuron.num_followup_steps", Means::Sets(&["prompts.num_followup_steps"])),
    flag("neuron.epoch_length_override", Means::AbsentValue("weights are set once in each epoch of the chain")),
    flag("neuron.checkpoint_block_length", Means::AbsentValue("every step is durable before it counts")),
    flag("neuron.events_retention_size", Means::Sets(&["reporting.events_retention_size"])),
    flag("neuron.dont_save_events", Means::On(&["reporting.dont_save_events"])),
    flag("neuron.vpermit_tao_limit", Means::Sets(&["gating.vpermit_tao_limit"])),
    flag("neuron.axon_off", Means::On(&["axon.off"])),
    flag("neuron.blacklist_off", Means::Off(&["rewards.blacklist.enabled"])),
    flag("neuron.nsfw_off", Means::Off(&["rewards.nsfw.enabled"])),
    flag("neuron.relevance_off", Means::Off(&["rewards.relevance.enabled"])),
    flag("neuron.diversity_off", Means::Off(&["rewards.diversity.enabled"])),
    flag("neuron.task_validator_off", Means::Off(&["rewards.task_validator.enabled"])),
    flag("neuron.mock_reward_models", Means::AbsentSwitch(NO_MOCKS)),
    flag("neuron.mock_dendrite_pool", Means::AbsentSwitch(NO_MOCKS)),
    flag("neuron.mock_gating_model", Means::AbsentSwitch(NO_MOCKS)),
    flag("neuron.mock_dataset", Means::Says("prompts.only", "embedded")),
    flag("mock", Means::AbsentSwitch(NO_MOCKS)),
    // Without the switch the reference takes a causal model's last token.
    flag("gating.model_name", Means::SetsAndSays("gating.model", "gating.pooling", "last_token")),
    flag("neuron.use_custom_gating_model", Means::Says("gating.pooling", "mean_of_windows")),
    flag("gating.num_uids", Means::AbsentValue("the gating head has a row for each hotkey, as many as the subnet has")),
    flag("gating.learning_rate", Means::Sets(&["gating.learning_rate"])),
    flag("gating.momentum", Means::Sets(&["gating.momentum"])),
    flag("reward.dpo_weight", Means::Sets(&["rewards.weights.dpo_reward_model"])),
    flag("reward.reciprocate_weight", Means::Sets(&["rewards.weights.reciprocate_reward_model"])),
    flag("reward.rlhf_weight", Means::Sets(&["rewards.weights.rlhf_reward_model"])),
    flag("reward.dahoas_weight", Means::Sets(&["rewards.weights.dahoas_reward_model"])),
    flag("reward.prompt_based_weight", Means::Sets(&["rewards.weights.prompt_reward_model"])),
    flag("wandb.off", Means::Says("reporting.wandb.mode", "off")),
    flag("wandb.project_name", Means::SetsText("reporting.wandb.project_name")),
    flag("wandb.entity", Means::SetsText("reporting.wandb.entity")),
    flag("wandb.offline", Means::Says("reporting.wandb.mode", "offline")),
    flag("wandb.weights_step_length", Means::AbsentValue("openvalidators 1.2.0 never read it")),
    flag("wandb.run_step_length", Means::Sets(&["reporting.wandb.run_step_length"])),
    flag("wandb.notes", Means::SetsText("reporting.wandb.notes")),
    flag("wandb.track_gating_model", Means::On(&["reporting.wandb.track_gating_model"])),
    flag("wallet.name", Means::SetsText("wallet.name")),
    flag("wallet.hotkey", Means::SetsText("wallet.hotkey")),
    flag("wallet.path", Means::SetsText("wallet.path")),
    // The second overrides the first, as in the reference.
    flag("subtensor.network", Means::Sets(&["chain.endpoint"])),
    flag("subtensor.chain_endpoint", Means::Sets(&["chain.endpoint"])),
    flag("logging.debug", Means::AbsentSwitch("use --log debug")),
    flag("logging.trace", Means::AbsentSwitch("use --log trace")),
    flag("logging.logging_dir", Means::AbsentValue("logs go to standard error; records to --state-dir")),
    flag("axon.ip", Means::SetsText("axon.ip")),
    flag("axon.port", Means::Sets(&["axon.port"])),
    flag("axon.external_ip", Means::SetsText("axon.external_ip")),
    flag("axon.external_port", Means::Sets(&["axon.external_port"])),
    flag("axon.max_workers", Means::AbsentValue("axon.max_connections limits the axon that is served")),
];

const fn flag(name: &'static str, means: Means) -> Flag {
    Flag { name, means }
}

/// A flag of 1.2.0 whose thing does not exist here.
#[derive(Debug, thiserror::Error)]
#[error("--{name} is a flag of openvalidators 1.2.0 that sets nothing here: {reason}. Leave it out.")]
pub struct Absent {
    name: &'static str,
    reason: &'static str,
}

/// The table as arguments for clap. Flags without an effect are accepted by the parser, so that they can be answered by
/// [`Absent`] instead of "unexpected argument".
#[must_use]
pub fn arguments() -> Vec<Arg> {
    FLAGS.iter().map(argument).collect()
}

/// Those whose names begin in one of these ways, for the commands that need a hotkey or a chain and no more.
#[must_use]
pub fn arguments_of(beginnings: &[&str]) -> Vec<Arg> {
    let is_wanted = |flag: &&Flag| beginnings.iter().any(|beginning| flag.name.starts_with(beginning));
    FLAGS.iter().filter(is_wanted).map(argument).collect()
}

fn argument(flag: &Flag) -> Arg {
    let arg = Arg::new(flag.name).long(flag.name).help_heading("Flags of openvalidators 1.2.0");
    match flag.means {
        Means::Sets(keys) => arg.value_name("VALUE").help(format!("Sets {}", keys.join(" and "))),
        Means::SetsText(key) => arg.value_name("VALUE").help(format!("Sets {key}")),
        Means::SetsAndSays(key, other, word) => {
            arg.value_name("VALUE").help(format!("Sets {key}, and {other} = \"{word}\""))
        }
        Means::On(keys) => arg.action(ArgAction::SetTrue).help(format!("Sets {} = true", keys.join(" and "))),
        Means::Off(keys) => arg.action(ArgAction::SetTrue).help(format!("Sets {} = false", keys.join(" and "))),
        Means::Says(key, word) => arg.action(ArgAction::SetTrue).help(format!("Sets {key} = \"{word}\"")),
        Means::AbsentValue(_) => arg.value_name("VALUE").hide(true),
        Means::AbsentSwitch(_) => arg.action(ArgAction::SetTrue).hide(true),
    }
}

/// Lays the flags given over the layers.
///
/// # Errors
/// When a flag is given whose thing does not exist here.
pub fn apply(matches: &ArgMatches, layers: &mut Layers) -> Result<(), Absent> {
    for Flag { name, means } in FLAGS {
        // Subcommands other than `run` do not have these arguments.
        let value = || matches.try_get_one::<String>(name).ok().flatten();
        let given = || matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or_default();
        let mut set = |keys: &[&str], value: &Value| {
            for key in keys {
                layers.set(key, value.clone(), Origin::Flag(format!("--{name}")));
            }
        };
        match *means {
            Means::Sets(keys) => {
                if let Some(text) = value() {
                    set(keys, &parse_value(text));
                }
            }
            Means::SetsText(key) => {
                if let Some(text) = value() {
                    set(&[key], &Value::String(text.clone()));
                }
            }
            Means::SetsAndSays(key, other, word) => {
                if let Some(text) = value() {
                    set(&[key], &Value::String(text.clone()));
                    set(&[other], &Value::String(word.to_owned()));
                }
            }
            Means::On(keys) if given() => set(keys, &Value::Boolean(true)),
            Means::Off(keys) if given() => set(keys, &Value::Boolean(false)),
            Means::Says(key, word) if given() => set(&[key], &Value::String(word.to_owned())),
            Means::AbsentValue(reason) if value().is_some() => return Err(Absent { name, reason }),
            Means::AbsentSwitch(reason) if given() => return Err(Absent { name, reason }),
            _ => {}
        }
    }
    Ok(())
}

/// The settings in force as openvalidators 1.2.0 told them to wandb: its tables `neuron`, `reward` and `wandb`, and `netuid`. The
/// state directory is left out, as there; no other flag of these names a file.
#[must_use]
pub fn as_reference(config: &Config) -> Map<String, Json> {
    let mut told = Map::new();
    let Ok(ours) = serde_json::to_value(config) else { return told };
    for Flag { name, means } in FLAGS {
        let (table, key) = name.split_once('.').unwrap_or(("", name));
        let value = |key: &str| key.split('.').try_fold(&ours, |table, part| table.get(part)).cloned();
        let value = match *means {
            Means::Sets([first, ..]) | Means::On([first, ..]) => value(first),
            Means::SetsText(first) => value(first),
            Means::Off([first, ..]) => value(first).and_then(|on| on.as_bool()).map(|on| Json::from(!on)),
            Means::Says(first, word) => value(first).map(|found| Json::from(found == word)),
            _ => None,
        };
        let Some(value) = value.filter(|_| *name != "neuron.full_path") else { continue };
        match table {
            "" => told.insert(key.to_owned(), value),
            "neuron" | "reward" | "wandb" => {
                let table = told.entry(table).or_insert_with(|| Map::new().into());
                table.as_object_mut().and_then(|table| table.insert(key.to_owned(), value))
            }
            _ => None,
        };
    }
    told
}

#[cfg(test)]
mod tests {
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
        for Flag { name, means } in FLAGS {
            let keys = match means {
                Means::Sets(keys) | Means::On(keys) | Means::Off(keys) => keys.to_vec(),
                Means::SetsText(key) | Means::Says(key, _) => vec![*key],
                Means::SetsAndSays(key, other, _) => vec![*key, *other],
                Means::AbsentValue(_) | Means::AbsentSwitch(_) => continue,
            };
            for key in keys {
                let found = key.split('.').try_fold(&config, |table, part| table.get(part));
                assert!(found.is_some(), "--{name} sets {key}, which does not exist");
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
        let given = "run --wandb.offline --wandb.project_name 1 --wandb.entity mine --wandb.run_step_length 7 --wandb.notes true \
             --wandb.track_gating_model";
        let mut layers = Layers::default();
        layers.add_defaults(crate::config::DEFAULT_TOML).unwrap();
        apply(&command.try_get_matches_from(given.split_whitespace()).unwrap(), &mut layers).unwrap();
        let wandb = layers.read::<Config>().unwrap().reporting.wandb;
        wandb.check().unwrap();
        assert_eq!(wandb.mode, openvalidators_reporting::wandb::Mode::Offline);
        assert_eq!((&*wandb.project_name, &*wandb.entity, &*wandb.notes), ("1", "mine", "true"));
        assert_eq!((wandb.run_step_length, wandb.track_gating_model), (7, true));
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
        let matches = command.try_get_matches_from(["run", "--neuron.mock_dataset"]).unwrap();
        let error = apply(&matches, &mut Layers::default()).unwrap_err().to_string();
        assert!(error.contains("--neuron.mock_dataset") && error.contains("no mocks"), "{error}");
    }
}
