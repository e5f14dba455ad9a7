//! What attackers would earn if a candidate were in force. `openvalidators bench adversary --candidates FILE` plays it and
//! writes it down; the validator, `analyze` and `what-if` show it beside what the candidate did on live traffic.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The version of the file; raised when a reader of the old one would misread it.
pub const VERSION: u16 = 1;

/// A longer file is none of ours: a candidate takes two kilobytes.
const LIMIT_BYTES: u64 = 1 << 20;

/// The benchmark with what is in force, and with each candidate in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// [`VERSION`] of the writer.
    pub version: u16,
    /// [`crate::Config::digest`] of what was in force.
    pub settings: String,
    /// The attackers' share of the uids.
    pub share: f64,
    /// With what is in force.
    pub in_force: Attacked,
    /// With each candidate, by name.
    pub candidates: BTreeMap<String, Attacked>,
}

/// A subnet under attack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attacked {
    /// By strategy: the attackers' share of the weights over their share of the uids.
    pub capture: BTreeMap<String, f64>,
    /// Without attackers: Spearman's rank correlation of honest miners' weights with their quality.
    pub rank_correlation: f64,
    /// Without attackers: the share of honest completions that filters zeroed.
    pub honest_zeroed: f64,
}

/// The file of [`Benchmark`] is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "reading the benchmark of candidates {}: {reason}; write it anew with `openvalidators bench adversary --candidates {}`, \
     or leave it out",
    file.display(),
    file.display()
)]
pub struct BenchmarkError {
    /// Which.
    pub file: PathBuf,
    /// What was found.
    pub reason: String,
}

// === impl Benchmark ===

impl Benchmark {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is of a later version, or holds something else.
    pub fn read(file: &Path) -> Result<Self, BenchmarkError> {
        let failed = |reason: String| BenchmarkError { file: file.to_owned(), reason };
        let mut bytes = Vec::new();
        let opened = File::open(file).map_err(|error| failed(error.to_string()))?;
        opened.take(LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 > LIMIT_BYTES {
            return Err(failed(format!("it is longer than {LIMIT_BYTES} bytes")));
        }
        Self::parse(&bytes).map_err(failed)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u16,
        }
        let none = |error| format!("it is no such benchmark: {error}");
        let Versioned { version } = serde_json::from_slice(bytes).map_err(none)?;
        if version != VERSION {
            return Err(format!("it has version {version}; this program reads {VERSION}"));
        }
        let benchmark: Self = serde_json::from_slice(bytes).map_err(none)?;
        let all = benchmark.candidates.iter().map(|(name, attacked)| (name.as_str(), attacked));
        for (name, attacked) in all.chain([("in_force", &benchmark.in_force)]) {
            if let Some((strategy, ratio)) = attacked.capture.iter().find(|(_, ratio)| **ratio < 0.0) {
                return Err(format!("`{name}` has the capture ratio {ratio} for `{strategy}`; it is 0 or more"));
            }
        }
        Ok(benchmark)
    }

    /// The highest capture ratio of each candidate.
    #[must_use]
    pub fn worst(&self) -> BTreeMap<String, f64> {
        let worst = |(name, attacked): (&String, &Attacked)| Some((name.clone(), attacked.worst()?.1));
        self.candidates.iter().filter_map(worst).collect()
    }
}

// === impl Attacked ===

impl Attacked {
    /// The strategy that captures most, and how much.
    #[must_use]
    pub fn worst(&self) -> Option<(&str, f64)> {
        let worst = self.capture.iter().max_by(|a, b| a.1.total_cmp(b.1));
        worst.map(|(strategy, ratio)| (strategy.as_str(), *ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_none_says_so() {
        let capture = [("exact copycat".to_owned(), 0.75), ("stock phrase".to_owned(), 0.0)].into();
        let attacked = Attacked { capture, rank_correlation: 0.9, honest_zeroed: 0.01 };
        let written = Benchmark {
            version: VERSION,
            settings: "0".repeat(64),
            share: 0.15,
            in_force: Attacked::default(),
            candidates: [("rank_normaliser".to_owned(), attacked)].into(),
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            Benchmark::read(file.path())
        };
        let text = serde_json::to_string(&written).unwrap();
        assert_eq!(with(&text), Ok(written.clone()));
        assert_eq!(written.worst(), [("rank_normaliser".to_owned(), 0.75)].into());
        assert_eq!(written.candidates["rank_normaliser"].worst(), Some(("exact copycat", 0.75)));
        let refused = |text: &str, words: &str| {
            let error = with(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(error.contains(&format!("bench adversary --candidates {}", file.path().display())), "{error}");
        };
        refused("", "no such benchmark");
        refused("{}", "missing field `version`");
        refused(&text.replace("\"version\":1", "\"version\":7"), "it has version 7; this program reads 1");
        refused(&text.replace("\"share\"", "\"part\""), "unknown field `part`");
        refused(&text.replace("0.75", "null"), "invalid type: null");
        refused(&text.replace("0.75", "-0.75"), "-0.75 for `exact copycat`");
        refused(&" ".repeat(LIMIT_BYTES as usize + 1), "longer than 1048576 bytes");
        let nowhere = Benchmark::read(Path::new("/nowhere/candidates.json")).unwrap_err().to_string();
        assert!(nowhere.contains("/nowhere/candidates.json: No such file"), "{nowhere}");
    }
}
