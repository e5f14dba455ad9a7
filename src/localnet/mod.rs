//! A network of miners on this machine, so that a validator has somebody to validate on its first run and in tests.
//!
//! Every miner is a real HTTP server on a loopback port, with a hotkey of its own, registered on the local chain of
//! `actors/subtensor`. To the validator it is a miner like any other: which kind it is stands in the [`Roster`] alone.
//!
//! | kind | does | rewards should |
//! |---|---|---|
//! | good, fair, poor | the task, by extraction from the prompt, in three grades | rank them so |
//! | specialist | the task, well about one field and poorly about others | pay for its field; learned routing finds it |
//! | slow | the task well, as a rule after the deadline the validator states | pay only what came in time |
//! | lazy, echo, keyword spammer | what once won against rewards | not be won again |
//! | copycat | what an honest miner completes | not pay twice |
//! | hanging, garbage, oversized, wrong JSON, refusing | nothing of use | pay nothing, and lose no time or memory |
//!
//! Completions are a pure function of (seed, index, prompt): two runs with one seed see the same network.
//!
//! | file | holds |
//! |---|---|
//! | `kinds.rs`, `config.rs` | the kinds, how many of each, settings |
//! | `text.rs`, `task.rs` | reading prose, reading a prompt |
//! | `field.rs` | what a prompt is about |
//! | `answers.rs`, `question.rs`, `grade.rs` | what honest miners complete |
//! | `judge.rs` | the grades they give each other |
//! | `behaviour.rs` | what each kind replies |
//! | `miners.rs`, `garbage.rs` | the servers |
//! | `network.rs`, `serve.rs` | their places on the chain; all of it as a process |

pub mod answers;
mod behaviour;
mod config;
pub mod field;
mod garbage;
mod grade;
mod judge;
mod kinds;
mod miners;
mod network;
mod question;
mod serve;
mod task;
pub(crate) mod text;

pub use config::LocalnetConfig;
pub use kinds::{BadMix, MAX_MINERS, MinerKind, MinerMix, Tier};
pub use miners::{Miner, Miners, hotkey};
pub use network::{LocalnetError, Roster, RosterEntry, admit_miners, admit_validator};
use openvalidators_runtime::{Seed, SharedClock};
use openvalidators_subtensor::local::LocalNetwork;
pub use serve::{Ready, ServeConfig, serve};

/// Running miners with their places on a local chain. Dropped, the miners stop without waiting for anybody.
#[derive(Debug)]
pub struct Localnet {
    miners: Miners,
    roster: Roster,
}

// === impl Localnet ===

impl Localnet {
    /// Starts the miners on the current tokio runtime, registers them and serves their axons. Takes a few blocks.
    ///
    /// # Errors
    /// [`LocalnetError`]; miners that were started are stopped.
    pub async fn start(
        config: &LocalnetConfig,
        network: &LocalNetwork,
        seed: Seed,
        clock: &SharedClock,
    ) -> Result<Self, LocalnetError> {
        let miners = Miners::start(config, seed, clock).await?;
        let roster = admit_miners(network, &miners, config.miner_stake).await?;
        Ok(Self { miners, roster })
    }

    /// Who is who.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Stops the miners; see [`Miners::stop`]. They keep their places on the chain.
    pub async fn stop(self) {
        self.miners.stop().await;
    }
}
