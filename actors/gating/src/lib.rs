//! Gating: which miners a step asks, and what is learned from what they complete.
//!
//! **Who sends.** The forward: once for each step ([`Route`]), and once it is settled ([`Apply`]).
//!
//! **Whom it sends to.** Inference, for the embedding of a prompt; the ledger, for snapshot and steps of an earlier life and
//! its own snapshots. It reads the latest metagraph snapshot.
//!
//! **How it chooses.** [`forecast`] says what each miner promises for the prompt, [`policy`] turns that into odds with a floor
//! for everyone and a bound on waiting, [`learned`] draws by them. Until it has warmed up, where a prompt could not be read, and
//! where the operator wants it, the choice is [`uniform`], as openvalidators 1.2.0 makes it. The probability of each choice
//! goes into the record of the step: averages over what was asked are fair by it. `docs/gating.md` argues for all of this.
//!
//! **What it learns.** [`state::State::fold`] is a pure function of state and record: the reference's gating [`head`], whose
//! loss is a metric; the memory of forecasts; who was asked, and when. The embedding is part of the record, so a replay
//! needs no model.
//!
//! **Slow, full, dead.** Choices run side by side on worker threads; an embedding that takes longer than
//! `embed_timeout_seconds` is gone without. When the inbox is full, forwards wait for a place. When the actor dies, a fresh
//! one recovers from the ledger, and a step offered again is not folded twice.
//!
//! [`Route`]: openvalidators_messages::gating::Route
//! [`Apply`]: openvalidators_messages::gating::Apply

mod actor;
mod config;
pub mod forecast;
pub mod head;
pub mod interests;
pub mod learned;
mod metrics;
pub mod policy;
mod recovery;
mod router;
#[cfg(test)]
mod samples;
pub mod snapshot;
pub mod state;
pub mod uniform;

pub use actor::{GatingActor, Mailboxes, Surroundings};
pub use config::{Compat, Config, ConfigError, RoutingKind};
pub use metrics::Metrics;
pub use recovery::{Ledger, OWNER};
