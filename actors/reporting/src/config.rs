//! The operator's settings. The names of the event log's are those of openvalidators 1.2.0 (`openvalidators/config.py`).

use std::{fmt, net::SocketAddr, num::NonZeroUsize, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wandb::{WandbConfig, WandbConfigError};

/// Loopback, and not 9615: a subtensor node on the same machine exports its own metrics there.
const DEFAULT_METRICS_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9616);

/// What is reported, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportingConfig {
    /// No event log at all.
    pub dont_save_events: bool,
    /// The event log is renamed and begun anew before it passes this size. Renamed files are kept.
    pub events_retention_size: ByteSize,
    /// Leaves the columns of the reward functions and filters out of the events; final rewards stay.
    pub disable_log_rewards: bool,
    /// How long new steps may wait in the ledger before they are looked for.
    pub poll_milliseconds: u64,
    /// Steps read from the ledger at a time.
    pub batch_steps: NonZeroUsize,
    /// How long the final drain may take at shutdown. What is not drained is reported by the next start.
    pub drain_seconds: u64,
    /// Prometheus.
    pub metrics: MetricsConfig,
    /// wandb.
    pub wandb: WandbConfig,
}

/// The Prometheus exporter and health endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// No listener at all.
    pub off: bool,
    /// Where `/metrics`, `/health` and `/ready` are served. They have no password: keep it on loopback.
    pub address: SocketAddr,
    /// A few gauges for each uid of the subnet.
    pub per_uid: bool,
    /// How often those are brought up to date.
    pub per_uid_seconds: u64,
}

/// A number of bytes, written as loguru's `rotation` is: `2 GB`, `512 MiB`, `1.5e3 kB`; a small `b` means bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is no [`ByteSize`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no size: expected a number of at least 1 byte and a unit, such as `2 GB`, `500 MB` or `1 GiB`")]
pub struct ParseByteSizeError {
    text: String,
}

impl Default for ReportingConfig {
    fn default() -> Self {
        Self {
            dont_save_events: false,
            events_retention_size: ByteSize(2_000_000_000),
            disable_log_rewards: false,
            poll_milliseconds: 500,
            batch_steps: NonZeroUsize::MIN.saturating_add(31),
            drain_seconds: 5,
            metrics: MetricsConfig::default(),
            wandb: WandbConfig::default(),
        }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { off: false, address: DEFAULT_METRICS_ADDRESS, per_uid: true, per_uid_seconds: 15 }
    }
}

impl ReportingConfig {
    /// # Errors
    /// The first value that makes no sense.
    pub fn check(&self) -> Result<(), WandbConfigError> {
        self.wandb.check()
    }
}

// === impl ByteSize ===

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    /// As loguru's `parse_size`: number, optional prefix k…y, optional `i` for powers of 1024, then `B` or `b`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseByteSizeError { text: text.to_owned() };
        let rest = text.trim();
        let (rest, divisor) = match (rest.strip_suffix('B'), rest.strip_suffix('b')) {
            (Some(rest), _) => (rest, 1.0),
            (_, Some(rest)) => (rest, 8.0),
            _ => return Err(wrong()),
        };
        let (rest, base) = match rest.strip_suffix(['i', 'I']) {
            Some(rest) => (rest, 1024_f64),
            None => (rest, 1000_f64),
        };
        let prefix = rest.chars().next_back().and_then(|last| "kmgtpezy".find(last.to_ascii_lowercase()));
        // An `e` belongs to the number only when digits follow it, which they cannot at the end.
        let (number, power) = match prefix {
            Some(index) => (&rest[..rest.len() - 1], i32::try_from(index + 1).map_err(|_| wrong())?),
            None => (rest, 0),
        };
        let number: f64 = number.trim_end().parse().map_err(|_| wrong())?;
        let bytes = number * base.powi(power) / divisor;
        // Beyond 2^53 a float is no count of bytes any more, and no disk either.
        if !(1.0..=9_007_199_254_740_992.0).contains(&bytes) {
            return Err(wrong());
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        match units.into_iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_loguru_reads_them() {
        for (text, bytes) in [
            ("2 GB", 2_000_000_000),
            ("2GB", 2_000_000_000),
            (" 500 MB ", 500_000_000),
            ("1 GiB", 1 << 30),
            ("1.5e3 kB", 1_500_000),
            ("100 b", 12),
            ("8 kib", 1024),
            ("4096 B", 4096),
            ("1 EB", 1_000_000_000_000_000_000),
        ] {
            let found = text.parse::<ByteSize>();
            if bytes > 1 << 53 {
                assert!(found.is_err(), "{text}");
            } else {
                assert_eq!(found.unwrap(), ByteSize(bytes), "{text}");
            }
        }
        for text in ["", "2", "GB", "2 G", "-1 GB", "0 B", "nan GB", "inf B", "2 XB", "1 week", "12:00", "2 é"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("2 GB"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_survive_the_round_trip() {
        for bytes in [1, 999, 1_000, 2_000_000_000, 1 << 30] {
            assert_eq!(ByteSize(bytes).to_string().parse::<ByteSize>().unwrap(), ByteSize(bytes));
        }
        assert_eq!(ByteSize(2_000_000_000).to_string(), "2 GB");
    }

    #[test]
    fn an_unknown_key_is_refused_and_none_is_needed() {
        assert_eq!(serde_json::from_str::<ReportingConfig>("{}").unwrap(), ReportingConfig::default());
        let error = serde_json::from_str::<ReportingConfig>(r#"{"metrics": {"adress": "x"}}"#).unwrap_err();
        assert!(error.to_string().contains("adress"), "{error}");
        let json = serde_json::to_string(&ReportingConfig::default()).unwrap();
        assert_eq!(serde_json::from_str::<ReportingConfig>(&json).unwrap(), ReportingConfig::default());
    }
}
