//! Which files of a repository are wanted: decided from what it holds.
//!
//! Weights are taken in one form, the first there is of those the inference engine reads. Config and tokenizer are small
//! files of text. Program code, other forms of the weights and pictures are left where they are.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::{Entry, ModelFile, catalogue::is_hexadecimal};

/// Files of a repository that are looked at.
const MOST_FILES: usize = 10_000;
/// Shards of a model are a few dozen.
const MOST_SHARDS: usize = 1_000;
/// No config and no tokenizer is larger.
const TEXT_LIMIT_BYTES: u64 = 64 << 20;

/// Forms of weights, the best first. An index stands for its shards.
const WEIGHTS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "hf_ckpt.pt",
];
const INDEX: &str = ".index.json";
const GGUF: &str = ".gguf";

/// A file that a repository has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub name: String,
    pub bytes: Option<u64>,
    /// Told for large files only.
    pub sha256: Option<String>,
}

/// What a repository holds at a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub commit: String,
    pub files: Vec<Offered>,
}

/// The hub's answer to `api/models/OWNER/NAME/revision/REVISION?blobs=true`.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// What an index of shards says.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

// === impl Listing ===

impl Listing {
    /// Reads the hub's answer. Files in folders are left out.
    pub fn parse(answer: &str) -> Result<Self, String> {
        let mut listing = Self::with_folders(answer, MOST_FILES)?;
        // Folders hold other forms: ONNX, pooling layers of sentence encoders.
        listing.files.retain(|file| !file.name.contains(['/', '\\']));
        Ok(listing)
    }

    /// Reads the hub's answer, which is to name `most_files` at most.
    pub fn with_folders(answer: &str, most_files: usize) -> Result<Self, String> {
        let Answer { sha, siblings } = serde_json::from_str(answer).map_err(|error| {
            let start: String = answer.chars().take(40).collect();
            format!("its listing is not the JSON of a hub ({error}); it starts with {start:?}")
        })?;
        if !is_hexadecimal(&sha, 40) {
            return Err(format!("its listing names the commit {:?}", sha.chars().take(60).collect::<String>()));
        }
        if siblings.len() > most_files {
            return Err(format!("it lists {} files, the limit is {most_files}", siblings.len()));
        }
        let offered = |Sibling { rfilename, size, lfs }| {
            let (sha256, large) = lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
            Offered { name: rfilename, bytes: size.or(large), sha256: sha256.filter(|hash| is_hexadecimal(hash, 64)) }
        };
        Ok(Self { commit: sha, files: siblings.into_iter().map(offered).collect() })
    }

    /// Config and tokenizer.
    pub fn texts(&self) -> Vec<&Offered> {
        let is_text = |file: &&Offered| {
            let name = file.name.as_str();
            (name.ends_with(".json") || name.ends_with(".txt") || name.ends_with(".model"))
                && !name.ends_with(INDEX)
                && !name.starts_with('.')
                && file.bytes.is_none_or(|bytes| bytes <= TEXT_LIMIT_BYTES)
        };
        self.files.iter().filter(is_text).collect()
    }

    /// The file of weights that is wanted, or the index of their shards.
    pub fn weights(&self, entry: &Entry) -> Result<&Offered, String> {
        let find = |name: &str| self.files.iter().find(|file| file.name == name);
        if let Some(named) = &entry.weights {
            return find(named).ok_or_else(|| format!("it has no `{named}`; it has {}", self.names()));
        }
        if let Some(found) = WEIGHTS.iter().find_map(|name| find(name)) {
            return Ok(found);
        }
        let quantised: Vec<&Offered> = self.files.iter().filter(|file| file.name.ends_with(GGUF)).collect();
        match quantised.as_slice() {
            [only] => Ok(only),
            [] => Err(format!(
                "it has no weights this program reads ({}, *.gguf); it has {}",
                WEIGHTS.join(", "),
                self.names()
            )),
            several => {
                let names: Vec<&str> = several.iter().map(|file| file.name.as_str()).collect();
                Err(format!("it has {} GGUF files; name one as `weights`: {}", several.len(), names.join(", ")))
            }
        }
    }

    /// The files that an index names.
    pub fn shards(&self, index: &[u8]) -> Result<Vec<&Offered>, String> {
        let Index { weight_map } =
            serde_json::from_slice(index).map_err(|error| format!("no index of shards: {error}"))?;
        let names: BTreeSet<String> = weight_map.into_values().collect();
        if names.is_empty() || names.len() > MOST_SHARDS {
            return Err(format!("it names {} shards; a model has 1 to {MOST_SHARDS}", names.len()));
        }
        let find = |name: String| {
            self.files
                .iter()
                .find(|file| file.name == name)
                .ok_or_else(|| format!("it names `{name}`, which is not listed"))
        };
        names.into_iter().map(find).collect()
    }

    fn names(&self) -> String {
        const NAMED: usize = 12;
        let mut names: Vec<&str> = self.files.iter().take(NAMED).map(|file| file.name.as_str()).collect();
        if self.files.len() > NAMED {
            names.push("…");
        }
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    }
}

impl Offered {
    /// A file that nothing is left open of.
    pub fn pinned(file: &ModelFile) -> Self {
        Self { name: file.name.clone(), bytes: Some(file.bytes), sha256: Some(file.sha256.clone()) }
    }

    /// Whether it stands for shards.
    pub fn is_index(&self) -> bool {
        self.name.ends_with(INDEX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let siblings: Vec<_> = names.iter().map(|name| serde_json::json!({"rfilename": name, "size": 7})).collect();
        Listing::parse(&serde_json::json!({"sha": "0".repeat(40), "siblings": siblings}).to_string()).unwrap()
    }

    fn chosen(names: &[&str]) -> Result<String, String> {
        listing(names).weights(&Entry::default()).map(|file| file.name.clone())
    }

    #[test]
    fn the_best_form_of_the_weights_is_wanted() {
        let all = ["x.onnx", "flax_model.msgpack", "pytorch_model.bin", "model.safetensors", "tf_model.h5", "q4.gguf"];
        assert_eq!(chosen(&all).unwrap(), "model.safetensors");
        assert_eq!(chosen(&all[..3]).unwrap(), "pytorch_model.bin");
        let shards = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"];
        assert_eq!(chosen(&shards).unwrap(), "pytorch_model.bin.index.json");
        assert_eq!(chosen(&["hf_ckpt.pt"]).unwrap(), "hf_ckpt.pt");
        assert_eq!(chosen(&["q4.gguf", "README.md"]).unwrap(), "q4.gguf");
        let several = chosen(&["q4.gguf", "q8.gguf"]).unwrap_err();
        assert!(several.contains("`weights`") && several.contains("q8.gguf"), "{several}");
        let none = chosen(&["flax_model.msgpack", "onnx/model.safetensors"]).unwrap_err();
        assert!(none.contains("model.safetensors") && none.contains("flax_model.msgpack"), "{none}");
        let named = Entry { weights: Some("q8.gguf".into()), ..Entry::default() };
        assert_eq!(listing(&["q4.gguf", "q8.gguf"]).weights(&named).unwrap().name, "q8.gguf");
        assert!(listing(&["q4.gguf"]).weights(&named).unwrap_err().contains("q4.gguf"));
    }

    #[test]
    fn config_and_tokenizer_are_wanted_and_no_code() {
        let all = listing(&[
            "config.json",
            "tokenizer.json",
            "merges.txt",
            "spm.model",
            "README.md",
            "modeling_btlm.py",
            ".gitattributes",
            "model.safetensors.index.json",
            "1_Pooling/config.json",
        ]);
        let names: Vec<&str> = all.texts().into_iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["config.json", "tokenizer.json", "merges.txt", "spm.model"]);
    }

    #[test]
    fn an_index_names_files_that_are_listed() {
        let all = listing(&["a.safetensors", "b.safetensors", "c.safetensors"]);
        let shards =
            all.shards(br#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}"#);
        assert_eq!(shards.unwrap().len(), 2);
        assert!(all.shards(br#"{"weight_map": {"x": "../a"}}"#).unwrap_err().contains("not listed"));
        assert!(all.shards(br#"{"weight_map": {}}"#).unwrap_err().contains("0 shards"));
        assert!(all.shards(b"<html>").unwrap_err().contains("no index"));
    }

    #[test]
    fn a_listing_that_is_none_is_told() {
        assert!(Listing::parse("<html>log in").unwrap_err().contains("<html>"));
        assert!(Listing::parse(r#"{"sha": "main"}"#).unwrap_err().contains("\"main\""));
    }

    #[test]
    fn digests_are_those_of_large_files() {
        let hash = "a".repeat(64);
        let answer = serde_json::json!({"sha": "0".repeat(40), "siblings": [
            {"rfilename": "w", "blobId": "x", "lfs": {"sha256": hash, "size": 9, "pointerSize": 130}},
            {"rfilename": "c", "size": 3, "blobId": "x"},
        ]});
        let files = Listing::parse(&answer.to_string()).unwrap().files;
        assert_eq!(files[0], Offered { name: "w".into(), bytes: Some(9), sha256: Some(hash) });
        assert_eq!(files[1], Offered { name: "c".into(), bytes: Some(3), sha256: None });
    }
}
