//! The first fetch of a model that nobody has pinned: the hub's listing says what is wanted and what large files must be, and
//! what came is what every later start is held to.
//!
//! Without the network, a snapshot that Hugging Face's tools have fetched stands for the listing.

use openvalidators_runtime::AtPath;

use crate::{
    Entry, HubError, ModelFile,
    cache::Folder,
    catalogue::Repository,
    download::Failure,
    hub_cache::replace_link,
    hugging_face::HuggingFace,
    listing::{Listing, Offered},
};

/// An index of shards.
const INDEX_LIMIT_BYTES: u64 = 64 << 20;

/// Fetches what the entry asks for into the cache and links it in `folder`; gives the entry with every file pinned.
pub(crate) async fn fetch(entry: &Entry, hub: &HuggingFace<'_>, folder: &Folder) -> Result<Entry, Failure> {
    let origin = entry.origin().ok_or_else(|| Failure::Source("it has no repository".into()))?;
    let (listing, at) = listing(hub, &origin).await?;
    let mut files = Vec::new();
    let fetcher = Fetcher { hub, folder };

    // Weights last: what is wrong with the small files is found out at once.
    match &entry.tokenizer {
        Some(elsewhere) => {
            let (texts, at) = self::listing(hub, elsewhere).await?;
            for text in texts.texts() {
                let fetched = fetcher.fetch(&at, text).await?;
                files.push(ModelFile { from: Some(at.clone()), ..fetched });
            }
            hub.cache(elsewhere).note(&elsewhere.revision, &at.revision)?;
        }
        None => {
            for text in listing.texts() {
                files.push(fetcher.fetch(&at, text).await?);
            }
        }
    }
    let weights = listing.weights(entry).map_err(Failure::Source)?;
    files.push(fetcher.fetch(&at, weights).await?);
    if weights.is_index() {
        let path = folder.path.join(&weights.name);
        if weights.bytes.is_some_and(|bytes| bytes > INDEX_LIMIT_BYTES) {
            return Err(Failure::Source(format!("{} is larger than {INDEX_LIMIT_BYTES} bytes", weights.name)));
        }
        let index = std::fs::read(&path).at("read", path)?;
        for shard in listing.shards(&index).map_err(|reason| Failure::Source(reason).of(&weights.name))? {
            files.push(fetcher.fetch(&at, shard).await?);
        }
    }
    hub.cache(&origin).note(&origin.revision, &at.revision)?;
    Ok(Entry { revision: Some(at.revision), files, ..entry.clone() })
}

/// Fetches and links.
struct Fetcher<'a> {
    hub: &'a HuggingFace<'a>,
    folder: &'a Folder,
}

impl Fetcher<'_> {
    async fn fetch(&self, from: &Repository, file: &Offered) -> Result<ModelFile, Failure> {
        let fetched = if self.hub.settings.offline {
            let found = self.hub.cached(&self.hub.cache(from), &from.revision, file).await?;
            found.ok_or_else(|| Failure::Source("the copy in the cache is damaged".into()).of(&file.name))?
        } else {
            self.hub.file(from, file).await?
        };
        replace_link(&fetched.path, &self.folder.path.join(&file.name))?;
        Ok(ModelFile { name: file.name.clone(), bytes: fetched.bytes, sha256: fetched.sha256, from: None })
    }
}

/// What the repository holds, and at which commit; from the cache where the network is not to be used.
async fn listing(hub: &HuggingFace<'_>, origin: &Repository) -> Result<(Listing, Repository), Failure> {
    let listing = if hub.settings.offline { cached_listing(hub, origin)? } else { hub.listing(origin).await? };
    let at = Repository { repository: origin.repository.clone(), revision: listing.commit.clone() };
    Ok((listing, at))
}

fn cached_listing(hub: &HuggingFace<'_>, origin: &Repository) -> Result<Listing, HubError> {
    let cache = hub.cache(origin);
    let commit = cache.commit(&origin.revision);
    let files = commit.as_deref().map(|commit| cache.files(commit)).unwrap_or_default();
    let Some(commit) = commit.filter(|_| !files.is_empty()) else {
        return Err(HubError::Offline { wanted: origin.to_string(), cache: hub.settings.hub_cache.clone() });
    };
    let files = files.into_iter().map(|(name, bytes)| Offered { name, bytes: Some(bytes), sha256: None }).collect();
    Ok(Listing { commit, files })
}
