//! A node of Bittensor's chain for tests, of this package and, by the feature `testing`, of others.
//!
//! It is no simulation of the chain (that is [`crate::local`]): it answers JSON-RPC as a node does, judges each transaction's
//! bytes and signature by metadata, and has the faults of real nodes at the test's command. With a [`Subnet`] it also does
//! what transactions say, so that a whole validator can live on it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what is wrong by failing")]
#![cfg_attr(not(test), allow(dead_code, reason = "other packages use the part with a subnet"))]

pub(crate) mod encode;
pub(crate) mod metadata;
pub(crate) mod node;
pub(crate) mod subnet;
mod v15;

pub use subnet::{Member, Sent, Subnet, SubnetNode};
