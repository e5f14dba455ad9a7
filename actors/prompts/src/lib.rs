//! Prompts: where contexts come from, what the forward says, and the forward itself.
//!
//! Two things live here. The **actor** ([`PromptsActor`]) draws contexts from a [`Source`]; it is asked by the forward and
//! asks nobody. Sources that are slow are read on ahead by threads of their own (`source/stream.rs`), so it answers at once;
//! when its inbox is full the asking lanes wait; when it dies a fresh one needs no state, and the message is sent again. The **lanes** ([`Lanes`]) run forwards: each is one
//! readable async function (`forward.rs`) that turns to the neighbours in [`Desks`]: gating, dendrite, rewards, ledger,
//! weights. Nothing a neighbour does ends a lane: a forward that cannot go on ends early and says why, and a lane that
//! gained nothing pauses, longer each time.
//!
//! Miners' texts are hostile. Before the best completion of a step enters the prompts of other miners it is bounded, made
//! visible, and quoted line by line (`quote.rs`).

mod actor;
mod budget;
mod config;
mod desks;
mod forward;
mod hygiene;
mod lanes;
mod metrics;
pub mod quote;
mod script;
mod sentences;
mod settle;
mod source;
#[cfg(test)]
mod stage;
mod template;

pub use actor::{Mailboxes, PromptsActor};
pub use config::{
    Compat, Config, ConfigError, MAX_CONCURRENT_FORWARDS, MAX_FOLLOWUP_STEPS, MAX_SAMPLE_SIZE, MAX_SECONDS,
    MAX_SHUFFLE_BUFFER, MAX_TEXT_BYTES, MIN_TEXT_BYTES, Settings, TemplatePaths,
};
pub use desks::{Desks, NoAnswer};
pub use forward::{EarlyReason, ForwardEnd, Report};
pub use hygiene::HygieneConfig;
pub use lanes::Lanes;
pub use metrics::Metrics;
pub use script::{Accepted, Conversation, Script};
pub use settle::{CRASH_ATTEMPTS, NotSettled, SETTLE_BACKOFF, Settled};
#[cfg(feature = "testing")]
pub use source::testing;
pub use source::{
    AddressesConfig, DirectoryConfig, Embedded, EmbeddedConfig, HuggingFaceConfig, Mix, OpenError, Passage, Source,
    SourceConfig, Sources, SourcesConfig, SourcesError, SourcesMetrics,
};
pub use template::{Template, TemplateError};
