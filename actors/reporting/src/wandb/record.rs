//! The records of a `.wandb` log: the part of wandb's `wandb_internal.proto` (checked against 0.31.0) that a run needs.
//!
//! Fields that are not named here are skipped when a log is read, so a log that a newer client wrote reads too.

use prost::{Message, Oneof};

/// One record of a log.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    /// Counts the records of a log, from 1.
    #[prost(int64, tag = "1")]
    pub num: i64,
    #[prost(oneof = "Kind", tags = "2, 3, 7, 8, 17, 18, 21")]
    pub kind: Option<Kind>,
}

/// What a record says.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Kind {
    /// A row.
    #[prost(message, tag = "2")]
    History(HistoryRecord),
    /// The latest values.
    #[prost(message, tag = "3")]
    Summary(Items),
    /// A sample of the hardware.
    #[prost(message, tag = "7")]
    Stats(StatsRecord),
    /// Files with a name and versions.
    #[prost(message, tag = "8")]
    Artifact(ArtifactRecord),
    /// The run itself.
    #[prost(message, tag = "17")]
    Run(RunRecord),
    /// The end of the run.
    #[prost(message, tag = "18")]
    Exit(ExitRecord),
    /// The first record.
    #[prost(message, tag = "21")]
    Header(HeaderRecord),
}

/// A named value. `HistoryItem`, `SummaryItem`, `ConfigItem` and `StatsItem` have these fields alike.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Item {
    /// Never as `nested_key`: client 0.15.3 uploads such a value under the empty name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// wandb's own core writes this one instead of `key`; a path of one part is that key.
    #[prost(string, repeated, tag = "2")]
    pub nested_key: Vec<String>,
    #[prost(string, tag = "16")]
    pub value_json: String,
}

/// `SummaryRecord` and `ConfigRecord`: values that take the place of those of the same name.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Items {
    #[prost(message, repeated, tag = "1")]
    pub update: Vec<Item>,
}

/// A row.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HistoryRecord {
    #[prost(message, repeated, tag = "1")]
    pub item: Vec<Item>,
    #[prost(message, optional, tag = "2")]
    pub step: Option<HistoryStep>,
}

/// The number of a row in its run.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HistoryStep {
    #[prost(int64, tag = "1")]
    pub num: i64,
}

/// A sample of the hardware; `stats_type` 0 is the system's.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatsRecord {
    #[prost(int32, tag = "1")]
    pub stats_type: i32,
    #[prost(message, optional, tag = "2")]
    pub timestamp: Option<Timestamp>,
    #[prost(message, repeated, tag = "3")]
    pub item: Vec<Item>,
}

/// A version of an artifact.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ArtifactRecord {
    #[prost(string, tag = "1")]
    pub run_id: String,
    #[prost(string, tag = "2")]
    pub project: String,
    /// Empty: the owner of the key.
    #[prost(string, tag = "3")]
    pub entity: String,
    /// `model`
    #[prost(string, tag = "4")]
    pub kind: String,
    #[prost(string, tag = "5")]
    pub name: String,
    /// MD5 of paths and digests of the manifest, in hexadecimal.
    #[prost(string, tag = "6")]
    pub digest: String,
    #[prost(string, repeated, tag = "11")]
    pub aliases: Vec<String>,
    #[prost(message, optional, tag = "12")]
    pub manifest: Option<ArtifactManifest>,
    #[prost(bool, tag = "14")]
    pub finalize: bool,
    /// By which the server knows a version that it is told of twice.
    #[prost(string, tag = "15")]
    pub client_id: String,
    #[prost(string, tag = "16")]
    pub sequence_client_id: String,
    #[prost(string, tag = "20")]
    pub digest_algorithm: String,
}

/// The files of a version.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ArtifactManifest {
    #[prost(int32, tag = "1")]
    pub version: i32,
    #[prost(string, tag = "2")]
    pub storage_policy: String,
    #[prost(message, repeated, tag = "3")]
    pub storage_policy_config: Vec<PolicySetting>,
    #[prost(message, repeated, tag = "4")]
    pub contents: Vec<ManifestEntry>,
}

/// `StoragePolicyConfigItem`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PolicySetting {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value_json: String,
}

/// One file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ManifestEntry {
    /// Its name in the artifact.
    #[prost(string, tag = "1")]
    pub path: String,
    /// MD5 in base64.
    #[prost(string, tag = "2")]
    pub digest: String,
    /// Bytes.
    #[prost(int64, tag = "4")]
    pub size: i64,
    /// Where it lies on this machine.
    #[prost(string, tag = "6")]
    pub local_path: String,
}

/// A run.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RunRecord {
    #[prost(string, tag = "1")]
    pub run_id: String,
    /// Empty: the owner of the key.
    #[prost(string, tag = "2")]
    pub entity: String,
    #[prost(string, tag = "3")]
    pub project: String,
    #[prost(message, optional, tag = "4")]
    pub config: Option<Items>,
    #[prost(string, tag = "9")]
    pub notes: String,
    #[prost(string, repeated, tag = "10")]
    pub tags: Vec<String>,
    #[prost(string, tag = "13")]
    pub host: String,
    #[prost(message, optional, tag = "17")]
    pub start_time: Option<Timestamp>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExitRecord {
    /// 0: finished; anything else: failed.
    #[prost(int32, tag = "1")]
    pub exit_code: i32,
    /// Seconds.
    #[prost(int32, tag = "2")]
    pub runtime: i32,
}

/// Who wrote the log.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderRecord {
    #[prost(message, optional, tag = "1")]
    pub version_info: Option<VersionInfo>,
}

/// A version of a client.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VersionInfo {
    #[prost(string, tag = "1")]
    pub producer: String,
}

/// `google.protobuf.Timestamp`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

// === impl Item ===

impl Item {
    pub(crate) fn new(key: impl Into<String>, value_json: impl Into<String>) -> Self {
        Self { key: key.into(), nested_key: Vec::new(), value_json: value_json.into() }
    }

    /// The name, whichever field it is in.
    pub(crate) fn name(&self) -> &str {
        match self.nested_key.first() {
            Some(first) if self.key.is_empty() => first,
            _ => &self.key,
        }
    }
}

// === impl Timestamp ===

impl Timestamp {
    /// Of seconds since 1970.
    #[allow(clippy::cast_possible_truncation, reason = "saturates; the fraction is below 1e9")]
    pub(crate) fn of(seconds: f64) -> Self {
        Self { seconds: seconds.floor() as i64, nanos: (seconds.fract().abs() * 1e9) as i32 }
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 fit in 53 bits")]
    pub(crate) fn seconds_since_1970(&self) -> f64 {
        self.seconds as f64 + f64::from(self.nanos) / 1e9
    }
}
