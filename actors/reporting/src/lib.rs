//! What happened, for people and their tools: the event log, wandb, Prometheus, and the health endpoints.
//!
//! Nobody sends to this actor. It *pulls* settled steps from `actors/ledger` by a cursor ([`Tail`]), so that a slow or
//! dead reporting never slows a step: what it cannot keep up with waits in the ledger. It asks `actors/weights` for
//! scores, for the gauges of the uids.
//!
//! [`wandb`] does the same by a cursor of its own, into logs that it uploads in its own time.
//!
//! When the disk is full or the ledger does not answer, it tries again with growing pauses, counts
//! `openvalidators_reporting_errors_total` and turns `/ready` red; no event is lost or doubled meanwhile, nor by a
//! crash. At shutdown it drains for a few seconds and leaves the rest to the next start. It must be closed *before* the
//! ledger for that drain to find anything.
//!
//! The [`Exporter`] is no actor: it serves on the program's own runtime, so that it answers when actors do not.

mod actor;
mod config;
mod disk;
mod event;
mod event_log;
mod exporter;
mod health;
mod metrics;
mod tail;
#[cfg(test)]
mod testing;
pub mod wandb;

pub use actor::{Mailboxes, ReportingActor, ReportingParts};
pub use config::{ByteSize, MetricsConfig, ParseByteSizeError, ReportingConfig};
pub use disk::DiskSpace;
pub use event::{EVENT_SCHEMA_VERSION, Origin};
pub use event_log::{EVENT_LOG_FILE, EventLog, EventLogError, Tally};
pub use exporter::{Exporter, ExporterError};
pub use health::{Check, Health, HealthReport};
pub use metrics::{BuildInfo, ReportingMetrics};
pub use tail::{Follower, LedgerReader, Tail, TailError};
