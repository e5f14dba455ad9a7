//! Inference: the one owner of the devices. Requests name a model and texts, replies are numbers; no tensor leaves.
//!
//! * Who sends: `rewards` ([`Embed`](openvalidators_messages::inference::Embed), `LogProb`, `Classify`, `Generate`, and
//!   `Models` for the record of a step). It sends to nobody.
//! * Slow: requests wait, first in the inbox, then in the bounded queue of their model's device; callers wait with them.
//!   What waits together is computed together: equal texts once, embeddings of one model as one batch.
//! * Callers gone: a request nobody awaits is dropped before it costs device time.
//! * Failing: a batch that fails is split until the failing row stands alone; that row alone has no answer. A panic on the
//!   device thread, or in a tokenizer, is an error of that row, not the end of the thread.
//! * Dead: the actor holds no state, a fresh one takes the same engine. Closing finishes the batch in hand and answers
//!   `Closed` to the rest.
//!
//! Reading order: [`engine`](Engine) → `placement` → `device` → `embedding`, `scoring`, `classification`,
//! `generation` → `batching`, `prefix` → `models` → `ops`.

mod actor;
mod batching;
mod budget;
mod catalogue;
mod checkpoint;
mod classification;
mod config;
mod device;
mod embedding;
mod engine;
mod generation;
mod metrics;
pub mod models;
mod ops;
mod placement;
#[cfg(test)]
mod precision;
mod prefix;
mod remote;
mod scoring;
pub mod synthetic;
mod tokenizer;

pub use actor::{InferenceActor, Mailboxes};
pub use catalogue::{LoadError, ModelSource, Weight};
pub use checkpoint::{Saved, SavedError, read_saved};
pub use config::Config;
pub use engine::{Engine, Kind, LocalEngine, StartError};
pub use metrics::Metrics;
pub use placement::{DeviceName, Dtype, NoDevice, Placement};
pub use remote::{Demand, RemoteConfig, RemoteError, RemoteKind, RemoteLimits, RemoteMetrics, RoutedEngine};
