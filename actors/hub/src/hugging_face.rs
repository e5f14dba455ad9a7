//! Files of a repository of the Hugging Face hub, through the cache of its own tools.
//!
//! `HEAD …/resolve/REVISION/FILE` says what a file is (`X-Repo-Commit`, `X-Linked-ETag`, `X-Linked-Size`), `GET` of the same
//! address fetches it, from another host as a rule. Source:
//! <https://huggingface.co/docs/huggingface_hub/package_reference/file_download>, `hf_hub_download`.

use std::path::PathBuf;

use openvalidators_runtime::AtPath;
use reqwest::{StatusCode, Url};

use crate::{
    cache::{Lock, blocking, sha256_of},
    catalogue::{ModelFile, Repository},
    config::Settings,
    download::{Downloader, Failure, Wanted, forget},
    hub_cache::{Etag, RepositoryCache, is_commit},
    listing::{Listing, Offered},
};

/// The listing of one repository.
const LISTING_LIMIT_BYTES: usize = 16 << 20;
/// A file whose size nobody tells.
const FILE_LIMIT_BYTES: u64 = 1 << 40;

/// A hub, and the cache before it.
pub(crate) struct HuggingFace<'a> {
    pub downloader: &'a Downloader<'a>,
    pub settings: &'a Settings,
}

/// A file that is here, and is what it should be.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: String,
}

/// What the hub says of a file without sending it.
struct Metadata {
    commit: String,
    etag: Etag,
    bytes: Option<u64>,
}

// === impl HuggingFace ===

impl HuggingFace<'_> {
    /// What a repository holds.
    pub async fn listing(&self, from: &Repository) -> Result<Listing, Failure> {
        let mut url = self.address(&["api", "models"], from, "revision", &[])?;
        url.set_query(Some("blobs=true"));
        let token = self.settings.token.as_ref();
        let answer = self.downloader.text(url, "application/json", token, LISTING_LIMIT_BYTES).await;
        let answer = answer.map_err(|failure| self.explain(failure, from).of("the listing"))?;
        Listing::parse(&answer).map_err(Failure::Source)
    }

    /// A pinned file: from the cache where it is there, else from the hub.
    pub async fn pinned(&self, from: &Repository, file: &ModelFile) -> Result<Fetched, Failure> {
        self.file(from, &Offered::pinned(file)).await
    }

    /// A pinned file, if the cache has it.
    pub async fn pinned_in_cache(&self, from: &Repository, file: &ModelFile) -> Result<Option<Fetched>, Failure> {
        let cache = self.cache(from);
        let Some(commit) = cache.commit(&from.revision) else { return Ok(None) };
        self.cached(&cache, &commit, &Offered::pinned(file)).await
    }

    /// A file as offered, which may leave its size and digest open.
    pub async fn file(&self, from: &Repository, file: &Offered) -> Result<Fetched, Failure> {
        let cache = self.cache(from);
        if let Some(commit) = cache.commit(&from.revision).filter(|_| is_commit(&from.revision))
            && let Some(fetched) = self.cached(&cache, &commit, file).await?
        {
            return Ok(fetched);
        }
        let Metadata { commit, etag, bytes } = self.metadata(from, file).await?;
        if let (Some(pinned), Some(offered)) = (&file.sha256, etag.sha256())
            && pinned != offered
        {
            return Err(
                Failure::Source(format!("it offers a file of sha256 {offered}, expected {pinned}")).of(&file.name)
            );
        }
        cache.create()?;
        let clock = self.downloader.clock;
        let lock = Lock::wait(&cache.lock_file(&etag), clock, self.settings.fetch_timeout).await?;
        let (blob, name) = (cache.blob(&etag), etag.clone());
        if !blocking(move || Ok(blob.is_file() && name.matches(&blob).at("read", &blob)?)).await? {
            self.download(from, file, &etag, bytes, &cache).await.map_err(|failure| failure.of(&file.name))?;
        }
        cache.link(&etag, &commit, &file.name)?;
        drop(lock);
        cache.note(&from.revision, &commit)?;
        if let Some(sha256) = etag.sha256() {
            // The blob was held to its name already, gigabytes of it perhaps.
            let path = cache.file(&commit, &file.name);
            let bytes = path.metadata().at("read", &path)?.len();
            return Ok(Fetched { path, bytes, sha256: sha256.to_owned() });
        }
        let found = self.cached(&cache, &commit, file).await?;
        found.ok_or_else(|| Failure::Source(format!("it is not what was expected: {}", wanted(file))).of(&file.name))
    }

    /// A file that is in the cache already and is what is wanted.
    pub async fn cached(
        &self,
        cache: &RepositoryCache,
        commit: &str,
        file: &Offered,
    ) -> Result<Option<Fetched>, Failure> {
        let (path, etag, file) = (cache.file(commit, &file.name), cache.etag(commit, &file.name), file.clone());
        let look = move || {
            let bytes = match path.metadata() {
                Ok(metadata) if metadata.is_file() => metadata.len(),
                _ => return Ok(None),
            };
            if file.bytes.is_some_and(|expected| expected != bytes) {
                return Ok(None);
            }
            let sha256 = sha256_of(&path).at("read", &path)?;
            let right = match (&file.sha256, etag.as_ref().map(|etag| (etag, etag.sha256()))) {
                (Some(expected), _) => *expected == sha256,
                (None, Some((_, Some(named)))) => named == sha256,
                (None, Some((etag, None))) => etag.matches(&path).at("read", &path)?,
                (None, None) => true,
            };
            Ok(right.then_some(Fetched { path, bytes, sha256 }))
        };
        Ok(blocking(look).await?)
    }

    /// The cache of a repository.
    pub fn cache(&self, from: &Repository) -> RepositoryCache {
        RepositoryCache::new(&self.settings.hub_cache, &from.repository)
    }

    async fn download(
        &self,
        from: &Repository,
        file: &Offered,
        etag: &Etag,
        bytes: Option<u64>,
        cache: &RepositoryCache,
    ) -> Result<(), Failure> {
        let part = cache.incomplete(etag);
        let wanted = Wanted {
            label: &file.name,
            url: self.address(&[], from, "resolve", &[&file.name])?,
            token: self.settings.token.as_ref(),
            bytes: file.bytes.or(bytes),
            limit_bytes: file.bytes.or(bytes).unwrap_or(FILE_LIMIT_BYTES),
            sha256: etag.sha256().or(file.sha256.as_deref()),
            part: &part,
        };
        self.downloader.file(&wanted).await.map_err(|failure| self.explain(failure, from))?;
        let (name, whole) = (etag.clone(), part.clone());
        let held_to_its_name = etag.sha256().is_some();
        if !held_to_its_name && !blocking(move || Ok(name.matches(&whole).at("read", &whole)?)).await? {
            forget(&part)?;
            return Err(Failure::Source("its contents are not those that its etag names".into()));
        }
        cache.publish(etag)?;
        Ok(forget(&part)?)
    }

    async fn metadata(&self, from: &Repository, file: &Offered) -> Result<Metadata, Failure> {
        let url = self.address(&[], from, "resolve", &[&file.name])?;
        let head = self.downloader.head(url, self.settings.token.as_ref()).await;
        let head = head.map_err(|failure| self.explain(failure, from).of(&file.name))?;
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let source = |reason: String| Err(Failure::Source(reason).of(&file.name));
        let commit = match (header("x-repo-commit"), is_commit(&from.revision)) {
            (Some(said), true) if said != from.revision => {
                return source(format!("it answers for the commit {said}, not {}", from.revision));
            }
            (_, true) => from.revision.clone(),
            (Some(said), false) if is_commit(said) => said.to_owned(),
            _ => return source("it does not say which commit this is (X-Repo-Commit)".into()),
        };
        let named = header("x-linked-etag").or(header("etag")).and_then(Etag::parse);
        let Some(etag) = named.or_else(|| Etag::parse(file.sha256.as_deref()?)) else {
            return source("it has no usable ETag".into());
        };
        // Where the hub sends elsewhere, the length is that of its own answer.
        let length = if head.redirected { None } else { header("content-length") };
        let bytes = header("x-linked-size").or(length).and_then(|bytes| bytes.parse().ok());
        match (bytes, file.bytes) {
            (Some(offered), Some(expected)) if offered != expected => {
                source(format!("it offers a file of {offered} bytes, expected {expected}"))
            }
            _ => Ok(Metadata { commit, etag, bytes }),
        }
    }

    /// `ENDPOINT/before…/OWNER/NAME/verb/REVISION/after…`, a `/` of the revision escaped.
    pub fn address(&self, before: &[&str], from: &Repository, verb: &str, after: &[&str]) -> Result<Url, Failure> {
        let mut url = self.settings.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| Failure::Source("the hub's address takes no path".into()))?
            .pop_if_empty()
            .extend(before)
            .extend(from.repository.split('/'))
            .extend([verb, from.revision.as_str()])
            .extend(after);
        Ok(url)
    }

    /// What a refusal means, and what to do.
    pub fn explain(&self, failure: Failure, from: &Repository) -> Failure {
        let Failure::Refused { status, code } = failure else { return failure };
        let Repository { repository, revision } = from;
        let page = format!("{}{repository}", self.settings.endpoint);
        let token = if self.settings.token.is_some() { "the token given may not" } else { "no token was given to" };
        let words = match (status, code.as_deref()) {
            (_, Some("GatedRepo")) | (StatusCode::FORBIDDEN, _) => format!(
                "the repository is gated and {token} read it: accept its terms once at {page}, and set HF_TOKEN to a token \
                 of that account"
            ),
            (_, Some("RevisionNotFound")) => format!("it has no revision `{revision}`"),
            (_, Some("EntryNotFound")) => format!("no such file at revision `{revision}`"),
            (StatusCode::UNAUTHORIZED, _) => format!(
                "no such repository, or a private one, and {token} read it: check the name `{repository}`, or set HF_TOKEN"
            ),
            (StatusCode::NOT_FOUND, _) => {
                format!("no such repository, revision or file: check `{repository}` at `{revision}`")
            }
            _ => return failure_of(status, code),
        };
        Failure::Source(format!("it answered {status}: {words}"))
    }
}

fn failure_of(status: StatusCode, code: Option<String>) -> Failure {
    Failure::Refused { status, code }
}

fn wanted(file: &Offered) -> String {
    match (&file.sha256, file.bytes) {
        (Some(sha256), _) => format!("sha256 {sha256}"),
        (None, Some(bytes)) => format!("{bytes} bytes"),
        (None, None) => "a file".to_owned(),
    }
}
