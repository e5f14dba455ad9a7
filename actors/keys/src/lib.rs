//! What signs for a neuron: SS58 addresses, the sr25519 hotkey signer, and the wallets that hotkeys are kept in. A leaf
//! crate without an actor.
//!
//! `actors/dendrite` signs queries with a [`HotkeySigner`], `actors/subtensor` signs extrinsics; everybody who reads or
//! writes an address for people goes through [`ss58`]. Secrets never leave this crate: there is no way to print one, and
//! the memory that held it is overwritten when the signer is dropped.

pub mod keyfile;
mod signer;
pub mod ss58;
mod uri;
pub mod wallet;

pub use signer::{HotkeySigner, SIGNATURE_BYTES, verify};
pub use uri::UriError;
pub use wallet::{Wallet, WalletConfig};
