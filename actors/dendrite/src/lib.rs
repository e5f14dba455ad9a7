//! Asks miners: one signed request to each, all at once, with one deadline for the step. And serves an axon, the other
//! end of the same wire.
//!
//! `actors/prompts` sends [`Query`](openvalidators_messages::dendrite::Query); the dendrite sends to nobody but miners.
//! Every query ends with one completion per miner, in order, whatever happened; a query as a whole cannot fail.
//!
//! * Slow miners cost the others nothing: there is no limit over all connections, and the deadline ends what still hangs.
//! * Hostile miners are held to limits on heads, bodies and addresses ([`Config`]); see [`response`] for how each ends.
//! * Full: the inbox's places are the steps in flight; senders wait for one.
//! * Dead: connections and lanes live in [`Dendrite`], outside the actor; a fresh actor goes on with them. A query asked
//!   again is a second set of requests to the same miners, and harmless.
//!
//! There are two wires: the Synapse protocol of bittensor 6 to 10 ([`synapse`]) and the signed requests of bittensor 11
//! ([`btauth`]). [`transport`] says which miner is asked on which.

mod actor;
pub mod address;
pub mod axon;
pub mod btauth;
mod client;
mod config;
mod dendrite;
mod metrics;
mod mock;
#[cfg(test)]
mod peer;
pub mod python_json;
pub mod python_repr;
pub mod response;
mod signing;
pub mod synapse;
#[cfg(test)]
mod testing;
pub mod transport;
mod unicode13;

pub use actor::{DendriteActor, Mailboxes};
pub use config::{Config, ConfigError};
pub use dendrite::Dendrite;
pub use metrics::Metrics;
pub use transport::{Choice, Transport};
