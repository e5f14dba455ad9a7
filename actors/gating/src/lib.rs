//! Gating: which miners a step asks.
//!
//! **Who sends.** The forward, once for each step ([`Route`]).
//!
//! **Whom it sends to.** Nobody; it reads the latest metagraph snapshot.
//!
//! **How it chooses.** Uniformly among the available miners, as openvalidators 1.2.0 does ([`uniform`]), and says for each
//! chosen one with which probability it was: the propensity without which a learned router could not be judged on
//! recorded steps. The choice follows from the seed, the step id and the metagraph, so a replay can make it again.
//!
//! **Slow, full, dead.** A choice takes microseconds. When the inbox is full, forwards wait for a place. The actor keeps no
//! state: a fresh one chooses as the dead one would have.
//!
//! [`Route`]: openvalidators_messages::gating::Route

mod actor;
mod config;
pub mod head;
mod metrics;
#[cfg(test)]
mod samples;
pub mod uniform;

pub use actor::{GatingActor, Mailboxes};
pub use config::{Config, ConfigError};
pub use metrics::Metrics;
