//! Artifacts: made, filled through addresses that need no key, and committed when all that the manifest names is there.

use std::{collections::BTreeMap, net::SocketAddr};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest, Md5};
use serde_json::{Value, json};

use super::State;

/// A version of an artifact.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// What it was made with.
    pub made_with: Value,
    /// By their names in the artifact.
    pub files: BTreeMap<String, Vec<u8>>,
    /// As uploaded.
    pub manifest: Value,
    /// Whether it is whole.
    pub is_committed: bool,
}

/// Answers a mutation; `None` for others.
pub(super) fn answer(state: &mut State, name: &str, variables: &Value, address: SocketAddr) -> Option<Value> {
    // The newest client names one input, the old one each of its values.
    let input = if variables["input"].is_object() { &variables["input"] } else { variables };
    let id = input["artifactID"].as_str().unwrap_or_default().to_owned();
    Some(match name {
        "CreateArtifact" => {
            let key = |made: &Value| {
                ["artifactCollectionName", "artifactCollectionNames", "digest"].map(|part| made[part].to_string())
            };
            let known = state.artifacts.iter().find(|(_, version)| key(&version.made_with) == key(input));
            let id = known.map(|(id, _)| id.clone()).unwrap_or_else(|| format!("artifact{}", state.artifacts.len()));
            let version = state.artifacts.entry(id.clone()).or_default();
            version.made_with = input.clone();
            let progress = if version.is_committed { "COMMITTED" } else { "PENDING" };
            json!({ "createArtifact": { "artifact": {
                "id": id, "state": progress, "digest": input["digest"], "aliases": [], "artifactSequence": { "latestArtifact": null },
            } } })
        }
        "CreateArtifactManifest" => {
            let file =
                json!({ "id": "file", "uploadUrl": format!("http://{address}/manifest/{id}"), "uploadHeaders": [] });
            json!({ "createArtifactManifest": { "artifactManifest": { "id": format!("manifest of {id}"), "file": file } } })
        }
        "CreateArtifactFiles" => {
            let edge = |file: &Value| {
                let (id, name) = (file["artifactID"].as_str()?, file["name"].as_str()?);
                Some(json!({ "node": {
                    "storagePath": format!("wandb_artifacts/{name}"), "uploadUrl": format!("http://{address}/file/{id}/{name}"),
                    "uploadHeaders": [format!("Content-MD5:{}", file["md5"].as_str()?)], "uploadMultipartUrls": null,
                    "id": "file", "name": name, "displayName": name, "artifact": { "id": id },
                } }))
            };
            let edges: Vec<_> = input["artifactFiles"].as_array()?.iter().filter_map(edge).collect();
            json!({ "createArtifactFiles": { "files": { "edges": edges } } })
        }
        "CommitArtifact" => {
            let version = state.artifacts.get_mut(&id)?;
            let is_there = |(name, about): (&String, &Value)| {
                let digest = version.files.get(name).map(|bytes| BASE64.encode(Md5::digest(bytes)));
                digest.as_deref() == about["digest"].as_str()
            };
            let is_whole = version.manifest["contents"].as_object().is_some_and(|all| all.iter().all(is_there));
            version.is_committed = is_whole && !version.files.is_empty();
            let digest = &version.made_with["digest"];
            version.is_committed.then(|| json!({ "commitArtifact": { "artifact": { "id": id, "digest": digest } } }))?
        }
        _ => return None,
    })
}

/// Takes what is put at an address of [`answer`]'s.
pub(super) fn take(state: &mut State, path: &str, with_key: bool, body: &[u8]) {
    let parts: Vec<&str> = path.splitn(4, '/').collect();
    let (Some(kind), Some(id)) = (parts.get(1), parts.get(2)) else { return };
    let Some(version) = state.artifacts.get_mut(*id) else { return };
    state.artifact_puts_with_key |= with_key;
    match (*kind, parts.get(3)) {
        ("file", Some(name)) => drop(version.files.insert((*name).to_owned(), body.to_vec())),
        ("manifest", None) => version.manifest = serde_json::from_slice(body).unwrap_or_default(),
        _ => {}
    }
}
