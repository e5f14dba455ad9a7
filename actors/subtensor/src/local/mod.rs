//! A Bittensor subnet on this machine, for the first run and for tests.
//!
//! It keeps what a validator can notice of the real chain at spec version 425: Yuma consensus ([`yuma`]), permits that
//! come an epoch late, `LastUpdate` at registration, masks, pruning and replacement, the checks of the pool and of the
//! block by their names and in their order, rate limits scaled to the tempo, commit-reveal with expiry and silent
//! failure, late epochs, the emission each epoch divides.
//!
//! It leaves out: accounts' money (registration is free, emission is counted but not paid out, so stake is what it was
//! set to), liquidity pools and the price of alpha, root dividends, parents and children, more than one mechanism, EVM,
//! conviction, encryption of commits (they lie in the chain's state; readers are not shown them), signatures (callers
//! are trusted), forks and finality (a block is final when it is saved).
//!
//! | file | holds |
//! |---|---|
//! | `yuma.rs` | one epoch, pure |
//! | `state.rs`, `calls.rs`, `block.rs`, `simulated.rs` | the state machine, pure |
//! | `config.rs` | settings, and the rules they become |
//! | `store.rs` | the state on disk |
//! | `engine.rs` | blocks on a timer, in this process |
//! | `node.rs` | what can be asked, and [`crate::Chain`] over it |
//! | `wire.rs`, `server.rs`, `client.rs` | the same through a loopback socket |

mod block;
mod calls;
mod client;
mod config;
mod engine;
mod node;
mod server;
mod simulated;
mod state;
mod store;
mod wire;
pub mod yuma;

pub use calls::{Applied, Call, DispatchError, PoolError, WeightVector};
pub use client::LocalClient;
pub use config::{LocalChainConfig, LocalConfigError, MAX_UIDS, Rules, SimulatedValidatorsConfig};
pub use engine::{LocalChain, LocalChainError, POOL_TRANSACTIONS};
pub use node::{Answer, LocalAccount, LocalNetwork, Node, Request};
pub use server::{LocalServer, LocalServerError};
pub use simulated::Simulated;
pub use state::{Commit, Member, RAO_PER_TAO, Served, Subnet};
pub use store::{StateFile, StateFileError};
