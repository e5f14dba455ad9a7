//! Defences that openvalidators 1.2.0 did not have.

use serde::{Deserialize, Serialize};

/// One switch for each, all on by default; [`Defences::NONE`] is what `--compat` sets. `docs/adversary.md` has what each buys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defences {
    /// Raw scores are normalised by median and median absolute deviation of what filters pass: [`crate::robust`].
    pub robust_normaliser: bool,
    /// Texts are compared without look-alike letters and unseen characters: [`crate::comparison`].
    pub fold_lookalikes: bool,
    /// Texts that give the prompt back are blocked: [`crate::echo`].
    pub echo: bool,
    /// Phrases that are overused from step to step count like stock phrases: [`crate::phrases`].
    pub overused_phrases: bool,
    /// Who says again and again what somebody said before earns less: [`crate::followers`].
    pub followers: bool,
    /// Hotkeys of one coldkey or network that cannot be told apart share what fewer would earn: [`crate::kin`].
    pub kin: bool,
}

impl Defences {
    /// All of them.
    pub const ALL: Self = Self {
        robust_normaliser: true,
        fold_lookalikes: true,
        echo: true,
        overused_phrases: true,
        followers: true,
        kin: true,
    };

    /// None: openvalidators 1.2.0.
    pub const NONE: Self = Self {
        robust_normaliser: false,
        fold_lookalikes: false,
        echo: false,
        overused_phrases: false,
        followers: false,
        kin: false,
    };
}

impl Default for Defences {
    fn default() -> Self {
        Self::ALL
    }
}
