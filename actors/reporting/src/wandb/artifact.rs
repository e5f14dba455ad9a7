//! The gating head of openvalidators 1.2.0 as a versioned artifact at wandb (`utils.py:save_state`): one file, a type, a name.
//!
//! The reference pickled the layer's `weight` and `bias` by uid. This is the same layer in safetensors, which loading cannot
//! run anything of; its metadata name the hotkey of each row.
//!
//! A version lies beside the log of its run until the server has it. The record in the log is the real client's, so that
//! `wandb sync` uploads it as well; the exchange with the server is its, too.

use std::{collections::HashMap, io, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest, Md5};
use openvalidators_keys::ss58;
use openvalidators_messages::gating::HeadTable;
use openvalidators_runtime::{AtPath, FileError, on_worker};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::{
    client::{Client, RequestError, Target},
    journal::RunAbout,
    record::{ArtifactManifest, ArtifactRecord, ManifestEntry, PolicySetting},
    runs::{RunFolder, letters},
};

/// Below the folder of a run.
const FOLDER: &str = "artifacts";
const MANIFEST: &str = "wandb_manifest.json";
const POLICY: &str = "wandb-storage-policy-v1";
/// Of a client's ids.
const ID_LENGTH: usize = 128;
/// Versions of a run that wait for the server; more are not kept.
const MOST_WAITING: usize = 100;

/// What became of a head.
pub(super) enum Version {
    /// It lies on the disk.
    New(ManifestEntry),
    /// It is empty, or the one that was kept before.
    Known,
    /// Too many wait.
    TooMany,
}

/// The name under which a server keeps the heads of an encoder: the reference's.
pub(super) fn name(model: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() || "-_.".contains(char) { char } else { '_' };
    format!("{}_gating_linear_layer", model.chars().map(plain).collect::<String>())
}

/// Keeps a head on the disk, unless it is the one with that digest.
pub(super) fn keep(run: &RunFolder, name: &str, head: &HeadTable, known: Option<&str>) -> Result<Version, FileError> {
    if head.rows.is_empty() {
        return Ok(Version::Known);
    }
    let folder = run.path.join(FOLDER);
    let bytes = file_of(head).at("describe the gating head for", &folder)?;
    let digest = BASE64.encode(Md5::digest(&bytes));
    if known == Some(&*digest) {
        return Ok(Version::Known);
    }
    std::fs::create_dir_all(&folder).at("create", &folder)?;
    if std::fs::read_dir(&folder).at("list", &folder)?.count() >= MOST_WAITING {
        tracing::warn!(run = run.id, MOST_WAITING, "wandb has not taken these gating heads; more are not kept");
        return Ok(Version::TooMany);
    }
    let path = path_of(run, &digest);
    std::fs::write(&path, &bytes).at("write", &path)?;
    let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    let local_path = std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned();
    Ok(Version::New(ManifestEntry { path: format!("{name}.safetensors"), digest, size, local_path }))
}

/// The record of a version, as the real client writes it.
pub(super) fn record(run_id: &str, about: &RunAbout, name: &str, entry: ManifestEntry) -> ArtifactRecord {
    let layout = PolicySetting { key: "storageLayout".to_owned(), value_json: r#""V2""#.to_owned() };
    ArtifactRecord {
        run_id: run_id.to_owned(),
        project: about.project.clone(),
        entity: about.entity.clone(),
        kind: "model".to_owned(),
        name: name.to_owned(),
        digest: digest_of(&entry),
        aliases: vec!["latest".to_owned()],
        manifest: Some(ArtifactManifest {
            version: 1,
            storage_policy: POLICY.to_owned(),
            storage_policy_config: vec![layout],
            contents: vec![entry],
        }),
        finalize: true,
        client_id: letters().take(ID_LENGTH).collect(),
        sequence_client_id: letters().take(ID_LENGTH).collect(),
        digest_algorithm: "MANIFEST_MD5".to_owned(),
    }
}

/// Removes the files of a version that the server has.
pub(super) fn forget(run: &RunFolder, artifact: &ArtifactRecord) {
    for entry in entries(artifact) {
        let path = path_of(run, &entry.digest);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, path = %path.display(), "an uploaded gating head is not removed");
        }
    }
}

/// A row for each uid, with zeros where nobody has one.
fn file_of(head: &HeadTable) -> io::Result<Vec<u8>> {
    let places = head.rows.iter().map(|row| usize::from(row.uid.0) + 1).max().unwrap_or(0);
    let (mut weight, mut bias) = (vec![0.0; places * head.width], vec![0.0; places]);
    let mut hotkeys = vec![String::new(); places];
    for row in &head.rows {
        let (place, Some((own, weights))) = (usize::from(row.uid.0), row.parameters.split_last()) else { continue };
        if weights.len() != head.width {
            return Err(io::Error::other(format!("uid {place} has {} weights, not {}", weights.len(), head.width)));
        }
        weight[place * head.width..][..head.width].copy_from_slice(weights);
        bias[place] = *own;
        hotkeys[place] = ss58::encode(&row.hotkey);
    }
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (weight, bias) = (bytes(&weight), bytes(&bias));
    let view = |shape, data| TensorView::new(Dtype::F32, shape, data).map_err(io::Error::other);
    let tensors = [("weight", view(vec![places, head.width], &weight)?), ("bias", view(vec![places], &bias)?)];
    let about = HashMap::from([("hotkeys".to_owned(), json!(hotkeys).to_string())]);
    safetensors::serialize(tensors, Some(about)).map_err(io::Error::other)
}

/// By what it holds: a version that was kept is found again wherever the state directory lies.
fn path_of(run: &RunFolder, digest: &str) -> PathBuf {
    let hex: String = BASE64.decode(digest).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect();
    run.path.join(FOLDER).join(format!("{hex}.safetensors"))
}

/// Of a manifest with this file, as the real client digests it.
fn digest_of(entry: &ManifestEntry) -> String {
    let lines = format!("wandb-artifact-manifest-v1\n{}:{}\n", entry.path, entry.digest);
    Md5::digest(lines).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entries(artifact: &ArtifactRecord) -> &[ManifestEntry] {
    artifact.manifest.as_ref().map_or(&[], |manifest| &manifest.contents)
}

// === upload ===

const CREATE: &str = "mutation CreateArtifact($input: CreateArtifactInput!) { createArtifact(input: $input) { artifact { \
    id state artifactSequence { latestArtifact { id } } } } }";
const CREATE_MANIFEST: &str = "mutation CreateArtifactManifest($artifactID: ID!, $baseArtifactID: ID, $name: String!, \
    $digest: String!, $entityName: String!, $projectName: String!, $runName: String!, $manifestType: \
    ArtifactManifestType!, $includeUpload: Boolean!) { createArtifactManifest(input: {artifactID: $artifactID, \
    baseArtifactID: $baseArtifactID, name: $name, digest: $digest, entityName: $entityName, projectName: $projectName, \
    runName: $runName, type: $manifestType}) { artifactManifest { id file { id uploadUrl @include(if: $includeUpload) \
    uploadHeaders @include(if: $includeUpload) } } } }";
const CREATE_FILES: &str = "mutation CreateArtifactFiles($input: CreateArtifactFilesInput!) { createArtifactFiles(input: \
    $input) { files { edges { node { storagePath uploadUrl uploadHeaders artifact { id } } } } } }";
const COMMIT: &str = "mutation CommitArtifact($artifactID: ID!) { commitArtifact(input: {artifactID: $artifactID}) { \
    artifact { id digest } } }";

impl Client {
    /// Uploads a version, unless the server has it. Sent again after a lost answer it takes its own place: the server knows
    /// it by its ids and its digest.
    pub(super) async fn upload(
        &self,
        target: &Target,
        run: &RunFolder,
        artifact: &ArtifactRecord,
    ) -> Result<(), RequestError> {
        let attempt = format!("uploading artifact {} of run {}", artifact.name, target.run);
        let mut files = Vec::new();
        for entry in entries(artifact) {
            let path = path_of(run, &entry.digest);
            let read = on_worker({
                let path = path.clone();
                move || std::fs::read(path)
            });
            match read.await {
                Ok(bytes) => files.push((entry, bytes)),
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "a gating head cannot be read, and is not uploaded");
                    return Ok(());
                }
            }
        }
        let data = self.graphql("CreateArtifact", CREATE, create(target, artifact), &attempt).await?;
        let created = &data["createArtifact"]["artifact"];
        let id = text_of(created, "/id", &attempt)?;
        if matches!(created["state"].as_str(), Some("COMMITTED" | "COMMITTING")) {
            return Ok(());
        }
        let base = created.pointer("/artifactSequence/latestArtifact/id").cloned().unwrap_or_default();
        let manifest = |digest: &str, is_upload: bool| {
            json!({
                "artifactID": id, "baseArtifactID": base, "name": MANIFEST, "digest": digest,
                "entityName": target.entity, "projectName": target.project, "runName": target.run,
                "manifestType": "FULL", "includeUpload": is_upload,
            })
        };
        let begun = self.graphql("CreateArtifactManifest", CREATE_MANIFEST, manifest("", false), &attempt).await?;
        let manifest_id = text_of(&begun, "/createArtifactManifest/artifactManifest/id", &attempt)?;
        for (entry, bytes) in files {
            let wanted = json!({ "input": {
                "artifactFiles": [{
                    "artifactID": id, "artifactManifestID": manifest_id, "md5": entry.digest, "name": entry.path,
                }],
                "storageLayout": "V2",
            } });
            let data = self.graphql("CreateArtifactFiles", CREATE_FILES, wanted, &attempt).await?;
            let place = data.pointer("/createArtifactFiles/files/edges/0/node").cloned().unwrap_or_default();
            // Without a place the server has these bytes already.
            if let Some(to) = place["uploadUrl"].as_str() {
                self.put(to, &headers(&place), bytes, &attempt).await?;
            }
        }
        let text = manifest_of(artifact, &id).to_string();
        let digest = BASE64.encode(Md5::digest(&text));
        let data = self.graphql("CreateArtifactManifest", CREATE_MANIFEST, manifest(&digest, true), &attempt).await?;
        let place = &data["createArtifactManifest"]["artifactManifest"]["file"];
        let to = text_of(place, "/uploadUrl", &attempt)?;
        self.put(&to, &headers(place), text.into_bytes(), &attempt).await?;
        self.graphql("CommitArtifact", COMMIT, json!({ "artifactID": id }), &attempt).await?;
        tracing::info!(artifact = artifact.name, run = target.run, "a version of the gating head is uploaded");
        Ok(())
    }
}

fn create(target: &Target, artifact: &ArtifactRecord) -> Value {
    let alias = |alias: &String| json!({ "artifactCollectionName": artifact.name, "alias": alias });
    json!({ "input": {
        "entityName": target.entity, "projectName": target.project, "runName": target.run,
        "artifactTypeName": artifact.kind, "artifactCollectionName": artifact.name, "digest": artifact.digest,
        "digestAlgorithm": artifact.digest_algorithm, "aliases": artifact.aliases.iter().map(alias).collect::<Vec<_>>(),
        "clientID": artifact.client_id, "sequenceClientID": artifact.sequence_client_id,
        "enableDigestDeduplication": true,
    } })
}

/// Without the path on this machine.
fn manifest_of(artifact: &ArtifactRecord, id: &str) -> Value {
    let entry = |entry: &ManifestEntry| {
        let about = json!({ "digest": entry.digest, "size": entry.size, "birthArtifactID": id });
        (entry.path.clone(), about)
    };
    let contents: Map<String, Value> = entries(artifact).iter().map(entry).collect();
    json!({
        "version": 1, "storagePolicy": POLICY, "storagePolicyConfig": { "storageLayout": "V2" }, "contents": contents,
    })
}

/// `name:value`, as servers list them.
fn headers(place: &Value) -> Vec<(String, String)> {
    let listed = place["uploadHeaders"].as_array().into_iter().flatten().filter_map(Value::as_str);
    listed
        .filter_map(|header| header.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn text_of(answer: &Value, pointer: &str, attempt: &str) -> Result<String, RequestError> {
    let found = answer.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| RequestError::Refused(format!("{attempt}: the answer has no {pointer}")))
}

#[cfg(test)]
pub(super) mod tests;
