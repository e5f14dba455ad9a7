//! How an owner of state comes back to the present: its snapshot, then the steps that the ledger holds after it.
//!
//! The same for `rewards`, `weights` and `gating`: [`load_snapshot`], pages of steps by [`read_page`], and [`read_between`] for
//! a gap found while running. A leaf, and no actor: what a fold is, and what to do with a step that has no outcome yet, stays
//! with the owner.
//!
//! [`encode`] and [`decode`] lay out a state that has many numbers; [`SnapshotError`] says of any snapshot why it is of no use.

mod read;
mod snapshot;

pub use read::{GAP_LIMIT_STEPS, READ_ATTEMPTS, ReadError, load_snapshot, read_between, read_page};
pub use snapshot::{SnapshotError, check_version, damaged, decode, encode};
