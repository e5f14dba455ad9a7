//! Models on disk: downloads that resume, verified by sha256, kept in a cache folder.
//!
//! A leaf crate without an actor. The program asks it for a [`ModelDirectory`] before it starts `actors/inference`, and
//! behind `openvalidators models`. [`Hub::open`] uses no network; [`Hub::ensure`] fetches what is missing.
//!
//! A model has a folder of its own, `FOLDER/NAME`, with exactly the files that belong to it: links into the cache that Hugging
//! Face's tools use too (`hub_cache`), or the files themselves, when a Python package or an operator put them there. What
//! they must be is known from the [`Catalogue`], or from what the hub listed at the first fetch (`manifest`).
//!
//! Datasets are not fetched but read where they are, by ranges of bytes: [`Datasets`].
//!
//! When a server is slow, it is dropped after a silence and the download resumes; when it is dead, the next source has
//! its turn within seconds; when none serves, the error names each with its reason and says where files placed by hand
//! belong. Nothing half-fetched is ever seen under a file's own name.

mod cache;
mod catalogue;
mod config;
mod datasets;
mod download;
mod error;
mod first_fetch;
mod hub;
mod hub_cache;
mod hugging_face;
mod listing;
mod manifest;
mod pip;
mod progress;
mod python_package;
mod ranges;

#[cfg(test)]
mod tests;

pub use cache::{Look, ModelState};
pub use catalogue::{Catalogue, Entry, ModelFile, PythonPackage, Repository, Stored};
pub use config::HubConfig;
pub use datasets::{Dataset, DatasetError, Datasets, RemoteFile};
pub use error::{Attempt, HubError};
pub use hub::{Hub, ModelDirectory, Trust};
pub use progress::{Bar, Event, LogLines, Progress, Silent, progress_for_people};
