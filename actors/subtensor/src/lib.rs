//! The chain: what the validator reads of its subnet, and how its weights get there.
//!
//! [`Chain`] is the seam: the actor and everybody behind it sees one trait, whether a chain runs in this process, in
//! another one on this machine ([`local`]), or at nodes of a real network ([`remote`]).
//!
//! * **Who sends to it**: `actors/weights` asks [`SubtensorActor`] to set weights and to read a row back.
//! * **Whom it tells**: it sends no messages. After each block it publishes a [`Metagraph`] on a watch channel that every
//!   other actor may hold.
//! * **Slow**: every call has a deadline from [`ChainConfig`]. Reads are tried again, submissions never: an answer that
//!   does not come says nothing about whether the transaction is in a block.
//! * **Full**: a message waits for a place in the inbox, its sender with it. One submission is in flight at a time.
//! * **Dead** (the chain): the last good metagraph stays published, its age is a metric, and following goes on with
//!   growing waits. Dead (the actor): a fresh one goes on from the published metagraph; a submission in flight may be in
//!   a block, and its caller is told so (`MayHaveRun`).
//!
//! [`Metagraph`]: openvalidators_messages::Metagraph

mod actor;
mod calls;
mod chain;
pub mod commit_reveal;
mod config;
mod endpoint;
mod follow;
pub mod local;
mod metrics;
pub mod remote;

pub use actor::{Mailboxes, SubtensorActor};
pub use calls::ChainCalls;
pub use chain::{Chain, with_deadline};
pub use config::{ChainConfig, ChainConfigError, STATE_FILE};
pub use endpoint::{Endpoint, Node};
pub use metrics::Metrics;
