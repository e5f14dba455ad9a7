use std::{ops::RangeInclusive, path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};
use openvalidators_messages::{Sequence, Uid};

use super::Settings;

/// Whose ledger is read, and under which settings.
#[derive(Debug, Args)]
pub struct Place {
    /// Where the validator keeps its records [default: `state_dir` of the configuration].
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
    /// A TOML file over the defaults; `configs/local.toml` explains every key.
    #[arg(long, value_name = "FILE", env = "OPENVALIDATORS_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Set one key, e.g. `--set ledger.keep_texts_days=7`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
    /// Print JSON lines instead of text.
    #[arg(long, global = true)]
    pub json: bool,
}

/// `openvalidators ledger`
///
/// The ledger is everything a validator cannot compute again. All of this but `restore` works while the validator runs.
#[derive(Debug, Args)]
pub struct Ledger {
    /// Whose.
    #[command(flatten)]
    pub place: Place,
    /// What to do with it.
    #[command(subcommand)]
    pub action: LedgerAction,
}

/// What to do with a ledger.
#[derive(Clone, Debug, Subcommand)]
pub enum LedgerAction {
    /// Read all of it and say whether it is whole. The exit code is 1 where it is not.
    Check,
    /// Copy it as it is at this moment into one file.
    Backup {
        /// The copy; must not exist.
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
    /// Make a backup the ledger of a state directory that has none, on this host or another. Stop the validator that it
    /// was taken from first: two with one hotkey overwrite each other's weights.
    Restore {
        /// What `backup` made.
        #[arg(value_name = "FILE")]
        from: PathBuf,
    },
    /// Print steps and weight intents as JSON lines.
    Export {
        /// Only these steps (all intents): `N`, or `A..B`, both included.
        #[arg(long, value_name = "N|A..B")]
        step: Option<Steps>,
    },
    /// Say what takes how much, and what it will come to.
    Size {
        /// Days to look ahead.
        #[arg(long, value_name = "DAYS", default_value_t = 180)]
        days: u32,
    },
}

/// `openvalidators replay`
///
/// Makes normalised rewards, masks, final rewards, moving averages and weights again from the records, without models and
/// by the very code that made them, and compares every bit with what was stored. Uses the settings in force now: steps
/// folded under other ones differ. The exit code is 1 at the first difference.
#[derive(Debug, Args)]
pub struct Replay {
    /// Whose ledger.
    #[command(flatten)]
    pub place: Place,
    /// These steps: `N`, or `A..B`, both included [default: all that the ledger can replay].
    #[arg(long, value_name = "N|A..B")]
    pub step: Option<Steps>,
    /// Load the networks and make the raw scores again too. They must be those of then, to the sha256 of every file; numbers
    /// may differ by what a device makes of the same row beside other rows.
    #[arg(long)]
    pub rescore: bool,
}

/// `openvalidators explain`
///
/// Follows one weight back to the completions it was made of: steps the miner was asked in, raw and normalised rewards,
/// masks, moving average, share, processed share, and the u16 that was submitted. The exit code is 1 where that does not
/// add up.
#[derive(Debug, Args)]
pub struct Explain {
    /// Whose ledger.
    #[command(flatten)]
    pub place: Place,
    /// The miner's place on the subnet.
    #[arg(long, value_name = "UID", value_parser = uid)]
    pub uid: Uid,
    /// The epoch whose weights are meant [default: that of the latest weights submitted].
    #[arg(long, value_name = "EPOCH")]
    pub epoch: Option<u64>,
    /// Show so many of the latest steps.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub last: usize,
}

/// A range of steps, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// The first.
    pub first: Sequence,
    /// The last.
    pub last: Sequence,
}

fn uid(text: &str) -> Result<Uid, std::num::ParseIntError> {
    text.parse().map(Uid)
}

// === impl Place ===

impl Place {
    /// Where its settings come from.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let Self { state_dir, config, set, .. } = self;
        Settings { state_dir: state_dir.clone(), config: config.clone(), set: set.clone(), ..Settings::default() }
    }
}

// === impl Steps ===

impl Steps {
    /// The places in it.
    #[must_use]
    pub fn places(self) -> RangeInclusive<Sequence> {
        self.first..=self.last
    }
}

impl FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let place = |text: &str| {
            let place =
                text.trim().parse().map_err(|_| format!("expected N or A..B, as 7 or 7..12, found `{text}`"))?;
            if place == 0 { Err("the first step is 1".to_owned()) } else { Ok(Sequence(place)) }
        };
        let steps = Self { first: place(first)?, last: place(last.trim_start_matches('='))? };
        if steps.last < steps.first {
            return Err(format!("{} comes after {}", steps.first, steps.last));
        }
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_steps_is_read_and_nonsense_is_named() {
        let steps = |first, last| Ok(Steps { first: Sequence(first), last: Sequence(last) });
        assert_eq!("7".parse(), steps(7, 7));
        assert_eq!("7..12".parse(), steps(7, 12));
        assert_eq!("7..=12".parse(), steps(7, 12));
        for (text, said) in
            [("x", "found `x`"), ("0", "first step is 1"), ("9..3", "9 comes after 3"), ("..", "found ``")]
        {
            let error = text.parse::<Steps>().unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
