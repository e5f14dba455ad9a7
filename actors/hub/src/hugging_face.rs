//! Files of a repository of the Hugging Face hub: `ENDPOINT/OWNER/NAME/resolve/REVISION/FILE`.

use reqwest::Url;

use crate::{
    ModelFile,
    cache::Folder,
    config::Settings,
    download::{Downloader, Failure, Wanted},
};

/// Fetches these files, one after the other.
pub(crate) async fn fetch(
    downloader: &Downloader<'_>,
    settings: &Settings,
    (repository, revision): (&str, &str),
    files: &[&ModelFile],
    folder: &Folder,
) -> Result<(), Failure> {
    for file in files {
        let part = folder.part(&file.name);
        let wanted = Wanted {
            label: &file.name,
            url: address(&settings.endpoint, repository, revision, &file.name)?,
            token: settings.token.as_ref(),
            bytes: Some(file.bytes),
            limit_bytes: file.bytes,
            sha256: Some(&file.sha256),
            part: &part,
        };
        downloader.file(&wanted).await.map_err(|failure| failure.of(&file.name))?;
        folder.publish(&part, &file.name)?;
    }
    Ok(())
}

fn address(endpoint: &Url, repository: &str, revision: &str, file: &str) -> Result<Url, Failure> {
    endpoint
        .join(&format!("{repository}/resolve/{revision}/{file}"))
        .map_err(|error| Failure::Source(format!("no address for {file}: {error}")))
}
