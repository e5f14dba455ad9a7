//! The embedded database: what happened, in order, exactly once. Every restart of an actor or of the process resumes from it.
//!
//! **What it holds.** For each step everything that cannot be computed again (its *record*) at a dense *sequence*, and what the
//! folds made of it (its *outcome*, derived); the latest snapshot of every owner of state; weight intents and how they ended;
//! how far each reader has come.
//!
//! **Who sends.** The forward appends a step when it has its raw scores and stores its outcome; `rewards`, `weights` and
//! `gating` load and save snapshots and read what follows them; `weights` records an intent before it submits and settles it
//! after; `reporting` reads steps by cursor. The ledger itself sends to nobody.
//!
//! **An answer means durable.** One SQLite file, write-ahead log, `synchronous=FULL`: a commit returns when its bytes are
//! synced. Handlers block, so the actor has a thread of its own. One transaction for each message: a step takes seconds, an
//! append milliseconds (`measure_appends` in the tests prints them), so grouping commits would only add delay.
//!
//! **Sending again is safe.** A step is known by its id, an outcome by its sequence, a snapshot by its owner, an intent that is
//! still open by its contents; a settlement that is an end stays one.
//!
//! **When it is slow** senders wait for a place in its inbox. **When the disk refuses** (full, read-only, broken) the answer is a
//! [`LedgerError`](openvalidators_messages::ledger::LedgerError) that names the operation, and nothing of that operation is
//! there; the next one may succeed. **When it dies** it is opened anew; whoever was waiting for an answer may send again.
//!
//! **Why SQLite** (through rusqlite, compiled in): an ACID database in one file whose durability is tested like no other's,
//! which analysts open with any tool, while the validator runs, too (`SELECT hotkey, avg(reward) FROM completions GROUP BY
//! hotkey`). Records are JSON text for the same reason.
//!
//! **What is given up.** Texts after `keep_texts_days`; whole steps after `retention_steps`, to the [`Archive`] that the program
//! hands down; then the file shrinks, a little at a time. At `max_bytes` no step is taken any more. Intents are always taken, and never go.
//!
//! Most of the crate is [`Store`], synchronous and without actix; [`Reader`] is its reading half for the offline tools, which
//! check, measure and copy a ledger while the validator writes it.

mod actor;
mod additions;
mod check;
mod config;
mod copy;
mod fault;
mod metrics;
mod open;
mod reader;
mod size;
mod store;

pub use actor::{LedgerActor, Mailboxes};
pub use check::{CHECK_FINDINGS, Checked};
pub use config::{BadRetention, FEWEST_STEPS_KEPT, LedgerConfig};
pub use copy::{CopyError, backup, restore};
pub use metrics::Metrics;
pub use open::{Identity, LEDGER_FILE, LOCK_FILE, OpenError, SCHEMA_VERSION};
pub use reader::{READ_LIMIT_BYTES, READ_LIMIT_INTENTS, READ_LIMIT_STEPS, Reader};
pub use size::Sizes;
pub use store::{ARCHIVE_EVERY_STEPS, Archive, FORGET_BATCH_STEPS, PRUNE_BATCH_STEPS, Store};
