//! What an honest miner said, bought or overheard, word by word.

use async_trait::async_trait;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{Haste, Strategy, View},
};

/// See the module.
pub struct Copycat;

#[async_trait(?Send)]
impl Strategy for Copycat {
    fn name(&self) -> &'static str {
        "exact copycat"
    }

    fn idea(&self) -> &'static str {
        "what a good honest miner said, word by word, a little later"
    }

    fn variants(&self) -> usize {
        6
    }

    fn haste(&self) -> Haste {
        Haste::AfterOthers
    }

    async fn complete(&self, view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        Ok(view.somebody_elses().map(|text| text.to_string()))
    }
}
