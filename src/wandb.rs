//! What wandb is told of this validator: the tags and the configuration of openvalidators 1.2.0 (`openvalidators/utils.py`).

use openvalidators_keys::ss58;
use openvalidators_messages::{Hotkey, inference::Pooling};
use openvalidators_reporting::wandb::RunAbout;

use crate::config::{Config, reference_flags};

/// A tag that the reference did not have: rows of a network on one machine are not to be taken for those of a real one.
const LOCAL: &str = "local";

/// The tags by which runs are found, and the settings they were made with. Neither names a file or a secret.
pub(crate) fn about(config: &Config, hotkey: &Hotkey, spec_version: u32) -> RunAbout {
    let mut tags = vec![
        ss58::encode(hotkey),
        env!("CARGO_PKG_VERSION").to_owned(),
        spec_version.to_string(),
        format!("netuid_{}", config.chain.netuid),
    ];
    let marks = [
        (!config.chain.endpoint.is_remote(), LOCAL),
        (config.gating.pooling == Pooling::MeanOfWindows, "custom_gating_model"),
    ];
    tags.extend(marks.into_iter().filter(|(set, _)| *set).map(|(_, tag)| tag.to_owned()));
    tags.extend(config.rewards.weights.iter().filter(|(_, share)| **share > 0.0).map(|(name, _)| name.clone()));
    let marks = [
        (config.weights.disable_set_weights, "disable_set_weights"),
        (config.reporting.disable_log_rewards, "disable_log_rewards"),
    ];
    tags.extend(marks.into_iter().filter(|(set, _)| *set).map(|(_, tag)| tag.to_owned()));
    let wandb = &config.reporting.wandb;
    RunAbout {
        project: wandb.project_name.clone(),
        entity: wandb.entity.clone(),
        notes: wandb.notes.clone(),
        tags,
        config: reference_flags::as_reference(config),
        gating_model: config.gating.model.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_says_what_the_reference_says_and_no_path() {
        let mut config = Config::default();
        config.weights.disable_set_weights = true;
        config.gating.pooling = Pooling::MeanOfWindows;
        config.reporting.wandb.notes = "mine".to_owned();
        let hotkey = Hotkey([7; 32]);
        let about = about(&config, &hotkey, 10);
        let expected = [
            &*ss58::encode(&hotkey),
            env!("CARGO_PKG_VERSION"),
            "10",
            "netuid_1",
            "local",
            "custom_gating_model",
            "dpo_reward_model",
            "disable_set_weights",
        ];
        assert_eq!(about.tags, expected);
        let said = serde_json::Value::Object(about.config);
        assert_eq!(said["netuid"], 1);
        assert_eq!(said["neuron"]["moving_average_alpha"], 0.05);
        assert_eq!(said["neuron"]["disable_set_weights"], true);
        assert_eq!(said["neuron"]["blacklist_off"], false);
        assert_eq!(said["neuron"]["use_custom_gating_model"], true);
        assert_eq!(said["reward"]["dpo_weight"], 1.0);
        assert_eq!(said["wandb"]["run_step_length"], 1500);
        assert_eq!((&said["wandb"]["off"], &said["wandb"]["notes"]), (&true.into(), &"mine".into()));
        assert!(said.get("wallet").is_none() && said["neuron"].get("full_path").is_none(), "{said}");
    }
}
