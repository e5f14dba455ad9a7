//! Models that servers elsewhere compute, behind the same [`Engine`](crate::Engine): text-embeddings-inference and vLLM.
//!
//! The numbers are to be those that this machine would compute. So rows are cut, and where the wire allows tokenised, here;
//! what a server cannot serve alike is refused when the program starts ([`Demand`]); and what it answers is believed only
//! where it is finite and of the right count. `docs/remote-engines.md` says what can be remote.
//!
//! Reading order: [`routed`](RoutedEngine) → `model` → `replicas` → `protocol` → `openai`, `tei` → `server`.

mod compared;
mod config;
mod metrics;
mod model;
mod openai;
mod protocol;
mod replicas;
mod routed;
mod server;
mod tei;
#[cfg(test)]
mod tests;

pub use config::{RemoteConfig, RemoteKind, RemoteLimits};
pub use metrics::RemoteMetrics;
pub use protocol::Demand;
pub use routed::{RemoteError, RoutedEngine};
