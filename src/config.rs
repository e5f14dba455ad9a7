//! The configuration: one struct of the crates' own structs, read from layers, then checked as a whole.

pub mod layers;
pub mod profiles;
pub mod reference_flags;

use std::path::PathBuf;

use clap::ArgMatches;
use layers::{LayerError, Layers, Origin, parse_value};
use openvalidators_dendrite as dendrite;
use openvalidators_gating as gating;
use openvalidators_hub::{Catalogue, HubConfig};
use openvalidators_inference::{self as inference, Kind};
use openvalidators_keys::WalletConfig;
use openvalidators_ledger::LedgerConfig;
use openvalidators_messages::inference::{ModelName, Pooling};
use openvalidators_prompts as prompts;
use openvalidators_reporting::ReportingConfig;
use openvalidators_rewards::{
    self as rewards, dahoas, diversity, dpo, firewall, nsfw, prompt, reciprocate, relevance, rlhf,
};
use openvalidators_subtensor::{ChainConfig, local::LocalChainConfig};
use openvalidators_weights::WeightsConfig;
use profiles::Profile;
use serde::{Deserialize, Serialize};

use crate::{
    axon::AxonSettings, cli::Settings, localnet::LocalnetConfig, logging::LoggingConfig, update::UpdateConfig,
};

/// The commented default, compiled in so that the program runs anywhere.
pub const DEFAULT_TOML: &str = include_str!("../configs/local.toml");

/// The beginning of a configuration for mainnet, for operators to complete. Its values are the defaults of every real network, for
/// those who start with flags alone.
const FINNEY_TOML: &str = include_str!("../configs/finney.toml");

/// The same for the test network.
#[cfg(test)]
const TESTNET_TOML: &str = include_str!("../configs/testnet.toml");

/// What `openvalidators score` lays over it.
pub const SCORE_TOML: &str = include_str!("../configs/score.toml");

/// Everything an operator can set. `configs/local.toml` explains every key; what is not set there is set here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The root of every random choice: which text, which miners, what local miners answer.
    pub seed: u64,
    /// Where records and scores are kept.
    pub state_dir: PathBuf,
    /// All ways of openvalidators 1.2.0 at once.
    pub compat: Compat,
    /// The hotkey we validate with.
    pub wallet: WalletConfig,
    /// The chain and the subnet.
    pub chain: ChainConfig,
    /// The miners of the local network.
    pub localnet: LocalnetConfig,
    /// Forwards and where their texts come from.
    pub prompts: prompts::Config,
    /// Which miners are asked.
    pub gating: gating::Config,
    /// How miners are asked.
    pub dendrite: dendrite::Config,
    /// The axon that is served on a real network.
    pub axon: AxonSettings,
    /// Where models are kept and fetched from.
    pub models: HubConfig,
    /// The device that computes.
    pub inference: inference::Config,
    /// Reward functions and filters.
    pub rewards: rewards::Config,
    /// Scores and weights.
    pub weights: WeightsConfig,
    /// What is kept, and how long.
    pub ledger: LedgerConfig,
    /// Event log, wandb, Prometheus.
    pub reporting: ReportingConfig,
    /// What is logged on standard error.
    pub logging: LoggingConfig,
    /// Where newer versions come from.
    pub update: UpdateConfig,
}

/// The switch of all compat switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compat {
    /// Turns on every switch of the `[….compat]` tables and `inference.interpret_special_tokens`, and routes uniformly.
    pub all: bool,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value as written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A flag of openvalidators 1.2.0 without an effect.
    #[error(transparent)]
    Absent(#[from] reference_flags::Absent),
    /// `--set` without a key and a value.
    #[error("--set {0}: expected KEY=VALUE, e.g. --set prompts.concurrent_forwards=4")]
    NotAKeyAndValue(String),
    /// A real network and no subnet.
    #[error(
        "chain.endpoint {0} is a real network, and chain.netuid is not written: name your subnet (--netuid N). There is no \
         default: netuid 1, where openvalidators 1.2.0 ran, speaks another protocol today"
    )]
    NoNetuid(String),
    /// A real network, and completions that nobody made.
    #[error(
        "chain.endpoint {0} is a real network, and dendrite.transport = \"mock\" makes completions up: weights would pay \
         miners for nothing. Add --neuron.disable_set_weights, or leave out --neuron.mock_dendrite_pool"
    )]
    MockedOnARealNetwork(String),
    /// Values that do not make sense, in the crate's words.
    #[error("{0}")]
    Senseless(String),
}

// === impl Config ===

impl Config {
    /// Reads `defaults < profile < file < environment < flags` and checks the result. Where they name a real network, its defaults
    /// are those of `configs/finney.toml`.
    ///
    /// # Errors
    /// [`ConfigError`] names the key, where its value was written, what was found and what is allowed.
    pub fn load(settings: &Settings, flags: &ArgMatches, steps: Option<u64>) -> Result<Self, ConfigError> {
        Self::load_over(&[DEFAULT_TOML], settings, flags, steps)
    }

    /// As [`Self::load`], over the defaults given, later ones over earlier ones.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_over(
        defaults: &[&str],
        settings: &Settings,
        flags: &ArgMatches,
        steps: Option<u64>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Self::layers(defaults, settings, flags)?;
        let mut config: Self = layers.read()?;
        if config.chain.endpoint.is_remote() {
            if !layers.is_written("chain.netuid") {
                return Err(ConfigError::NoNetuid(config.chain.endpoint.to_string()));
            }
            let real = of_every_real_network()?;
            let (first, later) = defaults.split_at(defaults.len().min(1));
            layers = Self::layers(&[first, &[&*real], later].concat(), settings, flags)?;
            config = layers.read()?;
        }
        config.name_encoder_as_here();
        if steps.is_some() {
            config.prompts.steps = steps;
        }
        if config.compat.all {
            config.turn_on_compat();
        }
        config.check().map_err(|error| match error {
            ConfigError::Senseless(said) => ConfigError::Senseless(layers.explain(&said)),
            error => error,
        })?;
        Ok(config)
    }

    /// All layers, none of them judged.
    fn layers(defaults: &[&str], settings: &Settings, flags: &ArgMatches) -> Result<Layers, ConfigError> {
        let mut layers = Layers::default();
        defaults.iter().try_for_each(|text| layers.add_defaults(text))?;
        if let Some(profile) = settings.profile {
            layers.add_defaults(profile.toml())?;
        }
        if let Some(file) = &settings.config {
            layers.add_file(file)?;
        }
        layers.add_environment(std::env::vars_os())?;
        reference_flags::apply(flags, &mut layers)?;
        for written in &settings.set {
            let (key, value) = written.split_once('=').ok_or_else(|| ConfigError::NotAKeyAndValue(written.clone()))?;
            layers.set(key.trim(), parse_value(value.trim()), Origin::Flag(format!("--set {key}")));
        }
        if let Some(directory) = &settings.state_dir {
            let value = toml::Value::String(directory.display().to_string());
            layers.set("state_dir", value, Origin::Flag("--state-dir".to_owned()));
        }
        reference_flags::apply_names(flags, &mut layers);
        if settings.compat {
            layers.set("compat.all", toml::Value::Boolean(true), Origin::Flag("--compat".to_owned()));
        }
        Ok(layers)
    }

    /// A profile over the defaults, and nothing else.
    ///
    /// # Errors
    /// Never: a test reads the same texts.
    pub fn of_profile(profile: Profile) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        layers.add_defaults(DEFAULT_TOML)?;
        layers.add_defaults(profile.toml())?;
        let config: Self = layers.read()?;
        config.check()?;
        Ok(config)
    }

    /// The models that rewards ask for: the key that names each, and what it must be.
    #[must_use]
    pub fn models_used(&self) -> Vec<(&'static str, &ModelName, Kind)> {
        let rewards = &self.rewards;
        let functions = [
            (dpo::NAME, "rewards.dpo.model", &rewards.dpo.model, Kind::CausalLm),
            (rlhf::NAME, "rewards.rlhf.model", &rewards.rlhf.model, Kind::Classifier),
            (reciprocate::NAME, "rewards.reciprocate.model", &rewards.reciprocate.model, Kind::Classifier),
            (dahoas::NAME, "rewards.dahoas.model", &rewards.dahoas.model, Kind::Classifier),
            (prompt::NAME, "rewards.prompt.model", &rewards.prompt.model, Kind::CausalLm),
        ];
        let mut used: Vec<_> = functions
            .into_iter()
            .filter(|(name, ..)| rewards.computes(name))
            .map(|(_, key, model, kind)| (key, model, kind))
            .collect();
        if rewards.filters_by(relevance::NAME, rewards.relevance.enabled) {
            let stages = rewards.relevance.stages.iter();
            used.extend(stages.map(|stage| ("rewards.relevance.stages", &stage.model, Kind::Encoder)));
        }
        if rewards.filters_by(diversity::NAME, rewards.diversity.enabled) {
            used.push(("rewards.diversity.model", &rewards.diversity.model, Kind::Encoder));
        }
        if rewards.filters_by(nsfw::NAME, rewards.nsfw.enabled) {
            used.push(("rewards.nsfw.model", &rewards.nsfw.model, Kind::Classifier));
        }
        if rewards.filters_by(firewall::NAME, rewards.firewall.enabled) {
            used.push(("rewards.firewall.model", &rewards.firewall.model, Kind::CausalLm));
        }
        used
    }

    /// As [`Self::models_used`], and the model that reads prompts: what a validator needs.
    #[must_use]
    pub fn models_of_run(&self) -> Vec<(&'static str, &ModelName, Kind)> {
        let mut used = self.models_used();
        if self.gating.routing != gating::RoutingKind::Blind {
            let kind = if self.gating.pooling == Pooling::LastToken { Kind::CausalLm } else { Kind::Encoder };
            used.push(("gating.model", &self.gating.model, kind));
        }
        used
    }

    /// openvalidators 1.2.0 names the encoder by its repository on the Hugging Face hub.
    fn name_encoder_as_here(&mut self) {
        let known = Catalogue::standard().unwrap_or_default();
        let mut models = self.models.catalogue.iter().chain(&known.models);
        let is_meant = |repository: &str| repository == &*self.gating.model.0;
        if let Some((name, _)) = models.find(|(_, entry)| entry.repository.as_deref().is_some_and(is_meant)) {
            self.gating.model = ModelName::new(name);
        }
    }

    fn turn_on_compat(&mut self) {
        self.rewards.compat = rewards::Compat::REFERENCE;
        self.rewards.defences = rewards::Defences::NONE;
        self.prompts.compat = prompts::Compat { paste_verbatim: true };
        self.inference.interpret_special_tokens = true;
        if self.gating.routing == gating::RoutingKind::Learned {
            self.gating.routing = gating::RoutingKind::Uniform;
        }
        self.gating.compat = gating::Compat { accumulate_gradients: true };
        self.weights.rest_half_life_turns = 0.0;
    }

    /// Whether the values make sense, each crate judging its own.
    ///
    /// # Errors
    /// The first that do not.
    pub fn check(&self) -> Result<(), ConfigError> {
        judge("wallet", self.wallet.check())?;
        judge("chain", self.chain.check())?;
        judge("localnet", self.localnet.check())?;
        judge("prompts", self.prompts.check())?;
        judge("gating", self.gating.check())?;
        judge("dendrite", self.dendrite.check())?;
        judge("axon", self.axon.check())?;
        judge("rewards", self.rewards.check())?;
        judge("weights", self.weights.check())?;
        judge("reporting", self.reporting.check())?;
        judge("logging", self.logging.check())?;
        judge("update", self.update.check())?;
        judge("ledger", self.ledger.check())?;
        if self.chain.endpoint.is_remote()
            && self.dendrite.transport == dendrite::Choice::Mock
            && !self.weights.disable_set_weights
        {
            return Err(ConfigError::MockedOnARealNetwork(self.chain.endpoint.to_string()));
        }
        Ok(())
    }
}

/// `configs/finney.toml` without what names one network.
fn of_every_real_network() -> Result<String, ConfigError> {
    let mut layers = Layers::default();
    layers.add_defaults(FINNEY_TOML)?;
    layers.clear("state_dir");
    layers.clear("chain.endpoint");
    Ok(layers.to_toml())
}

/// A crate's own judgement, with the table it is about.
fn judge<T>(table: &str, judgement: Result<T, impl std::fmt::Display>) -> Result<(), ConfigError> {
    judgement.map(drop).map_err(|error| ConfigError::Senseless(format!("configuration table [{table}]: {error}")))
}

impl Default for Config {
    /// The local network: what `configs/local.toml` says, where it differs from the crates' own defaults.
    fn default() -> Self {
        Self {
            seed: 42,
            compat: Compat::default(),
            state_dir: PathBuf::from("state"),
            wallet: WalletConfig::default(),
            // Plain weights can be seen at the next epoch; commit-reveal, mainnet's rule, shows them an epoch later.
            chain: ChainConfig {
                local: LocalChainConfig { commit_reveal: false, ..LocalChainConfig::default() },
                ..ChainConfig::default()
            },
            localnet: LocalnetConfig::default(),
            prompts: prompts::Config {
                augment_sample_size: 6,
                followup_sample_size: 6,
                answer_sample_size: 6,
                augment_timeout_seconds: 4.0,
                followup_timeout_seconds: 4.0,
                answer_timeout_seconds: 4.0,
                ..prompts::Config::default()
            },
            // A local epoch takes seconds; its few steps could not both meet everyone and prefer anyone.
            gating: gating::Config { longest_wait_blocks: 100, ..gating::Config::default() },
            dendrite: dendrite::Config { allow_private_addresses: true, ..dendrite::Config::default() },
            axon: AxonSettings::default(),
            models: HubConfig::default(),
            inference: inference::Config::default(),
            rewards: rewards::Config::default(),
            weights: WeightsConfig {
                retry_after_blocks: 2,
                submission_lifetime_blocks: 8,
                chain_timeout_seconds: 20,
                ..WeightsConfig::default()
            },
            ledger: LedgerConfig::default(),
            reporting: ReportingConfig::default(),
            logging: LoggingConfig::default(),
            update: UpdateConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Layers {
        let mut layers = Layers::default();
        layers.add_defaults(DEFAULT_TOML).unwrap();
        layers
    }

    #[test]
    fn the_commented_file_is_the_default() {
        let read: Config = defaults().read().unwrap();
        assert_eq!(read, Config::default());
        read.check().unwrap();
    }

    /// Whoever writes the subnet into them can start with them.
    #[test]
    fn the_files_for_real_networks_lack_the_subnet_alone() {
        for text in [FINNEY_TOML, TESTNET_TOML] {
            let mut layers = defaults();
            let origin = || Origin::Flag("--netuid".to_owned());
            layers.set("chain", text.parse::<toml::Table>().unwrap().remove("chain").unwrap(), origin());
            assert!(!layers.is_written("chain.netuid"));
            layers.set("chain.netuid", toml::Value::Integer(64), origin());
            layers.add_defaults(text).unwrap();
            let config: Config = layers.read().unwrap();
            config.check().unwrap();
            assert!(config.chain.endpoint.is_remote() && !config.dendrite.allow_private_addresses);
            assert!(config.weights.same_key_guard, "the chain is not ours alone");
            let submission = config.weights.chain_timeout_seconds as f64;
            assert!(submission > config.chain.submit_timeout_seconds, "the caller gives up before the chain does");
        }
    }

    #[test]
    fn a_real_network_without_a_subnet_is_refused() {
        let command = clap::Command::new("run").args(reference_flags::arguments());
        let given = ["run", "--subtensor.network", "finney"];
        let settings = Settings::default();
        let error = Config::load(&settings, &command.clone().try_get_matches_from(given).unwrap(), None).unwrap_err();
        assert!(error.to_string().contains("--netuid"), "{error}");
        let given = ["run", "--subtensor.chain_endpoint", "wss://mine:443", "--netuid", "64"];
        let config = Config::load(&settings, &command.try_get_matches_from(given).unwrap(), None).unwrap();
        assert_eq!((config.chain.endpoint.to_string(), config.chain.netuid), ("wss://mine:443".to_owned(), 64));
    }

    /// By flags alone a validator of mainnet asked addresses of its own network, and gave a submission up while the chain could
    /// still take it: it had the defaults of the local network.
    #[test]
    fn flags_alone_start_on_a_real_network_as_its_file_does() {
        let command = clap::Command::new("run").args(reference_flags::arguments());
        let flags = ["run", "--subtensor.network", "finney", "--netuid", "64"];
        let flags = command.try_get_matches_from(flags).unwrap();
        let load = |settings: &Settings| Config::load(settings, &flags, None).unwrap();
        let by_flags = load(&Settings::default());
        assert!(!by_flags.dendrite.allow_private_addresses);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("finney.toml");
        std::fs::write(&file, FINNEY_TOML).unwrap();
        let by_file = load(&Settings { config: Some(file), ..Settings::default() });
        assert_ne!(by_flags.state_dir, by_file.state_dir, "that one is a name");
        assert_eq!(Config { state_dir: by_file.state_dir.clone(), ..by_flags }, by_file);

        let own = ["prompts.only=embedded", "dendrite.allow_private_addresses=true"].map(str::to_owned).to_vec();
        let own = load(&Settings { set: own, ..Settings::default() });
        assert!(own.dendrite.allow_private_addresses && own.prompts.augment_sample_size == 50);
    }

    /// A key that exists but is not explained is as good as hidden.
    #[test]
    fn the_commented_file_names_every_key() {
        fn keys(prefix: &str, value: &toml::Value, into: &mut Vec<String>) {
            match value {
                toml::Value::Table(table) => {
                    for (name, value) in table {
                        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                        keys(&key, value, into);
                    }
                }
                _ => into.push(prefix.to_owned()),
            }
        }
        let (mut all, mut written) = (Vec::new(), Vec::new());
        keys("", &toml::Value::try_from(Config::default()).unwrap(), &mut all);
        keys("", &DEFAULT_TOML.parse::<toml::Table>().unwrap().into(), &mut written);
        let missing: Vec<_> = all.iter().filter(|key| !written.contains(key)).collect();
        assert!(missing.is_empty(), "configs/local.toml does not explain {missing:?}");
    }

    #[test]
    fn only_what_is_asked_needs_a_model() {
        let keys = |config: &Config| config.models_of_run().into_iter().map(|(key, ..)| key).collect::<Vec<_>>();
        let mut config = Config::default();
        assert_eq!(
            keys(&config),
            ["rewards.dpo.model", "rewards.relevance.stages", "rewards.diversity.model", "gating.model",]
        );
        config.rewards.weights = [("rlhf_reward_model".to_owned(), 1.0)].into();
        config.rewards.shadows.insert("prompt_reward_model".into());
        config.rewards.nsfw.enabled = true;
        config.rewards.relevance.enabled = false;
        let expected = [
            "rewards.rlhf.model",
            "rewards.prompt.model",
            "rewards.diversity.model",
            "rewards.nsfw.model",
            "gating.model",
        ];
        assert_eq!(keys(&config), expected);
    }

    #[test]
    fn a_profile_lies_over_the_defaults_and_under_the_operators_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[rewards.nsfw]\nenabled = false").unwrap();
        let settings =
            Settings { profile: Some(Profile::Medium), config: Some(file.path().to_owned()), ..Settings::default() };
        let config = Config::load(&settings, &ArgMatches::default(), None).unwrap();
        assert_eq!(&*config.rewards.dpo.model.0, "btlm-3b-8k-base");
        assert!(!config.rewards.nsfw.enabled);
        assert_eq!(config.prompts.answer_sample_size, 6, "what a profile does not say stays");
    }

    #[test]
    fn a_partial_table_keeps_the_other_defaults() {
        let mut layers = defaults();
        layers.set("prompts.concurrent_forwards", parse_value("3"), Origin::Flag("--set".into()));
        let read: Config = layers.read().unwrap();
        assert_eq!(read.prompts.concurrent_forwards, 3);
        assert_eq!(read.prompts.answer_sample_size, 6);
    }
}
