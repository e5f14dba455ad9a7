//! Inbox of `actors/dendrite`: asking miners.

use std::{sync::Arc, time::Duration};

use actix::Message;

use crate::{Completion, StepId, gating::Routed};

/// Asks all these miners at once, with one deadline. The answer holds one completion for each, in order; it never fails
/// as a whole.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Vec<Completion>")]
pub struct Query {
    /// For logs and spans.
    pub step: StepId,
    /// Whom to ask.
    pub miners: Vec<Routed>,
    /// `roles` of the `Prompting` synapse, e.g. `["user"]`.
    pub roles: Arc<[String]>,
    /// `messages` of the `Prompting` synapse, as long as `roles`.
    pub messages: Arc<[String]>,
    /// What every miner has, counted once for the whole step.
    pub timeout: Duration,
}
