//! The table. `docs/differences.md` shows it, and a test keeps both the same ([`crate::manual`]).

use super::{Flag, Means};

const REGISTER: &str = "a validator does not register; `btcli subnets register` does (docs/operations.md)";
const PINGS: &str = "the axon answers pings alone and queues nothing; axon.max_connections bounds them";

/// In the order of `openvalidators/config.py`; the SDK's behind.
pub(super) const FLAGS: &[Flag] = &[
    flag("netuid", Means::Sets(&["chain.netuid"])),
    flag("neuron.name", Means::Below("state_dir")),
    flag("neuron.device", Means::Sets(&["inference.device"])),
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
    flag(
        "neuron.epoch_length_override",
        Means::AbsentValue("weights are set once in each epoch of the chain; weights.set_at_fraction says where in it"),
    ),
    flag(
        "neuron.checkpoint_block_length",
        Means::AbsentValue("every step is durable before it counts; weights.snapshot_every_steps is the nearest"),
    ),
    flag("neuron.events_retention_size", Means::Sets(&["reporting.events_retention_size"])),
    flag("neuron.dont_save_events", Means::On(&["reporting.dont_save_events"])),
    flag("neuron.vpermit_tao_limit", Means::Sets(&["gating.vpermit_tao_limit"])),
    also("neuron.axon_off", &["axon_off"], Means::On(&["axon.off"])),
    flag("neuron.blacklist_off", Means::Off(&["rewards.blacklist.enabled"])),
    flag("neuron.nsfw_off", Means::Off(&["rewards.nsfw.enabled"])),
    flag("neuron.relevance_off", Means::Off(&["rewards.relevance.enabled"])),
    flag("neuron.diversity_off", Means::Off(&["rewards.diversity.enabled"])),
    flag("neuron.task_validator_off", Means::Off(&["rewards.task_validator.enabled"])),
    flag(
        "mock",
        Means::Lays {
            clears: &["chain.endpoint", "wallet.name", "wallet.hotkey"],
            toml: "chain.endpoint = \"local\"",
            says: "the local network and its key",
        },
    ),
    flag(
        "neuron.mock_reward_models",
        Means::Lays {
            clears: &["rewards.weights", "rewards.shadows"],
            toml: "rewards.weights.constant_reward_model = 1.0\n\
                   rewards.shadows = []\n\
                   rewards.relevance.enabled = false\n\
                   rewards.diversity.enabled = false\n\
                   rewards.nsfw.enabled = false\n\
                   rewards.blacklist.enabled = false\n\
                   rewards.task_validator.enabled = false",
            says: "one reward for every completion, no filter, no model",
        },
    ),
    flag("neuron.mock_dendrite_pool", Means::Says("dendrite.transport", "mock")),
    flag("neuron.mock_gating_model", Means::Says("gating.routing", "blind")),
    flag("neuron.mock_dataset", Means::Says("prompts.only", "embedded")),
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
    flag(
        "wandb.weights_step_length",
        Means::AbsentValue("openvalidators 1.2.0 never read it; reporting.wandb.scores_every_blocks says how often"),
    ),
    flag("wandb.run_step_length", Means::Sets(&["reporting.wandb.run_step_length"])),
    flag("wandb.notes", Means::SetsText("reporting.wandb.notes")),
    flag("wandb.track_gating_model", Means::On(&["reporting.wandb.track_gating_model"])),
    // === bittensor 5 ===
    flag("wallet.name", Means::SetsText("wallet.name")),
    flag("wallet.hotkey", Means::SetsText("wallet.hotkey")),
    flag("wallet.path", Means::SetsText("wallet.path")),
    flag(
        "wallet._mock",
        Means::Lays { clears: &["wallet.name", "wallet.hotkey"], toml: "", says: "the key of local networks" },
    ),
    flag("no_prompt", Means::Off(&["wallet.ask_password"])),
    // The second overrides the first, as in the reference.
    flag("subtensor.network", Means::Sets(&["chain.endpoint"])),
    flag("subtensor.chain_endpoint", Means::Sets(&["chain.endpoint"])),
    flag("subtensor._mock", Means::Says("chain.endpoint", "local")),
    also("subtensor.register.num_processes", &[], Means::AbsentValue(REGISTER)),
    also(
        "subtensor.register.update_interval",
        &["subtensor.register.cuda.update_interval", "cuda.update_interval"],
        Means::AbsentValue(REGISTER),
    ),
    also("subtensor.register.no_output_in_place", &["no_output_in_place"], Means::AbsentSwitch(REGISTER)),
    flag("subtensor.register.verbose", Means::AbsentSwitch(REGISTER)),
    also("subtensor.register.cuda.use_cuda", &["cuda", "cuda.use_cuda"], Means::AbsentSwitch(REGISTER)),
    also("subtensor.register.cuda.no_cuda", &["no_cuda", "cuda.no_cuda"], Means::AbsentSwitch(REGISTER)),
    also("subtensor.register.cuda.dev_id", &["cuda.dev_id"], Means::AbsentValues(REGISTER)),
    also("subtensor.register.cuda.TPB", &["cuda.TPB"], Means::AbsentValue(REGISTER)),
    flag("logging.debug", Means::Says("logging.filter", "info,openvalidators=debug")),
    flag("logging.trace", Means::Says("logging.filter", "info,openvalidators=trace")),
    flag(
        "logging.record_log",
        Means::AbsentSwitch("logs go to standard error: `2>> FILE`, or systemd's journal, keeps them"),
    ),
    flag("logging.logging_dir", Means::SetsText("state_dir")),
    flag("axon.ip", Means::SetsText("axon.ip")),
    flag("axon.port", Means::Sets(&["axon.port"])),
    flag("axon.external_ip", Means::SetsText("axon.external_ip")),
    flag("axon.external_port", Means::Sets(&["axon.external_port"])),
    flag("axon.maximum_concurrent_rpcs", Means::Sets(&["axon.max_connections"])),
    flag("axon.max_workers", Means::AbsentValue(PINGS)),
    flag("axon.priority.max_workers", Means::AbsentValue(PINGS)),
    flag("axon.priority.maxsize", Means::AbsentValue(PINGS)),
    flag("strict", Means::Always("an unknown flag or key is always an error")),
    flag("no_version_checking", Means::Always("nothing is looked up but by `openvalidators update`")),
    // === run.sh ===
    flag(
        "script",
        Means::AbsentValue("the program is `openvalidators run`; systemd restarts it, `update` replaces it"),
    ),
];

const fn flag(name: &'static str, means: Means) -> Flag {
    Flag { name, aliases: &[], means }
}

const fn also(name: &'static str, aliases: &'static [&'static str], means: Means) -> Flag {
    Flag { name, aliases, means }
}
