//! Takes the request and never answers, or a byte at a time: it costs the validator its deadline.

use async_trait::async_trait;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{Moment, Presence, Strategy, View},
};

/// See the module.
pub struct Hang;

#[async_trait(?Send)]
impl Strategy for Hang {
    fn name(&self) -> &'static str {
        "hang and drip"
    }

    fn idea(&self) -> &'static str {
        "takes requests and never finishes an answer"
    }

    fn part(&self, _moment: Moment, _turn: f64) -> Presence {
        Presence::Hangs
    }

    async fn complete(&self, _view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        Ok(None)
    }
}
