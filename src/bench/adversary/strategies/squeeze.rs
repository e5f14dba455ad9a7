//! Five characters that cost nothing: their raw score of −11 widens the normaliser until good and poor look alike, which
//! pays the poor. Measured in `facts` on the reference: five of fifty uids take the spread from 0.67 to 0.16.

use async_trait::async_trait;

use crate::bench::adversary::{
    lab::Lab,
    strategy::{About, Haste, Strategy, View},
};

/// See the module.
pub struct Squeeze;

#[async_trait(?Send)]
impl Strategy for Squeeze {
    fn name(&self) -> &'static str {
        "normaliser squeeze"
    }

    fn idea(&self) -> &'static str {
        "`ok`: earns nothing, and flattens what others earn"
    }

    fn about(&self) -> About {
        About::Nothing
    }

    fn haste(&self) -> Haste {
        Haste::First
    }

    async fn complete(&self, _view: &View<'_>, _lab: &Lab) -> anyhow::Result<Option<String>> {
        Ok(Some("ok".to_owned()))
    }
}
