//! Works until its average is high, then takes its axon away: who is not asked keeps what it has.

use async_trait::async_trait;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{Moment, Presence, Strategy, View},
};

/// See the module.
pub struct Rider;

#[async_trait(?Send)]
impl Strategy for Rider {
    fn name(&self) -> &'static str {
        "join, then rest"
    }

    fn idea(&self) -> &'static str {
        "works well for half the time, then serves no axon and rides on its average"
    }

    fn part(&self, moment: Moment, _turn: f64) -> Presence {
        if moment.step * 2 < moment.steps { Presence::Works } else { Presence::Away }
    }

    async fn complete(&self, _view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        Ok(None)
    }
}
