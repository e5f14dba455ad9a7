//! What an attacker is: a way to get completions without doing the work, and what it may know for it.

use std::sync::Arc;

use async_trait::async_trait;
use openvalidators_runtime::Seed;
use rand::Rng;

use super::lab::Lab;

/// A way to earn without working. One file each in `strategies/`, and one line in [`super::strategies::ALL`].
#[async_trait(?Send)]
pub trait Strategy: Sync {
    /// Its name in the table.
    fn name(&self) -> &'static str;

    /// What it does, in a few words for the table.
    fn idea(&self) -> &'static str;

    /// Different texts it has for one prompt. Hotkeys beyond repeat them.
    fn variants(&self) -> usize {
        1
    }

    /// What its texts are about.
    fn about(&self) -> About {
        About::Prompt
    }

    /// When its completions come.
    fn haste(&self) -> Haste {
        Haste::Usual
    }

    /// How far one of its hotkeys takes part in a step; `turn` is a number in 0..1 drawn anew for each hotkey and step.
    fn part(&self, _moment: Moment, _turn: f64) -> Presence {
        Presence::Answers
    }

    /// The text for a prompt; `None` when it says nothing. A pure function of what it is given.
    ///
    /// # Errors
    /// When a model it asks in its laboratory does not answer.
    async fn complete(&self, view: &View<'_>, lab: &Lab) -> anyhow::Result<Option<String>>;
}

/// Everything a miner can know of a prompt. That is no more than what stands here: neither what the validator compares
/// with, nor its seed, nor what it will ask next.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// As it was asked.
    pub prompt: &'a str,
    /// Which of [`Strategy::variants`].
    pub variant: usize,
    /// What honest miners complete to this prompt, for strategies that wait for it ([`Haste::AfterOthers`]).
    pub overheard: &'a [Arc<str>],
    /// What they completed to the prompt before this one of the same kind.
    pub stored: &'a [Arc<str>],
    /// Its own dice.
    pub seed: Seed,
}

/// What a text is about. A prompt that is asked again in the benchmark stands for a new one, so texts about it count as
/// new; what is said whatever is asked is the same text every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The prompt.
    Prompt,
    /// The prompt before this one of the same kind.
    EarlierPrompt,
    /// Nothing: the same text for every prompt.
    Nothing,
}

/// When a completion comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Before anybody who reads the prompt.
    First,
    /// As those of honest miners.
    Usual,
    /// Once others have answered, and within the deadline.
    AfterOthers,
}

/// A step's place in the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// From 0.
    pub step: usize,
    /// Of so many.
    pub steps: usize,
}

/// How far a hotkey takes part in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// With the strategy's text.
    Answers,
    /// With the work of a good honest miner.
    Works,
    /// It takes the request and never answers.
    Hangs,
    /// It serves no axon: nobody asks it.
    Away,
}

// === impl View ===

impl View<'_> {
    /// Its dice for one purpose: the same for the same prompt and variant.
    pub fn rng(&self, purpose: &str) -> impl Rng + use<> {
        self.seed.rng(&format!("adversary/{purpose}/{}", self.prompt), &[self.variant as u64])
    }

    /// One of the texts it overheard: each variant begins with another.
    #[must_use]
    pub fn somebody_elses(&self) -> Option<&Arc<str>> {
        self.overheard.get(self.variant % self.overheard.len().max(1))
    }
}
