//! What every actor stands on: bounded mailboxes, supervision that sees panics, clocks that tests drive, derived
//! randomness, backoff, and an ordered shutdown. No domain knowledge.
//!
//! actix gives actors; it does not give bounds, and it does not survive panics (measured: `docs/architecture.md`,
//! "What actix really does"). So:
//!
//! * [`Mailbox`] is the only way to send. A place is taken *before* sending and travels inside the [`Envelope`].
//! * [`WhileAwaited`] is how a handler answers with work that ends when its caller gives up.
//! * [`supervise`] makes an actor from its factory, notices how it ends, and makes it anew within a [`RestartBudget`].
//! * [`Shutdown`] carries the first reason to stop; [`close_in_order`] closes what runs, naming who is late.
//! * [`Clock`] and [`Seed`] are handed down: nothing else in the project reads the time or draws a random number. [`within`]
//!   gives a wait its end.
//! * [`Pulse`] is what a loop without messages shows of its progress; [`fault_point`] is where tests make it panic or hang.
//! * [`accept_bounded`], [`AtPath`], [`on_worker`] and [`panic_text`] are what several crates would otherwise write again.

mod accept;
mod at_path;
mod awaited;
mod backoff;
mod clock;
mod closing;
mod fault;
mod mailbox;
#[cfg(test)]
mod mailbox_model;
mod metrics;
mod pulse;
mod seed;
mod shutdown;
mod supervision;
#[cfg(test)]
mod supervision_tests;
pub mod testing;
mod worker;

pub use accept::accept_bounded;
pub use at_path::{AtPath, FileError};
pub use awaited::WhileAwaited;
pub use backoff::Backoff;
pub use clock::{Clock, DrivenClock, SharedClock, SystemClock, TooLate, within};
pub use closing::{Late, Stage, close_in_order};
pub use fault::{FAIL_AT, HANG_AT, PANIC_AT, fault_point, is_failure_asked};
pub use mailbox::{CallError, Envelope, Inbox, InboxHealth, Mailbox, Place};
pub use pulse::Pulse;
pub use seed::Seed;
pub use shutdown::{Reason, Shutdown};
pub use supervision::{ActorThread, BoxError, RestartBudget, Stop, Supervision, panic_text, supervise};
pub use worker::{on_worker, works_given};
