//! Weights that are committed first and read later: what is committed, when it opens, and how it is hidden.
//!
//! A subnet with commit-reveal takes weights in one of two ways; the chain client asks the chain which and calls here:
//!
//! * **hash** ([`HashReveal`]): commit a hash, reveal the weights yourself an epoch later; the salt comes with the weights,
//!   and lies in the ledger by then;
//! * **timelocked**, "CRv4" ([`TimelockedCommit`]): commit the weights encrypted to a future round of the drand randomness
//!   beacon ([`RevealSchedule`] says which); the chain opens them itself when the round's signature is out.
//!
//! Nothing here talks to a chain, reads a clock or keeps state. Randomness is handed in, and it must be a secret: who can
//! guess it reads the weights before their time. A stream of a `Seed` that stands in a configuration file is no secret;
//! the operating system's is.
//!
//! Sources: `subnets/weights.rs`, `coinbase/reveal_commits.rs`, `coinbase/run_coinbase.rs` of opentensor/subtensor (spec
//! 425); `generate_weight_hash` of the Bittensor SDK 10.5.0; `bittensor-drand` 1.3.0 and 2.0.0, asked for answers.

mod container;
mod hash;
mod payload;
mod schedule;
mod timelock;

pub use container::{BadContainer, MAX_CONTAINER_BYTES};
pub use hash::{HashReveal, Mechanism};
pub use payload::{BadPayload, Payload, PayloadShape, UnknownVersion};
pub use schedule::{BadSchedule, EpochRule, Head, RevealPoint, RevealSchedule};
pub use timelock::{NotDecrypted, NotEncrypted, RoundSignature, TimelockedCommit, WrongSignature, decrypt, encrypt};

use openvalidators_messages::Uid;

/// A weight vector whose two halves do not belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a weight vector needs one weight for each uid, found {uids} uids and {weights} weights")]
pub struct LengthsDiffer {
    /// So many uids.
    pub uids: usize,
    /// So many weights.
    pub weights: usize,
}

fn aligned(uids: &[Uid], weights: &[u16]) -> Result<(), LengthsDiffer> {
    let (uids, weights) = (uids.len(), weights.len());
    if uids == weights { Ok(()) } else { Err(LengthsDiffer { uids, weights }) }
}
