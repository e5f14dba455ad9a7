//! Works well, but mostly for validators of greater stake: the signed request says who asks.

use async_trait::async_trait;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{Moment, Presence, Strategy, View},
};

/// Share of our requests it answers.
const ANSWERED: f64 = 0.25;

/// See the module.
pub struct Selective;

#[async_trait(?Send)]
impl Strategy for Selective {
    fn name(&self) -> &'static str {
        "stake-selective service"
    }

    fn idea(&self) -> &'static str {
        "works well, but answers one of four of our requests"
    }

    fn part(&self, _moment: Moment, turn: f64) -> Presence {
        if turn < ANSWERED { Presence::Works } else { Presence::Hangs }
    }

    async fn complete(&self, _view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        Ok(None)
    }
}
