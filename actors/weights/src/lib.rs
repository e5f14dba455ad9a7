//! Moving-average scores, and putting them on the chain as weights.
//!
//! **What for.** Every settled step changes the standing of the hotkeys it asked ([`scores`]). Once in each epoch, at a fixed
//! share of it, the standings become the weight vector of this validator ([`vector`], [`process`]), unless there is a reason
//! to wait ([`duty`]).
//!
//! **Who sends.** The forward applies each step after `rewards` has; anyone may read the scores, or follow the published table.
//! Metagraphs come by watch channel; each new block is a look at the duty.
//!
//! **Whom it sends to.** `ledger`: snapshots, steps to resume from, and every intent before it is submitted. `subtensor`: the
//! submission, and the question what the chain holds.
//!
//! **Exactly one submission in an epoch.** Record the intent → see that everyone still holds the uid they are paid at → submit
//! → settle from the chain's state. While the fate of an intent is not known (no answer, a crash, `kill -9`) no other is made:
//! the chain's own `last_update` and row of weights say what became of it. An intent after the chain's head was made for another
//! chain and counts for nothing. With commit-reveal the proof is the row after the reveal epoch; a commit that never showed is
//! a failure, and the next epoch tries again.
//!
//! **When it is slow** steps wait in its inbox; a submission never holds them up. **When the chain is away** the scores go on
//! and `openvalidators_weights_epochs_missed` rises. **When the ledger refuses** weights are set all the same and recorded
//! later. **When it dies** a fresh actor resumes from the snapshot and folds what followed; a step it is given that leaves a gap
//! makes it read the missing ones from the ledger. A step whose outcome was never stored, while a later one's was, is left out
//! and counted.

mod actor;
mod config;
pub mod duty;
#[cfg(test)]
mod fixtures;
pub mod guard;
mod metrics;
pub mod process;
mod recovery;
pub mod scores;
mod submission;
pub mod vector;

pub use actor::{Mailboxes, Neighbours, OWNER, WeightsActor};
pub use config::{BadConfig, WeightsConfig, WhenEmpty};
pub use metrics::Metrics;
