//! The vocabulary of the validator: ids, values, and one module for each actor's inbox.
//!
//! Read this crate top to bottom to learn the system. A *forward* is one conversation; each of its nine *steps* goes
//! prompt → route → query → score → settle, and every arrow is a message below:
//!
//! | step part | message | answered by |
//! |---|---|---|
//! | draw a context for a new forward | [`prompts::Draw`] | `actors/prompts` |
//! | choose miners | [`gating::Route`] | `actors/gating` |
//! | ask them | [`dendrite::Query`] | `actors/dendrite` |
//! | raw scores (touches no state) | [`rewards::Score`] | `actors/rewards`, which asks [`inference`] |
//! | make the step durable | [`ledger::Append`] | `actors/ledger` |
//! | fold it into the normaliser and history | [`rewards::Apply`] | `actors/rewards` |
//! | fold it into the moving averages | [`weights::Apply`] | `actors/weights` |
//! | put weights on the chain | [`subtensor::SetWeights`] | `actors/subtensor` |
//!
//! Nothing here does anything: no I/O, no clock, no tensor. Every message that changes state is idempotent, by
//! [`Sequence`], [`StepId`] or [`IntentId`], so a sender that does not know whether it was handled may send it again.

mod completion;
pub mod dendrite;
pub mod gating;
mod ids;
pub mod inference;
pub mod ledger;
mod metagraph;
mod origin;
pub mod prompts;
pub mod rewards;
mod step;
pub mod subtensor;
pub mod weights;

pub use completion::{Completion, QueryOutcome};
pub use ids::{
    Block, ForwardId, Hotkey, IntentId, Netuid, ParseStepNameError, Sequence, StepId, StepKind, StepName, Uid,
};
pub use metagraph::{Axon, Hyperparameters, Metagraph, Neuron};
pub use origin::Origin;
pub use step::{
    Asked, Column, Embeddings, Judgement, NotFinite, PromptEmbedding, RawScores, Reward, STEP_RECORD_VERSION, Scored,
    Scoring, Shadow, ShadowStanding, StepOutcome, StepRecord,
};
