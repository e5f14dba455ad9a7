//! Stacks of models for machines of different sizes: a file of `configs/` each, laid over `local.toml` and under the
//! operator's own file.

use std::fmt;

use clap::ValueEnum;

/// A stack, by the machine it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// The stack of openvalidators 1.2.0, on a GPU.
    Full,
    /// Its smaller models, on a GPU of 16 GB or in 24 GB of memory.
    Medium,
    /// Two small models, on any machine.
    Cpu,
}

// === impl Profile ===

impl Profile {
    /// The largest first.
    pub const ALL: [Self; 3] = [Self::Full, Self::Medium, Self::Cpu];

    /// Its settings.
    #[must_use]
    pub fn toml(self) -> &'static str {
        match self {
            Self::Full => include_str!("../../configs/full.toml"),
            Self::Medium => include_str!("../../configs/medium.toml"),
            Self::Cpu => include_str!("../../configs/cpu.toml"),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Medium => "medium",
            Self::Cpu => "cpu",
        })
    }
}
