//! Datasets read where they are: what a dataset of the hub holds, and ranges of bytes of its files or of any other
//! server's. Nothing is kept; files that Hugging Face's own tools have put into their cache are found there.
//!
//! The hub's addresses: <https://huggingface.co/docs/hub/api>; its cache:
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

use std::{ops::Range, path::PathBuf};

use bytes::Bytes;
use openvalidators_runtime::SharedClock;
use reqwest::{Client, Url};

use crate::{
    HubConfig, HubError, Silent,
    catalogue::Repository,
    config::Settings,
    download::{self, Downloader, Failure},
    hub_cache::RepositoryCache,
    hugging_face::HuggingFace,
    listing::Listing,
    ranges::{NoPart, Part},
};

/// Files of one dataset.
const MOST_FILES: usize = 200_000;
/// The listing of one dataset.
const LISTING_LIMIT_BYTES: usize = 64 << 20;

/// The way to datasets. Every request is repeated as [`HubConfig::attempts`] says, a server's `Retry-After` heeded.
pub struct Datasets {
    settings: Settings,
    clock: SharedClock,
    client: Client,
    heads: Client,
}

/// A dataset of the hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    repository: Repository,
}

/// A file elsewhere, as it was when it was opened.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    url: Url,
    /// The hub's token goes to the hub alone.
    of_the_hub: bool,
    bytes: u64,
    etag: Option<String>,
}

/// Something of a dataset could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct DatasetError {
    /// The dataset, the file or the address.
    pub what: String,
    /// What was found, and where it helps what to do.
    pub reason: String,
    /// Asking again would not help.
    pub lasting: bool,
}

// === impl Dataset ===

impl Dataset {
    /// Of `owner/name`, or of a name without owner, at a branch, a tag or a commit.
    #[must_use]
    pub fn new(name: &str, revision: &str) -> Self {
        Self { repository: Repository { repository: format!("datasets/{name}"), revision: revision.to_owned() } }
    }
}

// === impl RemoteFile ===

impl RemoteFile {
    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

// === impl Datasets ===

impl Datasets {
    /// Reads the environment variables named in [`HubConfig`]; uses no network.
    ///
    /// # Errors
    /// [`HubError::BadSetting`] when a setting or variable cannot work.
    pub fn new(config: &HubConfig, clock: SharedClock) -> Result<Self, HubError> {
        Self::with(config, clock, &|name| std::env::var(name).ok())
    }

    /// As [`Self::new`], with an environment of the caller's.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(
        config: &HubConfig,
        clock: SharedClock,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, HubError> {
        let settings = config.resolve(variable)?;
        let (client, heads) = (download::client(&settings)?, download::client_for_heads(&settings)?);
        Ok(Self { settings, clock, client, heads })
    }

    /// The commit that the revision stands for, and the files of it by their paths.
    ///
    /// # Errors
    /// [`DatasetError`] also says whose token is missing.
    pub async fn listing(&self, dataset: &Dataset) -> Result<(String, Vec<String>), DatasetError> {
        let from = &dataset.repository;
        let failed = |failure| self.failed(&from.repository, failure, false);
        self.online(&from.repository)?;
        let (downloader, token) = (self.downloader(), self.settings.token.as_ref());
        let hub = HuggingFace { downloader: &downloader, settings: &self.settings };
        let url = hub.address(&["api"], from, "revision", &[]).map_err(failed)?;
        let answer = downloader.text(url, "application/json", token, LISTING_LIMIT_BYTES).await;
        let answer = answer.map_err(|failure| {
            let lasting = matches!(failure, Failure::Refused { .. });
            self.failed(&from.repository, hub.explain(failure, from), lasting)
        })?;
        let listing = Listing::with_folders(&answer, MOST_FILES).map_err(|reason| failed(Failure::Source(reason)))?;
        Ok((listing.commit, listing.files.into_iter().map(|file| file.name).collect()))
    }

    /// Where a file is in the cache of Hugging Face's tools, if it is there.
    #[must_use]
    pub fn cached(&self, dataset: &Dataset, file: &str) -> Option<PathBuf> {
        let Repository { repository, revision } = &dataset.repository;
        let path = RepositoryCache::new(&self.settings.hub_cache, repository).file(revision, file);
        // A name is the server's word: it must not lead out of the snapshot.
        let plain = file.split('/').all(|part| !matches!(part, "" | "." | ".."));
        Some(path).filter(|path| plain && path.is_file())
    }

    /// Opens a file of a dataset on the hub.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub async fn open(&self, dataset: &Dataset, file: &str) -> Result<RemoteFile, DatasetError> {
        let from = &dataset.repository;
        let downloader = self.downloader();
        let hub = HuggingFace { downloader: &downloader, settings: &self.settings };
        let parts: Vec<&str> = file.split('/').collect();
        let url = hub.address(&[], from, "resolve", &parts).map_err(|failure| self.failed(file, failure, true))?;
        let remote = RemoteFile { url, of_the_hub: true, bytes: 0, etag: None };
        match self.part(&remote, 0..1).await {
            Ok(Part { total, etag, .. }) => Ok(RemoteFile { bytes: total, etag, ..remote }),
            Err(NoPart { failure, lasting }) => Err(self.failed(file, hub.explain(failure, from), lasting)),
        }
    }

    /// Opens a file at an address of its own.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub async fn open_address(&self, address: &str) -> Result<RemoteFile, DatasetError> {
        let url = self.url(address)?;
        let remote = RemoteFile { url, of_the_hub: false, bytes: 0, etag: None };
        match self.part(&remote, 0..1).await {
            Ok(Part { total, etag, .. }) => Ok(RemoteFile { bytes: total, etag, ..remote }),
            Err(NoPart { failure, lasting }) => Err(self.failed(address, failure, lasting)),
        }
    }

    /// Reads a range of an open file, cut at its end.
    ///
    /// # Errors
    /// [`DatasetError`], also when the file is not the one that was opened any more.
    pub async fn read(&self, file: &RemoteFile, range: Range<u64>) -> Result<Bytes, DatasetError> {
        let part = self.part(file, range).await;
        let what = file.url.path();
        let part = part.map_err(|NoPart { failure, lasting }| self.failed(what, failure, lasting))?;
        let changed = matches!((&part.etag, &file.etag), (Some(now), Some(before)) if now != before);
        if changed || part.total != file.bytes {
            let reason = "it has changed while it was read (another ETag or size)".to_owned();
            return Err(DatasetError { what: what.to_owned(), reason, lasting: false });
        }
        Ok(part.bytes)
    }

    /// Fetches a small text, such as a list of addresses.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub async fn text(&self, address: &str, limit_bytes: usize) -> Result<String, DatasetError> {
        self.online(address)?;
        let url = self.url(address)?;
        let text = self.downloader().text(url, "text/plain", None, limit_bytes).await;
        text.map_err(|failure| self.failed(address, failure, false))
    }

    async fn part(&self, file: &RemoteFile, range: Range<u64>) -> Result<Part, NoPart> {
        self.online(file.url.path())
            .map_err(|error| NoPart { failure: Failure::Source(error.reason), lasting: true })?;
        let token = self.settings.token.as_ref().filter(|_| file.of_the_hub);
        self.downloader().range(file.url.clone(), token, range).await
    }

    fn downloader(&self) -> Downloader<'_> {
        Downloader {
            client: self.client.clone(),
            heads: self.heads.clone(),
            clock: &self.clock,
            progress: &Silent,
            attempts: self.settings.attempts,
        }
    }

    fn online(&self, what: &str) -> Result<(), DatasetError> {
        if !self.settings.offline {
            return Ok(());
        }
        let reason = "models.offline is set; a `directory` source reads what is on this machine".to_owned();
        Err(DatasetError { what: what.to_owned(), reason, lasting: true })
    }

    fn url(&self, address: &str) -> Result<Url, DatasetError> {
        let url = Url::parse(address).map_err(|error| error.to_string());
        let url = url.and_then(|url| match url.scheme() {
            "http" | "https" if url.host_str().is_some() => Ok(url),
            scheme => Err(format!("expected https://… or http://…, found `{scheme}:…`")),
        });
        url.map_err(|reason| DatasetError { what: address.to_owned(), reason, lasting: true })
    }

    fn failed(&self, what: &str, failure: Failure, lasting: bool) -> DatasetError {
        let what = what.to_owned();
        match failure {
            Failure::Source(reason) => DatasetError { what, reason, lasting },
            Failure::Refused { status, .. } => {
                DatasetError { what, reason: format!("it answered {status}"), lasting: true }
            }
            Failure::Here(error) => DatasetError { what, reason: error.to_string(), lasting },
        }
    }
}
