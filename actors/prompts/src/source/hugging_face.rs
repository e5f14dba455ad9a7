//! Datasets of the Hugging Face hub, read where they are. A revision is a commit from the first reading on.
//!
//! | layout | where its files are |
//! |---|---|
//! | files in the repository | `data/train-00000-of-00080.parquet`, `en/c4-train.00000.json.gz`, … |
//! | a program that makes them | converted by the hub: branch `refs/convert/parquet`, `CONFIG/SPLIT/0000.parquet`; of large ones `CONFIG/partial-SPLIT/…` |
//! | a program that fetches them elsewhere | see `addresses.rs` |
//!
//! Which files belong to a split is told by their paths, as `datasets` does where nobody wrote it down: the name of the
//! split stands in them as a word (`datasets/data_files.py`). Sources: <https://huggingface.co/docs/hub/datasets-file-names-and-splits>,
//! <https://huggingface.co/docs/dataset-viewer/parquet>.

use std::{cell::Cell, collections::BTreeSet, ops::Range, sync::Arc};

use bytes::Bytes;
use openvalidators_hub::{Dataset, Datasets, RemoteFile};

use super::{
    blocking::BlockOn,
    config::HuggingFaceConfig,
    shards::{self, Listing, LocalFile, ReadError, ShardFile, Shards},
};

/// Files, folders or configurations that an error names.
const SHOWN: usize = 12;
/// What other splits are called (`datasets/splits.py` and `data_files.py`).
const OTHER_SPLITS: [&str; 9] = ["train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval"];

/// A dataset of the hub.
pub struct HuggingFace {
    config: HuggingFaceConfig,
    remote: Arc<Remote>,
    /// Whether it was looked for a newer commit: once is enough for a life.
    looked_for_newer: Cell<bool>,
}

/// The way to files elsewhere, for the one thread that uses it.
pub(super) struct Remote {
    pub datasets: Arc<Datasets>,
    pub blocking: BlockOn,
}

/// A shard elsewhere.
pub(super) struct RemoteShard {
    pub remote: Arc<Remote>,
    pub file: RemoteFile,
}

// === impl HuggingFace ===

impl HuggingFace {
    /// Uses no network.
    pub fn new(config: &HuggingFaceConfig, datasets: Arc<Datasets>) -> Self {
        Self { config: config.clone(), remote: Remote::new(datasets), looked_for_newer: Cell::new(false) }
    }

    /// The commit that a branch stands for by now, where it is not this one. Nobody waits for it again when it cannot be had.
    fn newer(&self, commit: &str) -> Option<String> {
        if is_commit(&self.config.revision) || self.looked_for_newer.replace(true) {
            return None;
        }
        let (now, _) = self.listing(&self.config.revision).ok()?;
        (now != commit).then_some(now)
    }

    fn listing(&self, revision: &str) -> Result<(String, Vec<String>), ReadError> {
        let dataset = Dataset::new(&self.config.dataset, revision);
        Ok(self.remote.blocking.block_on(self.remote.datasets.listing(&dataset))??)
    }

    /// The files that are wanted of all there are.
    fn wanted(&self, all: Vec<String>) -> Result<Vec<String>, ReadError> {
        let HuggingFaceConfig { dataset, revision, config, split, files, .. } = &self.config;
        let nothing = |what: String, found: BTreeSet<&str>| {
            let found: Vec<&str> = found.into_iter().take(SHOWN).collect();
            let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
            Err(ReadError::lasting(format!("{dataset} at `{revision}` has {what}; it has {found}")))
        };
        let readable: Vec<String> = all.iter().filter(|file| shards::is_readable(file)).cloned().collect();
        if readable.is_empty() {
            let what = "no .parquet, .jsonl or .txt file (one that is made by a program is at revision \
                        `refs/convert/parquet`)";
            return nothing(what.to_owned(), all.iter().map(String::as_str).collect());
        }
        if let Some(start) = files {
            let found: Vec<String> = readable.iter().filter(|file| file.starts_with(start.as_str())).cloned().collect();
            return match found.is_empty() {
                true => nothing(format!("no file that begins with `{start}`"), texts(&readable)),
                false => Ok(found),
            };
        }
        // What the hub converted lies in a folder for each configuration.
        let converted = revision.starts_with("refs/convert/");
        let folders: BTreeSet<&str> = readable.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
        let of_config: Vec<String> = match config {
            Some(config) => {
                readable.iter().filter(|file| folders_of(file).any(|part| part == config)).cloned().collect()
            }
            None if converted && folders.len() > 1 => {
                return nothing("several configurations and the source's `config` names none".to_owned(), folders);
            }
            None => readable.clone(),
        };
        if of_config.is_empty() {
            let config = config.as_deref().unwrap_or_default();
            return nothing(format!("no files of a configuration `{config}`"), folders);
        }
        let named = |file: &&String, split: &str| words(file).any(|word| word == split);
        let of_split: Vec<String> = of_config.iter().filter(|file| named(file, split)).cloned().collect();
        if !of_split.is_empty() {
            return Ok(of_split);
        }
        // Files that name no split are all of them for training.
        let of_none = |file: &&String| !OTHER_SPLITS.iter().any(|split| named(file, split));
        let unnamed: Vec<String> = of_config.iter().filter(of_none).cloned().collect();
        match split.as_str() {
            "train" if !unnamed.is_empty() => Ok(unnamed),
            _ => nothing(format!("no files of a split `{split}`"), texts(&of_config)),
        }
    }
}

fn texts(files: &[String]) -> BTreeSet<&str> {
    files.iter().map(String::as_str).collect()
}

/// A revision that stays what it is.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn folders_of(file: &str) -> impl Iterator<Item = &str> {
    file.rsplit_once('/').map_or("", |(folders, _)| folders).split('/')
}

/// A path taken apart where `datasets` does: at slashes, dots, dashes, underscores and spaces.
fn words(file: &str) -> impl Iterator<Item = &str> {
    file.split(['/', '.', '-', '_', ' '])
}

impl Shards for HuggingFace {
    fn identity(&self) -> String {
        let HuggingFaceConfig { dataset, revision, config, split, files, column, weight: _ } = &self.config;
        let (config, files) = (config.as_deref().unwrap_or("*"), files.as_deref().unwrap_or("*"));
        format!("hugging_face {dataset} {revision} {config} {split} {files} {column}")
    }

    fn list(&self, known: Option<&str>) -> Result<Listing, ReadError> {
        let listed = match known {
            // The hub's own branches are written anew now and then, and what they held is gone.
            Some(commit) => self.listing(commit).or_else(|error| match error.lasting {
                true => self.listing(&self.config.revision),
                false => Err(error),
            }),
            // What the name stands for is known by this: the next pass need not ask again.
            None => {
                self.looked_for_newer.set(true);
                self.listing(&self.config.revision)
            }
        };
        let (version, all) = listed?;
        let newer = known.filter(|known| *known == version).and_then(|known| self.newer(known));
        Ok(Listing { version, shards: self.wanted(all)?, newer })
    }

    fn open(&self, version: &str, shard: &str) -> Result<Arc<dyn ShardFile>, ReadError> {
        let dataset = Dataset::new(&self.config.dataset, version);
        if let Some(path) = self.remote.datasets.cached(&dataset, shard) {
            return LocalFile::open(&path);
        }
        let file = self.remote.blocking.block_on(self.remote.datasets.open(&dataset, shard))??;
        Ok(Arc::new(RemoteShard { remote: self.remote.clone(), file }))
    }

    fn column(&self) -> &str {
        &self.config.column
    }
}

// === impl Remote ===

impl Remote {
    pub fn new(datasets: Arc<Datasets>) -> Arc<Self> {
        Arc::new(Self { datasets, blocking: BlockOn::default() })
    }
}

// === impl RemoteShard ===

impl ShardFile for RemoteShard {
    fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        Ok(self.remote.blocking.block_on(self.remote.datasets.read(&self.file, range))??)
    }
}

#[cfg(test)]
mod tests;
