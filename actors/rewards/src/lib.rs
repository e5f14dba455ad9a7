//! Rewards: what a miner's completion is worth.
//!
//! **Who sends.** The forward asks for raw scores ([`Score`]) and, once the step is durable, has it folded ([`Apply`]).
//!
//! **Whom it sends to.** Inference, for embeddings, log-probabilities, logits and texts; the dendrite, for grades of miners
//! where they are asked to judge ([`network`]); the ledger, for the state of an earlier life
//! (snapshot and steps), outcomes that were never stored, and its own snapshots.
//!
//! **Two halves.** *Scoring* touches no state: texts are admitted, then every reward function and filter
//! ([`registry`]) is asked at once, and the raw numbers go into the step's record. *Folding* is the pure function
//! [`fold::State::fold`] of state and record: the running normaliser of each reward, the diversity filter's comparison
//! with what it remembers, the weighted sum, the best completion. A restart and a replay fold the same records.
//!
//! *Shadows* ([`shadow`]) are scored beside what is in force and count for nothing.
//!
//! **Slow, full, dead.** When inference is slow, scorings wait side by side up to `score_timeout_seconds` and are then
//! unscored, never zero. When the inbox is full, forwards wait for a place. A step is folded on a worker thread, one at a
//! time; scorings go on meanwhile. When the actor dies, a fresh one recovers from the ledger, and a step offered again is
//! not folded twice. A snapshot the ledger refuses is tried again after the next step. None is past an outcome that the
//! ledger does not hold: what the forward could not store is stored first.
//!
//! **Adding a reward or a filter**: one file with a [`function::RewardFunction`] or a [`function::Filter`], one line in
//! `registry.rs`, and its settings in `config.rs`.
//!
//! [`Score`]: openvalidators_messages::rewards::Score
//! [`Apply`]: openvalidators_messages::rewards::Apply

mod actor;
pub mod admission;
pub mod blacklist;
pub mod combination;
pub mod comparison;
mod config;
pub mod constant;
pub mod correlation;
pub mod dahoas;
pub mod diversity;
pub mod dpo;
pub mod echo;
pub mod firewall;
pub mod fold;
pub mod followers;
pub mod function;
pub mod habit;
pub mod history;
pub mod kin;
mod metrics;
#[cfg(test)]
mod neighbours;
pub mod network;
pub mod normaliser;
pub mod normalisers;
pub mod nsfw;
#[cfg(test)]
mod parity;
pub mod phrases;
pub mod prompt;
pub mod reciprocate;
mod recovery;
pub mod registry;
pub mod relevance;
pub mod rlhf;
pub mod robust;
#[cfg(test)]
mod samples;
pub mod score;
pub mod shadow;
pub mod snapshot;
pub mod step;
pub mod task_validator;

pub use actor::{Mailboxes, RewardsActor, StartError};
pub use config::{
    BlacklistConfig, Compat, Config, ConfigError, Defences, DiversityConfig, DpoConfig, FirewallConfig, Measure,
    NetworkConfig, NsfwConfig, PromptConfig, PromptTemplates, RelevanceConfig, RelevanceStage, RewardModelConfig,
    TaskValidatorConfig,
};
pub use metrics::Metrics;
pub use network::Network;
pub use recovery::{Ledger, OWNER, RecoveryError};
pub use step::Inference;
